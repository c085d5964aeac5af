"""PURE: what was decided about an adapter's windows as a story, and what another policy would have decided of them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from monitoring.trigger import WindowRecord, decide, violations
from retrain.ledger import Attempt, Entry, describe
from retrain.params import Trigger
from retrain.policies import Cost, Facts
from retrain.records import from_stamp

Word = Literal["fire", "hold"]


class Replayed(BaseModel):
    """One recorded window: what was decided, and what the other policy says; None where the record lacks the facts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    start: str
    end: str
    decided: Word
    replayed: Word | None
    purpose: str | None
    reasons: list[str]


def replay(records: Sequence[WindowRecord], policy: Trigger) -> list[Replayed]:
    """The policy's decision on each window, oldest first.

    Each supposes that what came before is what was recorded (champion, rows, attempts), but for the fires, which are the
    replay's own: so an incident opens one retraining here too; one that really was not opened is supposed to train until an
    attempt is recorded. Violations are found again, from the counts.
    """
    history: list[WindowRecord] = []
    supposed = ""  # the end of the last window that fires here and did not fire
    found = []
    for record in sorted(records, key=lambda record: (record.end, record.start)):
        again = record.model_copy(update={"violations": _violations(record, policy), "fire": False})
        facts = _training(record.facts, supposed) if record.facts else None
        decision = decide([*history, again], policy=policy, facts=facts) if facts else None
        fire = decision.fire if decision else record.fire
        history.append(again.model_copy(update={"fire": fire}))
        supposed = record.end if fire and not record.fire else supposed
        found.append(
            Replayed(
                start=record.start,
                end=record.end,
                decided=_word(record.fire),
                replayed=_word(fire) if decision else None,
                purpose=decision.purpose if decision else None,
                reasons=decision.reasons if decision else ["recorded before the trigger kept its facts: cannot be replayed"],
            )
        )
    return found


def _training(facts: Facts, supposed: str) -> Facts:
    if supposed <= max(facts.attempts, default=""):
        return facts
    return facts.model_copy(update={"training": from_stamp(supposed)})


def _violations(record: WindowRecord, policy: Trigger) -> list[str]:
    if record.facts is None:
        return record.violations
    return violations(
        drift_status=record.drift_status,
        drifted=record.drifted,
        compared=record.compared,
        policy=policy,
        judged=(record.judge, record.judge_reference),
    )


def _word(fire: bool) -> Word:
    return "fire" if fire else "hold"


def side_by_side(replayed: Sequence[Replayed]) -> list[str]:
    """A table; reasons only where the two differ."""
    lines = [f"{'window until':17} decided  replayed"]
    for line in replayed:
        lines.append(f"{_day(line.end):17} {line.decided:8} {line.replayed or '-'}")
        if line.replayed != line.decided:
            lines += [f"{'':17}   {reason}" for reason in line.reasons]
    for name, ends in zip(("decided", "this policy"), fires(replayed).values(), strict=True):
        lines.append(f"{name}: {len(ends)} fire{'' if len(ends) == 1 else 's'}" + "".join(f", {_day(end)}" for end in ends))
    return [*lines, "each line supposes that what came before it is what was recorded: champion, rows and attempts"]


def fires(replayed: Sequence[Replayed]) -> dict[str, list[str]]:
    return {name: [line.end for line in replayed if getattr(line, name) == "fire"] for name in ("decided", "replayed")}


# --- the story


def story(adapter: str, records: Sequence[WindowRecord], entries: Sequence[Entry], cost: Cost) -> list[str]:
    """Windows with their decisions and what the ledger says came of them, oldest first; quiet ones in a row are one line."""
    if not records:
        return [f"{adapter}: no window has been measured yet: run `retrain monitor {adapter}`"]
    ordered = sorted(records, key=lambda record: (record.end, record.start))
    events = _events(entries)
    lines = [f"  {text}" for end in sorted(events) if end < ordered[0].end for text in events.pop(end)]
    lines = ["before these windows:", *lines[-3:], ""] if lines else []
    for group in _groups(ordered, set(events)):
        lines += _told(group)
        due = [end for end in sorted(events) if end <= group[-1].end]
        lines += [f"    then: {text}" for end in due for text in events.pop(end)]
    lines += [f"  after these windows: {text}" for end in sorted(events) for text in events[end]]
    return [*lines, "", str(cost) if cost.runs else "no training has been recorded yet"]


def _events(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Ledger lines by the window end that they follow: an attempt names it, a promotion or rollback follows its attempt."""
    found: dict[str, list[str]] = {}
    end = ""
    for entry in entries:
        end = entry.end if isinstance(entry, Attempt) else end
        found.setdefault(end, []).append(describe(entry))
    return found


def _groups(records: Sequence[WindowRecord], eventful: set[str]) -> list[list[WindowRecord]]:
    groups: list[list[WindowRecord]] = []
    for record in records:
        last = groups[-1][-1] if groups else None
        if last and _quiet(last) and _quiet(record) and last.version == record.version and last.end not in eventful:
            groups[-1].append(record)
        else:
            groups.append([record])
    return groups


def _quiet(record: WindowRecord) -> bool:
    return not record.fire and not record.violations and record.drift_status == "no_drift"


def _told(group: Sequence[WindowRecord]) -> list[str]:
    first, last = group[0], group[-1]
    served = "no champion" if first.version is None else f"v{first.version}"
    if len(group) > 1:
        rows = sum(record.rows for record in group)
        return [
            f"{_day(first.end)} to {_day(last.end)}  {served}  hold: {len(group)} quiet windows, {rows} rows{_scores(last)}"
        ]
    marks = "".join([", measured again" * last.remeasured, ", backfill" * last.backfill])
    word = f"FIRE, to {last.purpose or 'improve'}" if last.fire else "hold"
    status = last.drift_status.replace("_", " ")
    return [
        f"{_day(last.end)}  {served}  {word}: {last.rows} rows, {status}{_scores(last)}{marks}",
        *(f"    {reason}" for reason in last.reasons),
    ]


def _scores(record: WindowRecord) -> str:
    if not record.known:
        return ", quality not known yet"
    said = ""
    if record.accuracy is not None:
        sides = (record.accuracy_low, record.accuracy_high)
        between = "" if None in sides else f" (95 % interval {sides[0]:.0%} to {sides[1]:.0%})"
        said += f", {record.accuracy:.0%} of {record.audited} audited rows right{between}"
    if record.satisfaction is not None:
        said += f", satisfaction {record.satisfaction:.0%}" + (f" of {record.feedback}" if record.feedback else "")
    if record.judge is not None and record.judge.share is not None:
        said += f", {record.judge.share:.0%} right by the judge"
    return said


def _day(at: str) -> str:
    return f"{from_stamp(at):%Y-%m-%d %H:%M}"


def as_dicts(records: Sequence[WindowRecord]) -> list[dict[str, Any]]:
    """For --json: what was decided on each window and why."""
    names = ("start", "end", "version", "rows", "drift_status", "violations", "purpose", "reasons")
    return [{**{name: getattr(r, name) for name in names}, "decision": _word(r.fire)} for r in records]
