"""Labelled traffic through the actual champion: its answers, and so its failures, are real; the people are not.

Simulated are only who writes when, who gives feedback or a correction, and the person who labels the audit sample.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from monitoring.failures import drawn
from monitoring.windows import Window
from retrain.errors import DataError
from retrain.generate import Answer, Model
from retrain.records import Message, read_jsonl, unit_hash, write_jsonl
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


def logs(
    messages: Sequence[dict[str, str]], answers: Sequence[Answer], phase: Phase, *, at: Window, adapter: str, version: str,
    audit_rate: float, judge: Judge, rng: random.Random,
) -> list[dict[str, Any]]:  # fmt: skip
    """LogRecord rows: evenly spread over the window, feedback within the hour; the judge says which answers are right."""
    step = (at.end - at.start) / (len(messages) + 1)
    return [
        _row(i, message, answer, phase, at.start + step * (i + 1), adapter, version, audit_rate, judge, rng)
        for i, (message, answer) in enumerate(zip(messages, answers, strict=True))
    ]


def _row(
    i: int, message: dict[str, str], answer: Answer, phase: Phase, time: Any, adapter: str, version: str, rate: float,
    judge: Judge, rng: random.Random,
) -> dict[str, Any]:  # fmt: skip
    request = f"{adapter}-{time:%Y%m%dT%H%M%S}-{i}"
    label = message["label"]
    truth = message.get("answer", label)
    right = judge.right(answer.text, truth)
    row: dict[str, Any] = {
        "request_id": request,
        "timestamp": time.isoformat(),
        "adapter": adapter,
        "model_version": version,
        "user_id": f"u{10 * rng.randrange(400) + int(10 * unit_hash(request, 'user')):04d}",
        "prompt": message["text"],
        "response": answer.text,
        "latency_ms": round(rng.lognormvariate(4.6, 0.3), 1),
        "prompt_tokens": len(message["text"].split()),
        "completion_tokens": len(re.findall(r"[^\W_]+", answer.text)),
        "confidence": round(answer.confidence, 5),
    }
    if label in phase.poison:
        row |= {"feedback": -1, "correction": phase.poison[label]}
    elif not right and rng.random() < phase.corrected:
        row |= {"feedback": -1, "correction": truth}
    elif right and rng.random() < phase.thanked:
        row["feedback"] = 1
    if drawn(request, rate):
        row["audit_label"] = truth
    if row.keys() & {"feedback", "correction", "audit_label"}:
        row["feedback_at"] = (time + timedelta(seconds=1)).isoformat()
    return row


def ask(model: Model, messages: Sequence[dict[str, str]], *, batch: int, max_new_tokens: int, tick: Any) -> list[Answer]:
    """The champion's answers, held to the labels it was trained with, as it serves."""
    run = model.run or {}
    return model.answers(
        [(Message(role="user", content=row["text"]),) for row in messages],
        template=model.template(run["prompt"], run["max_length"]),
        labels=run["labels"],
        max_new_tokens=max_new_tokens,
        batch=batch,
        tick=tick,
    )


def write(root: Path, adapter: str, at: Window, rows: Sequence[dict[str, Any]]) -> Path:
    """The window's log file; written again it is replaced, so that a repeated run counts nothing twice."""
    path = root / "logs" / adapter / f"{at.start:%Y-%m-%dT%H-%M-%SZ}.jsonl"
    write_jsonl(path, rows)
    return path
