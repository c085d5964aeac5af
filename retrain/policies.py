"""What must agree before a retraining starts: each policy a small class, one union on `kind` in params.yaml. PURE.

A policy answers (agrees, why) about a Case. Its `purpose` says which retraining it speaks for: `improve` (evidence that the
champion got worse), `replace` (it got old, whatever the windows say), or None: it may hold back any start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Annotated, ClassVar, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from retrain.records import from_stamp
from retrain.sections import Zone, of_the_day

Answer = tuple[bool, str]
Rows = Annotated[int, Field(ge=1)]
Purpose = Literal["improve", "replace"]
WEEK = timedelta(days=7)
RECENT = 5  # finished trainings whose median says what one more will take


# --- what is known


class Cost(BaseModel):
    """Hours that trainings took; `one` is what one more will take (None before the first), `weekly` the present rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    runs: int = 0
    hours: float = 0.0
    week: float = 0.0  # in the last seven days
    weekly: float = 0.0  # mean a week of the last four, or of all where there are fewer
    one: float | None = None

    def __str__(self) -> str:
        said = f"training took {_hours(self.hours)} so far ({self.runs} run{'' if self.runs == 1 else 's'}), "
        return said + f"{_hours(self.week)} in the last 7 days, {_hours(self.weekly)} a week at the present rate"


class Bar(BaseModel):
    """What the gate asks for (params: gates), and the share of audited rows that go to `retained` instead of its tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    level: float
    margin: float
    min_effect: float
    min_rows: int
    repair: float
    audit_share: float


class Facts(BaseModel):
    """What a decision rests on besides the windows; stored with it, so that it can be made again. Times are stamps."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: AwareDatetime  # when it is decided, by the clock
    champion: int | None = None
    trained: str | None = None  # where the data ends that the champion learned from
    attempts: tuple[str, ...] = ()  # the `end` of each attempt in the ledger, oldest first
    newest: str | None = None  # the end of the newest window that was ever recorded
    new_failures: int = 0  # labelled failure cases since the last attempt
    unread_audit: int = 0  # audited rows since the last attempt, counted as they enter the gate's tests
    audit_wrong: float | None = None  # the share of them that the champion answered wrongly
    cost: Cost = Cost()
    training: AwareDatetime | None = None  # since when a training of this adapter runs
    erased: str | None = None  # end of the attempt after which rows were erased that the champion has learned
    asked: bool = False  # a person wants this very window to be able to train
    bar: Bar

    @property
    def last_attempt(self) -> datetime | None:
        return from_stamp(max(self.attempts)) if self.attempts else None


@dataclass(frozen=True)
class Case:
    """What the policies are asked about: which windows of today's champion violate, oldest first, and the facts."""

    adapter: str
    end: datetime  # of the newest window
    violating: tuple[bool, ...]  # only windows that told something
    untold: int
    last: datetime | None  # the newest retraining: its end, or the end of the window that opened it
    facts: Facts


def cost(spans: Sequence[tuple[datetime, datetime | None]], at: datetime) -> Cost:
    """Cost of trainings that began and ended (None: not yet) at these times.

    One without an end counts until `at`, but no longer than the longest that ended: its process may have died unseen.
    """
    ended = sorted(end - start for start, end in spans if end is not None)
    most = ended[-1] if ended else timedelta.max
    whole = [
        (start, end or start + min(most, at - start)) for start, end in sorted(spans, key=lambda span: span[0]) if start <= at
    ]
    if not whole:
        return Cost()
    weeks = min(max((at - min(start for start, _ in whole)) / WEEK, 1.0), 4.0)
    recent = [_in_hours(end - start) for start, end in whole if (start, end) in spans][-RECENT:]
    return Cost(
        runs=len(whole),
        hours=_within(whole, None),
        week=_within(whole, at - WEEK),
        weekly=_within(whole, at - 4 * WEEK) / weeks,
        one=median(recent) if recent else None,
    )


def _within(spans: Sequence[tuple[datetime, datetime]], since: datetime | None) -> float:
    """Hours of the spans after `since`."""
    return sum(max(_in_hours(end - (start if since is None else max(start, since))), 0.0) for start, end in spans)


def _in_hours(span: timedelta) -> float:
    return round(span / timedelta(hours=1), 6)


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 or hours == 0 else f"{60 * hours:.0f} min"


# --- the policies


class Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    purpose: ClassVar[Purpose | None] = None


