"""Verbs that change what serves, or try to: repro, register, promote, rollback."""

from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, Set, open_workspace, out, say, say_for, time_of
from retrain.errors import NothingToDo, RejectedError


def repro(
    adapter: Name,
    end: Annotated[str | None, typer.Option(help="ISO 8601, with a zone; default: now")] = None,
    override: Set = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Retrain in a clone, put the candidate before the gate, record the attempt.

    Example: retrain repro support
    """
    from retrain import watch

    space = open_workspace(workspace, adapter)
    made = watch.retrain(space, adapter, time_of(end, "--end"), say=say_for(as_json), overrides=tuple(override or ()))
    out(made.attempt.as_dict(), as_json, [f"{made.attempt.status}: {made.attempt.why}"])
    if not made.fresh:
        raise NothingToDo(f"the attempt at {made.attempt.end} is in the ledger already")
    if not made.attempt.promote:
        raise RejectedError("the gate did not pass it; the champion stays")


def register(adapter: Name, workspace: Root = HERE) -> None:
    """Register the newest attempt's bytes in MLflow, if its verdict passed.

    Example: retrain register support
    """
    from retrain import jobs

    print(f"{adapter}-v{jobs.register(open_workspace(workspace), adapter)} is registered")


def promote(adapter: Name, workspace: Root = HERE) -> None:
    """Make the newest passed candidate champion: ledger, then alias.

    Example: retrain promote support
    """
    from retrain import jobs, projections

    space = open_workspace(workspace)
    print(f"{jobs.promote(space, adapter).tag} is champion", flush=True)
    projections.refresh(space, adapter, panels=False, say=say)


def rollback(
    adapter: Name,
    to: Annotated[int | None, typer.Option(help="a version that served; default: the one before")] = None,
    reason: Annotated[str, typer.Option(help="kept in the ledger for ever")] = "rolled back by hand",
    workspace: Root = HERE,
) -> None:
    """Put an earlier champion back.

    Example: retrain rollback support --reason 'refunds went wrong'
    """
    from retrain import jobs, projections

    space = open_workspace(workspace)
    print(f"{jobs.rollback(space, adapter, version=to, reason=reason).tag} serves again", flush=True)
    projections.refresh(space, adapter, panels=False, say=say)
