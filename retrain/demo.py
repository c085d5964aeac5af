"""The whole loop in a fresh workspace, in event time, on a real LLM: nothing is scripted to succeed."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring.windows import Window, following
from retrain import jobs, ledger, simulate, watch
from retrain.card import one_line
from retrain.errors import NothingToDo, RejectedError, RetrainError
from retrain.generate import Model
from retrain.records import stamp, write_json
from retrain.story import Story
from retrain.workspace import Workspace, init

ROWS = 320  # of a window
MOST_WINDOWS = 6  # of one step: a trigger that has not fired by then is reported, not waited for
START = datetime(2026, 3, 2, tzinfo=UTC)
Say = Callable[[str], None]


@dataclass
class Demo:
    """State of a running demo and what its JSON will hold."""

    workspace: Workspace
    story: Story
    rng: random.Random
    corrected: float
    say: Say
    window: Window = field(default_factory=lambda: Window(START - timedelta(days=1), START))
    versions: list[dict[str, Any]] = field(default_factory=list)
    windows: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    alternatives: dict[str, Any] = field(default_factory=dict)
    decks: Any = None
    model: tuple[int, Model] | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.say(f"\n== {name}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.steps.append({"name": name, "seconds": round(time.monotonic() - started, 1)})


def run(
    folder: Path, story: Story, *, seed: int, corrected: float, say: Say, poisoned: bool, overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Make the workspace, run the five steps, return the JSON of the demo (schema 1, README)."""
    started = time.monotonic()
    _clear(folder)
    say(f"workspace: {folder}")
    workspace = init(folder, files=story.files)
    mark(folder)
    demo = Demo(workspace, story, random.Random(seed), corrected, say)
    demo.decks = simulate.Decks(story.traffic, demo.rng)
    with demo.step("1 the first adapter is trained on seed data and must beat the base"):
        _attempt(demo, START)
    if _serving(demo):
        with demo.step("2 two quiet windows"):
            for _ in range(2):
                _window(demo, simulate.Phase(ROWS, corrected=corrected))
        with demo.step("3 new intents and new wording arrive"):
            _until_fired(
                demo, simulate.Phase(ROWS, arriving_share=0.25, corrected=corrected, styles=("typo", "mixed", "angry"))
            )
        if poisoned:
            with demo.step("4 an honest window of the new champion, then poisoned corrections"):
                _window(demo, simulate.Phase(ROWS, arriving_share=0.2, corrected=corrected))
                _until_fired(demo, simulate.Phase(ROWS, arriving_share=0.2, corrected=corrected, poison=_poison(story)))
        with demo.step("5 roll back, and forward again"):
            _rollback(demo)
    if story.test:
        with demo.step("scores on test.csv, which nothing else reads"):
            _final_scores(demo)
    return {
        "schema": 1,
        "adapter": story.adapter,
        "seed": seed,
        "versions": demo.versions,
        "alternatives": demo.alternatives,
        "windows": demo.windows,
        "verdicts": demo.verdicts,
        "steps": demo.steps,
        "seconds": round(time.monotonic() - started, 1),
    }


def _clear(folder: Path) -> None:
    """A demo's old workspace is replaced; any other folder that holds something is left alone (init refuses it)."""
    if (folder / ".retrain" / "demo").exists():
        shutil.rmtree(folder)


def _poison(story: Story) -> dict[str, str]:
    """Two of the first intents whose messages all get another's label as their correction."""
    a, b, c = (*sorted(story.initial), *sorted(story.initial))[:3]
    return {a: c, b: c} if len(story.initial) > 2 else {a: b}


def _serving(demo: Demo) -> ledger.Promotion | None:
    return ledger.state(jobs.entries(demo.workspace, demo.story.adapter)).champion


def traffic(demo: Demo, phase: simulate.Phase, window: Window) -> Path:
    """One window of messages through the serving champion; the log file that it made."""
    from tqdm import tqdm

    adapter, story = demo.story.adapter, demo.story
    serving, folder = jobs.champion_folder(demo.workspace, adapter)
    params = demo.workspace.params.of(adapter)
    if demo.model is None or demo.model[0] != serving.version:
        demo.model = (serving.version, Model(_base(demo), device=params.train.device, adapter=folder))
    messages = simulate.window(phase, decks=demo.decks, initial=_initial(story), arriving=story.arriving, rng=demo.rng)
    with tqdm(total=len(messages), desc="traffic", unit="row", disable=None) as bar:
        answers = simulate.ask(demo.model[1], messages, batch=params.evaluate.batch, max_new_tokens=16, tick=bar.update)
    rows = simulate.logs(
        messages, answers, phase, at=window, adapter=adapter, version=f"{adapter}-v{serving.version}",
        audit_rate=params.failures.audit_rate, rng=demo.rng,
    )  # fmt: skip
    return simulate.write(demo.workspace.root, adapter, window, rows)


