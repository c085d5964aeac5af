"""What the router costs and what it is worth: on the shipped specialists, and on any labelled CSV cut into specialists.

    python benchmarks/routing.py [--data DIR] [--specialists 4] [--out-of-scope 9] [--cut topic random] [--per-intent N]
        [--answers regression|adapter] [--seed 0] [--json]

accuracy: rows that go to their specialist; refused: rows of a specialist that go to nobody; end to end: rows that go to their
specialist and are answered rightly there; oracle: the same if each row went to its specialist; one: a single model for
everything, which never refuses. DIR has train.csv and test.csv (text,category): its intents are cut by topic (k-means of
their mean vectors) or at random; --out-of-scope of them belong to nobody, every second of these brings rows to fit on (seen),
the others none (unseen). Answers are those of logistic regression on sentence vectors, one model a specialist; with --answers
adapter those that `dvc repro` stored in out/ (shipped specialists alone). ms: one message routed, after the first.

Example: python benchmarks/routing.py --data ../banking77 --json
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from retrain import params as params_  # noqa: E402
from retrain import regression, router, routing, story  # noqa: E402
from retrain.errors import ParamsError  # noqa: E402
from retrain.records import Example, read_jsonl  # noqa: E402
from retrain.sections import Router as Rules  # noqa: E402
from retrain.simulate import read_traffic  # noqa: E402
from retrain.text import vectors  # noqa: E402

Right = dict[str, dict[str, bool]]  # specialist -> id of a row -> whether its answer to it is right


def share(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def milliseconds(found: routing.Router, texts: Sequence[str]) -> dict[str, float]:
    """p50 and p99 of one message after another."""
    found.route(texts[0])
    took = []
    for text in texts:
        began = time.perf_counter()
        found.route(text)
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return {"p50": round(took[len(took) // 2], 3), "p99": round(took[min(len(took) - 1, int(0.99 * len(took)))], 3)}


def told(
    rows: routing.Rows, rules: Rules, right: Right, outside: Mapping[str, Sequence[str]], seed: int,
    one: Mapping[str, bool] | None,
) -> dict[str, Any]:  # fmt: skip
    """Fit, and measure on what judges; outside: kinds of texts that are for nobody."""
    began = time.perf_counter()
    found = routing.fit(rows, rules, seed=seed)
    took = time.perf_counter() - began
    goes = {name: found.routes([row.question for row in judged]) for name, judged in rows.judged.items()}
    pairs = [(name, row, route) for name in rows.judged for row, route in zip(rows.judged[name], goes[name], strict=True)]
    answered = [(name, row, route) for name, row, route in pairs if row.id in right.get(name, {})]
    return {
        "rows": {name: {"fit": len(rows.human[name]), "judge": len(rows.judged[name])} for name in rows.judged},
        "fit_seconds": round(took, 1),
        "kilobytes": round(sum(map(len, routing.packed(found).values())) / 1024),
        "threshold": round(found.threshold, 4),
        "accuracy": share([route.specialist == name for name, _, route in pairs]),
        "accuracy_by_specialist": {n: share([r.specialist == n for m, _, r in pairs if m == n]) for n in rows.judged},
        "refused": share([route.specialist is None for _, _, route in pairs]),
        "out_of_scope": {
            kind: {"n": len(texts), "refused": share([route.specialist is None for route in found.routes(texts)])}
            for kind, texts in outside.items()
        },
        "end_to_end": {
            "n": len(answered),
            "routed": share([route.specialist == name and right[name][row.id] for name, row, route in answered]),
            "oracle": share([right[name][row.id] for name, row, _ in answered]),
            "one": None if one is None else share([one[row.id] for _, row, _ in answered]),
        },
        "ms": milliseconds(found, [row.question for _, row, _ in pairs][:500]),
    }


def by_regression(train: Sequence[Example], judged: Sequence[Example], seed: int) -> dict[str, bool]:
    said = regression.answers(train, [row.question for row in judged], seed=seed)
    return {row.id: answer == row.answer for row, answer in zip(judged, said, strict=True)}


# --- the shipped specialists


def shipped(answers: str, seed: int) -> dict[str, Any]:
    params = params_.load(ROOT)
    rules, rows = params.router["auto"], router.rows_of(ROOT, params)
    _, judges = rows.halves(rules.nobody_judges)
    traffic = [row["text"] for row in read_traffic(ROOT / "data/traffic/support.jsonl") if row["label"] == "out_of_scope"]
    if answers == "adapter":
        right = {name: stored(name) for name in params.adapters}
    else:
        right = {
            name: by_regression(rows.human[name], rows.judged[name], seed)
            for name, spec in params.adapters.items()
            if spec.labels
        }
    return told(rows, rules, right, {"nobody.jsonl": judges, "support's traffic": traffic}, seed, None)


def stored(name: str) -> dict[str, bool]:
    path = ROOT / "out" / name / "predictions" / "predictions.jsonl"
    if not path.exists():
        raise ParamsError(f"{path} does not exist: --answers adapter reads what `dvc repro evaluate@{name}` stores")
    return {row["id"]: bool(row["arms"]["candidate"]["right"]) for row in read_jsonl(path)}


# --- a CSV


def cut(means: Mapping[str, Any], specialists: int, how: str, seed: int) -> dict[str, str]:
    """Intent -> specialist."""
    names = sorted(means)
    if how == "random":
        random.Random(seed).shuffle(names)
        return {name: f"s{i % specialists}" for i, name in enumerate(names)}
    import numpy as np
    from sklearn.cluster import KMeans

    which = KMeans(specialists, n_init=10, random_state=seed).fit_predict(np.stack([means[name] for name in names]))
    return {name: f"s{n}" for name, n in zip(names, which, strict=True)}


def of_csv(data: Path, asked: argparse.Namespace) -> dict[str, Any]:
    train, test = (story.read_csv(data / name)[0] for name in ("train.csv", "test.csv"))
    names = sorted({row["label"] for row in train})
    if len(names) < asked.specialists + asked.out_of_scope:
        raise ParamsError(
            f"{data}/train.csv has {len(names)} categories, {asked.specialists + asked.out_of_scope} are asked for"
        )
    random.Random(asked.seed).shuffle(names)
    apart, own = names[: asked.out_of_scope], names[asked.out_of_scope :]
    seen, unseen = apart[::2], apart[1::2]
    rows = {part: _examples(found) for part, found in (("train", train), ("test", test))}
    learn = {name: _few([row for row in rows["train"] if row.answer == name], asked.per_intent) for name in names}
    means = {name: vectors([row.question for row in learn[name]]).mean(axis=0) for name in own}
    nobody = [*router.read_nobody(ROOT / router.NOBODY), *(row.question for name in seen for row in learn[name])]
    outside = {
        kind: [row.question for row in rows["test"] if row.answer in some]
        for kind, some in (("seen", seen), ("unseen", unseen))
    }
    whole = [row for name in own for row in learn[name]]
    one = by_regression(whole, [row for row in rows["test"] if row.answer in own], asked.seed)
    rules, found = params_.load(ROOT).router["auto"], {}
    for how in asked.cut:
        of = cut(means, asked.specialists, how, asked.seed)
        parts = sorted(set(of.values()))
        human = {part: [row for row in whole if of[row.answer] == part] for part in parts}
        judged = {part: [row for row in rows["test"] if of.get(row.answer) == part] for part in parts}
        labels = {part: tuple(name for name in own if of[name] == part) for part in parts}
        clean = routing.Rows(human, judged, nobody, labels).clean()
        right = {part: by_regression(clean.human[part], clean.judged[part], asked.seed) for part in parts}
        found[how] = told(clean, rules, right, outside, asked.seed, one)
    return found


def _examples(rows: Sequence[dict[str, str]]) -> list[Example]:
    return [Example.of(row["text"], row["label"], source="seed") for row in rows]


def _few(rows: list[Example], most: int | None) -> list[Example]:
    return sorted(rows, key=lambda row: row.id)[:most]


def lines(name: str, one: dict[str, Any]) -> list[str]:
    ends = ", ".join(f"{arm} {value:.1%}" for arm, value in one["end_to_end"].items() if arm != "n" and value is not None)
    away = ", ".join(f"{kind} {found['refused']:.1%} of {found['n']}" for kind, found in one["out_of_scope"].items())
    return [
        f"{name}: {one['accuracy']:.1%} routed right, {one['refused']:.1%} refused; out of scope and refused: {away}",
        f"  end to end on {one['end_to_end']['n']} rows: {ends}",
        f"  {one['kilobytes']} kB, fitted in {one['fit_seconds']} s; p50 {one['ms']['p50']} ms, p99 {one['ms']['p99']} ms",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train.csv and test.csv")
    parser.add_argument("--specialists", type=int, default=4)
    parser.add_argument("--out-of-scope", type=int, default=9, help="intents that belong to nobody")
    parser.add_argument("--cut", nargs="+", choices=("topic", "random"), default=["topic", "random"])
    parser.add_argument("--per-intent", type=int, help="rows an intent that are learned; default: all")
    parser.add_argument("--answers", choices=("regression", "adapter"), default="regression")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.specialists < 2 or asked.out_of_scope < 2 or (asked.per_intent or 1) < 1:
        parser.error("--specialists and --out-of-scope are at least 2, --per-intent at least 1")
    data = asked.data.resolve() if asked.data else None
    os.chdir(ROOT)
    found: dict[str, Any] = {"schema": 1, "answers": {"shipped": asked.answers}, "shipped": shipped(asked.answers, asked.seed)}
    if data:
        found["answers"]["data"] = "regression"
        found["data"] = of_csv(data, asked)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    for line in [
        *lines("shipped", found["shipped"]),
        *(x for how, one in found.get("data", {}).items() for x in lines(how, one)),
    ]:
        print(line)


if __name__ == "__main__":
    main()
