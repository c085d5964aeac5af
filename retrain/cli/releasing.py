"""Verbs that change what serves, or try to: repro, register, promote, rollback."""

from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, Set, open_workspace, out, say_for, time_of
from retrain.errors import NotEnoughData, NothingToDo, RejectedError


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
    attempt = made.attempt
    out(attempt.as_dict(), as_json, [f"{attempt.status}: {attempt.why}"])
    if not made.fresh:
        raise NothingToDo(f"the attempt at {attempt.end} is in the ledger already")
    if attempt.status == "not_evaluated":
        raise NotEnoughData(f"nothing is promoted. {attempt.why}")  # it says what is missing
    if not attempt.promote:
        raise RejectedError("the gate did not pass it; the champion stays")


def register(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Register the newest attempt's bytes in MLflow, if its verdict passed.

    Example: retrain register support
    """
    from retrain import release

    version = release.register(open_workspace(workspace, adapter), adapter)
    tag = f"{adapter}-v{version}"
    out({"schema": 1, "adapter": adapter, "version": version, "tag": tag}, as_json, [f"{tag} is registered"])


def promote(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Make the newest passed candidate champion: ledger, then alias.

    Example: retrain promote support
    """
    from retrain import projections, release

    space = open_workspace(workspace, adapter)
    made = release.promote(space, adapter)
    tag = made.promotion.tag
    if made.line or as_json:
        out(made.promotion.as_dict(), as_json, [f"{tag} is champion"])
    projections.refresh(space, adapter, panels=False, say=say_for(as_json))
    if made.repaired and not made.line:
        say_for(as_json)(f"MLflow's alias had gone astray: it points at {tag} again, as the ledger says")
    elif not made.line:
        raise NothingToDo(f"{tag} is champion already, promoted {made.promotion.at}: nothing to promote")


def rollback(
    adapter: Name,
    to: Annotated[int | None, typer.Option(help="a version that served; default: the one before")] = None,
    reason: Annotated[str, typer.Option(help="kept in the ledger for ever")] = "rolled back by hand",
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Put an earlier champion back.

    Example: retrain rollback support --reason 'refunds went wrong'
    """
    from retrain import projections, release

    space = open_workspace(workspace, adapter)
    made = release.rollback(space, adapter, version=to, reason=reason)
    tag = made.promotion.tag
    out((made.line or made.promotion).as_dict(), as_json, [f"{tag} serves again"])
    if not made.line:
        words = f"MLflow's alias had gone astray and points at {tag} again, as the ledger says"
        say_for(as_json)(f"{words}; nothing else was changed: run it again to go back further")
    projections.refresh(space, adapter, panels=False, say=say_for(as_json))
