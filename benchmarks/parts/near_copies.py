"""Suite rows that come back changed, and rows of other people: what is called a copy, a near copy, a paraphrase.

    python benchmarks/parts/near_copies.py [--data DIR] [--seeds 3] [--json]

Half of the text is the suite, whose rows come back changed in ways that are named; the other half are rows of other people.
Each is held against all rows of the suite with its answer, as `prepare` does (retrain/contamination.py):
  exact      the hash of the normalised question
  near       at least prepare.near of the character 3-grams in common (retrain/copies.py)
  vectors    sentence vectors with a cosine of at least prepare.paraphrase
The text is that of the adapter `support`, for which 48 golden rows are paraphrased by hand (paraphrases.jsonl), and
with --data the train.csv (text,category) of a folder. `benchmarks/curation_quality.py` measures this too.
"""

import argparse
import json
import random
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from parts import texts  # noqa: E402
from retrain import params as params_  # noqa: E402
from retrain.copies import copied, groups  # noqa: E402
from retrain.records import question_key, read_jsonl  # noqa: E402
from retrain.text import vectors  # noqa: E402

Row = tuple[str, str]  # text, label
POLITE = ("Hi, {}", "Hello there, {}", "{} Please help.", "{} Thanks!", "{} Thank you very much.", "Please, {}")
LOOKALIKES = str.maketrans("aeopcxyi", "аеорсхуі")  # Latin to Cyrillic


def typo(text: str, rng: random.Random) -> str:
    """A letter turned, dropped, doubled or hit wrongly."""
    at = rng.randrange(max(len(text) - 1, 1))
    before, here, after = text[:at], text[at : at + 1], text[at + 1 :]
    return rng.choice(
        (before + after[:1] + here + after[1:], before + after, before + here + here + after, f"{before}q{after}")
    )


def words(text: str, rng: random.Random, change: Callable[[list[str], int], None]) -> str:
    found = text.split()
    if len(found) > 2:
        change(found, rng.randrange(len(found) - 1))
    return " ".join(found)


def swap(found: list[str], at: int) -> None:
    found[at], found[at + 1] = found[at + 1], found[at]


def loud(text: str, rng: random.Random) -> str:
    return "".join(rng.choice((char, char.upper())) for char in text).replace(" ", "  ").replace(".", "") + "!!"


CHANGES: dict[str, Callable[[str, random.Random], str]] = {
    "case, punctuation, white space": loud,
    "look-alike letters": lambda text, rng: text.translate(LOOKALIKES),
    "characters of no width": lambda text, rng: "\u200b".join(text),
    "numbers changed": lambda text, rng: re.sub(r"\d", lambda _: str(rng.randrange(10)), text),
    "one typo": typo,
    "two typos": lambda text, rng: typo(typo(text, rng), rng),
    "three typos": lambda text, rng: typo(typo(typo(text, rng), rng), rng),
    "a greeting or thanks": lambda text, rng: rng.choice(POLITE).format(text),
    "two words swapped": lambda text, rng: words(text, rng, swap),
    "a word dropped": lambda text, rng: words(text, rng, lambda found, at: found.__delitem__(at)),
}


def copies(rows: Sequence[Row], written: Sequence[tuple[Row, str]], rng: random.Random) -> dict[str, dict[str, float]]:
    """By kind of change the share of rows that each way finds; of rows of other people the share that it calls so as well.

    written: (row, a paraphrase of it).
    """
    mixed = rng.sample(rows, len(rows))
    suite, rest = mixed[::2], mixed[1::2]
    found: dict[str, dict[str, float]] = {}
    for kind, change in CHANGES.items():
        planted = [(change(text, rng), label) for text, label in suite if kind != "numbers changed" or re.search(r"\d", text)]
        if planted:
            found[kind] = told(planted, suite)
    if written:
        found["paraphrases, by hand"] = told([(new, label) for (_, label), new in written], [row for row, _ in written])
    found["of other people"] = told(rest, suite)
    return found


def told(rows: Sequence[Row], suite: Sequence[Row]) -> dict[str, float]:
    """Shares of the rows that copy any row of the suite with the same label."""
    rules = params_.load(ROOT).prepare
    (texts, kinds), (known, known_kinds) = zip(*rows, strict=True), zip(*suite, strict=True)
    keys = set(zip(map(question_key, known), known_kinds, strict=True))
    exact = [(question_key(text), kind) in keys for text, kind in rows]
    near = copied(texts, known, rules.near, kinds, known_kinds) >= 0
    asked, points = vectors(texts), vectors(known)
    places: dict[str, list[int]] = {}
    for i, kind in enumerate(known_kinds):
        places.setdefault(kind, []).append(i)
    alike = [
        kind in places and (points[places[kind]] @ one).max() >= rules.paraphrase
        for kind, one in zip(kinds, asked, strict=True)
    ]
    shares = {"exact": exact, "near": near.tolist(), "vectors": alike}
    return {name: round(statistics.mean(map(bool, found)), 4) for name, found in shares.items()}


def folds(rows: Sequence[Row]) -> dict[str, float]:
    """The share of rows that stand for themselves no more, and the largest group."""
    stands = groups([text for text, _ in rows], params_.load(ROOT).prepare.near, [label for _, label in rows]).tolist()
    return {
        "rows": len(rows), "folded": round(statistics.mean(i != at for i, at in enumerate(stands)), 4),
        "largest": max(map(stands.count, set(stands))),
    }  # fmt: skip


def shipped() -> tuple[list[Row], list[tuple[Row, str]]]:
    folders = [ROOT / "data" / "seed" / "support.jsonl", *sorted((ROOT / "data" / "suites" / "support").rglob("*.jsonl"))]
    rows = [(row["messages"][0]["content"], row["messages"][-1]["content"]) for path in folders for row in read_jsonl(path)]
    labels = dict(rows)
    pairs = read_jsonl(ROOT / "benchmarks" / "parts" / "paraphrases.jsonl")
    return rows, [((pair["of"], labels[pair["of"]]), pair["text"]) for pair in pairs]


def from_csv(data: Path) -> tuple[list[Row], list[tuple[Row, str]]]:
    return [(row.question, row.answer) for row in texts.from_csv(data / "train.csv")], []


def measured(rows: Sequence[Row], written: Sequence[tuple[Row, str]], seeds: int) -> dict[str, Any]:
    """Means over the seeds."""
    runs = [copies(rows, written, random.Random(seed)) for seed in range(seeds)]
    found = {
        kind: {how: round(statistics.mean(run[kind][how] for run in runs), 4) for how in shares}
        for kind, shares in runs[0].items()
    }
    return {"found": found, "folds": folds(rows)}


def lines(name: str, made: dict[str, Any]) -> list[str]:
    head = f"{name}: {made['folds']['rows']} rows, {made['folds']['folded']:.1%} near copies of an earlier one"
    rows = [
        f"{kind:32} exact {f['exact']:6.1%}  near {f['near']:6.1%}  vectors {f['vectors']:6.1%}"
        for kind, f in made["found"].items()
    ]
    return [f"{head}, at most {made['folds']['largest']} to a group", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train.csv (text,category): measured beside the shipped text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    if asked.seeds < 1:
        parser.error(f"--seeds is {asked.seeds}, must be at least 1")
    texts = {"support": shipped(), **({asked.data.name: from_csv(asked.data)} if asked.data else {})}
    made = {name: measured(*given, asked.seeds) for name, given in texts.items()}
    print(
        json.dumps({"schema": 1, **made})
        if asked.json
        else "\n".join(x for name, m in made.items() for x in [*lines(name, m), ""])
    )


if __name__ == "__main__":
    main()
