"""Check `slices`: what the candidate did to the rows of one label, or of one value of any other column that rows carry. PURE.

It blocks on evidence of harm: to demand of every slice that harm be ruled out would refuse everything (10 slices of 100
rows pass an identical candidate 0.2 % of the time).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from retrain import stats
from retrain.case import COMPARED, Case, Pair, Prediction, mean, rows_lost
from retrain.checks import EXAMPLES, paired
from retrain.clusters import independent
from retrain.figures import points, rounded
from retrain.verdict import Check, Harm

MOST = 3  # harmed slices that a refusal names
SHARED = 0.6  # of the lost rows have a word, ...
RARE = 0.5  # ... that no more than this share as many of the compared rows have: it is what they share


def slices(case: Case) -> tuple[Check | None, list[Harm]]:
    """(the check, what each harmed slice lost); no check where no compared row carries a slice.

    A slice's rows of all compared suites are pooled, one a cluster; "the candidate is worse" is tested by McNemar's exact
    test, at gates.level over all slices together (Holm). As in every paired test, a row that was not measured is lost; a suite
    of which too many were not tells nothing.
    """
    pooled = _pooled(case)
    found = _by_slice(pooled)
    if not found:
        return None, []
    level, names = case.gates.level, sorted(found)
    counts = {name: _counts(found[name]) for name in names}
    adjusted = stats.holm([stats.mcnemar_p(lost, won) for won, lost in (counts[name] for name in names)])
    ranked = sorted(zip(adjusted, names, strict=True), key=lambda pair: (pair[0], -_loss(found[pair[1]]), pair[1]))
    harmed = [name for p, name in ranked if p <= level]
    p, worst = ranked[0]
    (won, lost), n = counts[worst], len(found[worst])
    why = f"{len(names)} slices of {len(pooled)} rows: "
    why += "; ".join(_told(name, found[name]) for name in harmed[:MOST]) if harmed else _quiet(worst, won, lost, n, p)
    shared = "; ".join(filter(None, (_shared(name, found[name], pooled) for name in harmed[:MOST])))
    check = Check(
        name="slices", role="deterioration", slice=_title(worst), metric=case.metric,
        **paired(found[worst], case.metric, level), p=rounded(p), passed=not harmed, why=why, shared=shared,
    )  # fmt: skip
    return check, [harm for name in harmed for harm in _harm(name, found[name])]


Name = tuple[str, str]  # column and value


def _pooled(case: Case) -> list[Pair]:
    suites = [s for s in dict.fromkeys(s for group in COMPARED[case.state.purpose] for s in group) if not case.unmeasured(s)]
    pairs = [pair for suite in suites for pair in case.paired[suite]]
    return independent(pairs, of=lambda pair: (f"{pair.row.id} {pair.row.suite}", pair.row.joins))


def _by_slice(pooled: Sequence[Pair]) -> dict[Name, list[Pair]]:
    found: dict[Name, list[Pair]] = defaultdict(list)
    for pair in pooled:
        for column, value in pair[0].slice.items():
            if value is not None:
                found[column, str(value)].append(pair)
    return found


def _counts(rows: Sequence[Pair]) -> tuple[int, int]:
    return stats.discordant([pair.ours for pair in rows], [pair.theirs for pair in rows])


def _loss(rows: Sequence[Pair]) -> float:
    return mean([pair.theirs - pair.ours for pair in rows])


def _title(name: Name) -> str:
    return name[1] if name[0] == "label" else f"{name[0]} {name[1]}"


def _told(name: Name, rows: Sequence[Pair]) -> str:
    won, lost = _counts(rows)
    gone = rows_lost(rows)
    suites = Counter(row.suite for row in gone)
    where = ", ".join(f"{n} of {suite}" for suite, n in sorted(suites.items()))
    return f"{_title(name)} lost {points(_loss(rows))} ({lost} rows lost: {where}; {won} won, of {len(rows)})"


def _shared(name: Name, rows: Sequence[Pair], pooled: Sequence[Pair]) -> str:
    """What the lost rows of a slice have in common."""
    gone = rows_lost(rows)
    found = [*_answered(gone), *_words([row.question for row in gone], [row.question for row, _, _ in pooled])]
    return f"those of {_title(name)} share {' and '.join(found)}" if found else ""


def _answered(gone: Sequence[Prediction]) -> list[str]:
    """The wrong answer that most of the lost rows got."""
    given = Counter(row.arms["candidate"].answer for row in gone if "candidate" in row.arms)
    answer, n = given.most_common(1)[0] if given else (None, 0)
    return [f"the answer {answer[:60]!r} ({n})"] if answer and n >= max(2, SHARED * len(gone)) else []


def _words(gone: Sequence[str], every: Sequence[str]) -> list[str]:
    """The word that most of the lost rows have and few of the others do."""
    lost, all_ = _spoken(gone), _spoken(every)
    told = [
        (n, word)
        for word, n in lost.items()
        if n >= max(2, SHARED * len(gone)) and all_[word] / len(every) <= RARE * n / len(gone)
    ]
    best = min(told, key=lambda pair: (-pair[0], all_[pair[1]], pair[1]), default=None)
    return [f"the word {best[1]!r} ({best[0]})"] if best else []


def _spoken(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in {w[:40] for w in re.findall(r"\w{3,}", text.lower()[:4000])})


def _quiet(name: Name, won: int, lost: int, n: int, p: float) -> str:
    if lost <= won:
        return "none lost more than it won"
    return f"none lost more than chance explains; most did {_title(name)} ({lost} rows lost, {won} won, of {n}; p {p:.2g})"


def _harm(name: Name, rows: Sequence[Pair]) -> list[Harm]:
    """What the slice lost, suite by suite."""
    found = []
    for suite in sorted({row.suite for row in rows_lost(rows)}):
        ours_ = [pair for pair in rows if pair[0].suite == suite]
        won, lost = _counts(ours_)
        ids = tuple(row.id for row in rows_lost(ours_))[:EXAMPLES]
        found.append(Harm(suite=suite, label=_title(name), lost=lost, won=won, n=len(ours_), rows=ids))
    return found
