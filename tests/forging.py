"""Versions without a training: what a retraining leaves in git and DVC is written by hand, for tests of what comes after it."""

import hashlib
import itertools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import small
import yaml

from retrain import jobs, ledger, release
from retrain.records import Example, file_digest, from_stamp, stamp, text_digest, write_json, write_jsonl, write_text
from retrain.verdict import Check, Verdict
from retrain.workspace import Clone, Workspace

LABELS = sorted(small.TELLS.values())
SUITES = ("golden", "audit", "retained")
FIRST_END = "2026-03-02T00-00-00Z"
CARD = "Passed: it answers the new questions better.\n\n- What was tried: a new adapter.\n\n## Checks\n\n| check |\n|---|\n"
_numbers = itertools.count(1)


def released(folder: Path, *settings: str) -> Workspace:
    """A workspace whose first version serves, with a log of one row."""
    space = small.workspace(folder, folder, *settings)
    row = {"request_id": "r", "timestamp": "2026-03-01T09:00:00Z", "prompt": "question", "response": LABELS[0]}
    write_jsonl(space.root / "logs" / "support" / "day.jsonl", [row])
    another_candidate(space)
    release.promote(space, "support")
    return space


def another_candidate(space: Workspace, wrong: int = 0) -> ledger.Attempt:
    """The newest attempt from now on: it passed against today's champion, and answers so many rows of each suite wrongly."""
    with space.clone("candidate") as clone:
        state = ledger.state(ledger.read(clone.root, "support"))
        champion = state.champion.digest if state.champion else None
        digest = _products(space, clone, wrong, champion)
        end = stamp(from_stamp(state.attempts[-1].end) + timedelta(days=1)) if state.attempts else FIRST_END
        attempt = ledger.Attempt(
            at=jobs.now(), adapter="support", purpose="improve" if champion else "first", end=end, digest=digest,
            commit=clone.git("rev-parse", "HEAD"), status="passed", promote=True, dataset="d" * 64, audit=None,
            champion=champion, base_digest="b" * 64, why="Passed: it answers the new questions better.",
        )  # fmt: skip
        ledger.append(clone.root, "support", attempt)
        clone.commit(["ledger/support.jsonl"], "its attempt")
        clone.publish(lambda c: None, tries=1)
        return attempt


def _products(space: Workspace, clone: Clone, wrong: int, champion: str | None) -> str:
    """Commit dvc.lock and verdict.json of a retraining, its data in the DVC cache; the digest of its adapter."""
    scratch = clone.root / "scratch"
    digest = _adapter(scratch / "adapter")
    write_jsonl(scratch / "data" / "train.jsonl", [Example.of(f"{label}?", label, source="seed") for label in LABELS])
    write_jsonl(scratch / "predictions" / "predictions.jsonl", [_row(s, i, wrong) for s in SUITES for i in range(20)])
    write_text(scratch / "card.md", CARD)
    made = {"train": "adapter", "prepare": "data", "evaluate": "predictions", "gate": "card.md"}
    path = clone.root / "dvc.lock"
    lock: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {"schema": "2.0", "stages": {}}
    for stage, name in made.items():
        out = _cached(space.root / ".dvc" / "cache", scratch / name)
        lock["stages"][f"{stage}@support"] = {"cmd": "forged", "outs": [{**out, "path": f"out/support/{name}"}]}
    write_text(path, yaml.safe_dump(lock, sort_keys=False))
    check = Check(name="superior", role="success", suite="audit", passed=True, why="it is better")
    verdict = Verdict(
        adapter="support", purpose="improve" if champion else "first", promote=True, status="passed", checks=(check,),
        excluded={}, bound={"adapter": digest, "champion": champion},
    )  # fmt: skip
    write_json(clone.root / "out" / "support" / "verdict.json", verdict.as_dict())
    clone.commit(["dvc.lock", "out/support/verdict.json"], "a candidate")
    return digest


def _cached(cache: Path, made: Path) -> dict[str, Any]:
    """Put a file or a folder into DVC's cache as `dvc add` does in a second; its entry in a lock."""

    def keep(content: bytes, suffix: str = "") -> str:
        name = hashlib.md5(content).hexdigest() + suffix
        place = cache / "files" / "md5" / name[:2] / name[2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return name

    if made.is_file():
        return {"hash": "md5", "md5": keep(made.read_bytes()), "size": made.stat().st_size}
    files = sorted(path for path in made.rglob("*") if path.is_file())
    listed = [{"md5": keep(path.read_bytes()), "relpath": path.relative_to(made).as_posix()} for path in files]
    sizes = [path.stat().st_size for path in files]
    return {"hash": "md5", "md5": keep(json.dumps(listed).encode(), ".dir"), "nfiles": len(files), "size": sum(sizes)}


def _adapter(folder: Path) -> str:
    """Files as a training leaves them, in bytes that no other candidate has; the digest."""
    write_text(folder / "adapter_model.safetensors", f"weights {next(_numbers)} " + "x" * 60_000)
    write_text(folder / "adapter_config.json", "{}")
    write_json(folder / "run.json", {"schema": 1, "labels": LABELS, "base": "smollm2"})
    write_json(folder / "trained_on.json", [text_digest("a row")[:20]])
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    write_json(folder / "manifest.json", {"schema": 1, "files": files})
    return file_digest(folder / "manifest.json")


def _row(suite: str, i: int, wrong: int) -> dict[str, Any]:
    label = LABELS[i % len(LABELS)]
    said = {"answer": "other" if i < wrong else label, "right": i >= wrong, "parsed": True, "why": None}
    return {
        "schema": 1, "suite": suite, "id": f"{suite}{i:02}", "cluster": f"{suite}{i}", "question": f"question {i}?",
        "expected": label, "slice": {"label": label}, "excluded": None, "arms": {"candidate": said},
    }  # fmt: skip
