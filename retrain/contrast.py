"""What changed between two arms, row by row: the worst slices, rows won and lost, answers that are confused otherwise. PURE."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Predictions = Sequence[Mapping[str, Any]]  # rows of predictions.jsonl


@dataclass(frozen=True)
class Contrast:
    """One row that counts and was measured for both: what each answered, and its score in [0, 1]."""

    suite: str
    id: str
    question: str
    expected: str
    answer: str
    before: str
    score: float
    score_before: float
    slices: tuple[tuple[str, str], ...]

    @property
    def gain(self) -> float:
        return self.score - self.score_before


@dataclass(frozen=True)
class Slice:
    """Rows of one value of a column; scores are means in [0, 1]."""

    name: str
    rows: int
    score: float
    score_before: float
    won: int
    lost: int


def contrasts(predictions: Predictions, metric: str) -> list[Contrast]:
    """Rows that the candidate and its reference, the champion or else the base, both answered."""
    found = []
    for row in predictions:
        ours, theirs = row["arms"].get("candidate"), row["arms"].get("champion") or row["arms"].get("base")
        if row["excluded"] is not None or ours is None or theirs is None:
            continue
        score, score_before = _score(ours, metric), _score(theirs, metric)
        if score is not None and score_before is not None:
            slices = tuple((column, str(value)) for column, value in row["slice"].items() if value is not None)
            said = ours["answer"] or "", theirs["answer"] or ""
            found.append(
                Contrast(row["suite"], row["id"], row["question"], row["expected"], *said, score, score_before, slices)
            )
    return found


def _score(arm: Mapping[str, Any], metric: str) -> float | None:
    told = arm["right"] if metric == "right" else arm.get("scores", {}).get(metric)
    return None if told is None else float(told)


def won_and_lost(rows: Iterable[Contrast], most: int) -> tuple[list[Contrast], list[Contrast]]:
    """The rows on which most was won, and most lost; of equal ones another expected answer each time, while there is one."""
    return _first(rows, most, 1), _first(rows, most, -1)


def _first(rows: Iterable[Contrast], most: int, sign: int) -> list[Contrast]:
    place: Counter[str] = Counter()
    ranked = []
    for row in sorted((r for r in rows if sign * r.gain > 0), key=lambda r: (-sign * r.gain, r.suite, r.id)):
        ranked.append((-sign * row.gain, place[row.expected], row.suite, row.id, row))
        place[row.expected] += 1
    return [row for *_, row in sorted(ranked, key=lambda item: item[:4])][:most]


def by_slice(rows: Iterable[Contrast]) -> list[Slice]:
    """The slice that lost most first; of those alike the larger one."""
    groups: dict[tuple[str, str], list[Contrast]] = defaultdict(list)
    for row in rows:
        for key in row.slices:
            groups[key].append(row)
    found = [_slice(value if column == "label" else f"{column} {value}", group) for (column, value), group in groups.items()]
    return sorted(found, key=lambda s: (round(s.score - s.score_before, 6), -s.rows, s.name))


def _slice(name: str, rows: Sequence[Contrast]) -> Slice:
    n = len(rows)
    score, before = sum(row.score for row in rows) / n, sum(row.score_before for row in rows) / n
    return Slice(name, n, score, before, sum(row.gain > 0 for row in rows), sum(row.gain < 0 for row in rows))


def confusions(rows: Sequence[Contrast], most: int) -> list[tuple[str, str, int, int]]:
    """(expected, answered, times before, times now) of wrong answers from a closed set: those that changed most often."""
    now = Counter((row.expected, row.answer) for row in rows if row.answer != row.expected)
    before = Counter((row.expected, row.before) for row in rows if row.before != row.expected)
    changed = sorted({*now, *before}, key=lambda pair: (-abs(now[pair] - before[pair]), pair))
    return [(*pair, before[pair], now[pair]) for pair in changed if now[pair] != before[pair]][:most]
