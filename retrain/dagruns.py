"""The DAGs of dags/, run in this process on the workspace's own Airflow database, so that `retrain up` shows the runs.

`DAG.test` runs a DAG's tasks one after the other, without a scheduler: what the demo needs. Airflow is not imported here:
the DAG files bring it.
"""

import contextlib
import io
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any
from unittest import mock

from retrain.errors import RetrainError
from retrain.process import environment, failure, run_group
from retrain.story import HOME
from retrain.up import airflow_environment
from retrain.workspace import Workspace

WORTH_SAYING = re.compile(r"(trained |warning: |base |\S+: \d+ rows train)")
FILES = ("monitor_adapters", "retrain_adapter", "guard_champion")


class _Log(io.TextIOBase):
    """What tasks print: all of it into a file, what a person waits for to `say` as well."""

    def __init__(self, file: IO[str], say: Callable[[str], None]) -> None:
        self.file, self.say, self.line = file, say, ""

    def write(self, text: str) -> int:
        self.file.write(text)
        *whole, self.line = (self.line + text).split("\n")
        for line in whole:
            if WORTH_SAYING.match(line):
                self.say(f"   {line}")
        return len(text)

    def flush(self) -> None:
        self.file.flush()


class DagRuns:
    """The DAGs of one workspace; a process can hold those of one only, for Airflow reads its environment once."""

    def __init__(self, workspace: Workspace, say: Callable[[str], None]) -> None:
        out = sys.stdout  # `say` prints: what it says while tasks run must not come back here
        self.say = lambda line: _aside(out, say, line)
        self.log = workspace.local / "up" / "dagruns.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        os.environ.update(airflow_environment(workspace, port=0), AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR")
        self._migrate(workspace)
        with self._logged():
            self.dags = {dag.dag_id: dag for name in FILES for dag in _dags(HOME / "dags" / f"{name}.py")}

    def _migrate(self, workspace: Workspace) -> None:
        lines: list[str] = []
        command = ["airflow", "db", "migrate"]
        code = run_group(command, cwd=workspace.root, env=environment(), on_line=lines.append)
        if code:
            raise failure(command, workspace.root, code, lines)

    def run(self, dag_id: str, at: datetime, conf: dict[str, Any] | None = None) -> None:
        """One run with the logical date `at` (of a scheduled DAG: the end of its data interval); RetrainError if it failed.

        What the tasks print goes to the log; progress bars stay on the terminal.
        """
        if dag_id not in self.dags:
            raise RetrainError(f"{HOME / 'dags'} has no DAG {dag_id}, it has {', '.join(sorted(self.dags))}")
        start = self.log.stat().st_size if self.log.exists() else 0
        with self._logged(), _interruptible():
            print(f"== {dag_id} {at:%Y-%m-%dT%H:%M:%SZ}", flush=True)
            done = self.dags[dag_id].test(logical_date=at, run_conf=conf or {})
        if done.state != "success":
            with self.log.open("rb") as file:
                file.seek(start)
                text = file.read().decode("utf-8", "replace")
            raise RetrainError(f"the DAG run {dag_id} at {at} {done.state}: {_reason(text)}; see {self.log}")

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        with self.log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(_Log(file, self.say)):
            yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and TERM end this process: Airflow would take the one for a task that failed, and the other for nothing."""
    interrupted, real = [], signal.signal

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt

    before = {number: real(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}

    def keep(number: int, handler: Any) -> Any:
        return before[signal.Signals(number)] if number in before else real(number, handler)

    try:
        with mock.patch("signal.signal", keep):  # each task sets its own handler of TERM
            yield
    finally:
        for number, handler in before.items():
            real(number, handler)
    if interrupted:
        raise KeyboardInterrupt


def _aside(out: Any, say: Callable[[str], None], line: str) -> None:
    with contextlib.redirect_stdout(out):
        say(line)


def _dags(path: Path) -> list[Any]:
    found = runpy.run_path(str(path)).values()
    return list({id(value): value for value in found if hasattr(value, "dag_id") and hasattr(value, "test")}.values())


def _reason(text: str) -> str:
    """The last error that a task raised, out of Airflow's log; its last lines where none is found."""
    raised = re.findall(r"^\s*(?:[\w.]*Error|[\w.]*Exception|[\w.]+NothingToDo): .*$", text, re.MULTILINE)
    return raised[-1].strip() if raised else "\n  ".join(text.splitlines()[-8:])