class KOfN(Policy):
    """At least so many of the last n windows violate, and all n have been seen (databricks' mlops-stacks have this rule)."""

    purpose = "improve"
    kind: Literal["k_of_n"]
    windows: Rows
    violations: Rows

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.violations > self.windows:
            raise ValueError(f"violations is {self.violations} of windows {self.windows}: it could never fire")
        return self

    def says(self, case: Case) -> Answer:
        last = case.violating[-self.windows :]
        bad, told, least = sum(last), len(last), self.violations
        named = f"the last {told} windows" if told > 1 else "1 window" if told else "no window"
        untold = f" ({case.untold} more could not be told and {_does(case.untold)} not count)" if case.untold else ""
        why = (
            f"{bad} of {named} of v{case.facts.champion} {'violates' if bad == 1 else 'violate'}, {_are(least)} needed{untold}"
        )
        if told < self.windows:
            return False, f"{why}; {self.windows} windows must be seen first, {self.windows - told} to come"
        return bad >= least, why


class MinFailures(Policy):
    """There is enough to learn from: labelled failure cases that no retraining has seen."""

    purpose = "improve"
    kind: Literal["min_failures"]
    rows: Rows

    def says(self, case: Case) -> Answer:
        found = case.facts.new_failures
        if found < self.rows:
            return False, f"only {found} new labelled failures, {self.rows} are needed: label {self.rows - found} more"
        return True, f"{found} new labelled failures"


class MaxAge(Policy):
    """Retrains a champion that learned from old data, though no window violates."""

    purpose = "replace"
    kind: Literal["max_age"]
    days: Rows

    def says(self, case: Case) -> Answer:
        if case.facts.trained is None:
            return False, "nobody knows how old the champion's data is"
        age = (case.end - from_stamp(case.facts.trained)).days
        return age >= self.days, f"v{case.facts.champion} learned from data that is {age} days old, {self.days} are allowed"


class Cooldown(Policy):
    """So long after one retraining no other starts."""

    kind: Literal["cooldown"]
    hours: Annotated[float, Field(gt=0)]

    def says(self, case: Case) -> Answer:
        if case.last is None:
            return True, "no retraining before this one"
        passed = (case.end - case.last) / timedelta(hours=1)
        return passed >= self.hours, f"the last retraining was {passed:g} h ago, {self.hours:g} h must pass"


class Budget(Policy):
    """Trainings of the last seven days and one more must fit."""

    kind: Literal["budget"]
    gpu_hours_a_week: Annotated[float, Field(gt=0)]

    def says(self, case: Case) -> Answer:
        cost = case.facts.cost
        agrees = cost.week + (cost.one or 0.0) <= self.gpu_hours_a_week
        one = f"one more takes about {_hours(cost.one)}" if cost.one is not None else "what one takes is not known yet"
        return agrees, f"{cost}; {one}, {_hours(self.gpu_hours_a_week)} a week are allowed"


class Hours(Policy):
    """Training starts only at these hours of the day; the trigger looks whenever a window is measured."""

    kind: Literal["hours"]
    after: Annotated[int, Field(ge=0, le=23)]
    before: Annotated[int, Field(ge=0, le=24)]
    timezone: Zone

    def says(self, case: Case) -> Answer:
        now = case.facts.at.astimezone(ZoneInfo(self.timezone))
        inside = of_the_day(now, self.after, self.before)
        return inside, f"it is {now:%H:%M}, training starts after {self.after}:00 and before {self.before}:00 ({self.timezone})"


class Manual(Policy):
    """Nothing starts by itself."""

    kind: Literal["manual"]

    def says(self, case: Case) -> Answer:
        if case.facts.asked:
            return True, "a person asked for it"
        return False, f"a person starts it (trigger.policies: manual): `retrain repro {case.adapter}`"


KINDS = {
    "k_of_n": KOfN,
    "min_failures": MinFailures,
    "max_age": MaxAge,
    "cooldown": Cooldown,
    "budget": Budget,
    "hours": Hours,
    "manual": Manual,
}
AnyPolicy = Annotated[KOfN | MinFailures | MaxAge | Cooldown | Budget | Hours | Manual, Field(discriminator="kind")]


def _are(n: int) -> str:
    return f"{n} {'is' if n == 1 else 'are'}"


def _does(n: int) -> str:
    return "does" if n == 1 else "do"
