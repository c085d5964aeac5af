"""Trial 3: `dvc repro` is killed (SIGKILL): its stage ends with it, and a rerun is the only writer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import children_of, wait, workspace

from retrain.process import environment
from retrain.train import verify


@pytest.mark.slow
def test_a_training_whose_dvc_is_killed_ends_and_the_rerun_goes_on(tiny: Path, tmp_path: Path) -> None:
    space = workspace(tmp_path, tiny, "train.epochs=12", "train.checkpoint_steps=5")
    command = [sys.executable, "-m", "dvc", "repro", "train@support"]
    log = space.root / ".retrain/train/support.jsonl"
    process = subprocess.Popen(command, cwd=space.root, env=environment(), stdout=subprocess.DEVNULL)
    wait(lambda: log.exists() and log.read_text().count("\n") > 6, "no training", 120)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    wait(lambda: not [line for line in children_of(space) if "retrain.train" in line], "the training lives", 30)
    assert time.monotonic() - started < 15
    assert not (space.root / "out/support/adapter").exists()
    done = subprocess.run(command, cwd=space.root, env=environment(), text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on after step" in done.stdout
    verify(space.root / "out/support/adapter")
