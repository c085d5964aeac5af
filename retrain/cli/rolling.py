"""`retrain rollout`: a challenger beside the champion: status, look, pause, resume, promote, rollback."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out, say_for

Reason = Annotated[str, typer.Option(help="kept in the ledger")]


def status(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """How the rollout stands, and what a look would say now; changes nothing.

    Example: retrain rollout status support
    """
    from retrain import rollout

    found = rollout.look(open_workspace(workspace, adapter), adapter, write=False)
    out(found.as_dict(adapter), as_json, found.told())


def look(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Look, and do what follows: go on, stay, end it, or promote after the last step; `guard_champion` does it.

    Example: retrain rollout look support
    """
    from retrain import projections, rollout

    space = open_workspace(workspace, adapter)
    found = rollout.look(space, adapter)
    out(found.as_dict(adapter), as_json, found.told())
    if found.wrote:
        projections.refresh(space, adapter, panels=False, say=say_for(as_json))


def pause(adapter: Name, reason: Reason, workspace: Root = HERE, as_json: Json = False) -> None:
    """Let the champion answer everybody for a while.

    Example: retrain rollout pause support --reason 'sale week'
    """
    _tell("pause", adapter, reason, workspace, as_json)


def resume(adapter: Name, reason: Reason = "resumed by hand", workspace: Root = HERE, as_json: Json = False) -> None:
    """Begin the step anew in which it was paused.

    Example: retrain rollout resume support
    """
    _tell("resume", adapter, reason, workspace, as_json)


def promote(adapter: Name, reason: Reason, workspace: Root = HERE, as_json: Json = False) -> None:
    """Make the challenger champion now, whatever steps are left; gate, approval, pauses and hours are asked as ever.

    Example: retrain rollout promote support --reason 'seen enough'
    """
    _tell("promote", adapter, reason, workspace, as_json)


def rollback(adapter: Name, reason: Reason, workspace: Root = HERE, as_json: Json = False) -> None:
    """End the rollout: the champion answers everybody, and the challenger is out of the running.

    Example: retrain rollout rollback support --reason 'refunds went wrong'
    """
    _tell("rollback", adapter, reason, workspace, as_json)


def _tell(
    verb: Literal["pause", "resume", "promote", "rollback"], adapter: str, reason: str, workspace: Path, as_json: bool
) -> None:
    """What a person says of a rollout, the ledger's line of it, and the pages that show it."""
    from retrain import projections, rollout

    space = open_workspace(workspace, adapter)
    line = getattr(rollout, verb)(space, adapter, reason=reason)
    out(line.as_dict(), as_json, [line.told()])
    projections.refresh(space, adapter, panels=False, say=say_for(as_json))
