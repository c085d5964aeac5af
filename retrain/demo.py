"""The whole loop in a fresh workspace, in event time, on a real LLM: nothing is scripted to succeed.

The DAGs do the work, in real Airflow runs; what a step came to is read back from where they recorded it: MLflow and git.
"""

import contextlib
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring.failures import drawn
from monitoring.trigger import WindowRecord
from monitoring.windows import Window, following
from retrain import collecting, edits, jobs, ledger, quarantine, release, score, simulate, watch
from retrain.card import one_line
from retrain.cardtables import lost_rows
from retrain.dagruns import DagRuns
from retrain.door import why_not_believed
from retrain.errors import NothingToDo
from retrain.founding import init
from retrain.process import git
from retrain.records import Example, write_json
from retrain.story import Story
from retrain.users import Users
from retrain.verdict import Verdict
from retrain.workspace import Clone, Workspace

ROWS = 320  # of a window
MOST_ROWS = 1600
ARRIVING = 0.25  # of the traffic, once they arrive
POISONED_WINDOWS = 2
MOST_WINDOWS = 6  # of one step: a trigger that has not fired by then is reported, not waited for
START = datetime(2026, 3, 2, tzinfo=UTC)
Say = Callable[[str], None]


@dataclass
class Demo:
    """State of a running demo and what its JSON will hold."""

    workspace: Workspace
    story: Story
    corrected: float
    say: Say
    runs: DagRuns
    users: Users
    window: Window = field(default_factory=lambda: Window(START - timedelta(days=1), START))
    commits: list[str] = field(default_factory=list)  # of the attempts, as `versions`
    versions: list[dict[str, Any]] = field(default_factory=list)
    windows: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    alternatives: dict[str, Any] = field(default_factory=dict)
    door: dict[str, int] = field(default_factory=dict)  # corrections: poisoned, kept_out of these, honest_kept_out

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.say(f"\n== {name}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.steps.append({"name": name, "seconds": round(time.monotonic() - started, 1)})


def run(folder: Path, story: Story, *, seed: int, corrected: float, say: Say, poisoned: bool) -> dict[str, Any]:
    """Make the workspace, run the steps in real DAG runs, return the JSON of the demo (schema 1, README)."""
    started = time.monotonic()
    _clear(folder)
    say(f"workspace: {folder}")
    workspace = init(folder, files=story.files)
    mark(folder)
    with Users(workspace, story.adapter, story.traffic, _initial(story), story.arriving, random.Random(seed)) as users:
        demo = Demo(workspace, story, corrected, say, DagRuns(workspace, say), users)
        with demo.step("1 the first adapter is trained on seed data and must beat the base"):
            _retrain(demo, START)
        if _serving(demo):
            _traffic_steps(demo, poisoned)
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
        "door": demo.door,
        "steps": demo.steps,
        "seconds": round(time.monotonic() - started, 1),
    }


def _traffic_steps(demo: Demo, poisoned: bool) -> None:
    story, corrected = demo.story, demo.corrected
    with demo.step("2 two quiet windows"):
        for _ in range(2):
            _window(demo, simulate.Phase(ROWS, corrected=corrected))
    styles = ("typo", "mixed", "angry")
    with demo.step("3 new intents and new wording arrive"):
        rows = _arriving_rows(demo)
        _until_fired(demo, simulate.Phase(rows, arriving_share=ARRIVING, corrected=corrected, styles=styles))
    if poisoned:
        with demo.step("4 an honest window of the new champion, then poisoned corrections: the door, then the gate without it"):
            _window(demo, simulate.Phase(ROWS, arriving_share=0.2, corrected=corrected))
            _attack(demo, simulate.Phase(ROWS, arriving_share=0.2, corrected=corrected, poison=_poison(story)))
    with demo.step("5 roll back, and forward again"):
        _rollback(demo)


def _clear(folder: Path) -> None:
    """A demo's old workspace is replaced; any other folder that holds something is left alone (init refuses it)."""
    if (folder / ".retrain" / "demo").exists():
        shutil.rmtree(folder)


