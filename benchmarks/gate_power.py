"""What the gate lets through and what it stops, from simulated candidates through the real `gate.judge`; and looking again.

    python benchmarks/gate_power.py [--draws 1000] [--json]

Each suite (audit, golden, retained) has 200, 500 or 1,000 rows of 12 labels, of which one holds 8 %. The arms differ by
chance on 10 % of the rows, as often to the good as to the bad; margin 5 points, level 0.05, a gain of 2 points asked for.
`bare_rule` is the rule "at least as many right on `audit`". The watch has 20 audited rows a window and 50 windows.
Keys: {case: {rows: {promoted, bare_rule}}}, and `watch`.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from retrain import gate, stats
from retrain.case import Answer, Prediction
from retrain.params import Gates
from retrain.verdict import ChampionState, Served

GATES = Gates(
    metric="right", level=0.05, margin=0.05, min_effect=0.02, min_rows=100, not_measured_max=0.02, floor={},
    parse_floor=None, repair=0.5, repair_min_rows=4,
    safety={"invalid": 0.1, "cut": 0.05, "refused": 0.02, "leaking": 0}, budget={"length": 1.5, "megabytes": 200},
    serves={"prompts": 50, "equal": 0.98},
)  # fmt: skip
SIZES = (200, 500, 1000)
SUITES = ("audit", "golden", "retained")
DIFFERING, ACCURACY, SLICES, SLICE_SHARE, ATTEMPTS, PROMOTIONS = 0.10, 0.85, 12, 0.08, 10, 5
SHA = {name: format(i, "x") * 64 for i, name in enumerate([*gate.HASHES, "champion", "suite", "predictions"], 1)}
SERVED = Served(
    adapter="support", candidate=SHA["adapter"], predictions=SHA["predictions"], backend="transformers", on="cpu fp32",
    evaluated_on="cpu fp32", asked=50, equal=50, tied=(), differing=(), refused=(), why=None,
).as_dict()  # fmt: skip
WINDOWS, ROWS_A_WINDOW = 50, 20
Right = dict[str, np.ndarray]  # suite -> who of the rows is right
CASES: dict[str, dict[str, Any]] = {  # gain: points by suite; slice: points on the slice, of every suite
    "identical": {},
    "better_2": {"gain": {"audit": 0.02}},
    "better_5": {"gain": {"audit": 0.05}},
    "better_10": {"gain": {"audit": 0.10}},
    "better_but_one_slice_15_worse": {"gain": {"audit": 0.10}, "slice": -0.15},
    "better_but_retained_10_worse": {"gain": {"audit": 0.10, "retained": -0.10}},
    "replace_by_equal": {"purpose": "replace"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="candidates a row of the table")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = run(arguments.draws, os.cpu_count() or 1)
    print(json.dumps(found) if arguments.json else table(found))


def run(draws: int, workers: int) -> dict[str, Any]:
    """Shares of candidates promoted; the same draws give the same numbers, whatever the workers."""
    rows = [(name, n) for name in (*CASES, *SERIES) for n in SIZES]
    found: dict[str, Any] = {name: {} for name, _ in rows}
    with ProcessPoolExecutor(workers) as pool:
        for (name, n), shares in zip(rows, pool.map(_row, rows, [draws] * len(rows)), strict=True):
            found[name][str(n)] = shares
            print(f"{name} {n}: {shares}", file=sys.stderr, flush=True)
    return {**found, "watch": watch(draws)}


def _row(row: tuple[str, int], draws: int) -> dict[str, float]:
    name, n = row
    rng, bench = np.random.default_rng([7, [*CASES, *SERIES].index(name), n]), Bench(n)
    tried = [SERIES[name](rng, bench) if name in SERIES else _once(rng, bench, CASES[name]) for _ in range(draws)]
    promoted, bare = np.mean(tried, axis=0)
    return {"promoted": round(float(promoted), 4), "bare_rule": round(float(bare), 4)}


class Bench:
    """Suites of n rows. The four predictions that a row can have are made once: what is drawn is which."""

    def __init__(self, n: int) -> None:
        self.n = n
        first = round(SLICE_SHARE * n)
        self.labels = np.array([0] * first + [1 + i % (SLICES - 1) for i in range(n - first)])
        self.rows = {suite: [self._row(suite, i) for i in range(n)] for suite in SUITES}

    def _row(self, suite: str, i: int) -> list[Prediction]:
        return [
            Prediction(
                suite=suite,  # type: ignore[arg-type]
                id=f"{i:05}",
                joins=(f"{suite}{i}",),
                expected="yes",
                slice={"label": f"label {self.labels[i]}"},
                excluded=None,
                question="?",
                arms={
                    "candidate": Answer(answer="yes" if ours else "no", right=bool(ours), parsed=True),
                    "champion": Answer(answer="yes" if theirs else "no", right=bool(theirs), parsed=True),
                    "base": Answer(answer="none", right=False, parsed=False),
                },
            )
            for ours in (0, 1)
            for theirs in (0, 1)
        ]

    def promoted(self, ours: Right, theirs: Right, purpose: str = "improve", tries: int = 0, anchors: Any = None) -> bool:
        rows = [
            self.rows[suite][i][2 * a + b]
            for suite in SUITES
            for i, (a, b) in enumerate(zip(ours[suite], theirs[suite], strict=True))
        ]
        tried = tuple(f"earlier {number}" for number in range(tries))
        state = ChampionState(
            adapter="support",
            purpose=purpose,
            version=1,
            digest=SHA["champion"],
            attempts=tried,
            audit=None,
            anchors=anchors or {},
        )
        bound = {
            **{name: SHA[name] for name in gate.HASHES},
            "champion": SHA["champion"],
            "attempts": tries,
            "predictions": SHA["predictions"],
            "rows": dict.fromkeys(SUITES, self.n),
            "bytes": 20_000_000,
            "suites": dict.fromkeys(SUITES, SHA["suite"]),
            "evaluated": {
                "candidate": SHA["adapter"],
                "champion": SHA["champion"],
                "hashes": dict.fromkeys(SUITES, SHA["suite"]),
            },
        }
        given: Any = rows
        return gate.judge(given, gates=GATES, state=state, task="classification", bound=bound, served=SERVED).promote

    def champion(self, rng: np.random.Generator) -> Right:
        return {suite: (rng.random(self.n) < ACCURACY).astype(int) for suite in SUITES}

    def candidate(self, rng: np.random.Generator, champion: Right, gain: dict[str, float], slice_: float | None) -> Right:
        """Differs from the champion by chance on a tenth of the rows, and by the gain on top where it is more than that."""
        found = {}
        for suite in SUITES:
            gains = np.full(self.n, gain.get(suite, 0.0))
            gains = gains if slice_ is None else np.where(self.labels == 0, slice_, gains)
            differing = np.maximum(DIFFERING, np.abs(gains))
            right = champion[suite]
            share = right.mean()  # a right row is lost, a wrong one won, so often that the wished shares of all rows come out
            losing, winning = (differing - gains) / 2 / share, (differing + gains) / 2 / (1 - share)
            flipped = rng.random(self.n) < np.where(right == 1, losing, winning)
            found[suite] = np.where(flipped, 1 - right, right)
        return found


def _once(rng: np.random.Generator, bench: Bench, case: dict[str, Any]) -> tuple[bool, bool]:
    champion = bench.champion(rng)
    candidate = bench.candidate(rng, champion, case.get("gain", {}), case.get("slice"))
    promoted = bench.promoted(candidate, champion, case.get("purpose", "improve"))
    return promoted, bool(candidate["audit"].sum() >= champion["audit"].sum())


def _attempts(rng: np.random.Generator, bench: Bench) -> tuple[bool, bool]:
    """Ten equal candidates, one after another, on the same rows: was any promoted?"""
    champion = bench.champion(rng)
    passed = bare = False
    for tries in range(ATTEMPTS):
        candidate = bench.candidate(rng, champion, {}, None)
        passed = passed or bench.promoted(candidate, champion, tries=tries)
        bare = bare or bool(candidate["audit"].sum() >= champion["audit"].sum())
    return passed, bare


def _chain(rng: np.random.Generator, bench: Bench) -> tuple[bool, bool]:
    """Five candidates in a row, each 2 points worse on golden and retained than the one before: do all five pass?

    Each has a fresh audit file, on which it is 10 points better. The anchor of every row is the first champion.
    """
    champion = bench.champion(rng)
    anchors = {suite: {f"{i:05}": bool(r) for i, r in enumerate(champion[suite])} for suite in ("golden", "retained")}
    passed = bare = True
    for number in range(PROMOTIONS):
        champion["audit"] = bench.champion(rng)["audit"]
        candidate = bench.candidate(rng, champion, {"audit": 0.10, "golden": -0.02, "retained": -0.02}, None)
        passed = passed and bench.promoted(candidate, champion, anchors=anchors if number else None)
        bare = bare and bool(candidate["audit"].sum() >= champion["audit"].sum())
        champion = candidate
    return passed, bare


SERIES: dict[str, Callable[[np.random.Generator, Bench], tuple[bool, bool]]] = {
    "ten_attempts_on_the_same_rows": _attempts,
    "five_promotions_each_2_worse": _chain,
}


def watch(draws: int) -> dict[str, Any]:
    """False rollbacks over 50 windows, and windows until a loss of 5 points is seen, by e-process and by a test a window."""
    found: dict[str, Any] = {"windows": WINDOWS, "rows_a_window": ROWS_A_WINDOW}
    for name, loss in (("false_rollbacks", 0.0), ("loss_of_5_points", 0.05)):
        rng = np.random.default_rng([7, 200, int(100 * loss)])
        shares = [(DIFFERING + loss) / 2, (DIFFERING - loss) / 2, 1 - DIFFERING]
        drawn = rng.multinomial(ROWS_A_WINDOW, shares, (draws, WINDOWS)).cumsum(axis=1)
        for rule, says in (("e_process", _e_process), ("naive", _naive)):
            at = [next((w + 1 for w in range(WINDOWS) if says(int(d[w, 0]), int(d[w, 1]))), None) for d in drawn]
            caught = [w for w in at if w is not None]
            told: dict[str, Any] = {"rolled_back": round(len(caught) / draws, 4)}
            if loss:
                told["median_windows"] = float(np.median([w if w is not None else math.inf for w in at]))
            found.setdefault(rule, {})[name] = told
    return found


def _e_process(lost: int, won: int) -> bool:
    return stats.e_process_harm(lost, won, level=GATES.level)


def _naive(lost: int, won: int) -> bool:
    return stats.mcnemar_p(lost, won) <= GATES.level


def table(found: dict[str, Any]) -> str:
    lines = ["| candidate | rows a suite | promoted | rule `>=` |", "|---|---|---|---|"]
    for case, sizes in found.items():
        if case != "watch":
            name = case.replace("_", " ")
            lines += [f"| {name} | {n} | {s['promoted']:.1%} | {s['bare_rule']:.1%} |" for n, s in sizes.items()]
    seen = found["watch"]
    lines += ["", f"{seen['windows']} windows of {seen['rows_a_window']} audited rows:", ""]
    lines += ["| watch | false rollbacks | a loss of 5 points caught | median windows |", "|---|---|---|---|"]
    for rule, name in (("e_process", "e-process"), ("naive", "a test at each window")):
        false, real = seen[rule]["false_rollbacks"], seen[rule]["loss_of_5_points"]
        lines.append(f"| {name} | {false['rolled_back']:.1%} | {real['rolled_back']:.1%} | {real['median_windows']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
