"""Rows of the adapters that ship, or of a folder with train.csv and test.csv, for benchmarks."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path

from retrain import prompts
from retrain.records import Example, read_examples

ROOT = Path(__file__).resolve().parents[2]
INTENTS = 16  # of a folder with more: sorted, shuffled by the seed
SHIPPED = ("support", "orders")


@dataclass(frozen=True)
class Text:
    """`adapter` is the shipped one whose settings fit; labels are empty for free text."""

    adapter: str
    rows: list[Example]
    held: list[Example]
    labels: tuple[str, ...]
    system: str


def read(name: str, *, rows: int, held: int, seed: int) -> Text:
    """At most so many rows that train and that are held out, in an order that the seed makes; SystemExit where none are."""
    folder = Path(name)
    if folder.is_dir():
        adapter, taught, judges = "support", from_csv(folder / "train.csv"), from_csv(folder / "test.csv")
        names = sorted({row.answer for row in taught})
        random.Random(seed).shuffle(names)
        chosen = set(names[:INTENTS])
        keys = {row.key for row in judges}
        taught = [row for row in taught if row.answer in chosen and row.key not in keys]
        judges = [row for row in judges if row.answer in chosen]
    elif name in SHIPPED:
        adapter = name
        taught, judges = (
            read_examples(ROOT / f"data/seed/{name}.jsonl"),
            read_examples(ROOT / f"data/suites/{name}/golden.jsonl"),
        )
    else:
        raise SystemExit(f"--data {name}: neither a folder with train.csv and test.csv nor one of {', '.join(SHIPPED)}")
    for found in (taught, judges):
        random.Random(seed).shuffle(found)
    labels = tuple(sorted({row.answer for row in taught})) if adapter == "support" else ()
    system = prompts.read_prompt(ROOT / f"data/prompts/{adapter}.txt")
    return Text(adapter, taught[:rows], [row for row in judges if not labels or row.answer in labels][:held], labels, system)


def from_csv(path: Path) -> list[Example]:
    """Rows of a file with the columns text and category, each question once; SystemExit where it is none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [Example.of(row["text"].strip(), row["category"].strip(), source="seed") for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise SystemExit(f"{path}: {error!r}; it must be a CSV with columns text,category") from error
    return list({row.key: row for row in rows}.values())
