"""Which log rows are failure cases, which were drawn for the audit, and what becomes of both.

A request is drawn by the hash of its id before any feedback is read; a drawn row never trains, even when its user corrects it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from monitoring import quality
from retrain.answers import Schema, misfit, right
from retrain.poisoning import Case
from retrain.records import Example, Origin, Quarantined

if TYPE_CHECKING:
    from monitoring.sources import Rows

DRAW = "audit:"
NEEDED = (
    *("request_id", "user_id", "prompt", "response", "feedback", "correction", "audit_label"),
    *("timestamp", "feedback_at", "metadata"),
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


def failure_cases(
    rows: "Rows", *, audit_rate: float, labels: tuple[str, ...], seen: set[tuple[str, str]], collected: str,
    schema: Schema | None = None, doubt: Doubt | None = None, source: str | None = None,
) -> Collection:  # fmt: skip
    """Rows with a correction or negative feedback that are not drawn: chosen in the engine, only they are fetched.

    `labels` is empty for a generation task: every answer can train that fits `schema`, its output schema if it has one; a
    correction that is blank to the eye or does not fit is quarantined. `seen` holds (request id, label) of earlier files;
    `collected` is the stamp that the origins carry. A correction equal to the response is no failure. What `doubt` suspects
    is quarantined before anything is merged; `source` is the field of the metadata that it is told (metadata.<field>).
    """
    waiting, examples, bad, cases = 0, [], [], []
    failed = rows.where(lambda t: (t.correction.notnull() | (t.feedback == -1)) & ~_drawn(t, audit_rate))
    for row in _records(failed):
        correction = _text(row.get("correction"))
        if correction is None:
            waiting += row.get("feedback") == -1
            continue
        if right(_text(row.get("response")) or "", correction, schema) or (row["request_id"], correction) in seen:
            continue
        why = misfit(correction, schema) if _text(row.get("prompt")) else "a correction to a blank prompt"
        if why:
            bad.append(Quarantined(request_id=row["request_id"], kind="form", reason=why))
            continue
        examples.append(_example(row, correction, "failure", collected, _source(row.get("metadata"), source)))
        cases.append(_case(row, examples[-1]))
    suspected = doubt(cases) if doubt else {}
    agreed, quarantined = _without_conflicts(_merge([row for row in examples if row.origins[0].request_id not in suspected]))
    bad += [
        Quarantined(
            request_id=row.origins[0].request_id, kind="poisoning", reason=suspected[row.origins[0].request_id], example=row
        )
        for row in _merge([row for row in examples if row.origins[0].request_id in suspected])
    ]
    known = [row for row in agreed if not labels or row.answer in labels]
    held = [row for row in agreed if labels and row.answer not in labels]
    return Collection(known, held, _new_labels(held), waiting, bad + quarantined)


def audited(rows: "Rows", *, audit_rate: float) -> list[Example]:
    """Drawn rows that a person has labelled; equal rows merge and keep their origins."""
    judged = rows.where(lambda t: t.audit_label.notnull() & _drawn(t, audit_rate))
    labelled = [(row, _text(row.get("audit_label"))) for row in _records(judged)]
    return _merge([_example(row, label, "audit", None) for row, label in labelled if label and _text(row.get("prompt"))])


def audit_wrong(rows: "Rows", *, audit_rate: float, schema: Schema | None = None) -> float | None:
    """The share of the labelled drawn rows that were answered wrongly; None where there are none."""
    judged = rows.where(lambda t: t.audit_label.notnull() & _drawn(t, audit_rate))
    told = quality.audited_right(judged, schema)
    counted = rows.engine.run(judged.expr.aggregate(n=told.count(), right=told.cast("int").sum()))
    n = int(counted["n"].iloc[0])
    return 1 - int(counted["right"].iloc[0]) / n if n else None


def _records(rows: "Rows") -> list[dict[str, Any]]:
    """Rows as dicts, missing values as None."""
    kept = rows.frame(NEEDED).astype(object)
    return [dict(row) for row in kept.where(kept.notna(), None).to_dict("records")]


def _text(value: Any) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    return text or None


def _example(row: dict[str, Any], answer: str, source: Any, collected: str | None, where: str | None = None) -> Example:
    origin = Origin(request_id=row["request_id"], user=row.get("user_id"), source=where, collected=collected)
    label_source: Any = "correction" if source == "failure" else "human"
    return Example.of(row["prompt"], answer, source=source, label_source=label_source, origins=(origin,))


def _case(row: dict[str, Any], example: Example) -> Case:
    """The correction as the rules against poisoning see it; it was given at feedback_at."""
    (origin,) = example.origins
    at = row.get("feedback_at") or row.get("timestamp")
    response = _text(row.get("response"))
    return Case(origin.request_id, example.question, example.answer, response, origin.user, origin.source, at)


def _source(metadata: Any, field: str | None) -> str | None:
    """The value of metadata.<field>, as text; None where there is none."""
    if field is None or not isinstance(metadata, str):
        return None
    try:
        value = json.loads(metadata)
    except ValueError:
        return None
    for key in field.split(".")[1:]:
        value = value.get(key) if isinstance(value, dict) else None
    return str(value) if isinstance(value, str | int | float | bool) else None


def _merge(rows: list[Example]) -> list[Example]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        groups[row.id].append(row)
    return [
        group[0].model_copy(update={"origins": tuple(origin for row in group for origin in row.origins)})
        for _, group in sorted(groups.items())
    ]


def _without_conflicts(rows: list[Example]) -> tuple[list[Example], list[Quarantined]]:
    """One question with two answers is nobody's truth: both are kept out."""
    answers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        answers[row.key].add(row.answer)
    agreed = [row for row in rows if len(answers[row.key]) == 1]
    conflicts = [row for row in rows if len(answers[row.key]) > 1]
    return agreed, [
        Quarantined(request_id=row.origins[0].request_id, kind="conflict", reason=_two_answers(answers[row.key]), example=row)
        for row in conflicts
    ]


def _two_answers(answers: set[str]) -> str:
    return "one question, two answers: " + " | ".join(sorted(answers))


def _new_labels(held: list[Example]) -> dict[str, tuple[int, int]]:
    rows: dict[str, int] = defaultdict(int)
    users: dict[str, set[str]] = defaultdict(set)
    for row in held:
        rows[row.answer] += len(row.origins)
        users[row.answer] |= {origin.user or origin.request_id for origin in row.origins}
    return {label: (rows[label], len(users[label])) for label in sorted(rows)}
