"""Trial 4: four reproductions at once on one workspace: one trains, the others wait a bounded time, then say busy."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import workspace

from retrain import jobs, ledger
from retrain.process import dvc, git
from retrain.workspace import Workspace

ENDS = [f"2026-06-0{day}T00:00:00Z" for day in range(1, 5)]
JUDGED = (0, 3, 4)  # passed, refused, not evaluated: the gate has spoken


def repro(space: Workspace, end: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "retrain.cli", "repro", "support", "--end", end, "-w", str(space.root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_one_of_four_reproductions_trains_the_others_say_busy_and_run_later(tiny: Path, tmp_path: Path) -> None:
    space = workspace(tmp_path, tiny)
    started = time.monotonic()
    processes = [repro(space, end) for end in ENDS]
    busy, judged = [], []
    for end, process in zip(ENDS, processes, strict=True):
        _, errors = process.communicate(timeout=600)
        (judged if process.returncode in JUDGED else busy).append(end)
        if process.returncode not in JUDGED:
            assert process.returncode == 5, errors
            assert "another job holds support (pid " in errors
            assert "waited 5 s): try again when it has ended" in errors
    assert judged, time.monotonic() - started
    attempts = [line.end for line in jobs.entries(space, "support") if isinstance(line, ledger.Attempt)]
    assert sorted(attempts) == sorted({end.replace(":", "-") for end in judged})
    assert not list((space.local / "clones").glob("retrain-*"))
    later = repro(space, "2026-06-05T00:00:00Z")
    _, errors = later.communicate(timeout=600)
    assert later.returncode in JUDGED, errors
    git(space.root, "pull", "--quiet", "--ff-only")
    dvc(space.root, "pull", "--force")
    assert "up to date" in dvc(space.root, "status", "gate@support")  # what the remote holds is one whole reproduction
