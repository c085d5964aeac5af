"""A workspace whose adapter has lived for four weeks: windows in MLflow, ledger and collections in git. Nothing is trained."""

import random
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from retrain import ledger, story
from retrain.bars import plot
from retrain.edits import set_values
from retrain.founding import init
from retrain.params import Mlflow
from retrain.process import git
from retrain.records import stamp, text_digest
from retrain.registry import Registry
from retrain.workspace import Workspace

ADAPTER = "support"
FIRST = datetime(2026, 9, 28, tzinfo=UTC)  # a Monday
HOSTILE = '<script>alert("x")</script> & <img src=x onerror=alert(1)>'
INPUTS = {"prompt": 0.70, "prompt_length": 0.20, "novelty": 0.235, "topic": 0.20}
OUTPUTS = {"response": 0.15, "confidence": 0.35, "latency_ms": 0.50}
CARD = """Promoted: it answers the new questions better (audit gained 14.4 points), and it lost no more than allowed.

- It must be better on what users ask now, and forget nothing that matters.
- On audit (what users ask now) it gained 14.4 points: 84.9% right, the champion 70.5%.
- Logistic regression on static sentence vectors, taught the same rows, gets 78.1%.

## Checks

| check | suite | candidate | champion | n | passed |
|---|---|---:|---:|---:|---|
| superior | audit | 84.9% | 70.5% | 282 | yes |
| non_inferior | golden | 89.5% | 88.0% | 200 | yes |

## What was lost

| label | question |
|---|---|
| cancel_order | <script>alert("x")</script> stop it |
"""


def workspace(folder: Path, *settings: str) -> Workspace:
    """`retrain init` of the shipped adapter, with this history in it."""
    space = empty(folder, *settings)
    registry = Registry.open(space.params.mlflow, space.root)
    _windows(registry, space)
    _ledger(space, registry)
    return space


def empty(folder: Path, *settings: str) -> Workspace:
    labels = ["account_login", "cancel_order", "order_status", "refund_status"]
    params = folder / "params.yaml"
    params.write_text(story.params_text(ADAPTER, labels))
    if settings:
        set_values(params, settings)
    files = story.files_of(["dvc.yaml", f"data/prompts/{ADAPTER}.txt"])
    return init(folder / "ws", files={**files, "params.yaml": params.read_text()})


# --- windows


def record(
    day: int, *, version: int, accuracy: float | None, satisfaction: float | None, drift: dict[str, float], **more: Any
) -> dict:
    """One window's record, as `watch.monitor` writes it."""
    start = FIRST + timedelta(days=day)
    rng = random.Random(day)
    quiet = {name: round(limit * rng.uniform(0.25, 0.85), 3) for name, limit in {**INPUTS, **OUTPUTS}.items()}
    columns = []
    for name, limit in {**INPUTS, **OUTPUTS}.items():
        value = drift.get(name, quiet[name])
        told = {"method": "wasserstein", "threshold": limit, "value": value, "status": "drift" if value > limit else "no_drift"}
        if name in OUTPUTS and day in (0, 12):
            told |= {"value": None, "status": "not_computable", "reason": "the champion has no window of its own yet"}
        columns.append({"column": name, "reason": None, **told})
    over = [c for c in columns if c["status"] == "drift"]
    drifted = [f"{c['column']} {c['value']:.2f} > {c['threshold']:.2f} ({c['method']})" for c in over]
    violations = (["drift: " + ", ".join(drifted)] if drifted else []) + list(more.pop("violations", []))
    made = {
        "schema": 1, "adapter": ADAPTER, "start": stamp(start), "end": stamp(start + timedelta(days=1)),
        "rows": 300 + rng.randrange(90), "drift_status": "drift" if over else "no_drift", "drifted": drifted,
        "satisfaction": satisfaction, "accuracy": accuracy, "audited": 95 + rng.randrange(20), "violations": violations,
        "version": version, "fire": False, "reasons": [], "new_labels": {}, "columns": columns,
    }  # fmt: skip
    if accuracy is not None:
        made["estimated_accuracy"] = round(0.5 * accuracy + 0.45 + random.Random(day + 100).uniform(-0.01, 0.01), 3)
    return {**made, **more}


