"""Trial 17: out of memory: fewer rows at once, the same batch, recorded, and bounded."""

from pathlib import Path
from typing import Any

import pytest
import training

from retrain import steps
from retrain.errors import RetrainError
from retrain.records import read_json

REAL = steps.loss_of


def too_many(most: int) -> Any:
    """loss_of of a device that holds so many rows."""
    import torch

    def loss_of(model: Any, inputs: Any, device: str) -> Any:
        if (inputs.targets == 1).sum() > most:  # each completion ends with the token 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return REAL(model, inputs, device)

    return loss_of


def test_fewer_rows_at_once_give_the_same_losses(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = ("train.batch=4", "train.dropout=0.0")
    training.run(tiny, tmp_path / "whole", *plain)
    monkeypatch.setattr(steps, "loss_of", too_many(1))
    training.run(tiny, tmp_path / "small", *plain)
    assert training.losses(tmp_path / "small") == pytest.approx(training.losses(tmp_path / "whole"), rel=1e-3)
    whole, small = (read_json(tmp_path / name / "adapter/run.json") for name in ("whole", "small"))
    assert (whole["at_once"], small["at_once"], small["steps"]) == (4, 1, whole["steps"])
    said = capfd.readouterr().out
    assert "2 rows at once from now on, the same batch of 4" in said
    assert said.count("out of memory") == 2  # twice, and never again


def test_one_row_that_does_not_fit_is_said_with_its_length(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "loss_of", too_many(0))
    with pytest.raises(RetrainError, match=r"one row of \d+ tokens does not fit into memory at step 1 of 12"):
        training.run(tiny, tmp_path)
    assert not (tmp_path / "adapter").exists()
