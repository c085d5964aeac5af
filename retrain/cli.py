"""`retrain <verb>`: thin. Exit codes: 0 done, 1 fault, 2 bad usage, 3 rejected, 4 nothing to do, 5 busy, 6 stale."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from retrain.errors import NothingToDo, ParamsError, RejectedError, RetrainError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
labels_app = typer.Typer(no_args_is_help=True, help="Labels that users need and the adapter does not list yet.")
app.add_typer(labels_app, name="labels")

Root = Annotated[Path, typer.Option("--workspace", "-w", help="the workspace; default: this folder")]
Name = Annotated[str, typer.Argument(help="an adapter of params.yaml")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override a parameter: --set train.epochs=2")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]
HERE = Path(".")


def say(line: str) -> None:
    """A line that a progress bar on the same terminal does not garble."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stdout):
        print(line, flush=True)


def _say_for(as_json: bool) -> Any:
    return (lambda line: print(line, file=sys.stderr, flush=True)) if as_json else say


def _out(data: Any, as_json: bool, lines: list[str]) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=2, default=str) if as_json else "\n".join(lines))


def _workspace(root: Path) -> Any:
    from retrain.workspace import Workspace

    return Workspace.open(root)


def _time(text: str | None, name: str) -> datetime:
    from retrain.records import parse_time

    return parse_time(text, name) if text else datetime.now(UTC).replace(microsecond=0)


def _window(workspace: Any, start: str | None, end: str | None) -> Any:
    from monitoring import windows

    if (start is None) != (end is None):
        raise ParamsError("give both --start and --end, or neither for the last full window")
    if start and end:
        return windows.of_interval(start, end)
    return windows.last_full(datetime.now(UTC), workspace.params.window.hours)


@app.command()
def init(
    directory: Path,
    adapter: Annotated[list[str] | None, typer.Option(help="a shipped adapter to start from; default: all")] = None,
) -> None:
    """Make a workspace: params.yaml, dvc.yaml, git, DVC and its stores.  Example: retrain init ~/fresh"""
    from retrain import params as params_
    from retrain import workspace
    from retrain.story import HOME, files_of, params_with

    params = params_.load(HOME)
    chosen = adapter or list(params.adapters)
    names = ["dvc.yaml"]
    for name in chosen:
        spec = params.adapter(name)
        names += [spec.prompt, *([spec.output] if spec.output else []), f"data/seed/{name}.jsonl"]
        names += sorted(str(path.relative_to(HOME)) for path in (HOME / "data/suites" / name).rglob("*.jsonl"))
    made = workspace.init(directory, files={**files_of(names), "params.yaml": params_with(chosen)})
    print(f"workspace: {made.root}\nnext: edit params.yaml and data/, then `cd {directory} && retrain repro ADAPTER`")


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="a folder with train.csv and test.csv (text,category)")] = None,
    initial: Annotated[int, typer.Option(min=2, help="--data: intents that v1 is taught")] = 12,
    arriving: Annotated[int, typer.Option(min=1, help="--data: intents that arrive later")] = 4,
    per_intent: Annotated[int, typer.Option(min=1, help="--data: rows an intent that train")] = 25,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    corrected: Annotated[float, typer.Option(min=0.0, max=1.0, help="share of failures that a user corrects")] = 1.0,
    poison: Annotated[bool, typer.Option(help="run the step with poisoned corrections")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the demo's JSON here")] = None,
    directory: Annotated[Path, typer.Option(help="the demo's workspace, made anew")] = Path("demo"),
) -> None:
    """The whole loop on a real LLM, on a CPU.  Example: retrain demo --json demo.json"""
    from retrain import demo as demo_
    from retrain import story as story_
    from retrain.records import write_json

    if data is None:
        story = story_.shipped()
    else:
        story = story_.from_csv(data, initial=initial, arriving=arriving, per_intent=per_intent, seed=seed)
    folder = directory.absolute()
    result = demo_.run(folder, story, seed=seed, corrected=corrected, say=say, poisoned=poison)
    print("\n".join(demo_.table(result)))
    write_json(json_file or folder / ".retrain" / "demo.json", result)
    print(f"\nlook further: retrain history {story.adapter} -w {directory} | retrain status -w {directory}")
    print(f"the numbers: {json_file or folder / '.retrain' / 'demo.json'}; reports: {folder}/.retrain/reports/{story.adapter}/")
    print(f"MLflow: mlflow ui --backend-store-uri sqlite:///{folder}/.retrain/mlflow/mlflow.db --host 127.0.0.1")


