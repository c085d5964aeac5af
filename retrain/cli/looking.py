"""Verbs that show how things stand: status, history, pages, up, doctor."""

import dataclasses
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out, say


def status(workspace: Root = HERE, as_json: Json = False) -> None:
    """What serves, what was tried last, the last window and its page, how far this checkout is behind.

    Example: retrain status -w demo
    """
    from retrain import jobs, ledger, projections

    space = open_workspace(workspace)
    behind = space.behind()
    data: dict[str, Any] = {"schema": 1, "behind": behind.commits, "dirty": behind.dirty, "adapters": {}}
    lines = [f"checkout: {behind.commits} commits behind{', with changes of its own' if behind.dirty else ''}"]
    for name in space.params.adapters:
        state = ledger.state(jobs.entries(space, name))
        last = state.attempts[-1] if state.attempts else None
        serving = state.champion.tag if state.champion else None
        seen = projections.last_window(space, name, datetime.now(UTC))
        data["adapters"][name] = {"champion": serving, "last_attempt": last.as_dict() if last else None, **seen.as_dict()}
        lines.append(f"{name}: {serving or 'no champion yet'}" + (f"; last attempt {last.status}: {last.why}" if last else ""))
        lines += [f"  {line}" for line in seen.lines()]
    out(data, as_json, lines)


def history(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Every attempt, promotion, rollback and admitted label, oldest first.

    Example: retrain history support
    """
    from retrain import jobs
    from retrain.ledger import describe

    lines = jobs.entries(open_workspace(workspace, adapter), adapter)
    data = {"schema": 1, "adapter": adapter, "lines": [line.as_dict() for line in lines]}
    out(data, as_json, [describe(line) for line in lines] or [f"{adapter} has no history yet"])


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
    """Airflow, MLflow, Evidently and the pages on loopback until Ctrl-C.

    Example: retrain up -w demo
    """
    from retrain import up as up_

    up_.run(open_workspace(workspace), say)


def doctor(workspace: Root = HERE, as_json: Json = False) -> None:
    """Check environment, services, workspace and versions, and say the fix.

    Example: retrain doctor -w demo
    """
    from retrain.doctor import examine

    findings = examine(workspace)
    marks = {True: "ok ", False: "BAD", None: "-  "}
    lines = [
        f"{marks[f.ok]} {f.name}: {f.found}" + (f"\n      fix: {f.fix}" if f.ok is False and f.fix else "") for f in findings
    ]
    wrong = any(f.ok is False for f in findings)
    out({"schema": 1, "ok": not wrong, "findings": [dataclasses.asdict(f) for f in findings]}, as_json, lines)
    if wrong:
        raise typer.Exit(1)
