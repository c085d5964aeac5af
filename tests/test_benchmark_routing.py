"""The routing benchmark on a tiny CSV: what it counts is what was routed and answered."""

import argparse
import csv
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import routing as benchmark

from retrain.errors import ParamsError

TOPICS = ("loan", "card", "parcel", "garden", "train", "bread")
WORDS = (
    "when",
    "is",
    "my",
    "about",
    "please",
    "today",
    "again",
    "why",
    "can",
    "the",
    "new",
    "old",
    "blue",
    "lost",
    "late",
    "fine",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six intents of a word each."""
    for name, n, shift in (("train.csv", 40, 0), ("test.csv", 10, 7)):
        with (tmp_path / name).open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "category"])
            for topic in TOPICS:
                for i in range(n):
                    words = [WORDS[(i * step + shift) % len(WORDS)] for step in (1, 3)]
                    rows.writerow([f"{words[0]} {topic} {words[1]} {topic} {i}", topic])
    return tmp_path


def asked(**more: object) -> argparse.Namespace:
    return argparse.Namespace(
        **{"specialists": 2, "out_of_scope": 2, "cut": ["topic", "random"], "per_intent": 30, "seed": 0} | more
    )


def test_a_csv_is_cut_into_specialists_and_measured_end_to_end(data: Path) -> None:
    found = benchmark.of_csv(data, asked())
    assert list(found) == ["topic", "random"]
    for one in found.values():
        ends = one["end_to_end"]
        assert one["accuracy"] > 0.8 and ends["n"] == 40
        assert ends["routed"] <= min(one["accuracy"], ends["oracle"]) <= 1
        assert one["out_of_scope"]["seen"]["n"] == one["out_of_scope"]["unseen"]["n"] == 10
        assert one["out_of_scope"]["seen"]["refused"] > one["refused"]
        assert one["ms"]["p50"] <= one["ms"]["p99"]
    json.dumps(found)


def test_every_intent_has_one_specialist_and_a_csv_with_too_few_is_refused(data: Path) -> None:
    import numpy as np

    means = {topic: np.eye(6)[i] for i, topic in enumerate(TOPICS)}
    for how in ("topic", "random"):
        of = benchmark.cut(means, 3, how, 0)
        assert set(of) == set(TOPICS) and len(set(of.values())) == 3
    with pytest.raises(ParamsError, match="has 6 categories, 8 are asked for"):
        benchmark.of_csv(data, asked(specialists=6))


def test_stored_answers_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    with pytest.raises(ParamsError, match="dvc repro evaluate@support"):
        benchmark.stored("support")
