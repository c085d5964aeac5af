"""Any two versions side by side, from the predictions that their gates stored: nothing is asked anew.

Rows are paired where both have answered the same row; what a version answered as candidate and, later, as champion counts
alike, for the bytes are the same.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrain import ledger, lineage, stats
from retrain.errors import NotEnoughData, ParamsError
from retrain.markdown import escape
from retrain.objects import GoneError
from retrain.store import Store
from retrain.workspace import Workspace

LEVEL = 0.05  # of each side of an interval: what is shown decides nothing
SHOWN = 20  # rows won and rows lost
Key = tuple[str, str]  # suite, row


@dataclass(frozen=True)
class Row:
    """One row that both answered."""

    suite: str
    slices: Mapping[str, str]
    question: str
    expected: str
    answers: tuple[str, str]
    right: tuple[bool, bool]


@dataclass(frozen=True)
class Side:
    """Rows of a suite, or of a slice of it: shares of n right, rows that only the second and only the first got right."""

    name: str
    n: int
    first: float
    second: float
    won: int
    lost: int
    interval: tuple[float, float]  # of the difference, Tango's
    p_better: float  # exact, one-sided
    p_worse: float


@dataclass(frozen=True)
class Comparison:
    names: tuple[str, str]
    rows: tuple[Row, ...]
    suites: tuple[Side, ...]
    slices: tuple[Side, ...]


def compare(workspace: Workspace, first: str, second: str) -> Comparison:
    """`support-v1` and `support-v2`; ParamsError where one was never promoted or they are of two adapters."""
    one, two = (lineage.promoted(workspace, name) for name in (first, second))
    if one.adapter != two.adapter or one.digest == two.digest:
        raise ParamsError(f"{first} and {second}: give two versions of one adapter")
    store, attempts = Store(workspace), ledger.state(lineage.entries(workspace, one.adapter)).attempts
    answers = [_answers(store, attempts, version) for version in (one, two)]
    rows = pair(*answers)
    if not rows:
        raise NotEnoughData(f"{first} and {second} have answered no row in common: their suites were all different")
    return comparison((one.tag, two.tag), rows)


def _answers(store: Store, attempts: Sequence[ledger.Attempt], version: ledger.Promotion) -> dict[Key, dict[str, Any]]:
    """(suite, row) -> the row with what this version answered, from every attempt whose candidate or champion it was."""
    found: dict[Key, dict[str, Any]] = {}
    for attempt in attempts:
        arm = {attempt.digest: "candidate", attempt.champion: "champion"}.get(version.digest)
        for row in _predictions(store, attempt) if arm else ():
            if arm in row["arms"] and row["excluded"] is None and row["arms"][arm]["right"] is not None:
                found[row["suite"], row["id"]] = {**row, "said": row["arms"][arm]}
    return found


def _predictions(store: Store, attempt: ledger.Attempt) -> Iterable[dict[str, Any]]:
    """None where an erasure took them."""
    adapter = attempt.adapter
    try:
        files = store.out(attempt.commit, f"evaluate@{adapter}", f"out/{adapter}/predictions")
        return list(store.rows(files["predictions.jsonl"])) if files else []
    except GoneError:
        return []


def pair(first: Mapping[Key, Mapping[str, Any]], second: Mapping[Key, Mapping[str, Any]]) -> list[Row]:
    """Rows that both answered, by suite and id."""
    rows = []
    for key in sorted(first.keys() & second.keys()):
        said, row = (first[key]["said"], second[key]["said"]), second[key]
        answers, right = (said[0]["answer"], said[1]["answer"]), (bool(said[0]["right"]), bool(said[1]["right"]))
        rows.append(Row(key[0], row["slice"], row["question"], row["expected"], answers, right))
    return rows


def comparison(names: tuple[str, str], rows: Sequence[Row]) -> Comparison:
    """Counts and tests by suite, and by slice over all suites, the slices that changed most first. Pure."""
    suites: dict[str, list[Row]] = defaultdict(list)
    slices: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        suites[row.suite].append(row)
        for column, value in row.slices.items():
            slices[f"{column} {value}"].append(row)
    sides = sorted((side(name, mine) for name, mine in slices.items()), key=lambda s: (s.won - s.lost, s.name))
    return Comparison(names, tuple(rows), tuple(side(name, mine) for name, mine in sorted(suites.items())), tuple(sides))


def side(name: str, rows: Sequence[Row]) -> Side:
    n = len(rows)
    won, lost = stats.discordant([row.right[1] for row in rows], [row.right[0] for row in rows])
    first, second = (sum(row.right[i] for row in rows) / n for i in (0, 1))
    interval = stats.tango_interval(won, lost, n, level=LEVEL)
    return Side(name, n, first, second, won, lost, interval, stats.mcnemar_p(won, lost), stats.mcnemar_p(lost, won))


def as_dict(found: Comparison) -> dict[str, Any]:
    """JSON-ready, without the rows' texts."""
    parts = {name: [vars(side) for side in getattr(found, name)] for name in ("suites", "slices")}
    return {"schema": 1, "first": found.names[0], "second": found.names[1], "rows": len(found.rows), **parts}


def page(found: Comparison) -> str:
    """Markdown: a sentence, the suites, the slices that changed, rows won and lost side by side."""
    first, second = found.names
    won = [row for row in found.rows if row.right == (False, True)]
    lost = [row for row in found.rows if row.right == (True, False)]
    lines = [f"# {first} and {second}", "", f"{_sentence(found, len(won), len(lost))}", ""]
    lines += ["## Suites", "", *_table(found.names, found.suites), ""]
    changed = [side for side in found.slices if side.won or side.lost]
    lines += ["## Slices that changed, over all suites", "", *_table(found.names, changed), ""] if changed else []
    lines += [f"## Lost: only {first} is right", "", *_rows(found.names, lost), ""]
    lines += [f"## Won: only {second} is right", "", *_rows(found.names, won), ""]
    return "\n".join(lines)


def _sentence(found: Comparison, won: int, lost: int) -> str:
    first, second = found.names
    told = f"{second} alone is right on {won}, {first} alone on {lost}; on the others they are equal"
    return f"Of {len(found.rows)} rows that both answered, {told}."


def _table(names: tuple[str, str], sides: Sequence[Side]) -> list[str]:
    head = ["", "rows", *names, "difference", "90 % interval", "won", "lost", "chance, if not better", "chance, if not worse"]
    return [_line(head), f"|{'---|' * len(head)}", *(_line(_cells(side)) for side in sides)]


def _cells(side: Side) -> list[str]:
    low, high = (f"{100 * end:+.1f}" for end in side.interval)
    shares = [f"{100 * share:.1f} %" for share in (side.first, side.second)]
    chances = [f"{p:.2g}" for p in (side.p_better, side.p_worse)]
    difference = f"{100 * (side.second - side.first):+.1f}"
    return [side.name, str(side.n), *shares, difference, f"{low} to {high}", str(side.won), str(side.lost), *chances]


def _rows(names: tuple[str, str], rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["None."]
    head = ["suite", "question", "expected", *names]
    shown = [_line([row.suite, row.question, row.expected, *row.answers]) for row in rows[:SHOWN]]
    more = ["", f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    return [_line(head), f"|{'---|' * len(head)}", *shown, *more]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(escape(cell) for cell in cells)} |"
