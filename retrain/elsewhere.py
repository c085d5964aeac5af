"""The other side of `launch`: trains what a ref of the git remote says and leaves the adapter in the DVC remote.

`python -m retrain.elsewhere` needs git, this package with its extra `train`, and access to both remotes. Clone, DVC cache and
checkpoints lie in RETRAIN_CACHE, else in ~/.cache/retrain: where that stays, a training that was cut off goes on, and one that
was done is found. It ends when nobody listens any more: the line that `ssh` was is cut before the next word goes through.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from retrain import base, launch, process
from retrain import params as params_
from retrain.errors import BusyError, ParamsError, RetrainError, StaleError
from retrain.launch import MADE, STEP, VARIABLE, Request
from retrain.records import file_digest, parse_yaml, read_json, verify_folder
from retrain.workspace import ephemeral

ALIVE = 10.0  # seconds between empty lines, which nobody shows: one that cannot be written tells that nobody listens
ENDS = 2 * process.GRACE  # seconds that a training which was told to end may hold the lock
HOST = socket.gethostname()
_writes = threading.Lock()


def say(line: str) -> None:
    with _writes:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def run(request: Request, home: Path) -> None:
    """Train, upload, and say what was made: digest, md5 of its listing, cost."""
    _fits(request)
    with _alone(home, request.adapter), _clone(request, home) as root:
        params, out = params_.load(root).of(request.adapter), f"out/{request.adapter}/adapter"
        log = root / ".retrain" / "train" / f"{request.adapter}.jsonl"
        with _followed(log):
            process.dvc(root, "pull", "--force", *launch.data(root, params, request.adapter))
            process.dvc(root, "repro", "--single-item", f"train@{request.adapter}", on_line=say)
            digest = file_digest(root / out / "manifest.json")
            verify_folder(root / out, digest)
            process.dvc(root, "push", out)
        cost = log.with_suffix(".cost.json")
        made = {"digest": digest, "md5": _md5(root, request.adapter, out), "cost": read_json(cost) if cost.exists() else {}}
        say(f"{digest[:12]} was made on {HOST}")
        say(MADE + json.dumps(made))


def _fits(request: Request) -> None:
    """ParamsError where this machine would make something else, or lacks what it needs."""
    if request.code != launch.code():
        raise ParamsError(
            f"{HOST} has other code of this package ({launch.code()[:12]}) than the machine that asks ({request.code[:12]}): "
            "it may make other bytes; install the same commit on both"
        )
    for key, address in (("remote", request.git), ("dvc_remote", request.dvc)):
        if address.startswith("/") and not Path(address).exists():
            raise ParamsError(
                f"workspace.{key} (params.yaml) is {address}, which is not there on {HOST}: name an address that both machines "
                "reach (ssh://, https://, s3://, a folder of a shared disk), and push what is there to it"
            )
    if request.device == "cuda":
        try:
            base.choose_device("cuda")
        except ParamsError as error:
            raise ParamsError(f"launch.device (params.yaml) is cuda, no CUDA device is visible on {HOST}: free one") from error


@contextlib.contextmanager
def _alone(home: Path, adapter: str) -> Iterator[None]:
    """One training of an adapter at a time: they share checkpoints."""
    (home / "locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / "locks" / f"{adapter}.lock")
    try:
        lock.acquire(timeout=ENDS)
    except Timeout as error:
        raise BusyError(
            f"another training of {adapter} runs on {HOST} (waited {ENDS:g} s): try again when it has ended"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _clone(request: Request, home: Path) -> Iterator[Path]:
    def fetch(folder: Path) -> None:
        process.git(folder.parent, "init", "--quiet", str(folder))
        process.git(folder, "fetch", "--quiet", "--depth", "1", request.git, request.ref)
        found = process.git(folder, "rev-parse", "FETCH_HEAD")
        if found != request.commit:
            raise StaleError(f"{request.ref} is at {found[:12]}, {request.commit[:12]} was asked for: another job moved it")
        process.git(folder, "checkout", "--quiet", found)

    with ephemeral(home, f"train-{request.adapter}", fetch, store=request.dvc, cache=home / "dvc") as root:
        yield root


@contextlib.contextmanager
def _followed(log: Path) -> Iterator[None]:
    """Say each line of the training log as it comes, and now and then an empty one."""
    with process.beside(lambda done: _follow(log, done)):
        yield


def _follow(log: Path, done: threading.Event) -> None:
    sent, last, spoke = 0, False, time.monotonic()
    try:
        while not last:
            last = done.wait(0.5)
            whole = log.read_text("utf-8").rpartition("\n")[0].splitlines() if log.exists() else []
            for line in whole[sent:]:
                say(STEP + line)
            if time.monotonic() - spoke > ALIVE:
                say("")
                spoke = time.monotonic()
            sent = len(whole)
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGTERM)


def _md5(root: Path, adapter: str, out: str) -> str:
    lock = parse_yaml((root / "dvc.lock").read_text("utf-8"))
    return next(str(entry["md5"]) for entry in lock["stages"][f"train@{adapter}"]["outs"] if entry["path"] == out)


def main() -> None:
    os.environ.pop(VARIABLE, None)
    home = Path(os.environ.get("RETRAIN_CACHE") or "~/.cache/retrain").expanduser().absolute()
    os.environ["RETRAIN_CACHE"] = str(home)
    try:
        run(Request.of(sys.argv[1:]), home)
    except RetrainError as error:
        say(process.told(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