def _arriving_rows(demo: Demo) -> int:
    """Rows of a window such that two of them bring each arriving intent its `per_intent` corrected rows beyond those that
    judge and those that copy others; an intent that has too few messages brings what it has."""
    wanted = demo.story.per_intent
    if wanted is None or demo.corrected == 0:
        return ROWS
    params = demo.workspace.params.of(demo.story.adapter)
    trains = (1 - params.failures.audit_rate) * (1 - params.prepare.repair_share) * (1 - demo.story.copies) * demo.corrected
    rows = math.ceil(wanted * len(demo.story.arriving) / (2 * ARRIVING * trains))
    return min(max(rows, ROWS), MOST_ROWS)


def _poison(story: Story) -> dict[str, str]:
    """Two of the first intents whose messages all get another's label as their correction."""
    a, b, c = (*sorted(story.initial), *sorted(story.initial))[:3]
    return {a: c, b: c} if len(story.initial) > 2 else {a: b}


def _serving(demo: Demo) -> ledger.Promotion | None:
    return ledger.state(jobs.entries(demo.workspace, demo.story.adapter)).champion


def _window(demo: Demo, phase: simulate.Phase) -> WindowRecord:
    """The next window: traffic, then a run of monitor_adapters over it; the record is read back from MLflow."""
    demo.window = following(demo.window)
    demo.users.send(phase, demo.window)
    demo.runs.run("monitor_adapters", demo.window.end)
    record = watch.recorded(demo.workspace, demo.story.adapter, demo.window)
    decision = "fire" if record.fire else "hold"
    demo.windows.append(
        {
            "start": record.start, "end": record.end, "rows": record.rows, "drift": record.drift_status,
            "decision": decision, "suspected": record.suspected, "reasons": record.reasons,
        }
    )  # fmt: skip
    demo.say(f"window {record.end}: {record.rows} rows, {record.drift_status}, {decision}")
    for line in record.reasons:
        demo.say(f"   {line}")
    return record


def _initial(story: Story) -> tuple[str, ...]:
    """The taught intents, with a few out-of-scope messages where the story has them."""
    has_others = any(row["label"] == "out_of_scope" for row in story.traffic)
    if "out_of_scope" in {*story.initial, *story.arriving}:  # an intent of somebody's data like any other
        return story.initial
    return (*story.initial * 3, "out_of_scope") if has_others else story.initial


def _until_fired(demo: Demo, phase: simulate.Phase) -> None:
    """Windows of this phase until the trigger fires; a person admits the new labels, then the retraining DAG runs."""
    for _ in range(MOST_WINDOWS):
        record = _window(demo, phase)
        if record.fire:
            _admit(demo, record)
            _retrain(demo, demo.window.end)
            return
    demo.say(f"the trigger did not fire in {MOST_WINDOWS} windows: no candidate was trained")


def _attack(demo: Demo, phase: simulate.Phase) -> None:
    """Poisoned windows in front of the door; then a person switches it off and retrains by hand on the same windows."""
    for _ in range(POISONED_WINDOWS):
        if _window(demo, phase).fire:  # as it would go on without anybody watching
            _retrain(demo, demo.window.end)
    end = demo.window.end
    with contextlib.suppress(NothingToDo):  # collected by now
        collecting.collect(demo.workspace, demo.story.adapter, end)
    _say_door(demo)
    demo.say("the door is switched off (failures.poisoning.door: false), and a person retrains by hand on the same windows")
    _switch_door(demo, "false")
    _retrain(demo, end + timedelta(hours=1))
    _switch_door(demo, "true")


def _say_door(demo: Demo) -> None:
    """What is in quarantine, against what the simulation knows was poisoned; rows drawn for the audit train in no case."""
    kept = [one.row for one in quarantine.listed(demo.workspace, demo.story.adapter) if one.row.kind == "poisoning"]
    out = {origin.request_id for row in kept if row.example for origin in row.example.origins}
    rate = demo.workspace.params.of(demo.story.adapter).failures.audit_rate
    poisoned = {request for request in demo.users.poisoned if not drawn(request, rate)}
    demo.door = {"poisoned": len(poisoned), "kept_out": len(out & poisoned), "honest_kept_out": len(out - poisoned)}
    demo.say(f"the door: {len(out & poisoned)} of {len(poisoned)} poisoned corrections and {len(out - poisoned)} honest ones")
    demo.say("   are in quarantine until a person releases them (retrain quarantine list)")
    for line in why_not_believed(kept):
        demo.say(f"   {line}")


