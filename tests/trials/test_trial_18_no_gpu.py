"""Trial 18: no GPU. It is said before work starts, and the CPU trains only where it, or whatever is there, was asked for."""

from pathlib import Path

import pytest
import training

from retrain import base
from retrain.errors import ParamsError


@pytest.fixture(autouse=True)
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_training_that_asks_for_a_gpu_ends_before_anything_is_read_or_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "load", lambda *given: pytest.fail("a base was loaded"))
    with pytest.raises(ParamsError, match="train.device is 'cuda', no CUDA device is visible: set it to auto or cpu") as caught:
        training.run(tiny, tmp_path, "train.device=cuda")
    assert caught.value.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]  # the prompt, which was there


@pytest.mark.parametrize("asked", ["cpu", "auto"])
def test_the_cpu_trains_where_it_was_asked_for_and_says_so(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    training.run(tiny, tmp_path, f"train.device={asked}")
    assert " on cpu, " in capsys.readouterr().out
