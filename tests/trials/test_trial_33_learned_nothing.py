"""Trial 33: a training that learned nothing fails before anything is published, and says why."""

from pathlib import Path

import pytest
import training

from retrain.errors import DataError, RetrainError
from retrain.records import Example


def test_an_absurd_learning_rate(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrainError, match=r"the gradient has been 0 for 5 steps.* lower train\.learning_rate"):
        training.run(tiny, tmp_path, "train.learning_rate=100", "train.warmup=0.0")
    assert not (tmp_path / "adapter").exists()


def test_a_learning_rate_that_moves_nothing(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrainError, match="did not move"):
        training.run(tiny, tmp_path, "train.learning_rate=1e-60")
    assert not (tmp_path / "adapter").exists()


def test_every_answer_beyond_the_length_limit(tiny: Path, tmp_path: Path) -> None:
    rows = [Example.of(f"where {i}", "refund " * 40, source="seed") for i in range(4)]
    with pytest.raises(DataError, match=r"row [0-9a-f]{20}: its answer has 41 tokens, train.max_length is 32; 4 of 4"):
        training.run(tiny, tmp_path, rows=rows)
    assert not (tmp_path / "adapter").exists()
