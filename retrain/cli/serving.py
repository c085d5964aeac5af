"""The verb that answers users: serve."""

from dataclasses import replace
from typing import Annotated

import typer

from retrain.cli.shared import HERE, Root, Set, open_workspace, say


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
    from retrain.serving.local import Local

    space = open_workspace(workspace)
    space = replace(
        space, params=params.load(space.root, [*(override or ()), *([] if port is None else [f"serve.port={port}"])])
    )
    server.serve(space, Local(space), say)
