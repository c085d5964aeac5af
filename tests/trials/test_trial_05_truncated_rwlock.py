"""Trial 5: DVC's list of locks is cut off: diagnosed, taken away only where no owner lives, and no job of ours is stopped."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from calling import call
from forging import another_candidate

from retrain import leftovers, release
from retrain.process import environment
from retrain.workspace import Workspace


@pytest.fixture
def cut(released: Workspace) -> Iterator[Path]:
    rwlock = released.root / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text('{"/out/support/adapter": {"write": {"pid": 12')
    yield rwlock
    rwlock.unlink(missing_ok=True)


def dvc_status(space: Workspace) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dvc", "status", "gate@support"]
    return subprocess.run(command, cwd=space.root, env=environment(), capture_output=True, text=True)


def test_a_list_that_is_cut_off_is_diagnosed_and_taken_away(released: Workspace, cut: Path) -> None:
    told = call("doctor", "-w", released.root)
    assert told.code == 1
    assert f"BAD left behind: {cut}: DVC's list of locks is cut off\n      fix: `retrain doctor --repair`" in told.out
    assert cut.exists()
    told = call("doctor", "--repair", "-w", released.root)
    assert f"removed {cut}" in told.out
    assert "left behind" not in told.out
    assert dvc_status(released).returncode == 0


def test_it_stays_while_a_dvc_works_in_that_folder(released: Workspace, cut: Path) -> None:
    holds = "import sys, time; sys.argv = ['dvc']; print('here', flush=True); time.sleep(600)"
    owner = subprocess.Popen([sys.executable, "-c", holds, "dvc"], cwd=released.root, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    owner.stdout.readline()
    try:
        assert leftovers.take_away(released.root) == []
        assert f"fix: wait for pid {owner.pid}" in call("doctor", "--repair", "-w", released.root).out
        assert cut.exists()
    finally:
        owner.kill()
        owner.wait()
    assert [left.path for left in leftovers.take_away(released.root)] == [cut]


@pytest.mark.slow
def test_a_job_works_in_a_clone_of_its_own_and_is_not_stopped(released: Workspace, cut: Path) -> None:
    candidate = another_candidate(released)
    assert release.promote(released, "support").promotion.digest == candidate.digest
    assert cut.exists()
