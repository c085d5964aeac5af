"""What verbs have in common: their options, the workspace, times, and printing for people or for programs."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from retrain.errors import ParamsError

Root = Annotated[Path, typer.Option("--workspace", "-w", help="the workspace; default: this folder")]
Name = Annotated[str, typer.Argument(help="an adapter of params.yaml")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override a parameter: --set train.epochs=2")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]
HERE = Path(".")


def say(line: str) -> None:
    """A line that a progress bar on the same terminal does not garble."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stdout):
        print(line, flush=True)


def say_for(as_json: bool) -> Callable[[str], None]:
    """Beside a JSON object, what is said goes to stderr."""
    return (lambda line: print(line, file=sys.stderr, flush=True)) if as_json else say


def out(data: dict[str, Any], as_json: bool, lines: Sequence[str]) -> None:
    """The result, whole: one JSON object, or lines."""
    print(json.dumps(data, ensure_ascii=False, indent=2, default=str) if as_json else "\n".join(lines), flush=True)


def open_workspace(root: Path, adapter: str | None = None) -> Any:
    """The workspace, in which this adapter is known before anything is made or asked."""
    from retrain.workspace import Workspace

    if root.exists() and not root.is_dir():
        raise ParamsError(f"--workspace {root} is a file: give the folder that holds params.yaml")
    space = Workspace.open(root)
    if adapter is not None:
        space.params.adapter(adapter)
    return space


def time_of(text: str | None, name: str) -> datetime:
    """An instant that an option gives, else now."""
    from retrain.records import parse_time

    return parse_time(text, name) if text else datetime.now(UTC).replace(microsecond=0)


def window_of(space: Any, start: str | None, end: str | None) -> Any:
    """The window that two options give, else the last full one."""
    from monitoring import windows

    if (start is None) != (end is None):
        raise ParamsError("give both --start and --end, or neither for the last full window")
    if start and end:
        return windows.of_interval(start, end)
    return windows.last_full(datetime.now(UTC), space.params.window.hours)
