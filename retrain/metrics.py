"""How good a generated answer is against the expected one: scores in [0, 1] beside right and wrong. PURE.

`gates.metric` names the one that the gate compares; every card shows them all.
"""

from collections import Counter
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from retrain.answers import spelled, value_of
from retrain.figures import percent
from retrain.text import normalise

NAMES = {
    "right": "right",
    "fields": "of the fields right",
    "token_f1": "token F1",
    "chrf": "chrF",
    "judge": "preferred by the judge",
}


def said(metric: str, share: float) -> str:
    return f"{percent(share)} {NAMES[metric]}"


def scores(answer: str, expected: str, *, structured: bool) -> dict[str, float | None]:
    """Every score that makes sense: `fields` of JSON; None where the expected answer cannot be held to."""
    found: dict[str, float | None] = {"token_f1": token_f1(answer, expected), "chrf": chrf(answer, expected)}
    return {"fields": fields(answer, expected), **found} if structured else found


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over the words of the normalised texts, as in SQuAD (Rajpurkar et al. 2016)."""
    ours, theirs = normalise(answer).split(), normalise(expected).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def chrf(answer: str, expected: str) -> float:
    """chrF (Popovic 2015): F-score, recall twice as heavy, over character n-grams of up to 6; by sacrebleu."""
    return min(1.0, float(_chrf().sentence_score(answer, [expected]).score) / 100)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def fields(answer: str, expected: str) -> float | None:
    """Share of the fields of two JSON values that are equal, of all that either has; 0 for an answer that is no JSON.

    Null is a value, and not the same as a field that is missing. Numbers are equal by value (1.0 is 1, true is not). Keys have
    no order, items of a list do: those that are equal in the longest common order are matched, the rest one by one.
    """
    try:
        wanted = value_of(expected)
    except (ValueError, RecursionError):
        return None
    try:
        right, total = _fields(value_of(answer), wanted)
    except (ValueError, ArithmeticError, RecursionError):
        return 0.0
    return right / total


def _fields(ours: Any, wanted: Any) -> tuple[int, int]:
    """(fields that are equal, fields in all)."""
    if isinstance(ours, dict) and isinstance(wanted, dict) and (ours or wanted):
        pairs = [(ours.get(key, ABSENT), wanted.get(key, ABSENT)) for key in {**wanted, **ours}]
    elif isinstance(ours, list) and isinstance(wanted, list) and (ours or wanted):
        pairs = _aligned(ours, wanted)
    else:
        same = ABSENT not in (ours, wanted) and spelled(ours) == spelled(wanted)
        return (1, 1) if same else (0, max(_leaves(ours), _leaves(wanted)))
    found = [_fields(*pair) for pair in pairs]
    return sum(right for right, _ in found), sum(total for _, total in found)


ABSENT = type("Absent", (), {})()  # not None, which is a value


def _aligned(ours: list[Any], wanted: list[Any]) -> list[tuple[Any, Any]]:
    matcher = SequenceMatcher(None, [spelled(x) for x in ours], [spelled(x) for x in wanted], autojunk=False)
    pairs: list[tuple[Any, Any]] = []
    for _, a, b, c, d in matcher.get_opcodes():
        left, right = ours[a:b], wanted[c:d]
        most = max(len(left), len(right))
        pairs += zip(left + [ABSENT] * (most - len(left)), right + [ABSENT] * (most - len(right)), strict=True)
    return pairs


def _leaves(value: Any) -> int:
    if value is ABSENT:
        return 0
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(_leaves(one) for one in inner) or 1