def _window(demo: Demo, phase: simulate.Phase) -> watch.Watched:
    """The next window: traffic, then monitoring."""
    adapter = demo.story.adapter
    demo.window = following(demo.window)
    traffic(demo, phase, demo.window)
    seen = watch.monitor(demo.workspace, adapter, demo.window)
    record = seen.record
    demo.windows.append(
        {
            "start": record.start, "end": record.end, "rows": record.rows, "drift": record.drift_status,
            "decision": "fire" if seen.decision.fire else "hold", "reasons": record.reasons,
        }
    )  # fmt: skip
    demo.say(f"window {record.end}: {record.rows} rows, {record.drift_status}, {'FIRE' if seen.decision.fire else 'hold'}")
    for line in record.reasons:
        demo.say(f"   {line}")
    return seen


def _initial(story: Story) -> tuple[str, ...]:
    """The taught intents, with a few out-of-scope messages where the story has them."""
    has_others = any(row["label"] == "out_of_scope" for row in story.traffic)
    return (*story.initial * 3, "out_of_scope") if has_others else story.initial


def _base(demo: Demo) -> Path:
    """The unpacked base of this workspace, checked out of the shared cache once."""
    name = demo.workspace.params.adapter(demo.story.adapter).base
    target = demo.workspace.local / "base" / name
    if not target.exists():
        with demo.workspace.clone("base") as clone:
            clone.dvc("pull", "--force", f"out/base/{name}")
            shutil.copytree(clone.root / "out" / "base" / name, target)
    return target


def _until_fired(demo: Demo, phase: simulate.Phase) -> None:
    """Windows of this phase until the trigger fires; then what the retraining DAG does."""
    for _ in range(MOST_WINDOWS):
        if not _window(demo, phase).decision.fire:
            continue
        end = demo.window.end
        try:
            collected = watch.collect(demo.workspace, demo.story.adapter, end)
            demo.say(f"collected {collected.rows} failure cases into {collected.file}")
            _admit(demo, collected)
        except NothingToDo as nothing:
            demo.say(str(nothing))
        _attempt(demo, end)
        return
    demo.say(f"the trigger did not fire in {MOST_WINDOWS} windows: no candidate was trained")


def _admit(demo: Demo, collected: watch.Collected) -> None:
    """The demo plays the person who admits labels: those that the story brings, never out-of-scope ones."""
    for label, (rows, users) in sorted(collected.new_labels.items()):
        demo.say(f"   new label: {label}, {rows} rows, {users} users")
    wanted = [label for label in sorted(collected.new_labels) if label in demo.story.arriving]
    if wanted:
        counts = {label: collected.new_labels[label][0] for label in wanted}
        jobs.admit(demo.workspace, demo.story.adapter, wanted, rows=counts)
        demo.say(f"admitted by a person: {', '.join(wanted)}")


def _attempt(demo: Demo, end: datetime) -> None:
    """Retrain, gate, and promote or not."""
    adapter = demo.story.adapter
    made = watch.retrain(demo.workspace, adapter, end, say=_quietly(demo.say))
    verdict = made.verdict
    if verdict is None:
        raise RetrainError(f"the attempt at {stamp(end)} was already in the ledger of a fresh workspace")
    demo.say(f"verdict: {one_line(verdict)}")
    for name, suite in made.metrics["suites"].items():
        demo.say(f"   {name:9} n {suite['n']:4}  " + "  ".join(f"{a} {s['right']:.1%}" for a, s in suite["arms"].items()))
    for harm in verdict.harmed[:4]:
        demo.say(f"   harmed on {harm.suite}: {harm.label} lost {harm.lost} of {harm.n} rows")
    version = None
    try:
        version = jobs.promote(demo.workspace, adapter).version
        demo.say(f"champion: {adapter}-v{version}")
    except RejectedError:
        serving = _serving(demo)
        demo.say(f"not promoted; {adapter}-v{serving.version} stays" if serving else "not promoted: nothing serves")
    suites = made.metrics["suites"]
    scores = {s: {"metric": "right", "value": d["arms"]["candidate"]["right"], "n": d["n"]} for s, d in suites.items()}
    entry = {"version": version, "promoted": version is not None, "dataset": made.attempt.dataset, "suites": scores, "test": {}}
    demo.versions.append(entry)
    demo.verdicts.append(verdict.as_dict())
    for arm in ("base", "prompted", "regression"):
        found = {s: d["arms"][arm] for s, d in suites.items() if arm in d["arms"]}
        demo.alternatives[arm] = {s: {"metric": "right", "value": d["right"], "n": d["n"]} for s, d in found.items()}