def _switch_door(demo: Demo, setting: str) -> None:
    """The demo plays the person who edits params.yaml, commits and pushes."""

    def write(clone: Clone) -> None:
        edits.set_values(clone.root / "params.yaml", [f"failures.poisoning.door={setting}"])
        clone.commit(["params.yaml"], f"failures.poisoning.door: {setting}")

    with jobs.job(demo.workspace, demo.story.adapter, "door") as clone:
        write(clone)
        clone.publish(write, tries=jobs.TRIES)


def _admit(demo: Demo, record: WindowRecord) -> None:
    """The demo plays the person who admits labels: those that the story brings, never out-of-scope ones."""
    wanted = {label: rows for label, rows in record.new_labels.items() if label in demo.story.arriving}
    if wanted:
        jobs.admit(demo.workspace, demo.story.adapter, list(wanted), rows=wanted)
        demo.say(f"admitted by a person: {', '.join(wanted)}")


def _retrain(demo: Demo, end: datetime) -> None:
    """A run of retrain_<adapter>: collect, train, evaluate, gate, and promote or not; then what it left in git."""
    adapter, workspace = demo.story.adapter, demo.workspace
    before = workspace.remote_head()
    demo.runs.run(f"retrain_{adapter}", end, {"end": end.isoformat()})
    for line in git(workspace.root, "log", "--reverse", "--format=%h %s", f"{before}..{workspace.remote_head()}").splitlines():
        demo.say(f"   git {line}")
    state = ledger.state(jobs.entries(workspace, adapter))
    attempt = state.attempts[-1]
    verdict = Verdict.model_validate_json(git(workspace.root, "show", f"{attempt.commit}:out/{adapter}/verdict.json"))
    suites = json.loads(git(workspace.root, "show", f"{attempt.commit}:out/{adapter}/metrics.json"))["suites"]
    promoted = state.champion is not None and state.champion.digest == attempt.digest
    _say_verdict(demo, attempt.commit, verdict, suites, state.champion, promoted)
    demo.commits.append(attempt.commit)
    demo.versions.append(
        {
            "version": state.champion.version if promoted and state.champion else None, "promoted": promoted,
            "dataset": attempt.dataset, "suites": _of_arm(suites, "candidate"), "test": {},
        }
    )  # fmt: skip
    demo.verdicts.append(verdict.as_dict())
    if promoted or not demo.alternatives:
        demo.alternatives = {arm: {"suites": _of_arm(suites, arm), "test": {}} for arm in ("base", "prompted", "regression")}


def _of_arm(suites: dict[str, Any], arm: str) -> dict[str, Any]:
    scores = {name: suite["arms"][arm] for name, suite in suites.items() if arm in suite["arms"]}
    return {name: {"metric": "right", "value": found["right"], "n": found["n"]} for name, found in scores.items()}


def _say_verdict(
    demo: Demo, commit: str, verdict: Verdict, suites: dict[str, Any], champion: ledger.Promotion | None, promoted: bool
) -> None:
    demo.say(f"verdict: {one_line(verdict)}")
    for name, suite in suites.items():
        demo.say(f"   {name:9} n {suite['n']:4}  " + "  ".join(f"{a} {s['right']:.1%}" for a, s in suite["arms"].items()))
    rows = jobs.predictions(demo.workspace, demo.story.adapter, commit) if verdict.harmed else []
    for harm in verdict.harmed[:4]:
        demo.say(f"   harmed on {harm.suite}: {harm.label} lost {harm.lost} of {harm.n} rows")
        for _, question, expected, ours, _ in lost_rows([harm], rows)[:2]:
            demo.say(f"      {question!r} is {expected}, the candidate says {ours}")
    if promoted and champion:
        demo.say(f"champion: {champion.tag}")
    else:
        demo.say(f"not promoted; {champion.tag} stays" if champion else "not promoted: nothing serves")


