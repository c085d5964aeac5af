"""A job in a process of its own that dies, or stands still, at one call: nothing of ours gets to clean up."""

import signal
import subprocess
import sys
from pathlib import Path

from small import wait

from retrain.workspace import Workspace

JOB = """
import contextlib, os, signal, sys, time
from pathlib import Path
from retrain import collecting, guard, release, watch
from retrain.errors import RetrainError
from retrain.records import parse_time
from retrain.registry import Registry
from retrain.workspace import Clone, Workspace

act, owner, name, when, verb, root, end = sys.argv[1:]
owner = {"Clone": Clone, "Registry": Registry}[owner]
real = getattr(owner, name)

def stand(*args, **kwargs):
    setattr(owner, name, real)
    if when == "after":
        made = real(*args, **kwargs)
    if act == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    Path(act, "there").touch()
    while not Path(act, "go").exists():
        time.sleep(0.05)
    return made if when == "after" else real(*args, **kwargs)

setattr(owner, name, stand)
if act != "dies":  # as on another machine, which knows nothing of this one's locks
    Workspace.lock = lambda self, name, wait_seconds: contextlib.nullcontext()
space, at = Workspace.open(Path(root)), parse_time(end)
jobs = {
    "retrain": lambda: watch.retrain(space, "support", at, say=lambda line: None),
    "collect": lambda: collecting.collect(space, "support", at),
    "rollback": lambda: release.rollback(space, "support", version=None, reason="ill"),
    "promote": lambda: release.promote(space, "support"),
    "reconcile": lambda: guard.reconcile(space, "support"),
}
try:
    print(jobs[verb]())
except RetrainError as error:
    print(f"{type(error).__name__}: {error}")
"""
END = "2026-03-02T00:00:00Z"


def killed_at(space: Workspace, point: str, when: str, verb: str, end: str = END) -> None:
    """SIGKILL before or after the first call of `point`, such as Clone.publish."""
    done = subprocess.run([sys.executable, "-c", JOB, "dies", *point.split("."), when, verb, str(space.root), end])
    assert done.returncode == -signal.SIGKILL, f"{verb} never came to {point}"


class Held:
    """A job that stands still at one call, as if on another machine, until `go`; `said` is what it printed."""

    def __init__(self, space: Workspace, folder: Path, point: str, when: str, verb: str, end: str = END) -> None:
        self.folder = folder
        folder.mkdir()
        command = [sys.executable, "-c", JOB, str(folder), *point.split("."), when, verb, str(space.root), end]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def arrives(self) -> None:
        wait(lambda: (self.folder / "there").exists() or self.process.poll() is not None, "it does not arrive", 180)
        assert self.process.poll() is None, self.process.communicate()[0]

    def go(self) -> str:
        (self.folder / "go").touch()
        return self.process.communicate(timeout=180)[0]