def _windows(registry: Registry, space: Workspace) -> None:
    rng = random.Random(7)
    for day in range(28):
        made = _day(day, rng)
        if made is None:
            continue
        report = space.local / "reports" / ADAPTER / f"{made['end']}.html"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(f"<!doctype html><title>drift</title><p>report of the window that ends at {made['end']}")
        metrics = {f"drift.{c['column']}": c["value"] for c in made["columns"]}
        registry.log_window(ADAPTER, made, metrics, [report])


def _day(day: int, rng: random.Random) -> dict[str, Any] | None:
    """Quiet under v1; then new intents; v2; a refused candidate after poisoned corrections; quiet again."""
    quiet = "the newest window does not violate (no drift, no loss of quality)"
    about = rng.uniform(-0.03, 0.03)
    if day in (4, 5):
        return None  # nobody wrote at all
    if day < 8:
        return record(day, version=1, accuracy=0.9 + about, satisfaction=0.74 + about, drift={}, reasons=[quiet])
    if day < 12:
        fall = 0.05 * (day - 7)
        fires = day == 11
        accuracy = 0.86 - fall
        words = [f"accuracy on the audit sample fell from 91% to {accuracy:.0%}, 10% allowed"] if day > 8 else []
        drift = {"topic": 0.22 + fall / 2, "novelty": 0.24 + fall / 3, "prompt": 0.68 + fall / 4}
        changed = [{"words": "gift card codes, 0% -> 11% of traffic", "terms": ["gift", "code"], "before": 0.0, "now": 0.11,
                    "rows": 37, "examples": ["my gift card code is not accepted", HOSTILE]}]  # fmt: skip
        label = {"gift_card": 37 + day, "monthly_box": 31, "parcel_locker": 12}
        said = (
            "3 of the last 3 windows of v1 violate, 2 are needed"
            if fires
            else "but only 61 unread audited rows can judge: label 59 more"
        )
        made = record(day, version=1, accuracy=accuracy, satisfaction=0.72 - fall, drift=drift, violations=words,
                      changed=changed, new_labels=label, fire=fires)  # fmt: skip
        made["reasons"] = [*made["violations"], said, f"new label: gift_card, {label['gift_card']} rows, 29 users"]
        return made
    if day == 16:
        few = {"rows": 12, "audited": 0, "drift_status": "not_enough_data", "columns": []}
        reasons = ["the newest window does not violate, nor does it clear (nothing could be told: not enough data)"]
        return record(day, version=2, accuracy=None, satisfaction=None, drift={}, reasons=reasons, **few)
    if day in (19, 20):
        words = [f"satisfaction fell from 76% to {0.5 + about:.0%}, 10% allowed"]
        made = record(
            day, version=2, accuracy=0.86 + about, satisfaction=0.5 + about, drift={}, violations=words, fire=day == 20
        )
        made["reasons"] = [
            *words,
            "2 of the last 3 windows of v2 violate, 2 are needed",
            "214 new labelled failures, 188 unread audited rows",
        ]
        return made
    return record(day, version=2, accuracy=0.89 + about, satisfaction=0.76 + about, drift={}, reasons=[quiet])


# --- ledger, collections


