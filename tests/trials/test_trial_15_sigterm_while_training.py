"""Trial 15: SIGTERM while a training runs: a checkpoint, and the same command goes on to the same last step and bytes."""

import json
import signal
import time
from pathlib import Path

import training

from retrain.records import read_json


def test_a_training_ended_by_sigterm_goes_on_to_the_same_losses_and_bytes(tiny: Path, tmp_path: Path) -> None:
    whole = training.run(tiny, tmp_path / "whole")
    folder = tmp_path / "ended"
    folder.mkdir()
    process = training.alone(tiny, folder)
    log = folder / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    if process.returncode == 0:  # it was at its end before the signal came
        raise AssertionError(f"too fast to be ended: {said}")
    assert process.returncode == 143, said
    assert "the same command goes on from there" in said
    assert not (folder / "adapter").exists()
    done = len(training.losses(folder))
    assert 3 <= done < training.STEPS
    assert training.run(tiny, folder) == whole
    assert training.losses(folder) == training.losses(tmp_path / "whole")
    assert len(training.losses(folder)) == training.STEPS
    spent = sum(json.loads(line)["seconds"] for line in log.read_text().splitlines())
    assert read_json(folder / "log.cost.json")["device_seconds"] >= round(spent, 1)  # of both processes
    assert training.checkpoints(folder) == []  # of no use any more
