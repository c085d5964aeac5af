"""Verbs that answer users: serve, and sync for a vLLM server."""

import os
from dataclasses import replace
from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Root, Set, open_workspace, out, say
from retrain.errors import IntegrityError


def serve(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="in place of serve.port; 0: any that is free")] = None,
    override: Set = None,
    workspace: Root = HERE,
) -> None:
    """Answer users with the champions by OpenAI's protocol, follow the ledger, write the request log.

    Example: retrain serve --port 9000
    """
    from retrain import params
    from retrain.serving import server

    space = open_workspace(workspace)
    space = replace(
        space, params=params.load(space.root, [*(override or ()), *([] if port is None else [f"serve.port={port}"])])
    )
    os.environ.setdefault("RETRAIN_CACHE", str(space.local))  # the base that a job rounded, wherever this was started
    server.serve(space, server.backend(space), say)


def sync(
    adapter: Annotated[list[str] | None, typer.Argument(help="adapters of params.yaml; default: all")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Load what the ledger says into the vLLM server of serve.vllm, read back what it has, unload the rest.

    Example: retrain sync --json
    """
    from retrain.serving import server

    space = open_workspace(workspace)
    for name in adapter or ():
        space.params.adapter(name)
    found = {name: one for name, one in server.sync(space).items() if not adapter or name in adapter}
    about = {
        name: {
            "should_serve": one.should.tag if one.should else None,
            "serves": one.serves.name if one.serves else None,
            "why": one.why,
        }
        for name, one in found.items()
    }
    lines = [one["why"] or f"{name}: {one['serves'] or 'no champion yet'}" for name, one in about.items()]
    out({"schema": 1, "adapters": about}, as_json, lines)
    behind = [name for name, one in found.items() if one.behind]
    if behind:
        raise IntegrityError(f"vLLM does not have what the ledger says of {', '.join(behind)}")