def _ledger(space: Workspace, registry: Registry) -> None:
    clone = space.local / "history"
    git(space.root, "clone", "--quiet", space.remote, str(clone))
    first = _attempt(
        clone, registry, 0, "passed", "first", "Promoted: it answers the new questions better than the untrained base.", None
    )
    _append(clone, _promotion(first, 1, None))
    _collect(clone, 12, 239)
    for label, rows in (("gift_card", 94), ("monthly_box", 61), ("parcel_locker", 40)):
        _append(clone, ledger.Label(at=_at(12), adapter=ADAPTER, label=label, rows=rows))
    second = _attempt(clone, registry, 12, "passed", "improve", CARD.partition("\n")[0], first.digest)
    _append(clone, _promotion(second, 2, 1))
    _collect(clone, 21, 214)
    why = "Not promoted: it answers the new questions better (audit gained 3.5 points), but forgot cancel_order"
    _attempt(clone, registry, 21, "failed", "improve", f"{why} (golden lost 13.0 points, 4.1 allowed).", second.digest)
    for hours, old, new, to, reason in (
        (1, 2, 1, first, "a person looked at refunds"),
        (2, 1, 2, second, "refunds were right after all"),
    ):
        at = _at(22, hours)
        back = ledger.Rollback(at=at, adapter=ADAPTER, from_version=old, version=new, digest=to.digest, reason=reason)
        _append(clone, back)
    git(clone, "push", "--quiet", "origin", "HEAD")


def _at(day: int, hours: int = 1) -> str:
    return (FIRST + timedelta(days=day, hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _commit(clone: Path, subject: str, *paths: str) -> str:
    git(clone, "add", *paths)
    git(clone, "commit", "--quiet", "--allow-empty", "-m", subject)
    return git(clone, "rev-parse", "HEAD")


def _collect(clone: Path, day: int, rows: int) -> None:
    path = clone / "data" / "failures" / f"{ADAPTER}.dvc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"outs:\n- md5: {day:032x}.dir\n  path: {ADAPTER}\n")
    _commit(clone, f"{ADAPTER}: {rows} failure cases known before {stamp(FIRST + timedelta(days=day))}", str(path))


def _attempt(
    clone: Path, registry: Registry, day: int, status: Any, purpose: Any, why: str, champion: str | None
) -> ledger.Attempt:
    digest, end = text_digest(f"bytes {day}"), stamp(FIRST + timedelta(days=day))
    commit = _commit(clone, f"{ADAPTER}: attempt at {end}: {status}", ".")
    card = clone.parent / "card.md"
    card.write_text(CARD.replace(CARD.partition("\n")[0], why))
    run, picture = registry.start_training(ADAPTER, {"end": end}), clone.parent / "scores.png"
    arms = {"candidate": {"right": 0.849}, "champion": {"right": 0.705}}
    plot({"adapter": ADAPTER, "suites": {"audit": {"n": 282, "arms": arms}}}, picture)
    registry.finish(run, "FINISHED", {"audit.candidate": 0.849}, {"digest": digest, "verdict": status}, [card, picture])
    attempt = ledger.Attempt(
        at=_at(day), adapter=ADAPTER, purpose=purpose, end=end, commit=commit, digest=digest, status=status,
        promote=status == "passed", dataset=text_digest(f"data {day}"), audit=end, champion=champion, why=why,
    )  # fmt: skip
    _append(clone, attempt)
    return attempt


def _promotion(attempt: ledger.Attempt, version: int, replaces: int | None) -> ledger.Promotion:
    day = (datetime.strptime(attempt.end, "%Y-%m-%dT%H-%M-%SZ").replace(tzinfo=UTC) - FIRST).days
    return ledger.Promotion(
        at=_at(day, 2), adapter=ADAPTER, version=version, digest=attempt.digest, commit=attempt.commit,
        tag=f"{ADAPTER}-v{version}", replaces=replaces,
    )  # fmt: skip


def _append(clone: Path, entry: ledger.Entry) -> None:
    ledger.append(clone, ADAPTER, entry)
    _commit(clone, f"{ADAPTER}: ledger: {entry.kind}", f"ledger/{ADAPTER}.jsonl")


def local(folder: Path) -> Registry:
    return Registry.open(Mlflow(uri=None, timeout=5), folder)


def screenshot(page: Path, png: Path, *, width: int, height: int, dark: bool = False) -> None:
    """For a person who looks: chromium draws the page."""
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},{height}", *flags]
    subprocess.run([*command, f"--screenshot={png}", page.as_uri()], check=True, capture_output=True)
