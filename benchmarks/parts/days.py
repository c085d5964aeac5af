"""Days of traffic on labelled messages: a week that moves the labels' shares, and shifts of stated sizes.

What labels and how many rows are audited or rated is made up by a seeded generator; the messages are real.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
DAY = timedelta(days=1)
ROWS, AUDITED, RATED = 2000, 150, 100  # of a window
ACCURACY, SATISFIED = 0.9, 0.7
MOVES = 1 / 3  # by how much of itself a label's share moves over a week, at most


@dataclass(frozen=True)
class Shift:
    """What is different from a day on: shares of rows, or factors."""

    new: float = 0.0  # share of rows on intents that never occurred before
    longer: float = 1.0  # length of prompts
    accuracy: float = ACCURACY
    doubled: bool = False  # the share of one label: asked, and so answered, twice as often


QUIET = Shift()
SHIFTS = {
    "new_intents_10_percent": Shift(new=0.1),
    "prompts_30_percent_longer": Shift(longer=1.3),
    "accuracy_90_to_80_percent": Shift(accuracy=0.8),
    "one_label_doubled": Shift(doubled=True),
}


@dataclass(frozen=True)
class Text:
    """Messages by label."""

    known: dict[str, list[str]]
    new: dict[str, list[str]]

    @cached_property
    def week(self) -> Any:
        """Shares of the known labels, (7 days, labels): waves with their crests on different days, each as high as MOVES."""
        import numpy as np

        count = len(self.known)
        waves = np.cos((np.arange(7)[:, None] / 7 + np.arange(count) / count) * 2 * np.pi)
        shares = 1 + MOVES * waves / np.abs(waves).max(axis=0)
        return shares / shares.sum(axis=1, keepdims=True)


@cache
def text_of(data: Path | None) -> Text:
    """The shipped text, or eight known intents and three new ones of a train.csv, as many as it has."""
    from retrain import story
    from retrain.records import Example

    found = story.from_csv(data, initial=8, arriving=3, per_intent=25, seed=0) if data else story.shipped()
    lines = [line for name, text in found.files.items() if name.endswith(".jsonl") for line in text.splitlines()]
    examples = [Example.model_validate_json(line) for line in lines]
    rows = [*((row.answer, row.question) for row in examples), *((row["label"], row["text"]) for row in found.traffic)]
    known, new = ({label: sorted({t for name, t in rows if name == label}) for label in some}
                  for some in (found.initial, found.arriving))  # fmt: skip
    return Text(known, new)


def window(number: int) -> Any:
    from monitoring.windows import Window

    return Window(START + number * DAY, START + (number + 1) * DAY)


def traffic(text: Text, number: int, shift: Shift, label: str, rng: Any) -> Any:
    """The rows of a day as a frame; days are counted from START, `label` is the one that doubles."""
    import numpy as np
    import pandas as pd

    shares = text.week[number % 7].copy()
    names = list(text.known)
    if shift.doubled:
        at = names.index(label)
        shares *= (1 - 2 * shares[at]) / (1 - shares[at])
        shares[at] = 1 - np.delete(shares, at).sum()
    asked = rng.choice(len(names), ROWS, p=shares)
    answered = np.where(rng.random(ROWS) < shift.accuracy, asked, (asked + rng.integers(1, len(names), ROWS)) % len(names))
    groups = {**text.known, **text.new}
    truth = [names[i] for i in asked]
    for i in np.flatnonzero(rng.random(ROWS) < shift.new):
        truth[i] = list(text.new)[rng.integers(len(text.new))]  # and the answer is some label that is known
    first, second = ([groups[one][i % len(groups[one])] for one, i in zip(truth, rng.integers(2**40, size=ROWS), strict=True)]
                     for _ in range(2))  # fmt: skip
    prompts = [longer(one, other, shift.longer) for one, other in zip(first, second, strict=True)]
    chosen = rng.permutation(ROWS)
    audited, rated = np.zeros((2, ROWS), dtype=bool)
    audited[chosen[:AUDITED]], rated[chosen[-RATED:]] = True, True
    times = pd.to_datetime(START + number * DAY) + pd.to_timedelta(np.arange(ROWS) * 86400 / ROWS, unit="s")
    return pd.DataFrame(
        {
            "request_id": [f"{number}-{i}" for i in range(ROWS)],
            "timestamp": times,
            "prompt": prompts,
            "response": [names[i] for i in answered],
            "latency_ms": rng.lognormal(4.6, 0.3, ROWS),
            "confidence": rng.beta(8, 2, ROWS),
            "audit_label": np.where(audited, np.array(truth, dtype=object), None),
            "feedback": np.where(rated, np.where(rng.random(ROWS) < SATISFIED, 1.0, -1.0), np.nan),
            "feedback_at": times + pd.Timedelta(seconds=1),
        }
    )


def longer(text: str, other: str, factor: float) -> str:
    """The text, and of another on the same label as many words as make it so much longer."""
    wanted, words = factor * len(text), other.split()
    for i in range(10 * len(words)):
        if len(text) + len(words[i % len(words)]) / 2 >= wanted:
            break
        text += " " + words[i % len(words)]
    return text
