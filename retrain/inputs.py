"""What the commit of a retraining brings with it: data, champion, purpose, audit file, anchors; `jobs` does the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retrain import edits, ledger, tombstones
from retrain import params as params_
from retrain.lines import Rebaseline
from retrain.policies import Purpose
from retrain.records import Example, read_examples, read_json, read_jsonl, write_json, write_jsonl
from retrain.workspace import Clone


@dataclass(frozen=True)
class Asked:
    """What a retraining was asked for; `at` is the stamp of its end."""

    adapter: str
    at: str
    purpose: Purpose
    audited: tuple[Example, ...]
    overrides: tuple[str, ...]
    home: Path = Path()  # the workspace
    trial: bool = False


def put(clone: Clone, asked: Asked) -> list[str]:
    """Put this attempt's inputs into the clone: data, champion, purpose, audit file; what git has to commit for them."""
    adapter, suites = asked.adapter, f"data/suites/{asked.adapter}"
    clone.pull([f"data/seed/{adapter}.jsonl.dvc", f"{suites}.dvc", f"data/failures/{adapter}.dvc", f"champion/{adapter}.dvc"])
    paths: list[str] = []
    if asked.overrides:
        edits.set_values(clone.root / "params.yaml", list(asked.overrides))
        paths.append("params.yaml")
    entries = ledger.read(clone.root, adapter)
    folder = clone.root / suites / "audit"
    asked = replace(asked, audited=tuple(tombstones.read(clone.root, asked.home).without(asked.audited)))
    if write_audit(folder, asked, ledger.state(entries).attempts):
        paths += clone.dvc_add(suites)
    serving = ledger.state(entries).champion
    state_file = clone.root / "champion" / f"{adapter}.json"
    if serving and read_json(state_file)["digest"] != serving.digest:
        paths += clone.set_champion(adapter, commit=serving.commit, digest=serving.digest)
    if serving:
        _its_base(clone, adapter)
    audit = max((path.stem for path in folder.glob("*.jsonl")), default=None)
    metric, before = params_.load(clone.root).of(adapter).gates.metric, read_json(state_file)
    moved = [line for line in entries if isinstance(line, Rebaseline)]
    if len(moved) != len(before.get("rebaselined", ())):
        before = rebaselined(before, serving.digest if serving else None)
    write_json(
        state_file,
        {
            "schema": 1,
            "adapter": adapter,
            "purpose": asked.purpose if serving else "first",
            "version": serving.version if serving else None,
            "digest": serving.digest if serving else None,
            "attempts": ledger.tried_on(entries, audit),
            "audit": audit,
            "metric": metric,
            "anchors": anchors(clone, adapter, before, metric),
            "rebaselined": [ledger.describe(line) for line in moved],
            "changes": ledger.suite_changes(entries, serving.digest) if serving else 0,
        },
    )
    return [*paths, f"champion/{adapter}.json"]


def _its_base(clone: Clone, adapter: str) -> None:
    """Bring the base of a champion that was trained on another than the candidate will be."""
    base = read_json(clone.root / "champion" / adapter / "run.json")["base"]
    if base != params_.load(clone.root).adapter(adapter).base:
        clone.pull([f"out/base/{base}"])


def anchors(clone: Clone, adapter: str, before: dict[str, Any], metric: str) -> dict[str, dict[str, float]]:
    """suite -> row -> score of the champion that served when the row entered; `before`: state of the last attempt.

    That is the champion's answer in the first attempt that asked it about the row: those of the last attempt's rows that have
    no anchor yet get it now. A relabelled row is another row, with an anchor of its own; a row that left loses its
    anchor. Anchors of another metric are none.
    """
    same = before.get("metric", "right") == metric
    known = {suite: dict(rows) for suite, rows in before.get("anchors", {}).items() if same}
    metrics = clone.root / "out" / adapter / "metrics.json"
    if not before["digest"] or not metrics.exists() or read_json(metrics)["champion"] != before["digest"]:
        return known  # nothing has been judged against this champion yet
    if f"out/{adapter}/predictions" not in (clone.root / "dvc.lock").read_text("utf-8"):
        return known  # an erasure took them
    clone.dvc("pull", "--force", f"out/{adapter}/predictions")
    found: dict[str, dict[str, float]] = {}
    for row in read_jsonl(clone.root / "out" / adapter / "predictions" / "predictions.jsonl"):
        suite, arm = row["suite"], row["arms"].get("champion", {})
        told = arm.get("right") if metric == "right" else arm.get("scores", {}).get(metric)
        anchor = known.get(suite, {}).get(row["id"], told)
        if suite in ("golden", "retained") and anchor is not None:
            found.setdefault(suite, {})[row["id"]] = anchor
    return found


def rebaselined(before: dict[str, Any], serving: str | None) -> dict[str, Any]:
    """The state of the last attempt where a person has moved the baseline since: no anchors, and its champion's answers become
    the new ones only where it still serves."""
    return {**before, "anchors": {}, "digest": before["digest"] if before["digest"] == serving else None}


def write_audit(folder: Path, asked: Asked, attempts: Sequence[ledger.Attempt]) -> bool:
    """Write this attempt's audit file: audited rows that no verdict has read; False where nothing is new.

    A file that no verdict came of (`not_evaluated`: too few rows, mostly) has not been read: its rows move into the new one.
    """
    files = {path.stem: read_examples(path) for path in sorted(folder.glob("*.jsonl"))}
    if asked.at in files:
        return False
    tried = {attempt.audit for attempt in attempts}
    waiting = [stem for stem in files if stem in tried and stem not in {a.audit for a in ledger.judged(attempts)}]
    held = {origin.request_id for rows in files.values() for row in rows for origin in row.origins}
    new = [row for row in asked.audited if not any(origin.request_id in held for origin in row.origins)]
    if not new:
        return False
    write_jsonl(folder / f"{asked.at}.jsonl", [*(row for stem in waiting for row in files[stem]), *new])
    for stem in waiting:
        (folder / f"{stem}.jsonl").unlink()
    return True