@app.command()
def simulate(
    adapter: Name,
    start: Annotated[str, typer.Option(help="ISO 8601, with a zone")],
    end: Annotated[str, typer.Option(help="ISO 8601, with a zone")],
    traffic: Annotated[Path, typer.Option(help="JSONL of text and label")],
    rows: Annotated[int, typer.Option(min=1)] = 320,
    arriving_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="share of labels that the adapter does not list")
    ] = 0.0,
    corrected: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    poison: Annotated[list[str] | None, typer.Option(help="TRUE=WRONG: corrections given for a label")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workspace: Root = HERE,
) -> None:
    """Send labelled traffic through the champion and write logs."""
    import random

    from retrain import simulate as simulate_
    from retrain.users import Users

    space = _workspace(workspace)
    messages = simulate_.read_traffic(traffic)
    listed = set(space.params.adapter(adapter).labels)
    present = sorted({row["label"] for row in messages})
    known = tuple(label for label in present if label in listed)
    new = tuple(label for label in present if label not in listed)
    wrong = [pair for pair in poison or [] if "=" not in pair]
    if wrong or not known:
        raise ParamsError(f"--poison {wrong[0]!r} must be TRUE=WRONG" if wrong else f"{traffic} has no label of {adapter}")
    users = Users(space, adapter, messages, known, new, random.Random(seed))
    poisons = dict(pair.split("=", 1) for pair in poison or [])
    phase = simulate_.Phase(rows, arriving_share=arriving_share, corrected=corrected, poison=poisons)
    print(f"wrote {users.send(phase, _window(space, start, end))}")


