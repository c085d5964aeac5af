"""Trial 16: a loss or weights that are not finite: the batch is named, nothing is published, and no such adapter loads."""

from pathlib import Path
from typing import Any

import pytest
import training

from retrain import steps
from retrain.errors import IntegrityError, RetrainError
from retrain.generate import Model
from retrain.records import file_digest, read_json, write_json


def test_the_batch_that_did_it_is_named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = steps.loss_of, iter(range(100))

    def third(model: Any, inputs: Any, device: str) -> Any:
        loss = real(model, inputs, device)
        return loss * float("nan") if next(calls) == 2 else loss

    monkeypatch.setattr(steps, "loss_of", third)
    with pytest.raises(RetrainError, match=r"the loss is nan.* at step 3 of 12, on rows [0-9a-f]{20}, [0-9a-f]{20}"):
        training.run(tiny, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_a_loss_that_climbs_ends_the_run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = steps.loss_of, iter(range(1000))

    def climbs(model: Any, inputs: Any, device: str) -> Any:
        return real(model, inputs, device) * (1 + 0.2 * next(calls))

    monkeypatch.setattr(steps, "loss_of", climbs)
    with pytest.raises(RetrainError, match=r"the loss climbs: .* over the last 20 steps, .* at the start, at step"):
        training.run(tiny, tmp_path, "train.epochs=12")
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_with_weights_that_are_not_finite_does_not_load(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    training.run(tiny, tmp_path)
    folder = tmp_path / "adapter"
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[sorted(tensors)[0]][0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    manifest = read_json(folder / "manifest.json")
    manifest["files"]["adapter_model.safetensors"] = file_digest(folder / "adapter_model.safetensors")
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(IntegrityError, match="not finite"):
        Model(tiny, device="cpu", adapter=folder)
