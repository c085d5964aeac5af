"""Trial 2: a task's supervisor is killed (SIGKILL): its orphan goes on after the retry is done, and changes nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Held
from forging import another_candidate
from small import wait

from retrain import jobs, ledger, release
from retrain.process import git
from retrain.registry import Registry
from retrain.workspace import Workspace

HOLDS = """
import sys, time
from retrain.workspace import Workspace
with Workspace.open(sys.argv[1]).lock("support.release", wait_seconds=0):
    print("held", flush=True)
    time.sleep(600)
"""
SUPERVISOR = "import subprocess, sys; subprocess.run(sys.argv[1:])"


class Orphan(Held):
    """The job under a supervisor of its own, which `orphaned` kills."""

    def orphaned(self) -> None:
        self.arrives()
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_an_orphan_that_ends_after_the_retry_is_told_that_it_is_done_and_writes_nothing(
    released: Workspace, tmp_path: Path, monkeypatch
) -> None:
    candidate = another_candidate(released)
    popen = subprocess.Popen
    with monkeypatch.context() as supervised:
        supervised.setattr(
            subprocess, "Popen", lambda command, **more: popen([sys.executable, "-c", SUPERVISOR, *command], **more)
        )
        orphan = Orphan(released, tmp_path / "orphan", "Clone.publish", "before", "promote")
    orphan.orphaned()
    promoted = release.promote(released, "support")  # the retry
    lines = jobs.entries(released, "support")
    head = git(released.root, "ls-remote", "origin", "refs/heads/main")
    (orphan.folder / "go").touch()
    assert orphan.process.stdout is not None
    assert "already serves these bytes" in orphan.process.stdout.read()
    assert jobs.entries(released, "support") == lines
    assert git(released.root, "ls-remote", "origin", "refs/heads/main") == head
    assert [line.digest for line in lines if isinstance(line, ledger.Promotion)].count(candidate.digest) == 1
    registry = Registry.open(released.params.mlflow, released.root)
    assert registry.aliases("support")["champion"] == promoted.promotion.version
    assert [v.digest for v in registry.versions("support")].count(candidate.digest) == 1


def test_the_retry_on_the_same_machine_waits_a_bounded_time_for_the_orphan_and_says_busy(released: Workspace) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", HOLDS, str(released.root)], stdout=subprocess.PIPE, text=True)
    assert orphan.stdout is not None
    orphan.stdout.readline()
    command = [sys.executable, "-m", "retrain.cli", "promote", "support", "-w", str(released.root)]
    busy = subprocess.run(command, capture_output=True, text=True)
    assert busy.returncode == 5
    assert f"another job holds support.release (pid {orphan.pid}, waited 5 s): try again when it has ended" in busy.stderr
    os.kill(orphan.pid, signal.SIGKILL)
    orphan.wait()
    with released.lock("support.release", wait_seconds=1):  # its death freed it
        pass
    wait(lambda: not list((released.local / "clones").glob("promote-*")), "a clone is left", 5)
