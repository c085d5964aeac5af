"""Trial 14: a checkpoint that is truncated or lacks a part is passed over for the newest complete one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import training


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["state.safetensors", "log.jsonl", "complete.json"])
@pytest.mark.parametrize("damage", [half, Path.unlink])
def test_the_newest_complete_checkpoint_is_taken(
    tiny: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    whole = training.run(tiny, tmp_path / "whole")
    training.cut_off(tiny, tmp_path, 9)
    older, newest = training.checkpoints(tmp_path)
    assert (older.name, newest.name) == ("step-000008", "step-000009")
    damage(newest / name)
    assert training.run(tiny, tmp_path) == whole
    assert "goes on after step 8 of 12" in capfd.readouterr().out


def test_without_a_complete_one_it_starts_anew(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = training.run(tiny, tmp_path / "whole")
    training.cut_off(tiny, tmp_path, 9)
    for path in training.checkpoints(tmp_path):
        half(path / "state.safetensors")
    assert training.run(tiny, tmp_path) == whole
    assert "goes on after" not in capfd.readouterr().out
