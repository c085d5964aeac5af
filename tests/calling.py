"""`retrain <words>` as a shell would see it, in this process or in one of its own."""

import contextlib
import io
import subprocess
import sys
from typing import Any, NamedTuple

from retrain import cli


class Called(NamedTuple):
    code: Any
    out: str
    err: str


def call(*words: object) -> Called:
    """`retrain <words>` in this process: exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["retrain", *map(str, words)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    return Called(code, out.getvalue(), err.getvalue())


def as_a_script(*words: object) -> "subprocess.CompletedProcess[str]":
    """`retrain <words>` in a process of its own, with no terminal anywhere."""
    command = [sys.executable, "-m", "retrain.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)
