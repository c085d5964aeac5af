"""Verbs that change what serves, or try to: repro, register, promote, rollback."""

from typing import Annotated

import typer

from retrain.cli.shared import HERE, Json, Name, Root, Set, open_workspace, out, say_for, time_of
from retrain.errors import NotEnoughData, NothingToDo, ParamsError, RejectedError


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


def rebase(
    base: Annotated[str, typer.Argument(help="a base of params.yaml")],
    only: Annotated[list[str] | None, typer.Option("--adapter", help="default: all that are on another base")] = None,
    end: Annotated[str | None, typer.Option(help="ISO 8601, with a zone; default: now")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Retrain every adapter on another base (purpose replace); each keeps its old base until it passes the gate.

    Example: retrain rebase smollm3
    """
    from retrain import watch

    space = open_workspace(workspace)
    at, attempts, said = time_of(end, "--end"), [], []
    for name in only or space.params.adapters:
        try:
            attempts.append(watch.rebase(space, name, base, at, say=say_for(as_json)).attempt)
            said.append(f"{name}: {attempts[-1].status}: {attempts[-1].why}")
        except NothingToDo as nothing:
            said.append(str(nothing))
    out({"schema": 1, "base": base, "lines": [attempt.as_dict() for attempt in attempts]}, as_json, said)
    if not attempts:
        raise NothingToDo(f"every adapter is on base {base} already")
    if refused := [attempt.adapter for attempt in attempts if not attempt.promote]:
        raise RejectedError(f"{', '.join(refused)}: the gate did not pass it; the old base stays")


def register(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Register the newest attempt's bytes in MLflow, if its verdict passed.

    Example: retrain register support
    """
    from retrain import release

    version = release.register(open_workspace(workspace, adapter), adapter)
    tag = f"{adapter}-v{version}"
    out({"schema": 1, "adapter": adapter, "version": version, "tag": tag}, as_json, [f"{tag} is registered"])


def promote(
    adapter: Name,
    force: Annotated[bool, typer.Option("--force", help="whatever gate, people, hours and pauses say; needs --reason")] = False,
    reason: Annotated[str | None, typer.Option(help="of --force, kept for ever")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Make the newest passed candidate champion: ledger, then alias; or begin its rollout (promotion.rollout).

    Example: retrain promote support
    """
    from retrain import ledger, projections, release, rollout

    if force != (reason is not None):
        raise ParamsError("give --force and --reason together: a promotion past the gate says why, for ever")
    space = open_workspace(workspace, adapter)
    made = release.promote(space, adapter, forced=reason) if force else rollout.conclude(space, adapter)
    if isinstance(made, ledger.Rollout):
        out(made.as_dict(), as_json, [made.told()])
        return projections.refresh(space, adapter, panels=False, say=say_for(as_json))
    if isinstance(made, ledger.Decision):
        out(made.as_dict(), as_json, [])
        raise RejectedError(f"the candidate of {adapter} was {made.told().partition(' ')[2]}")
    tag = made.promotion.tag
    if made.line or as_json:
        out(made.promotion.as_dict(), as_json, [made.promotion.told() if force else f"{tag} is champion"])
    projections.refresh(space, adapter, panels=False, say=say_for(as_json))
    if made.repaired and not made.line:
        say_for(as_json)(f"MLflow's alias had gone astray: it points at {tag} again, as the ledger says")
    elif not made.line:
        raise NothingToDo(f"{tag} is champion already, promoted {made.promotion.at}: nothing to promote")


def rollback(
    adapter: Name,
    to: Annotated[int | None, typer.Option(help="a version that served; default: what the newest promotion replaced")] = None,
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
        say_for(as_json)(f"{words}; nothing else was changed: `--to VERSION` goes to another one")
    projections.refresh(space, adapter, panels=False, say=say_for(as_json))