def _rollback(demo: Demo) -> None:
    adapter = demo.story.adapter
    try:
        back = release.rollback(demo.workspace, adapter, version=None, reason="demo: show the way back")
        demo.say(f"rolled back: {back.promotion.tag} serves")
        left = back.line.from_version if isinstance(back.line, ledger.Rollback) else None
        forward = release.rollback(demo.workspace, adapter, version=left, reason="demo: and forward again")
        demo.say(f"forward again: {forward.promotion.tag} serves")
    except NothingToDo as nothing:
        demo.say(str(nothing))
    demo.runs.run("guard_champion", demo.window.end)
    demo.say("guard_champion: ledger, alias and bytes agree")
    for entry in jobs.entries(demo.workspace, adapter):
        demo.say(f"   {ledger.describe(entry)}")


def _final_scores(demo: Demo) -> None:
    """Every candidate, refused ones too, and the alternatives on the rows of test.csv, by part."""
    adapter, story, workspace = demo.story.adapter, demo.story, demo.workspace
    parts = {"initial": story.initial, "arriving": story.arriving}
    rows = [Example.of(row["text"], row["label"], source="audit") for row in story.test]
    for entry, scores in zip(demo.versions, score.candidates(workspace, adapter, demo.commits, rows, parts), strict=True):
        entry["test"] = scores
        name = f"{adapter}-v{entry['version']}" if entry["promoted"] else "the refused candidate"
        demo.say(f"{name}: {_in_words(scores)}")
    best = max((i for i, entry in enumerate(demo.versions) if entry["promoted"]), default=0)
    for arm, scores in score.alternatives(workspace, adapter, demo.commits[best], rows, parts).items():
        demo.alternatives[arm]["test"] = scores
        demo.say(f"{arm}: {_in_words(scores)}")
    if story.per_intent:
        taught = score.taught(workspace, adapter, demo.commits[best])
        counts = ", ".join(f"{label} {taught.get(label, 0)}" for label in story.arriving)
        demo.say(f"rows that train of each arriving intent ({story.per_intent} wanted): {counts}")


def _in_words(scores: dict[str, Any]) -> str:
    told = {part: "-" if found["exact"] is None else f"{found['exact']:.1%}" for part, found in scores.items()}
    return ", ".join(f"{part} {told[part]} of {found['n']}" for part, found in scores.items())


def table(result: dict[str, Any]) -> list[str]:
    """The end of a demo: windows, versions, seconds."""
    lines = ["", "window                 rows  drift          decision"]
    lines += [f"{w['end']:22} {w['rows']:4}  {w['drift']:14} {w['decision']}" for w in result["windows"]]
    tested = any(v["test"] for v in result["versions"])
    names = ("golden", "audit", "repair", "retained")
    parts = ("initial", "arriving") if tested else ()
    lines += ["", "candidate  dataset       verdict       " + "".join(f"{name:>10}" for name in (*names, *parts))]
    for v, verdict in zip(result["versions"], result["verdicts"], strict=True):
        name = f"v{v['version']}" if v["promoted"] else "refused"
        lines.append(f"{name:10} {v['dataset'][:12]}  {verdict['status']:14}" + _cells(v, names, parts))
    for arm, scores in result["alternatives"].items():
        lines.append(f"{arm:10} {'(data of the last champion)':28}" + _cells(scores, names, parts))
    lines += ["", *(f"{s['seconds']:7.1f} s  {s['name']}" for s in result["steps"]), f"{result['seconds']:7.1f} s  in all"]
    return lines


def _cells(scores: dict[str, Any], names: tuple[str, ...], parts: tuple[str, ...]) -> str:
    values = [scores["suites"].get(name, {}).get("value") for name in names]
    values += [scores["test"].get(part, {}).get("exact") for part in parts]
    return "".join(f"{value:>10.1%}" if value is not None else f"{'-':>10}" for value in values)


def mark(folder: Path) -> None:
    """So that the next demo may replace this folder."""
    write_json(folder / ".retrain" / "demo", {"schema": 1})