def _quietly(say: Say) -> Say:
    """Of a stage's output only what a person wants to read in a demo."""

    def line(text: str) -> None:
        if text.startswith(("trained ", "warning: ", "base ")) or " rows train, " in text:
            say(f"   {text}")

    return line


def _rollback(demo: Demo) -> None:
    adapter = demo.story.adapter
    try:
        back = jobs.rollback(demo.workspace, adapter, version=None, reason="demo: show the way back")
        demo.say(f"rolled back: {adapter}-v{back.version} serves")
        forward = jobs.rollback(demo.workspace, adapter, version=None, reason="demo: and forward again")
        demo.say(f"forward again: {adapter}-v{forward.version} serves")
    except NothingToDo as nothing:
        demo.say(str(nothing))
    for entry in jobs.entries(demo.workspace, adapter):
        demo.say(f"   {describe(entry)}")


def describe(entry: ledger.Entry) -> str:
    """One ledger line as a sentence."""
    if isinstance(entry, ledger.Attempt):
        return f"{entry.at} attempt at {entry.end}: {entry.status}: {entry.why}"
    if isinstance(entry, ledger.Promotion):
        return f"{entry.at} promoted {entry.tag}" + (f", in place of v{entry.replaces}" if entry.replaces else "")
    if isinstance(entry, ledger.Rollback):
        return f"{entry.at} from v{entry.from_version} to v{entry.version}: {entry.reason}"
    return f"{entry.at} label admitted: {entry.label} ({entry.rows} rows)"


def _final_scores(demo: Demo) -> None:
    """Every promoted version on all test rows, by part."""
    from retrain.registry import Registry

    params = demo.workspace.params
    registry = Registry.open(params.mlflow, demo.workspace.root)
    parts = {"initial": demo.story.initial, "arriving": demo.story.arriving}
    for entry in demo.versions:
        if entry["version"] is None:
            continue
        name = f"{demo.story.adapter}-v{entry['version']}"
        folder = registry.download(demo.story.adapter, entry["version"], demo.workspace.local / "serving" / name)
        model = Model(_base(demo), device=params.train.device, adapter=folder)
        answers = simulate.ask(model, demo.story.test, batch=params.evaluate.batch, max_new_tokens=16, tick=lambda n: None)
        right = [a.text == row["label"] for a, row in zip(answers, demo.story.test, strict=True)]
        for part, labels in parts.items():
            mine = [ok for ok, row in zip(right, demo.story.test, strict=True) if row["label"] in labels]
            entry["test"][part] = {"exact": round(sum(mine) / max(1, len(mine)), 4), "n": len(mine)}
        demo.say(f"{name}: " + ", ".join(f"{part} {s['exact']:.1%} of {s['n']}" for part, s in entry["test"].items()))


def table(result: dict[str, Any]) -> list[str]:
    """The end of a demo: windows, versions, seconds."""
    lines = ["", "window                 rows  drift          decision"]
    lines += [f"{w['end']:22} {w['rows']:4}  {w['drift']:14} {w['decision']}" for w in result["windows"]]
    lines += ["", "candidate  dataset       " + "".join(f"{s:>10}" for s in ("golden", "audit", "repair", "retained"))]
    for v in result["versions"]:
        cells = [v["suites"].get(s) for s in ("golden", "audit", "repair", "retained")]
        name = f"v{v['version']}" if v["promoted"] else "refused"
        lines.append(f"{name:10} {v['dataset'][:12]}  " + "".join(f"{c['value']:>10.1%}" if c else f"{'-':>10}" for c in cells))
    for arm, suites in result["alternatives"].items():
        cells = [suites.get(s) for s in ("golden", "audit", "repair", "retained")]
        lines.append(f"{arm:10} (last data)   " + "".join(f"{c['value']:>10.1%}" if c else f"{'-':>10}" for c in cells))
    lines += ["", *(f"{s['seconds']:7.1f} s  {s['name']}" for s in result["steps"]), f"{result['seconds']:7.1f} s  in all"]
    return lines


def mark(folder: Path) -> None:
    """So that the next demo may replace this folder."""
    write_json(folder / ".retrain" / "demo", {"schema": 1})
