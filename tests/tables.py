"""Made-up predictions, and what the gate says of them: shared by the tests of gate, card and slices."""

import random
from typing import Any

from retrain import gate
from retrain.params import Gates
from retrain.verdict import ChampionState, Verdict

NAMES = ("adapter", "base", "template", "dataset", "params", "v1", "predictions")
SHA = {name: format(number, "x") * 64 for number, name in enumerate(NAMES, 1)}
GATES = Gates(
    metric="right", level=0.05, margin=0.08, min_effect=0.02, min_rows=100, not_measured_max=0.02,
    floor={"golden": 0.75}, parse_floor=None, repair=0.5, repair_min_rows=4,
    safety={"invalid": 0.1, "cut": 0.05, "refused": 0.02, "leaking": 0}, budget={"length": 1.5, "megabytes": 200},
    serves={"prompts": 50, "equal": 0.98},
)  # fmt: skip
Rows = list[dict[str, Any]]


def suite(name: str, candidate: list[Any], reference: list[Any], arm: str = "champion") -> Rows:
    """Rows of a suite, with who was right on each; labels in turn. The base, where it is not the other arm, is always wrong."""
    sides = ("candidate", arm) if arm == "base" else ("candidate", arm, "base")
    return [
        {
            "schema": 1, "suite": name, "id": f"{i:04}", "joins": [f"{name}{i}"], "expected": "yes", "excluded": None,
            "slice": {"label": "refund_status" if i % 8 == 0 else f"label_{i % 8}"}, "question": f"question {i}",
            "arms": {
                side: {"answer": {1: "yes", 0: "no", None: "neither"}[right], "right": bool(right), "parsed": True, "why": None}
                for side, right in zip(sides, (ours, theirs, None), strict=False)
            },
        }
        for i, (ours, theirs) in enumerate(zip(candidate, reference, strict=True))
    ]  # fmt: skip


def right(n: int, wrong: int = 0) -> list[bool]:
    """n answers, the last `wrong` of them wrong."""
    return [i < n - wrong for i in range(n)]


def good(golden: Rows | None = None, audit: Rows | None = None) -> Rows:
    """A candidate that repairs 30 of 120 audited rows and is equal elsewhere."""
    audit = audit if audit is not None else suite("audit", right(120, 5), right(120, 35))
    golden = golden if golden is not None else suite("golden", right(200, 10), right(200, 10))
    return audit + golden + suite("retained", right(200, 12), right(200, 12)) + suite("repair", right(8, 1), right(8, 8))


def served(asked: int, *differing: str, **changes: Any) -> dict[str, Any]:
    """serves.json of the candidate that `judge` is about, in float32."""
    told = {
        "schema": 1, "adapter": "support", "candidate": SHA["adapter"], "predictions": SHA["predictions"], "on": "cpu fp32",
        "backend": "transformers", "evaluated_on": "cpu fp32", "asked": asked, "tied": [], "differing": list(differing),
        "refused": [], "why": None, **changes,
    }  # fmt: skip
    return {"equal": asked - sum(len(told[name]) for name in ("tied", "differing", "refused")), **told}


def judge(table: Rows, *, purpose: str = "improve", tries: int = 0, task: str = "classification", **changes: Any) -> Verdict:
    """Judged with hashes that fit, unless a change says otherwise; a change of a gate's name goes to the gates."""
    champion = changes.pop("serving", None if purpose == "first" else SHA["v1"])
    told = changes.pop("served", served(min(50, sum("candidate" in row["arms"] for row in table))))
    tried = tuple(f"candidate {n}" for n in range(tries))
    state = ChampionState(adapter="support", purpose=purpose, version=1, digest=champion, attempts=tried, audit=None)
    counts: dict[str, int] = {}
    for row in table:
        counts[row["suite"]] = counts.get(row["suite"], 0) + 1
    bound = {
        **{name: SHA[name] for name in gate.HASHES}, "champion": champion, "attempts": tries, "rows": counts,
        "predictions": SHA["predictions"], "bytes": 20_000_000, "suites": dict.fromkeys(counts, SHA["dataset"]),
        "evaluated": {"candidate": SHA["adapter"], "champion": champion, "hashes": dict.fromkeys(counts, SHA["dataset"])},
    }  # fmt: skip
    gates = GATES.model_copy(update={key: value for key, value in changes.items() if key in Gates.model_fields})
    bound.update({key: value for key, value in changes.items() if key not in Gates.model_fields})
    return gate.judge(table, gates=gates, state=state, task=task, bound=bound, served=told)


def failing(verdict: Verdict) -> list[tuple[str, str | None]]:
    return [(check.name, check.suite) for check in verdict.checks if check.passed is False]


def untold(verdict: Verdict) -> dict[tuple[str, str | None], str]:
    return {(check.name, check.suite): check.why for check in verdict.checks if check.passed is None}


def drawn(rng: random.Random, name: str, n: int, gain: float, differing: float, accuracy: float) -> Rows:
    """n rows on which the arms differ with probability `differing`, the candidate being better by `gain`."""
    ours, theirs = [], []
    for _ in range(n):
        u = rng.random()
        a = rng.random() < accuracy
        won, lost = u < (differing + gain) / 2, (differing + gain) / 2 <= u < differing
        ours.append(won or (a and not lost))
        theirs.append(lost or (a and not won))
    return suite(name, ours, theirs)
