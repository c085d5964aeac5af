"""What the door writes: the LogRecord table that monitoring reads, and beside it what is no row of that table.

logs/<adapter>/served-*.jsonl has whole answers whose content may be kept. logs/.uncounted/<adapter>/ has, without content, the
requests that got none (error, timeout, cancelled) or that asked not to be stored. logs/.shadow/<adapter>/ has what the other
version answered to a copy while a challenger is tried; nobody is shown it. User ids are written as they were sent, for
the log is the operator's; whatever reads it keeps the keyed hash alone (`retrain.userids`).
"""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from retrain import clock
from retrain.serving.auto import Routed
from retrain.serving.journal import Journal, Table
from retrain.serving.protocol import Asked, time_of_id
from retrain.serving.versions import Version
from retrain.workspace import Workspace

RECENT = 5_000  # rows that feedback finds without reading a file
SLACK = 5.0  # seconds that a row may be written later than its answer's time limit


@dataclass(frozen=True)
class Call:
    """One request on its way."""

    id: str
    began: float  # seconds since 1970
    asked: Asked
    version: Version
    arm: str
    step: str | None = None  # of the rollout that chose the version
    routed: Routed | None = None  # where the client left the specialist to the router
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long it has been on its way, whatever the clock says."""
        return time.perf_counter() - self.started

    def head(self) -> dict[str, Any]:
        """What is known of it without its content."""
        at = datetime.fromtimestamp(self.began, UTC).isoformat(timespec="milliseconds")
        step = {"rollout": self.step} if self.step else {}
        return {
            "request_id": self.id, "timestamp": at, "adapter": self.version.adapter, "model_version": self.version.name,
            "digest": self.version.digest, "arm": self.arm, "latency_ms": round(self.seconds * 1000, 1), **step,
        }  # fmt: skip

    def row(self, answered: Any) -> dict[str, Any]:
        """Its LogRecord."""
        turns, ours = self.asked.turns(), self.routed.logged() if self.routed else None
        metadata: dict[str, Any] = {**(self.asked.metadata or {}), "retrain": ours}  # the name is not the client's to give
        metadata = {name: value for name, value in metadata.items() if value is not None}
        question = next((turn.content for turn in reversed(turns) if turn.role == "user"), turns[-1].content)
        row = {
            **self.head(), "user_id": self.asked.user, "conversation_id": self.asked.conversation, "prompt": question,
            "messages": [turn.model_dump() for turn in turns] if len(turns) > 1 else None, "response": answered.text,
            "prompt_tokens": answered.prompt_tokens, "completion_tokens": answered.completion_tokens,
            "confidence": None if answered.confidence is None else round(answered.confidence, 5),
            "finish_reason": "length" if answered.cut else "stop", "metadata": metadata or None,
        }  # fmt: skip
        return {name: value for name, value in row.items() if value is not None}


class Logs:
    """The tables of all adapters, and the rows that went into them lately."""

    def __init__(self, workspace: Workspace) -> None:
        root, adapters, most = workspace.root / "logs", workspace.params.adapters, workspace.params.serve.rotate_mb * 2**20
        self.journal = Journal()
        self.within = workspace.params.serve.timeout + SLACK
        self.stored = {name: Table(root / name, most) for name in adapters}
        self.uncounted = {name: Table(root / ".uncounted" / name, most) for name in adapters}
        self.shadow = {name: Table(root / ".shadow" / name, most) for name in adapters}
        self._recent: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def answered(self, call: Call, answered: Any) -> dict[str, Any] | None:
        """Write a whole answer; its row, or None where the client asked not to store it."""
        if call.asked.store is False:
            self.unanswered(call, "not_stored")
            return None
        row = call.row(answered)
        self._add(self.stored[call.version.adapter], row)
        return row

    def unanswered(self, call: Call, outcome: str) -> None:
        self._add(self.uncounted[call.version.adapter], {**call.head(), "outcome": outcome})

    def copied(self, call: Call, outcome: str, answered: Any = None) -> None:
        """What the version that was not asked made of a copy: the answer alone, the question is in the row of the request."""
        row = {**call.head(), "outcome": outcome}
        if answered is not None:
            row |= {"response": answered.text, "finish_reason": "length" if answered.cut else "stop"}
        self.journal.add(self.shadow[call.version.adapter], row)

    def refused(self, adapter: str, step: str, why: str) -> None:
        """A challenger that cannot be loaded, or is not trusted any more: the next look reads it."""
        now = datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="milliseconds")
        self.journal.add(self.shadow[adapter], {"timestamp": now, "rollout": step, "outcome": "refused", "why": why})

    def _add(self, table: Table, row: dict[str, Any]) -> None:
        self.journal.add(table, row)
        self._recent[row["request_id"]] = row
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def find(self, request: str) -> dict[str, Any] | None:
        """The row of a request that this door answered, however long ago; reads a file where it is not recent."""
        if row := self._recent.get(request):
            return row
        at = time_of_id(request)
        if at is None:
            return None
        tables = [*self.stored.values(), *self.uncounted.values()]
        return next((row for table in tables if (row := table.find(request, at, self.within))), None)
