"""Child processes that never outlive what started them: own session, streamed output, one end for the whole group."""

import atexit
import contextlib
import ctypes
import functools
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import FrameType

from retrain import errors
from retrain.errors import RetrainError

GRACE = 20.0  # seconds between TERM and KILL: a training ends its step and writes a checkpoint, nothing else needs one
_FROM_A_HOOK = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_PREFIX")  # they would name another repository


def environment(**more: str) -> dict[str, str]:
    """Environment of a child: this Python's folder first on PATH, no question asked, no telemetry, messages in English."""
    env = {key: value for key, value in os.environ.items() if key not in _FROM_A_HOOK}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    quiet = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    return {**env, **quiet, **more}


def cache(name: str) -> Path:
    """A folder of what can be made again, shared by all clones of a workspace (RETRAIN_CACHE), else of this folder alone."""
    return Path(os.environ.get("RETRAIN_CACHE") or ".retrain") / name


@functools.cache
def collect_seldom() -> None:
    """Have Python look for garbage in cycles less often, and not at its end.

    torch, MLflow, Airflow and their kin are a million objects that stay: looking at them again and again is a third of the
    time in which they load and a command ends.
    """
    gc.set_threshold(50_000, 20, 10)
    atexit.register(gc.freeze)


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies (Linux; elsewhere nothing happens).

    `run_group` sets it for its child; a stage calls it too, for its parent is `dvc repro` and death is not inherited.
    """
    if sys.platform == "linux":
        _bind(ctypes.CDLL(None), os.getppid(), by)


def ends_itself() -> threading.Event:
    """SIGTERM, which the death of the parent sends too from now on, sets this event in place of ending the process.

    The process then has GRACE seconds to end by itself, also where it hangs in a call that lets no handler run.
    """
    asked = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while os.read(reader, 1)[0] != signal.SIGTERM:
            pass
        asked.set()
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    signal.set_wakeup_fd(writer)  # written to by C, whatever Python is doing
    signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    die_with_parent(signal.SIGTERM)
    return asked


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run some work in a thread meanwhile. At the end its event is set, and it has 30 seconds to end as well."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=30)


def _bind(libc: ctypes.CDLL, parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    libc.prctl(1, by)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before the call: no signal will come any more
        os._exit(1)


def public(address: str) -> str:
    """An address without the user and password in it."""
    return re.sub(r"//[^/@\s]*@", "//", address)


def alive(pid: str) -> bool:
    """Whether a process of this host has this pid."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def run_group(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], on_line: Callable[[str], None] | None = None
) -> int:
    """Run a command in a session of its own and hand each line of its output (stdout and stderr) to on_line.

    Returns the exit code (-n: killed by signal n). Whatever interrupts this call (SIGTERM, Ctrl-C, an error in on_line)
    ends the whole process group first: TERM, then KILL. Parent killed by SIGKILL: the kernel kills the child.
    """
    with _sigterm_raises() as from_now_on:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="replace", start_new_session=True, preexec_fn=dies_with_me(),
        )  # fmt: skip
        try:
            from_now_on()  # raised while the child started, nobody would end it
            assert process.stdout is not None
            for line in process.stdout:
                if on_line and line.strip():
                    on_line(line.rstrip())
            return process.wait()
        except BaseException:
            end_group(process)
            raise


def dies_with_me() -> Callable[[], None] | None:
    """For `preexec_fn`: the kernel kills the child when the thread that started it dies (Linux)."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()  # loaded here: between fork and exec nothing may be imported
    return lambda: _bind(libc, parent)


def end_group(process: "subprocess.Popen[str]") -> None:
    """TERM to the process group, KILL after a grace to what is left of it."""
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and _signal_group(process.pid, 0):
        process.poll()  # reap it, or the group would seem to live
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[Callable[[], None]]:
    """SIGTERM becomes SystemExit(143), so that `except` and `finally` run: once, from the call of what is yielded.

    One that came before is raised by that call. A handler of others (Airflow) stays.
    """
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not mine:
        yield lambda: None
        return
    came, raises = False, False

    def terminated(number: int, frame: FrameType | None) -> None:
        nonlocal came, raises
        came = True
        if raises:
            raises = False  # a second one does not cut off what ends the child
            raise SystemExit(128 + number)

    def from_now_on() -> None:
        nonlocal raises
        raises = True
        if came:
            terminated(signal.SIGTERM, None)

    signal.signal(signal.SIGTERM, terminated)
    try:
        yield from_now_on
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def git(root: Path, *args: str, timeout: float | None = None) -> str:
    """Output of `git ...` in root, stripped; a failure, or more than so many seconds, is a RetrainError with its last lines."""
    result = try_git(root, *args, timeout=timeout)
    if result.returncode:
        raise failure(["git", *args], root, result.returncode, (result.stdout + result.stderr).splitlines())
    return result.stdout.strip()


def text_at(root: Path, commit: str, path: str) -> str | None:
    """A file's text at a commit, stripped; None where it has none there. Objects that are missing are a RetrainError."""
    return git(root, "show", f"{commit}:{path}") if git(root, "ls-tree", "--name-only", commit, "--", path) else None


def try_git(root: Path, *args: str, timeout: float | None = None) -> "subprocess.CompletedProcess[str]":
    """`git ...` in root, whatever it returns; RetrainError where it takes more than `timeout` seconds."""
    command = ["git", *args]
    with subprocess.Popen(
        command, cwd=root, env=environment(), text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            _end_tree(process.pid)
            raise failure(command, root, -signal.SIGKILL, [f"no answer in {timeout:g} s: is the network there?"]) from error
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end_tree(pid: int) -> None:
    """Kill a process and its children: git's helpers hold its pipes, and outlive it where the network is silent."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid)
        for process in [*found.children(recursive=True), found]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def dvc(
    root: Path, *args: str, on_line: Callable[[str], None] | None = None, env: Mapping[str, str] | None = None
) -> str:  # fmt: skip
    """Output of `dvc ...` in root, each line also to on_line as it comes; env: more variables for it and its stages.

    A failure is the error that a stage told, where one did, else a RetrainError with DVC's last lines.
    """
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if on_line:
            on_line(line)

    code = run_group([sys.executable, "-m", "dvc", *args], cwd=root, env=environment(**(env or {})), on_line=keep)
    if code:
        raise refusal(lines) or failure(["dvc", *args], root, code, lines)
    return "\n".join(lines)


def told(error: RetrainError) -> str:
    """How a stage prints its error, so that `refusal` finds it among the lines of `dvc repro`."""
    return f"error[{type(error).__name__}]: " + str(error).replace("\n", "\n  ")


def refusal(lines: Sequence[str]) -> RetrainError | None:
    """The error that a stage told in these lines, of its own class and so with its exit code; None where none did."""
    for number, line in enumerate(lines):
        found = re.match(r"error\[(\w+)\]: (.*)", line)
        kind = getattr(errors, found[1], None) if found else None
        if found and isinstance(kind, type) and issubclass(kind, RetrainError):
            more = takewhile(lambda line: line.startswith("  "), lines[number + 1 :])
            return kind("\n".join([found[2], *(line[2:] for line in more)]))
    return None


def failure(command: list[str], root: Path, code: int, lines: Iterable[str]) -> RetrainError:
    """A command that failed, with the last lines it printed."""
    last = "\n  ".join(deque(lines, maxlen=12))
    return RetrainError(f"`{' '.join(command)}` failed in {root} (exit {code}):\n  {last}")
