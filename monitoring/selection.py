"""Which log rows are failure cases, and all the reasons of each: chosen in the log store's engine, only they are fetched.

A reason chooses a row, it does not label it: without an answer given by a person the row waits for review.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ibis

from monitoring.condition import condition
from retrain.answers import Schema, misfit
from retrain.params import Failures

if TYPE_CHECKING:
    from monitoring.sources import Rows

REASONS = {  # in the order in which a row tells them
    "correction": "a user corrected the answer",
    "feedback": "a user said that it is wrong",
    "confidence": "the model was not sure (failures.confidence_below)",
    "form": "the answer breaks its form: none of the labels, or not what the output schema says",
    "condition": "your own condition holds (failures.where)",
    "judge": "the LLM judge says that it is wrong (quality.judge)",
}
REVIEW = "review"  # the reason of an answer that came through the review queue
WHY = "why_"  # a column of bool for each reason


@dataclass(frozen=True)
class Selector:
    """The rules of an adapter: of params `failures`, its labels (none: free answers) and its output schema; and the requests
    that an LLM judge doubts.

    By itself it knows what users said: corrections and negative feedback.
    """

    confidence_below: float | None = None
    form: bool = False
    where: str | None = None
    labels: tuple[str, ...] = ()
    schema: Schema | None = None
    doubted: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, rules: Failures, labels: Sequence[str], schema: Schema | None, doubted: frozenset[str] = frozenset()
    ) -> "Selector":  # fmt: skip
        return cls(rules.confidence_below, rules.form, rules.where, tuple(labels), schema, doubted)

    def told(self, rows: "Rows") -> "Rows":
        """The rows, with a column of bool for each reason; ParamsError where failures.where is no condition."""

        reasons = {WHY + name: found.fill_null(False) for name, found in self._reasons(rows).items()}
        return rows.like(rows.expr.mutate(**reasons))

    def chosen(self, rows: "Rows") -> "Rows":
        """Those that have a reason."""
        return self.told(rows).where(lambda t: ibis.or_(*(t[name] for name in t.columns if name.startswith(WHY))))

    def _reasons(self, rows: "Rows") -> dict[str, Any]:
        """A further rule is an entry here and in REASONS."""
        table = rows.expr
        found = {"correction": table.correction.strip() != "", "feedback": table.feedback == -1}
        if self.confidence_below is not None:
            found["confidence"] = table.confidence < self.confidence_below
        if self.form:
            found["form"] = self._misfits(rows)
        if self.where is not None:
            found["condition"] = condition(rows, self.where)
        if self.doubted:
            found["judge"] = table.request_id.isin(sorted(self.doubted))
        return found

    def _misfits(self, rows: "Rows") -> Any:
        """Whether an answer breaks its form. Labels are compared in the engine; a JSON schema is checked here, each distinct
        answer once, and the engine gets the answers that break it."""
        answer = rows.expr.response.fill_null("")
        if self.labels:
            return ~answer.strip().isin(list(self.labels))
        if self.schema is None:
            return answer.strip() == ""
        answers = rows.engine.run(rows.expr.select(answer=answer).distinct())["answer"]
        return answer.isin(["", *(text for text in answers if text and misfit(text, self.schema))])


def reasons_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The reasons of a row that `told` gave."""
    return tuple(name for name in REASONS if row.get(WHY + name))
