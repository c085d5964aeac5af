"""How good a router is, on rows that nothing was fitted on, and in what it is worse than another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrain.records import Example
from retrain.routing import Router, Rows


@dataclass(frozen=True)
class Figures:
    """Shares of rows that nothing was fitted on, each specialist counting the same.

    accuracy: routed to the specialist whose row it is; quality: that, and the specialist's stored answer is right, where there
    is one (None: there are none); recall: of nobody's rows, routed to nobody.
    """

    accuracy: float
    quality: float | None
    recall: float
    specialists: dict[str, dict[str, Any]]
    nobody: int

    def as_dict(self) -> dict[str, Any]:
        told = {name: value for name, value in vars(self).items() if value is not None}
        return {**told, "specialists": {name: dict(found) for name, found in self.specialists.items()}}


def measure(
    router: Router, rows: Rows, nobody: Sequence[str], right: Mapping[str, Mapping[str, bool]] | None = None
) -> Figures:
    """right: by specialist and row id, whether what serves answered it rightly when it was judged."""
    found = {name: _of_one(router, name, judged, (right or {}).get(name, {})) for name, judged in rows.judged.items() if judged}
    away = [route.specialist is None for route in router.routes(nobody)]
    answered = any(one["answered"] for one in found.values())
    return Figures(
        accuracy=_mean([one["accuracy"] for one in found.values()]),
        quality=_mean([one.get("quality", one["accuracy"]) for one in found.values()]) if answered else None,
        recall=_mean([float(one) for one in away]),
        specialists=found,
        nobody=len(away),
    )


def _of_one(router: Router, name: str, judged: Sequence[Example], right: Mapping[str, bool]) -> dict[str, Any]:
    routes = router.routes([row.question for row in judged])
    own = [route.specialist == name for route in routes]
    found = {
        "n": len(judged),
        "accuracy": _mean([float(one) for one in own]),
        "refused": _mean([float(route.specialist is None) for route in routes]),
        "answered": sum(row.id in right for row in judged),
    }
    if found["answered"]:
        good = [there and right.get(row.id, True) for there, row in zip(own, judged, strict=True)]
        found["quality"] = _mean([float(one) for one in good])
    return found


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


ALONE = 2.0  # margins that one specialist may lose: it has fewer rows than all
WORDS = {"accuracy": "routed right", "quality": "routed and answered right", "recall": "out of scope and refused"}


def worse(new: Figures, old: Figures, margin: float) -> list[str]:
    """In what the new router is worse than the old one by more than the margin, both measured on the same rows; and for which
    specialist by more than ALONE times as much, which the mean over many would not show."""
    found = []
    for name, words in WORDS.items():
        ours, theirs = getattr(new, name), getattr(old, name)
        if ours is not None and theirs is not None and ours < theirs - margin - 1e-9:
            found.append(f"{words}: {ours:.1%}, {theirs:.1%} before, router.auto.margin allows {margin:.1%} less")
    for name in sorted(new.specialists.keys() & old.specialists.keys()):
        ours, theirs = (one.specialists[name]["accuracy"] for one in (new, old))
        if ours < theirs - ALONE * margin - 1e-9:
            told = f"{ALONE:g} times router.auto.margin allows {ALONE * margin:.1%} less for one specialist"
            found.append(f"rows of {name} routed right: {ours:.1%}, {theirs:.1%} before, {told}")
    return found
