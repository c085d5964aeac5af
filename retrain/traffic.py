"""What the door's logs have of a rollout, as one look takes it: its own rows, as it wrote them; nothing leaves but counts."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from retrain import jobs, ledger
from retrain.answers import schema_in
from retrain.looks import Arm, Look, Request
from retrain.params import Params
from retrain.records import parse_time
from retrain.scoring import Judge
from retrain.sections import SERVED
from retrain.serving.journal import Table
from retrain.text import normalise
from retrain.workspace import Workspace

Row = dict[str, Any]
ARMS: tuple[Arm, Arm] = ("challenger", "champion")
COUNTED = ("answered", "not_stored", "error", "timeout")  # what a version was asked and could answer
KEPT = ("request_id", "rollout", "digest", "outcome", "latency_ms", "response", "conversation_id", "prompt", "why")


def seen(workspace: Workspace, params: Params, adapter: str, line: ledger.Rollout, *, since: datetime, at: datetime) -> Look:
    """The requests of the line's step, and the labelled pairs since the rollout began."""
    spec, root = params.adapter(adapter), workspace.root / "logs"
    schema = schema_in(jobs.remote_file(workspace, spec.output), spec.output) if spec.output else None
    judge, start = Judge(spec.task, schema), since.timestamp()
    served = [row for kind in ("", ".uncounted") for row in _rows(root / kind / adapter, start, line)]
    copies = list(_rows(root / ".shadow" / adapter, start, line))
    told = _feedback(workspace, adapter, start)
    begun = parse_time(line.at).timestamp()
    step, shadow = ([row for row in of if row["rollout"] == line.key and row["at"] >= begun] for of in (served, copies))
    asked = [row for row in (*step, *(shadow if line.weight == 0 else [])) if row.get("outcome", "answered") in COUNTED]
    right = [tuple(judge.right(answers[arm], label) for arm in ARMS) for answers, label in _pairs(served, copies, told, line)]
    known = [pair for pair in right if None not in pair]
    broken = [str(row["why"]) for row in shadow if row.get("outcome") == "refused"]
    return Look(
        at,
        tuple(_request(row, line, judge, spec.labels) for row in asked),
        labels=len(known),
        lost=known.count((False, True)),
        won=known.count((True, False)),
        thumbs={arm: _thumbs([row for row in step if _arm(row, line) == arm], told) for arm in ARMS},
        broken=broken[-1] if broken else None,
    )


def _rows(folder: Path, since: float, line: ledger.Rollout) -> Iterator[Row]:
    """What was written of this rollout, without the messages; `at` is the time in seconds since 1970."""
    for row in Table(folder, 1).rows(since) if folder.exists() else ():
        if str(row.get("rollout", "")).startswith(f"{line.tag}/"):
            at = datetime.fromisoformat(row["timestamp"]).timestamp()
            if at >= since:
                yield {**{name: row[name] for name in KEPT if name in row}, "at": at}


def _arm(row: Row, line: ledger.Rollout) -> Arm:
    return "challenger" if row.get("digest") == line.digest else "champion"


def _request(row: Row, line: ledger.Rollout, judge: Judge, labels: tuple[str, ...]) -> Request:
    failed = row.get("outcome") in ("error", "timeout")
    invalid = "response" in row and not judge.parsed(row["response"], labels)
    return Request(row["at"], _arm(row, line), failed, invalid, None if failed else row["latency_ms"] / 1000)


def _feedback(workspace: Workspace, adapter: str, since: float) -> dict[str, Row]:
    """Request -> what was said of it, the newest of each kind."""
    folder, told = workspace.root / SERVED.format(adapter=adapter), dict[str, Row]()
    for row in Table(folder, 1).rows(since) if folder.exists() else ():
        told.setdefault(row["request_id"], {}).update(row)
    return told


def _pairs(
    served: list[Row], copies: list[Row], told: dict[str, Row], line: ledger.Rollout
) -> Iterator[tuple[dict[Arm, str], str]]:
    """(the answer of either version, the audit label) of requests that both answered, the first of each conversation or
    question."""
    answers: dict[str, dict[Arm, str]] = {}
    for row in (*served, *copies):
        if "response" in row:
            answers.setdefault(row["request_id"], {})[_arm(row, line)] = row["response"]
    known = set()
    for row in sorted((row for row in served if "prompt" in row), key=lambda row: row["at"]):
        both, label = answers[row["request_id"]], told.get(row["request_id"], {}).get("audit_label")
        one = row.get("conversation_id") or normalise(row["prompt"])
        if label is not None and len(both) == 2 and one not in known:
            known.add(one)
            yield both, label


def _thumbs(rows: list[Row], told: dict[str, Row]) -> tuple[int, int]:
    """(up, all)."""
    said = [told[row["request_id"]].get("feedback") for row in rows if row["request_id"] in told]
    return said.count(1), said.count(1) + said.count(-1)