@app.command()
def monitor(
    adapter: Name,
    start: Annotated[str | None, typer.Option(help="ISO 8601, with a zone")] = None,
    end: Annotated[str | None, typer.Option(help="ISO 8601, with a zone; neither: the last full window")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Measure a window (without times: and those missed), decide, record both.  Example: retrain monitor support"""
    from retrain import watch

    space = _workspace(workspace)
    window = _window(space, start, end)
    for one in [window] if start else watch.pending(space, adapter, window):
        seen = watch.monitor(space, adapter, one)
        lines = [f"{adapter} {seen.record.end}: {seen.record.rows} rows, {seen.record.drift_status}", *seen.record.drifted]
        lines += ["fire" if seen.decision.fire else "hold", *seen.record.reasons, f"report: {seen.report}"]
        _out(seen.record.as_dict(), as_json, lines)


@app.command()
def why(
    adapter: Name,
    windows: Annotated[int, typer.Option(min=1, help="how many, the newest")] = 30,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """What the trigger decided on each window and why, with what came of it.  Example: retrain why support"""
    from monitoring import decisions
    from retrain import jobs
    from retrain.ledger import describe

    space = _workspace(workspace)
    records, cost = _decided(space, adapter, windows)
    entries = jobs.entries(space, adapter)
    data = {"schema": 1, "adapter": adapter, "windows": decisions.as_dicts(records), "cost": cost.model_dump()}
    data["ledger"] = [describe(entry) for entry in entries]
    _out(data, as_json, decisions.story(adapter, records, entries, cost))


@app.command()
def trigger(
    adapter: Name,
    replay: Annotated[Path | None, typer.Option(help="a YAML file with the keys of `trigger` that are to differ")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="such as trigger.policies.k_of_n.violations=1")] = None,
    windows: Annotated[int, typer.Option(min=1, help="how many, the newest")] = 50,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """When another policy would have fired on the recorded windows.  Example: retrain trigger support --replay other.yaml"""
    from monitoring import decisions
    from retrain import params as params_

    space = _workspace(workspace)
    wrong = [line for line in override or [] if not line.startswith("trigger.")]
    if wrong:
        raise ParamsError(f"--set {wrong[0]!r}: a replay changes the trigger alone: give trigger.KEY=VALUE")
    changes = params_.read(replay) if replay else {}
    where = str(replay) if replay else "--set"
    policy = space.params.of(adapter).other_trigger(changes.get("trigger", changes), tuple(override or ()), where)
    found = decisions.replay(_decided(space, adapter, windows)[0], policy)
    data = {"schema": 1, "adapter": adapter, "policy": policy.model_dump(mode="json"), "fires": decisions.fires(found)}
    data["windows"] = [line.model_dump() for line in found]
    _out(data, as_json, decisions.side_by_side(found))


def _decided(space: Any, adapter: str, n: int) -> Any:
    """The recorded windows, oldest first, and what retraining has cost."""
    from monitoring.trigger import WindowRecord
    from retrain import policies
    from retrain.registry import Registry

    space.params.adapter(adapter)
    registry = Registry.open(space.params.mlflow, space.root)
    spans = [(run.start, run.end) for run in registry.training_runs(adapter, 1000)]
    records = [WindowRecord.model_validate(row) for row in registry.windows(adapter, n)]
    return records, policies.cost(spans, datetime.now(UTC))


@app.command()
def pages(
    adapter: Annotated[str | None, typer.Argument(help="an adapter of params.yaml; default: all")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Write the story page, Evidently's panels and the Prometheus file anew.  Example: retrain pages support"""
    import dataclasses

    from retrain import projections

    space = _workspace(workspace)
    if adapter:
        space.params.adapter(adapter)
    written = [projections.write(space, name, panels=True) for name in ([adapter] if adapter else space.params.adapters)]
    index = projections.write_index(space)
    lines = [f"{made.headline}\n  {made.page}\n  {made.metrics}" for made in written]
    data = {"schema": 1, "index": index, "adapters": [dataclasses.asdict(made) for made in written]}
    _out(data, as_json, [*lines, f"all adapters: {index}"])


@app.command()
def collect(
    adapter: Name,
    end: Annotated[str | None, typer.Option(help="ISO 8601, with a zone; default: now")] = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Turn labelled failure cases into the next dataset version.  Example: retrain collect support"""
    import dataclasses

    from retrain import watch

    made = watch.collect(_workspace(workspace), adapter, _time(end, "--end"))
    lines = [f"{made.rows} failure cases in {made.file}; {made.waiting} wait for a label, {made.quarantined} quarantined"]
    lines += [f"new label: {label}, {rows} rows, {users} users" for label, (rows, users) in sorted(made.new_labels.items())]
    _out(dataclasses.asdict(made), as_json, lines)


@labels_app.command("list")
def labels_list(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Labels of corrections that wait to be admitted.  Example: retrain labels list support"""
    from retrain import watch

    found = watch.new_labels(_workspace(workspace), adapter)
    rows = [{"label": label, "rows": rows, "users": users} for label, (rows, users) in found.items()]
    lines = [f"{row['label']}: {row['rows']} rows, {row['users']} users" for row in rows]
    _out({"schema": 1, "adapter": adapter, "waiting": rows}, as_json, lines or [f"{adapter}: no label waits"])


@labels_app.command("admit")
def labels_admit(adapter: Name, label: list[str], workspace: Root = HERE) -> None:
    """Add labels to the adapter, by commit and push.  Example: retrain labels admit support gift_card"""
    from retrain import jobs, watch
    from retrain.errors import DataError

    space = _workspace(workspace)
    try:
        rows = {name: n for name, (n, _) in watch.new_labels(space, adapter).items()}
    except DataError:  # a label may be admitted before there are logs
        rows = {}
    added = jobs.admit(space, adapter, label, rows=rows)
    print(f"{adapter} now lists {', '.join(added)}: the next retraining learns them")


@app.command()
def repro(
    adapter: Name,
    end: Annotated[str | None, typer.Option(help="ISO 8601, with a zone; default: now")] = None,
    override: Set = None,
    workspace: Root = HERE,
    as_json: Json = False,
) -> None:
    """Retrain in a clone, put the candidate before the gate, record the attempt.  Example: retrain repro support"""
    from retrain import watch

    space = _workspace(workspace)
    made = watch.retrain(space, adapter, _time(end, "--end"), say=_say_for(as_json), overrides=tuple(override or ()))
    _out(made.attempt.as_dict(), as_json, [f"{made.attempt.status}: {made.attempt.why}"])
    if not made.fresh:
        raise NothingToDo(f"the attempt at {made.attempt.end} is in the ledger already")
    if not made.attempt.promote:
        raise RejectedError("the gate did not pass it; the champion stays")


@app.command()
def register(adapter: Name, workspace: Root = HERE) -> None:
    """Register the newest attempt's bytes in MLflow, if its verdict passed."""
    from retrain import jobs

    print(f"{adapter}-v{jobs.register(_workspace(workspace), adapter)} is registered")


@app.command()
def promote(adapter: Name, workspace: Root = HERE) -> None:
    """Make the newest passed candidate champion: ledger, then alias."""
    from retrain import jobs, projections

    space = _workspace(workspace)
    print(f"{jobs.promote(space, adapter).promotion.tag} is champion", flush=True)
    projections.refresh(space, adapter, panels=False, say=say)


@app.command()
def rollback(
    adapter: Name,
    to: Annotated[int | None, typer.Option(help="a version that served; default: the one before")] = None,
    reason: Annotated[str, typer.Option(help="kept in the ledger for ever")] = "rolled back by hand",
    workspace: Root = HERE,
) -> None:
    """Put an earlier champion back.  Example: retrain rollback support --reason 'refunds went wrong'"""
    from retrain import jobs, projections

    space = _workspace(workspace)
    print(f"{jobs.rollback(space, adapter, version=to, reason=reason).promotion.tag} serves again", flush=True)
    projections.refresh(space, adapter, panels=False, say=say)


@app.command()
def status(workspace: Root = HERE, as_json: Json = False) -> None:
    """What serves, what was tried last, the last window and its page, how far this checkout is behind."""
    from retrain import jobs, ledger, projections

    space = _workspace(workspace)
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
    _out(data, as_json, lines)


@app.command()
def history(adapter: Name, workspace: Root = HERE, as_json: Json = False) -> None:
    """Every attempt, promotion, rollback and admitted label, oldest first."""
    from retrain import jobs
    from retrain.ledger import describe

    lines = jobs.entries(_workspace(workspace), adapter)
    _out([line.as_dict() for line in lines], as_json, [describe(line) for line in lines] or [f"{adapter} has no history yet"])


@app.command()
def up(workspace: Root = HERE) -> None:
    """Airflow, MLflow, Evidently and the pages on loopback until Ctrl-C.  Example: retrain up -w demo"""
    from retrain import up as up_

    up_.run(_workspace(workspace), say)


@app.command()
def doctor(workspace: Root = HERE, as_json: Json = False) -> None:
    """Check environment, services, workspace and versions, and say the fix."""
    import dataclasses

    from retrain.doctor import examine

    findings = examine(workspace)
    marks = {True: "ok ", False: "BAD", None: "-  "}
    lines = [
        f"{marks[f.ok]} {f.name}: {f.found}" + (f"\n      fix: {f.fix}" if f.ok is False and f.fix else "") for f in findings
    ]
    _out([dataclasses.asdict(f) for f in findings], as_json, lines)
    if any(f.ok is False for f in findings):
        raise typer.Exit(1)


def main() -> None:
    os.environ.update(DO_NOT_TRACK="true", MLFLOW_DISABLE_TELEMETRY="true", GX_ANALYTICS_ENABLED="false")
    os.environ.setdefault("DVC_NO_ANALYTICS", "true")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        app()
    except RetrainError as error:
        print(f"error: {error}" if error.exit_code != 4 else str(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
