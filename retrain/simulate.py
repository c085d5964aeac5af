"""Labelled traffic for the actual champion (`users` sends it): its answers, and so its failures, are real; the people are not.

Simulated are only who writes what, who gives feedback or a correction, and the person who labels the audit sample.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retrain.errors import DataError
from retrain.records import read_jsonl
from retrain.scoring import Judge


@dataclass(frozen=True)
class Phase:
    """How one window's traffic is made; shares and rates in [0, 1]."""

    rows: int
    arriving_share: float = 0.0  # of the rows ask what was not taught at first
    corrected: float = 1.0  # share of failures that a user corrects
    thanked: float = 0.3  # share of right answers that get +1
    styles: tuple[str, ...] = ()  # wording that this window prefers, where rows have a style
    poison: dict[str, str] = field(default_factory=dict)  # true label -> the wrong "correction" that is given


class Decks:
    """Messages of each label, dealt without repeats until a label's are used up, then shuffled again."""

    def __init__(self, rows: Sequence[dict[str, str]], rng: random.Random) -> None:
        self.rows: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            self.rows.setdefault(row["label"], []).append(row)
        self.rng = rng
        self.left: dict[str, list[dict[str, str]]] = {label: [] for label in self.rows}

    def deal(self, label: str, styles: Sequence[str]) -> dict[str, str]:
        if not self.left[label]:
            self.left[label] = list(self.rows[label])
            self.rng.shuffle(self.left[label])
        deck = self.left[label]
        wanted = next((i for i, row in enumerate(deck) if row.get("style") in styles), None) if styles else None
        return deck.pop(wanted if wanted is not None and self.rng.random() < 0.5 else -1)


def read_traffic(path: Path) -> list[dict[str, str]]:
    """Rows {"text", "label", "style"?}; a row without text or label is a DataError."""
    return _traffic(path, "label")


def read_answers(path: Path, judge: Judge) -> list[dict[str, str]]:
    """Rows {"text", "answer" (or "label"), "kind"?, "style"?} for a task without labels; they are dealt by kind."""
    rows = [{**row, "answer": row["answer"] if "answer" in row else row["label"]} for row in _traffic(path, "answer", "label")]
    for number, row in enumerate(rows, 1):
        if not judge.right(row["answer"], row["answer"]):
            raise DataError(
                f"{path}: the answer of row {number} does not fit the adapter's output schema: {row['answer'][:80]}"
            )
    return [{**row, "label": row.get("kind", "any")} for row in rows]


def _traffic(path: Path, *names: str) -> list[dict[str, str]]:
    """Rows that have a text and one of these."""
    form = f'each line is {{"text": ..., "{names[0]}": ...}}'
    rows = read_jsonl(path)
    if not rows:
        raise DataError(f"{path} holds no rows: {form}")
    for number, row in enumerate(rows, 1):
        told = next((row[name] for name in names if name in row), None)
        if not all(isinstance(value, str) and value.strip() for value in (row.get("text"), told)):
            raise DataError(f"{path}: row {number} has no text or no {names[0]}: {form}")
    return rows


def window(
    phase: Phase, *, decks: Decks, initial: Sequence[str], arriving: Sequence[str], rng: random.Random
) -> list[dict[str, str]]:
    """The messages of one window, with their true labels, in the order of arrival.

    Each label has its turn: in a quiet window nothing has changed, and so the mix has not.
    """
    new = round(phase.rows * phase.arriving_share) if arriving else 0
    labels = [arriving[i % len(arriving)] for i in range(new)] + [initial[i % len(initial)] for i in range(phase.rows - new)]
    rows = [decks.deal(label, phase.styles) for label in labels]
    rng.shuffle(rows)
    return rows


@dataclass(frozen=True)
class Said:
    """What a person says of an answer: whether it is good, and the right one."""

    good: bool
    correction: str | None = None


def opinion(message: dict[str, str], answer: str, phase: Phase, *, judge: Judge, rng: random.Random) -> Said | None:
    """What the user says who got this answer, None where nothing; the judge says which answers are right."""
    if message["label"] in phase.poison:
        return Said(False, phase.poison[message["label"]])
    right = judge.right(answer, truth := message.get("answer", message["label"]))
    if rng.random() >= (phase.thanked if right else phase.corrected):
        return None
    return Said(True) if right else Said(False, truth)


def label(message: dict[str, str], answer: str, judge: Judge) -> Said:
    """What the person says who labels the audit sample, always the truth."""
    truth = message.get("answer", message["label"])
    return Said(bool(judge.right(answer, truth)), truth)
