"""Which log rows are failure cases, which were drawn for the audit, and what becomes of both.

A request is drawn by the hash of its id before any feedback is read; a drawn row never trains, even when its user corrects it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from monitoring import quality
from monitoring.selection import REVIEW, WHY, Selector, reasons_of
from retrain.answers import Schema, misfit, right
from retrain.poisoning import Case
from retrain.records import Example, Origin, Quarantined, merged

if TYPE_CHECKING:
    from monitoring.sources import Rows

DRAW = "audit:"
USERS = Selector()  # what users said, and no rule of params
NEEDED = (
    *("request_id", "user_id", "prompt", "response", "feedback", "correction", "audit_label"),
    *("timestamp", "feedback_at", "metadata", "conversation_id"),
)
Doubt = Callable[[Sequence[Case]], dict[str, str]]  # corrections -> request id -> why it is suspected


@dataclass(frozen=True)
class Collection:
    """Failure cases: `examples` can train, `held` have a label that the adapter does not list; the rest waits."""

    examples: list[Example] = field(default_factory=list)
    held: list[Example] = field(default_factory=list)
    new_labels: dict[str, tuple[int, int]] = field(default_factory=dict)  # label -> (rows, users)
    waiting: int = 0  # negative feedback without a correction
    quarantined: list[Quarantined] = field(default_factory=list)
    unbelieved: frozenset[str] = frozenset()  # requests whose correction is suspected, drawn ones too


def drawn(request_id: str, audit_rate: float) -> bool:
    """Whether people label this request whatever the answer was."""
    digest = hashlib.md5((DRAW + request_id).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return digest < _threshold(audit_rate)


def _threshold(rate: float) -> str:
    """The md5 hex digest below which a share `rate` of all digests lies; "g" is above every digest."""
    return "g" if rate >= 1 else f"{int(rate * 16**32):032x}"


def _drawn(rows: Any, rate: float) -> Any:
    """The same, in the engine."""
    from monitoring.sources import md5

    return md5(DRAW + rows.request_id) < _threshold(rate)


@dataclass(frozen=True)
class Reviewed:
    """Requests that reviewers answered: their rows, and the answers that stand (two: reviewers disagree)."""

    rows: "Rows"
    answers: dict[str, tuple[str, ...]]


def failure_cases(
    rows: "Rows", *, audit_rate: float, labels: tuple[str, ...], seen: set[tuple[str, str]], collected: str,
    schema: Schema | None = None, doubt: Doubt | None = None, source: str | None = None,
    selector: Selector = USERS, reviewed: Reviewed | None = None,
) -> Collection:  # fmt: skip
    """Rows with a correction or negative feedback that are not drawn: chosen in the engine, few others are fetched.

    `labels` is empty for a generation task: every answer can train that fits `schema`, its output schema if it has one; a
    correction that is blank to the eye or does not fit is quarantined. `seen` holds (request id, label) of earlier files;
    `collected` is the stamp that the origins carry. A correction equal to the response is no failure. What `doubt` suspects
    is quarantined before anything is merged; it is told the corrections of drawn rows too, whose users are the same, and
    `source` is the field of the metadata that it is told (metadata.<field>). Each row keeps all the reasons that `selector`
    has for it. What reviewers answered is taken beside the corrections, and is doubted by nobody; an answer of theirs that
    confirms the response is no failure either, and a conflict where a correction or an earlier collection says otherwise.
    """
    waiting, examples, bad, cases = 0, [], [], []
    rate = audit_rate if doubt is None else 0.0
    answered = reviewed.answers if reviewed else {}
    failed = rows.where(lambda t: (t.correction.notnull() | (t.feedback == -1)) & ~_drawn(t, rate))
    fetched = _fetched(selector.told(failed), source=source)
    for row in fetched.rows:
        correction = _text(row.get("correction"))
        judges = drawn(row["request_id"], audit_rate)
        if judges and (correction is None or not _text(row.get("prompt")) or misfit(correction, schema)):
            continue
        if correction is None:
            waiting += row.get("feedback") == -1 and row["request_id"] not in answered
            continue
        if right(_text(row.get("response")) or "", correction, schema) or (row["request_id"], correction) in seen:
            continue
        why = misfit(correction, schema) if _text(row.get("prompt")) else "a correction to a blank prompt"
        if why:
            bad.append(Quarantined(request_id=row["request_id"], kind="form", reason=why))
            continue
        example = _example(row, correction, "failure", collected, label_source="correction", where=row.get("source"))
        cases.append(_case(row, example, judges))
        examples += [] if judges else [example]
    suspected = doubt(cases) if doubt else {}
    answered_rows = _answered(reviewed, audit_rate, selector)
    said, disputed, confirmed = _of_reviews(answered_rows.rows, reviewed, selector, labels, seen, collected)
    bad += {row.id: row for row in (*fetched.unsearched, *answered_rows.unsearched)}.values()
    repeated = {(row.origins[0].request_id, row.id) for row in said}
    examples = [row for row in examples if (row.origins[0].request_id, row.id) not in repeated]
    contradicted = [row for row in examples if row.origins[0].request_id in confirmed]
    disputed += [_conflict(row, {row.answer, confirmed[row.origins[0].request_id]}, labels) for row in contradicted]
    examples = [row for row in examples if row.origins[0].request_id not in confirmed]
    believed = [row for row in examples if row.origins[0].request_id not in suspected]
    agreed, quarantined = _without_conflicts(_merge([*believed, *said]), labels)
    bad += [
        Quarantined(
            request_id=row.origins[0].request_id, kind="poisoning", reason=suspected[row.origins[0].request_id], example=row
        )
        for row in _merge([row for row in examples if row.origins[0].request_id in suspected])
    ]
    known = [row for row in agreed if not labels or row.answer in labels]
    held = [row for row in agreed if labels and row.answer not in labels]
    return Collection(known, held, _new_labels(held), waiting, bad + disputed + quarantined, frozenset(suspected))


def _answered(reviewed: Reviewed | None, audit_rate: float, selector: Selector) -> "_Fetched":
    return _fetched(selector.told(reviewed.rows.where(lambda t: ~_drawn(t, audit_rate)))) if reviewed else _Fetched([], [])


def _of_reviews(
    rows: list[dict[str, Any]], reviewed: Reviewed | None, selector: Selector, labels: tuple[str, ...],
    seen: set[tuple[str, str]], collected: str,
) -> tuple[list[Example], list[Quarantined], dict[str, str]]:  # fmt: skip
    """(examples, those that contradict what was collected of the same request before, request -> the response it confirmed)."""
    before, fresh, disputed, confirmed = dict(sorted(seen)), [], [], {}
    for row in rows:
        request, response = row["request_id"], _text(row.get("response")) or ""
        answers = reviewed.answers.get(request, ()) if reviewed else ()
        if not _text(row.get("prompt")):
            continue
        if [right(response, answer, selector.schema) for answer in answers] == [True]:
            confirmed[request] = answers[0]
            if request not in before:
                continue
        for answer in answers:
            if (request, answer) in seen:
                continue
            example = _example(row, answer, "failure", collected, label_source="human")
            if request in before:
                disputed.append(_conflict(example, {answer, before[request]}, labels, "; one of them was collected before"))
            else:
                fresh.append(example)
    return fresh, disputed, confirmed


def audited(rows: "Rows", *, audit_rate: float) -> list[Example]:
    """Drawn rows that a person has labelled; equal rows merge and keep their origins."""
    judged = rows.where(lambda t: t.audit_label.notnull() & _drawn(t, audit_rate))
    labelled = [(row, _text(row.get("audit_label"))) for row in _records(judged) if _text(row.get("prompt"))]
    return _merge([_example(row, label, "audit", None, label_source="human") for row, label in labelled if label])


def audit_wrong(rows: "Rows", *, audit_rate: float, schema: Schema | None = None) -> float | None:
    """The share of the labelled drawn rows that were answered wrongly; None where there are none."""
    judged = rows.where(lambda t: t.audit_label.notnull() & _drawn(t, audit_rate))
    told = quality.audited_right(judged, schema)
    counted = rows.engine.run(judged.expr.aggregate(n=told.count(), right=told.cast("int").sum()))
    n = int(counted["n"].iloc[0])
    return 1 - int(counted["right"].iloc[0]) / n if n else None


@dataclass(frozen=True)
class Waiting:
    """A failure case that nobody has labelled: `reasons` are keys of selection.REASONS."""

    request_id: str
    timestamp: datetime
    user: str | None
    question: str
    response: str
    confidence: float | None
    reasons: tuple[str, ...]


def waiting(rows: "Rows", *, audit_rate: float, selector: Selector) -> list[Waiting]:
    """Rows with a reason and without an answer given by a person, less those that are drawn: those with the most reasons
    first, then the oldest."""
    chosen = selector.chosen(rows.where(lambda t: (t.correction.fill_null("").strip() == "") & ~_drawn(t, audit_rate)))
    found = [
        Waiting(
            row["request_id"], row["timestamp"], row["user_id"], row["prompt"], row["response"] or "", row["confidence"],
            reasons_of(row),
        )
        for row in _records(chosen, (*NEEDED, "confidence"))
        if _text(row["prompt"])
    ]  # fmt: skip
    return sorted(found, key=lambda row: (-len(row.reasons), row.timestamp, row.request_id))


@dataclass(frozen=True)
class _Fetched:
    """Rows as dicts, with their reasons where they have any, missing values as None; and those that could not be searched."""

    rows: list[dict[str, Any]]
    unsearched: list[Quarantined]


def _fetched(rows: "Rows", columns: tuple[str, ...] = NEEDED, source: str | None = None) -> _Fetched:
    reasons = [name for name in rows.expr.columns if name.startswith(WHY)]
    found = rows.fetch([*columns, *reasons], source)
    unsearched = [
        Quarantined(request_id=row.request_id, kind="personal_data", reason=row.reason, where=row.where)
        for row in found.unsearched
    ]
    return _Fetched(found.records(), unsearched)


def _records(rows: "Rows", columns: tuple[str, ...] = NEEDED) -> list[dict[str, Any]]:
    return _fetched(rows, columns).rows


def _text(value: Any) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    return text or None


def _example(
    row: dict[str, Any], answer: str, source: Any, collected: str | None, *, label_source: Any, where: str | None = None
) -> Example:  # fmt: skip
    talk = row.get("conversation_id")
    origin = Origin(
        request_id=row["request_id"], user=row.get("user_id"), source=where, collected=collected, conversation=talk
    )  # fmt: skip
    reasons = (*reasons_of(row), *((REVIEW,) if source == "failure" and label_source == "human" else ()))
    return Example.of(row["prompt"], answer, source=source, label_source=label_source, origins=(origin,), reasons=reasons)


def _case(row: dict[str, Any], example: Example, judges: bool) -> Case:
    """The correction as the rules against poisoning see it; it was given at feedback_at."""
    (origin,) = example.origins
    at = row.get("feedback_at") or row.get("timestamp")
    response = _text(row.get("response"))
    return Case(origin.request_id, example.question, example.answer, response, origin.user, origin.source, at, not judges)


def _merge(rows: list[Example]) -> list[Example]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        groups[row.id].append(row)
    return [_as_one(groups[row_id]) for row_id in sorted(groups)]


def _as_one(rows: list[Example]) -> Example:
    return merged(rows, tuple(origin for row in rows for origin in row.origins)) if len(rows) > 1 else rows[0]


def _without_conflicts(rows: list[Example], labels: tuple[str, ...]) -> tuple[list[Example], list[Quarantined]]:
    """One question with two answers is nobody's truth: both are kept out."""
    answers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        answers[row.key].add(row.answer)
    agreed = [row for row in rows if len(answers[row.key]) == 1]
    return agreed, [_conflict(row, answers[row.key], labels) for row in rows if len(answers[row.key]) > 1]


def _conflict(row: Example, answers: set[str], labels: tuple[str, ...], more: str = "") -> Quarantined:
    """A row of a question with several answers; of these the reason quotes labels of the adapter, and no text of a user."""
    quoted = [answer if answer in labels else "one that the adapter does not list" for answer in sorted(answers)]
    told = "one question, two answers" + (f": {' | '.join(quoted)}" if labels else "") + more
    return Quarantined(request_id=row.origins[0].request_id, kind="conflict", reason=told, example=row)


def _new_labels(held: list[Example]) -> dict[str, tuple[int, int]]:
    rows: dict[str, int] = defaultdict(int)
    users: dict[str, set[str]] = defaultdict(set)
    for row in held:
        rows[row.answer] += len(row.origins)
        users[row.answer] |= {origin.user or origin.request_id for origin in row.origins}
    return {label: (rows[label], len(users[label])) for label in sorted(rows)}
