"""Verbs that keep what serves as it should be: reconcile, pause, resume, rebaseline."""

from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out, say_for


def reconcile(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Put right what MLflow says of the champion, as `guard_champion` does every few minutes.

    Example: retrain reconcile support
    """
    from retrain import guard

    found = guard.reconcile(open_workspace(workspace, adapter), adapter)
    serving = found.serving.as_dict() if found.serving else None
    data = {"schema": 1, "adapter": adapter, "serving": serving, "changes": found.changes, "notes": found.notes}
    out(data, as_json, [*found.changes, *found.notes, found.told()])


def pause(
    adapter: Name,
    reason: Annotated[str, typer.Option(help="kept in the ledger")],
    until: Annotated[str | None, typer.Option(help="ISO 8601, with a zone; default: until `retrain resume`")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Let no candidate be promoted for a while; monitoring, retraining and rollback go on.

    Example: retrain pause support --until 2026-12-01T08:00:00+01:00 --reason 'sale week'
    """
    from retrain import permission

    line = permission.pause(open_workspace(workspace, adapter), adapter, until=until, reason=reason)
    out(line.as_dict(), as_json, [line.told()])


def resume(
    adapter: Name,
    reason: Annotated[str, typer.Option(help="kept in the ledger")] = "resumed by hand",
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """End a pause.

    Example: retrain resume support
    """
    from retrain import permission

    line = permission.resume(open_workspace(workspace, adapter), adapter, reason=reason)
    out(line.as_dict(), as_json, [line.told()])


def rebaseline(
    adapter: Name,
    reason: Annotated[str, typer.Option(help="kept in the ledger and on every card, for ever")],
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Accept what was lost until now: from the next retraining on, small losses add up anew from what serves.

    Example: retrain rebaseline support --reason 'refunds are a form now'
    """
    from retrain import permission, projections

    space = open_workspace(workspace, adapter)
    line = permission.rebaseline(space, adapter, reason=reason)
    out(line.as_dict(), as_json, [line.told()])
    projections.refresh(space, adapter, panels=False, say=say_for(as_json))
