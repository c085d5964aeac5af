"""What people say about answers: checked, capped, kept once, and written where monitoring and collection read it.

`thumbs` is what satisfaction counts. A correction from a user is one; a reviewer's answer to a request that was drawn for the
audit is its audit label, whether it confirms or corrects. What a program says (source `code`) is kept and counts for nothing.
What is said again under the same name replaces what was said before, all of it: a correction that is left out is written as an
empty text, which takes it back where the log is read (`monitoring.sources.table`).
"""

import hashlib
import threading
from collections import defaultdict, deque
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from monitoring.failures import drawn
from retrain import clock
from retrain.errors import RequestRefused
from retrain.records import dumps
from retrain.sections import SERVED
from retrain.serving.journal import Table
from retrain.serving.logs import Logs
from retrain.serving.protocol import time_of_id
from retrain.workspace import Workspace

DAY = 86_400.0
TAKEN_BACK = ("correction", "audit_label")
ANSWERED = ("model_version", "digest", "arm")  # what of an answer is written beside what was said of it
SHOWN = 500  # audited requests that the page can show, the newest


class Given(BaseModel):
    """value: of `thumbs` true, false, 1 or -1; of any other name a number, a truth or a text."""

    model_config = ConfigDict(extra="forbid", strict=True)
    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    value: bool | int | float | Annotated[str, Field(max_length=500)]
    comment: Annotated[str, Field(max_length=4000)] | None = None
    correction: Annotated[str, Field(max_length=20_000)] | None = None
    source: Literal["user", "reviewer", "code"]

    def thumb(self) -> int | None:
        """+1 or -1; None where this is no thumb."""
        if self.name != "thumbs":
            return None
        if self.value not in (1, -1, False):
            raise RequestRefused(
                f"value of thumbs is {self.value!r}: true, false, 1 or -1", code="invalid_value", param="value"
            )
        return 1 if self.value == 1 else -1


class Said(NamedTuple):
    """What was said last about a request under one name by one source, without its words."""

    digest: bytes
    gave: tuple[str, ...]  # which of TAKEN_BACK
    at: float  # seconds since 1970


class Feedback:
    """Takes feedback for any request that the log holds; what was said before is read from the files at the start."""

    def __init__(self, workspace: Workspace, logs: Logs) -> None:
        settings = workspace.params.serve
        self.logs, self.settings = logs, settings.feedback
        self.rates = {name: workspace.params.of(name).failures.audit_rate for name in workspace.params.adapters}
        self.tables = {
            name: Table(workspace.root / SERVED.format(adapter=name), settings.rotate_mb * 2**20) for name in self.rates
        }
        self._one = threading.Lock()
        self._said: dict[tuple[str, str, str], Said] = {}  # oldest first
        self._times: dict[str, deque[float]] = defaultdict(deque)
        self._audits: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in self.rates}
        self._read(clock.now() - self.settings.days * DAY)

    def _read(self, since: float) -> None:
        for name, table in self.tables.items():
            for row in self.logs.stored[name].rows(since):
                self.saw(row)
            for row in table.rows(since):
                self._keep(name, row)

    def saw(self, row: dict[str, Any]) -> None:
        """An answer that was logged: a drawn one waits for a reviewer."""
        name = row.get("adapter")
        if name in self._audits and drawn(row["request_id"], self.rates[name]):
            waiting = self._audits[name]
            waiting[row["request_id"]] = row
            if len(waiting) > SHOWN:
                waiting.pop(next(iter(waiting)), None)

    def open_audits(self, adapter: str, skip: int) -> dict[str, Any] | None:
        """The newest drawn request that nobody has labelled, after skipping some."""
        rows = list(self._audits.get(adapter, {}).values())
        return rows[-1 - skip] if skip < len(rows) else None

    def take(self, given: Given) -> str:
        """recorded, or known where the same was said before; RequestRefused says why it is not taken."""
        row = self.logs.find(given.request_id)
        if row is None:
            raise RequestRefused(
                f"no request {given.request_id[:80]!r} was answered here",
                status=404,
                code="request_not_found",
                param="request_id",
            )
        at = time_of_id(given.request_id)
        if at is None or clock.now() - at > self.settings.days * DAY:
            raise RequestRefused(
                f"the request is older than serve.feedback.days ({self.settings.days:g})", code="too_late", param="request_id"
            )
        if given.correction is not None and not given.correction.strip():
            raise RequestRefused(
                "correction is blank: give the right answer, or leave it out", code="invalid_value", param="correction"
            )
        told = self._row(given, row)
        with self._one:
            self._forget(clock.now() - self.settings.days * DAY)
            before = self._said.get(_key(told))
            if before and before.digest == _said(told).digest:
                return "known"
            if given.source == "user":
                self._under_cap(row.get("user_id"))
            told |= {name: "" for name in before.gave if name not in told} if before else {}
            self._keep(row["adapter"], told)
            self.logs.journal.add(self.tables[row["adapter"]], told)
        return "recorded"

    def _forget(self, before: float) -> None:
        """What is older: `take` refuses its requests."""
        while self._said and (oldest := next(iter(self._said.items())))[1].at < before:
            del self._said[oldest[0]]

    def _under_cap(self, user: str | None) -> None:
        times = self._times[user] if user else deque[float]()
        while times and times[0] < clock.now() - DAY:
            times.popleft()
        if len(times) >= self.settings.per_user:
            raise RequestRefused(
                f"this user gave feedback {len(times)} times in 24 hours, serve.feedback.per_user is {self.settings.per_user}",
                status=429, code="too_much_feedback", retry_after=int(times[0] + DAY - clock.now()) + 1,
            )  # fmt: skip

    def _row(self, given: Given, row: dict[str, Any]) -> dict[str, Any]:
        now = datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="milliseconds")
        told: dict[str, Any] = {**given.model_dump(exclude_none=True), "feedback_at": now, "user_id": row.get("user_id")}
        told |= {name: row[name] for name in ANSWERED if name in row}
        correction, thumb = told.pop("correction", None), given.thumb()
        if given.source == "code":
            return {**told, "said": correction}
        if given.source == "reviewer" and drawn(given.request_id, self.rates[row["adapter"]]):
            label = correction or (row.get("response") if thumb == 1 else None)
            return {**told, "audit_label": label} if label else told
        return {**told, **({"feedback": thumb} if thumb else {}), **({"correction": correction} if correction else {})}

    def _keep(self, adapter: str, told: dict[str, Any]) -> None:
        """Remember it, without its words."""
        said = _said(told)
        self._said.pop(_key(told), None)
        self._said[_key(told)] = said
        if told.get("user_id") and told["source"] == "user":
            self._times[told["user_id"]].append(said.at)
        if told.get("audit_label"):
            self._audits[adapter].pop(told["request_id"], None)


def _key(told: dict[str, Any]) -> tuple[str, str, str]:
    return told["request_id"], told["name"], told["source"]


def _said(told: dict[str, Any]) -> Said:
    value = told.get("value") or 0.0
    content = [told.get(name) or None for name in ("comment", *TAKEN_BACK, "said")]
    digest = hashlib.sha256(
        dumps({"": [value if isinstance(value, str) else float(value), *content]}).encode("utf-8", "replace")
    ).digest()
    gave = tuple(name for name in TAKEN_BACK if told.get(name))
    return Said(digest[:16], gave, datetime.fromisoformat(told["feedback_at"]).timestamp())
