"""Verbs that look at production: monitor, why, trigger, collect, and the labels that users need."""

import dataclasses
import difflib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from retrain.cli.shared import HERE, Json, Name, Root, open_workspace, out, time_of, window_of
from retrain.errors import NothingToDo, ParamsError


def monitor(
    adapter: Name,
    start: Annotated[str | None, typer.Option(help="ISO 8601, with a zone")] = None,
    end: Annotated[str | None, typer.Option(help="ISO 8601, with a zone; neither: the last full window")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="this window may train although a policy is `manual`")] = False,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Measure a window (without times: and those missed), decide, record both.

    Example: retrain monitor support
    """
    from retrain import watch

    space = open_workspace(workspace, adapter)
    window = window_of(space, start, end)
    seen: list[watch.Watched] = []
    try:
        for one in [window] if start else watch.pending(space, adapter, window):
            seen.append(watch.monitor(space, adapter, one, asked=ask and one == window))
            if not as_json:
                print("\n".join(_told(adapter, seen[-1])), flush=True)
    finally:  # a window that fails takes nothing from those before it: they are recorded
        if as_json and seen:
            out({"schema": 1, "adapter": adapter, "windows": [one.record.as_dict() for one in seen]}, True, [])


def _told(adapter: str, seen: Any) -> list[str]:
    record = seen.record
    lines = [f"{adapter} {record.end}: {record.rows} rows, {record.drift_status}", *record.drifted]
    lines += [f"LLM judge: {record.judge.words()}"] if record.judge else []
    return [*lines, "fire" if seen.decision.fire else "hold", *record.reasons, f"report: {seen.report}"]


def why(
    adapter: Name,
    windows: Annotated[int, typer.Option(min=1, help="how many, the newest")] = 30,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """What the trigger decided on each window and why, with what came of it.

    Example: retrain why support
    """
    from monitoring import decisions
    from retrain import jobs
    from retrain.ledger import describe

    space = open_workspace(workspace, adapter)
    records, cost = _decided(space, adapter, windows)
    entries = jobs.entries(space, adapter)
    data = {"schema": 1, "adapter": adapter, "windows": decisions.as_dicts(records), "cost": cost.model_dump()}
    data["ledger"] = [describe(entry) for entry in entries]
    out(data, as_json, decisions.story(adapter, records, entries, cost))


def trigger(
    adapter: Name,
    replay: Annotated[Path | None, typer.Option(help="a YAML file with the keys of `trigger` that are to differ")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="such as trigger.policies.k_of_n.violations=1")] = None,
    windows: Annotated[int, typer.Option(min=1, help="how many, the newest")] = 50,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """When another policy would have fired on the recorded windows.

    Example: retrain trigger support --replay other.yaml
    """
    from monitoring import decisions
    from retrain import params as params_

    space = open_workspace(workspace, adapter)
    wrong = [line for line in override or [] if not line.startswith("trigger.")]
    if wrong:
        raise ParamsError(f"--set {wrong[0]!r}: a replay changes the trigger alone: give trigger.KEY=VALUE")
    changes = params_.read(replay) if replay else {}
    where = str(replay) if replay else "--set"
    policy = space.params.of(adapter).other_trigger(changes.get("trigger", changes), tuple(override or ()), where)
    found = decisions.replay(_decided(space, adapter, windows)[0], policy)
    data = {"schema": 1, "adapter": adapter, "policy": policy.model_dump(mode="json"), "fires": decisions.fires(found)}
    data["windows"] = [line.model_dump() for line in found]
    out(data, as_json, decisions.side_by_side(found))


def _decided(space: Any, adapter: str, n: int) -> Any:
    """The recorded windows, oldest first, and what retraining has cost."""
    from monitoring.trigger import WindowRecord
    from retrain import policies
    from retrain.registry import Registry

    registry = Registry.open(space.params.mlflow, space.root)
    spans = [run.span for run in registry.training_runs(adapter, 1000)]
    records = [WindowRecord.model_validate(row) for row in registry.windows(adapter, n)]
    return records, policies.cost(spans, datetime.now(UTC))


def collect(
    adapter: Name,
    end: Annotated[str | None, typer.Option(help="ISO 8601, with a zone; default: now")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Turn labelled failure cases into the next dataset version.

    Example: retrain collect support
    """
    from retrain import collecting

    made = collecting.collect(open_workspace(workspace, adapter), adapter, time_of(end, "--end"))
    lines = [f"{made.rows} failure cases in {made.file}; {made.waiting} wait for a label, {made.quarantined} quarantined"]
    lines += [f"new label: {label}, {rows} rows, {users} users" for label, (rows, users) in sorted(made.new_labels.items())]
    out({"schema": 1, "adapter": adapter, **dataclasses.asdict(made)}, as_json, lines)
    if not made.fresh:
        raise NothingToDo(f"{made.file} was collected before: a file never changes, so this call added nothing")


def labels_list(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Labels of corrections that wait to be admitted.

    Example: retrain labels list support
    """
    from retrain import collecting

    found = collecting.new_labels(open_workspace(workspace, adapter), adapter)
    rows = [{"label": label, "rows": rows, "users": users} for label, (rows, users) in found.items()]
    lines = [f"{row['label']}: {row['rows']} rows, {row['users']} users" for row in rows]
    out({"schema": 1, "adapter": adapter, "waiting": rows}, as_json, lines or [f"{adapter}: no label waits"])


def labels_admit(
    adapter: Name,
    label: list[str],
    new: Annotated[bool, typer.Option("--new", help="admit it though no waiting correction uses it")] = False,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Add labels to the adapter, by commit and push.

    Example: retrain labels admit support gift_card
    """
    from retrain import collecting, jobs
    from retrain.errors import DataError

    space = open_workspace(workspace, adapter)
    try:
        rows = {name: n for name, (n, _) in collecting.new_labels(space, adapter).items()}
    except DataError as error:
        if not new:
            raise DataError(f"{error}. Without corrections no label waits: give --new to admit one all the same") from error
        rows = {}
    if not new:
        _refuse_unknown(adapter, label, rows, jobs.remote_params(space).adapter(adapter).labels)
    added = jobs.admit(space, adapter, label, rows=rows)
    lines = [f"{adapter} now lists {', '.join(added)}: the next retraining learns them"]
    out({"schema": 1, "adapter": adapter, "admitted": added}, as_json, lines)


def _refuse_unknown(adapter: str, labels: list[str], waiting: Iterable[str], listed: Iterable[str]) -> None:
    """A label that no waiting correction uses is most likely misspelt: it would stand in the ledger for ever."""
    waiting, listed = list(waiting), list(listed)
    for label in labels:
        if label in waiting or label in listed:
            continue
        near = difflib.get_close_matches(label, [*waiting, *listed], n=1)
        where = f"{adapter} lists it" if near and near[0] in listed else "corrections wait with it"
        others = f"waiting: {', '.join(waiting)}" if waiting else "none waits"
        guess = f"did you mean {near[0]!r} ({where})?" if near else f"{others}."
        raise ParamsError(
            f"{adapter}: no waiting correction has the label {label!r}: {guess} Give --new to admit it all the same"
        )
