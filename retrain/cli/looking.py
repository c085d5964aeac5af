"""Verbs that show how things stand: status, history, pages, up, doctor."""

import dataclasses
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out, say, say_for


def status(workspace: Root = HERE, as_json: Json = False) -> None:
    """What serves, what was tried last, the last window and its page, what waits for a person, how far this checkout is behind.

    Example: retrain status -w demo
    """
    space = open_workspace(workspace)
    data, lines = _pushed(space) if space.params.workspace.remote else _here(space)
    out({"schema": 1, **data}, as_json, lines)


def _pushed(space: Any) -> tuple[dict[str, Any], list[str]]:
    """As the remote's ledger and MLflow have it."""
    from retrain import ledger, lineage, looks, projections, review

    behind, now = space.behind(), datetime.now(UTC)
    data: dict[str, Any] = {"pushed": True, "behind": behind.commits, "dirty": behind.dirty, "adapters": {}}
    lines = [f"checkout: {behind.commits} commits behind{', with changes of its own' if behind.dirty else ''}"]
    for name in space.params.adapters:
        serving, last = _standing(space, name)
        seen = projections.last_window(space, name, now)
        waits = review.standing(space, name, now, seen.window)
        told = {"champion": serving, "last_attempt": last.as_dict() if last else None, **seen.as_dict()}
        data["adapters"][name] = {**told, "review": waits.as_dict()}
        lines.append(f"{name}: {serving or 'no champion yet'}" + (f"; last attempt {last.status}: {last.why}" if last else ""))
        data["adapters"][name]["erased"] = erased = lineage.erased(space, name)
        entries = _entries(space, name)
        tried = looks.running(entries)
        standing = {**_promotion(ledger.state(entries), now), "rollout": tried.told() if tried else None}
        data["adapters"][name] |= standing
        lines += [f"  {line}" for line in standing.values() if line]
        owed = [f"a retraining is due (replace): `retrain repro {name}`"] if ledger.owed(entries) else []
        lines += [f"  {line}" for line in (*erased, *owed, *seen.lines(), *waits.lines(name, now))]
    return data, lines


def _promotion(state: Any, now: datetime) -> dict[str, str | None]:
    """What waits to be promoted, what holds it back, and a champion that was forced."""
    waits, pause = state.challenger, state.paused(now)
    return {
        "challenger": f"the candidate at {waits.end} passed and waits to be promoted" if waits else None,
        "paused": pause.told() if pause else None,
        "forced": f"{state.champion.tag} was {state.champion.told()}" if state.champion and state.champion.forced else None,
    }


def _here(space: Any) -> tuple[dict[str, Any], list[str]]:
    """A workspace without a remote, such as the repository root: what its own files say."""
    from retrain.card import one_line
    from retrain.verdict import read_verdict

    data: dict[str, Any] = {"pushed": False, "behind": None, "dirty": None, "adapters": {}}
    lines = ["no remote is named (params.yaml, workspace.remote): nothing is pushed from here; this is what the files here say"]
    for name in space.params.adapters:
        serving, last = _standing(space, name)
        path = space.root / "out" / name / "verdict.json"
        verdict = read_verdict(path) if path.exists() else None
        told = {"status": verdict.status, "promote": verdict.promote, "why": one_line(verdict)} if verdict else None
        data["adapters"][name] = {"champion": serving, "last_attempt": last.as_dict() if last else None, "verdict": told}
        lines.append(
            f"{name}: {serving or 'no champion'}; " + (f"out/{name}/verdict.json: {told['status']}" if told else "no verdict")
        )
        lines.append(f"  {told['why']}" if told else f"  run `dvc repro gate@{name}` for one")
    return data, lines


def _entries(space: Any, adapter: str) -> Any:
    """The ledger's lines: the remote's, or where none is named those of the file here."""
    from retrain import jobs, ledger

    return jobs.entries(space, adapter) if space.params.workspace.remote else ledger.read(space.root, adapter)


def _standing(space: Any, adapter: str) -> tuple[str | None, Any]:
    """The champion's tag and the newest attempt, as the ledger has them."""
    from retrain import ledger

    state = ledger.state(_entries(space, adapter))
    return state.champion.tag if state.champion else None, state.attempts[-1] if state.attempts else None


def history(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Every attempt, promotion, rollback and admitted label, oldest first.

    Example: retrain history support
    """
    from retrain.ledger import describe

    space = open_workspace(workspace, adapter)
    lines = _entries(space, adapter)
    none = f"{adapter} has no history yet"
    if space.params.workspace.remote is None:
        none = f"{adapter} has no history here: no remote is named, so attempts are not recorded; see `retrain status`"
    data = {"schema": 1, "adapter": adapter, "lines": [line.as_dict() for line in lines]}
    out(data, as_json, [describe(line) for line in lines] or [none])


def pages(
    adapter: Annotated[str | None, typer.Argument(help="an adapter of params.yaml; default: all")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Write the story page, Evidently's panels and the Prometheus file anew.

    Example: retrain pages support
    """
    from retrain import projections

    space = open_workspace(workspace, adapter)
    written = [projections.write(space, name, panels=True) for name in ([adapter] if adapter else space.params.adapters)]
    index = projections.write_index(space)
    lines = [f"{made.headline}\n  {made.page}\n  {made.metrics}" for made in written]
    data = {"schema": 1, "index": index, "adapters": [dataclasses.asdict(made) for made in written]}
    out(data, as_json, [*lines, f"all adapters: {index}"])


def up(workspace: Root = HERE) -> None:
    """Airflow, MLflow, Evidently, the pages and the door on loopback until Ctrl-C.

    Example: retrain up -w demo
    """
    from retrain import up as up_

    up_.run(open_workspace(workspace), say)


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="take away what killed processes left, if no owner lives")] = False,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Check environment, services, workspace and versions, and say the fix.

    Example: retrain doctor -w demo
    """
    from retrain import leftovers
    from retrain.doctor import examine

    for gone in leftovers.take_away(workspace.absolute()) if repair else ():
        say_for(as_json)(f"removed {gone.path}: {gone.what}, and no process lives that needs it")
    findings = examine(workspace)
    marks = {True: "ok ", False: "BAD", None: "-  "}
    lines = [
        f"{marks[f.ok]} {f.name}: {f.found}" + (f"\n      fix: {f.fix}" if f.ok is False and f.fix else "") for f in findings
    ]
    wrong = any(f.ok is False for f in findings)
    out({"schema": 1, "ok": not wrong, "findings": [dataclasses.asdict(f) for f in findings]}, as_json, lines)
    if wrong:
        raise typer.Exit(1)
