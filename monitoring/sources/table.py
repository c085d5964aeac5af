"""A log table by windows of event time: what is in one, each request once, and where every other row went."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import ibis
from ibis import _
from pydantic import BaseModel, ConfigDict

from monitoring.sources.engines import Engine
from monitoring.sources.mapping import COLUMNS, JUDGED, TYPES, UTC
from monitoring.sources.rows import RAW, BadRow, Privacy, Rows, Source
from monitoring.windows import Window
from retrain.errors import DataError, ParamsError

LISTED = 1000  # bad rows that are named; all are counted


class Counts(BaseModel):
    """read == used + duplicates + quarantined + late + outside; a tail is not read yet."""

    model_config = ConfigDict(frozen=True)
    read: int
    used: int
    duplicates: int
    quarantined: int
    late: int
    outside: int
    tails: int


@dataclass(frozen=True)
class _Distinct:
    """Rows of a query, each request once."""

    expr: Any
    duplicates: int


@dataclass(frozen=True)
class _Window:
    """read: rows of the whole table; good: of the window, with copies; bad: of the window, and those that have no time."""

    read: int
    good: int
    bad: int
    once: _Distinct


@dataclass
class LogTable:
    """The rows of one adapter; `feedback` is a second table that joins by request_id."""

    source: Source
    feedback: Source | None
    adapter: str
    privacy: Privacy = RAW
    _windows: dict[tuple[int, Window], _Window] = field(default_factory=dict, repr=False)

    def rows(self, window: Window) -> Rows:
        """Requests with start <= timestamp < end, with all feedback that the store has by now.

        A request that stands there more than once is its row with the newest feedback_at, else the last one.
        """
        return Rows(self._judged(self._window(window).once.expr, None), self.engine, self.privacy)

    def known(self, before: datetime, since: datetime | None = None) -> Rows:
        """Requests of any time whose feedback became known in [since, before), with that feedback."""
        for name, time in (("before", before), ("since", since)):
            if time is not None and time.tzinfo is None:
                raise ParamsError(f"{name} is {time.isoformat()} without a time zone: add Z for UTC, or an offset")
        good = self._mine(self.source.scan()).filter(~_.bad)
        return Rows(self._once(self._judged(good, (since, before))).expr, self.engine, self.privacy)

    def requests(self, ids: Sequence[str]) -> Rows:
        """These requests, with all feedback that the store has by now."""
        good = self._mine(self.source.scan()).filter(~_.bad & _.request_id.isin(["", *ids]))  # no id is blank
        return Rows(self._judged(self._once(good).expr, None), self.engine, self.privacy)

    def counts(self, window: Window, late: int = 0) -> Counts:
        """How all rows of the table fall for one window; `late` is how many of the others came late to earlier ones.

        A bad row counts where its time lies, and in every window where it has none.
        """
        found = self._window(window)
        duplicates = found.once.duplicates
        outside = found.read - found.good - found.bad - late
        if late < 0 or outside < 0:
            raise DataError(f"{late} rows of {self.adapter} are said to be late for {window}, {outside + late} lie outside it")
        return Counts(
            read=found.read,
            used=found.good - duplicates,
            duplicates=duplicates,
            quarantined=found.bad,
            late=late,
            outside=outside,
            tails=len(self.tails),
        )

    @property
    def engine(self) -> Engine:
        return self.source.engine

    @property
    def tails(self) -> tuple[BadRow, ...]:
        return self.source.tails

    @cached_property
    def quarantined(self) -> tuple[BadRow, ...]:
        """The first bad rows of the whole table by file and line."""
        return self._listed(self._mine(self.source.scan()))

    def bad(self, window: Window) -> tuple[BadRow, ...]:
        """The first of those that `counts` has for a window."""
        rows = self._mine(self.source.scan())
        return self._listed(rows.filter(_.timestamp.isnull() | _inside(rows, window)))

    @cached_property
    def bad_feedback(self) -> tuple[BadRow, ...]:
        """The first rows of the second table that cannot be used; they are none of the rows counted."""
        return self._listed(self.feedback.scan()) if self.feedback else ()

    def _listed(self, rows: Any) -> tuple[BadRow, ...]:
        bad = rows.filter(rows.bad).select("file", "line", "reason").order_by("file", "line", "reason").limit(LISTED)
        return tuple(BadRow(**row) for row in self.engine.run(bad).to_dict("records"))

    # --- the steps of a query

    def _mine(self, rows: Any) -> Any:
        return rows.filter(rows.adapter.isnull() | (rows.adapter == self.adapter))

    def _window(self, window: Window) -> "_Window":
        while (self.engine.generation, window) not in self._windows:
            generation = self.engine.generation
            found = self._measured(window)
            self._windows[generation, window] = found  # of no use where the files changed on the way
        return self._windows[self.engine.generation, window]

    def _measured(self, window: Window) -> "_Window":
        rows = self._mine(self.source.scan((window.start, window.end)))
        rows = rows.filter(_inside(rows, window))
        found = self.engine.run(rows.aggregate(all=rows.count(), bad=rows.bad.sum())).iloc[0]
        bad = int(found["bad"]) if found["all"] else 0
        # asked once: what cannot change has no bad row the next time either
        good = rows if self.engine.still and not bad else rows.filter(~rows.bad)
        every = self._mine(self.source.scan())
        timeless = int(self.engine.run(every.filter(every.timestamp.isnull()).count()))
        once = self._once(good)
        return _Window(self.source.count(), int(found["all"]) - bad, bad + timeless, once)

    def _once(self, rows: Any) -> _Distinct:
        """Only the ids that occur twice are sorted, and only they are kept: nearly all rows stay where they are."""
        engine = self.engine
        keyed = rows.mutate(key=engine.key(rows.request_id))
        twice = keyed.group_by("key").aggregate(n=keyed.count()).filter(_.n > 1).select("key")
        twice = engine.keep(twice)
        if not int(self.engine.run(twice.count())):
            return _Distinct(rows, 0)
        newest = ibis.window(
            group_by="request_id",
            order_by=[
                *(ibis.desc(name, nulls_first=False) for name in ("feedback_at", "file", "line", "timestamp")),
                # rows that stand nowhere in particular: any rule will do that is the same every time
                *(
                    ibis.desc(name, nulls_first=False)
                    for name in ("correction", "audit_label", "feedback", "response", "prompt")
                ),
            ],
        )
        copies = keyed.semi_join(twice, "key").mutate(place=ibis.row_number().over(newest))
        best = engine.keep(copies.filter(copies.place == 0).select(*rows.columns))
        dropped = int(self.engine.run(copies.filter(copies.place > 0).count()))
        alone = keyed.anti_join(twice, "key").select(*rows.columns)
        return _Distinct(alone.union(best), dropped)

    def _judged(self, rows: Any, known: tuple[datetime | None, datetime] | None) -> Any:
        """Rows with the feedback of both tables; known: only those whose feedback became known in [since, before)."""
        if known is not None:
            hidden = ~_within(rows.feedback_at, known)
            fields = {name: hidden.ifelse(ibis.null(TYPES[name]), rows[name]) for name in (*JUDGED, "feedback_at")}
            rows = rows.mutate(**fields) if self.feedback else rows.filter(~hidden)
        if self.feedback is not None:
            rows = _joined(rows, self._newest(known))
            if known is not None:
                rows = rows.filter(rows.feedback_at.notnull())
        return rows.select(*COLUMNS, "file", "line")

    def _newest(self, known: tuple[datetime | None, datetime] | None) -> Any:
        """The second table, one row a request: of each column the newest value that is there."""
        assert self.feedback is not None
        rows = self.feedback.scan()
        rows = rows.filter(~rows.bad)
        if known is not None:
            rows = rows.filter(_within(rows.feedback_at, known))
        ranks = {}
        for name in JUDGED:
            order = [rows[name].isnull(), ibis.desc("feedback_at", nulls_first=False), ibis.desc(name, nulls_first=False)]
            ranks[f"rank_{name}"] = ibis.row_number().over(ibis.window(group_by="request_id", order_by=order))
        ranked = rows.mutate(**ranks)
        newest = {f"new_{name}": ranked[name].max(where=ranked[f"rank_{name}"] == 0) for name in JUDGED}
        by_id = ranked.group_by("request_id")
        return by_id.aggregate(new_feedback_at=ranked.feedback_at.max(), **newest).rename(new_id="request_id")


def _joined(rows: Any, newest: Any) -> Any:
    """Feedback beside the rows it is for; of two values that differ the later counts, an empty text takes back."""
    both = rows.left_join(newest, rows.request_id == newest.new_id)
    later = both.feedback_at.isnull() | (both.new_feedback_at >= both.feedback_at)
    values = {
        name: later.ifelse(ibis.coalesce(both[f"new_{name}"], both[name]), ibis.coalesce(both[name], both[f"new_{name}"])).cast(
            TYPES[name]
        )
        for name in JUDGED
    }
    values |= {name: values[name].nullif("") for name in JUDGED if TYPES[name] == "string"}
    at = later.ifelse(ibis.coalesce(both.new_feedback_at, both.feedback_at), both.feedback_at).cast(UTC)
    return both.mutate(**values, feedback_at=at).select(*rows.columns)


def _inside(rows: Any, window: Window) -> Any:
    return (rows.timestamp >= window.start) & (rows.timestamp < window.end)


def _within(at: Any, known: tuple[datetime | None, datetime]) -> Any:
    since, before = known
    inside = at < before
    return (inside if since is None else inside & (at >= since)).fill_null(False)
