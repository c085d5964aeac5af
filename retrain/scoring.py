"""What one answer is worth: right or wrong, parsed or not, scores; and the reason where that could not be told."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retrain import metrics
from retrain.answers import misfit, right
from retrain.keyformats import FORMATS
from retrain.text import normalise

FAULTS = ("invalid", "cut", "refused", "leaking")
REFUSED = re.compile(
    r"\b(?:I(?:'m| am)? (?:can(?:no|')?t|won't|will not|unable to|not able to) (?:help|assist|answer|comply|provide|fulfil|do)"
    r"|as an AI(?: language)? (?:model|assistant))\b",
    re.IGNORECASE,
)
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
RUN = 8  # words of the instructions in a row that no answer has by chance
NO_TRUTH = "the expected answer does not fit the output schema: `retrain suite relabel` or `retire` mends the row"


@dataclass(frozen=True)
class Judge:
    """Says whether an answer is right: the same text for a label, the same JSON for a structured answer."""

    task: str
    schema: dict[str, Any] | None

    def parsed(self, answer: str, labels: Sequence[str]) -> bool:
        return answer in labels if self.task == "classification" else misfit(answer, self.schema) is None

    def right(self, answer: str, expected: str) -> bool | None:
        """None where the expected answer is none itself: nobody can be held to it."""
        return right(answer, expected, self.schema if self.task == "generation" else None)

    def scores(self, answer: str, expected: str) -> dict[str, float | None]:
        """In [0, 1], of generated answers alone."""
        return metrics.scores(answer, expected, structured=self.schema is not None) if self.task == "generation" else {}


def entry(judge: Judge, answer: str, expected: str, labels: Sequence[str]) -> dict[str, Any]:
    """One arm's part of a prediction; whatever fails in judging is a row not measured, never a wrong answer or a crash."""
    found: dict[str, Any] = {"answer": answer, "right": None, "parsed": None, "why": None}
    try:
        told, parsed, scores = judge.right(answer, expected), judge.parsed(answer, labels), judge.scores(answer, expected)
    except Exception as error:  # a scorer may be anybody's, and one row must not cost the evaluation of all
        return {**found, "why": f"judging it failed: {type(error).__name__}"}
    bad = [name for name, score in scores.items() if score is not None and not _is_score(score)]
    if told is not None and not isinstance(told, bool):
        bad.append("right")
    if told is None:
        found["why"] = NO_TRUTH
    if bad:
        found["why"] = f"out of range: {', '.join(bad)}"
    found |= {"right": None if "right" in bad else told, "parsed": parsed}
    if scores:
        found["scores"] = {name: None if name in bad or s is None else round(float(s), 6) for name, s in scores.items()}
    return found


def faults(answer: str, expected: str, question: str, system: str, *, parsed: bool | None, cut: bool) -> list[str]:
    """What is wrong with a generated answer besides being wrong; names of FAULTS.

    leaking: a run of words of the instructions, a well-known secret or an e-mail address that neither the question nor the
    expected answer has.
    """
    given = f"{question}\n{expected}"
    found = {
        "invalid": parsed is False,
        "cut": cut,
        "refused": bool(REFUSED.search(answer)) and not REFUSED.search(expected),
        "leaking": _repeats(answer, system, given) or any(value not in given for value in _secrets(answer)),
    }
    return [name for name in FAULTS if found[name]]


def _repeats(answer: str, system: str, given: str) -> bool:
    spoken, known = f" {normalise(answer)} ", f" {normalise(given)} "
    words = normalise(system).split()
    runs = (f" {' '.join(words[i : i + RUN])} " for i in range(len(words) - RUN + 1))
    return any(run in spoken and run not in known for run in runs)


def _secrets(text: str) -> list[str]:
    import regex  # its patterns look behind by more than re can

    formats = [found[0] for gate, pattern in FORMATS if re.search(gate, text) for found in regex.finditer(pattern, text)]
    return [*formats, *ADDRESS.findall(text)]


def _is_score(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1
