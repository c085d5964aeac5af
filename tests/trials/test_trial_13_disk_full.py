"""Trial 13: the disk is full while a checkpoint is written: said, nothing half is left, and the training goes on."""

import errno
import os
from pathlib import Path

import pytest
import training

from retrain import checkpoints


def test_a_training_without_room_for_checkpoints_comes_to_its_end(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = training.run(tiny, tmp_path / "whole")
    left: list[str] = []
    real = checkpoints._write

    def full(path: Path, data: bytes) -> None:
        if path.parent.name.startswith(".step-000008"):
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    def newest(self: checkpoints.Checkpoints, *args: object) -> None:
        try:
            return written(self, *args)
        finally:
            left.extend(path.name for path in self.folder.iterdir())

    written = checkpoints.Checkpoints.write
    monkeypatch.setattr(checkpoints, "_write", full)
    monkeypatch.setattr(checkpoints.Checkpoints, "write", newest)
    assert training.run(tiny, tmp_path / "full") == whole
    assert left == ["step-000004", "step-000004"]  # after the first, and after the one that failed
    assert "no checkpoint at step 8 (No space left on device" in capfd.readouterr().out
