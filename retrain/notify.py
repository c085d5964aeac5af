"""Tells people through apprise: a window fired or could not be measured, the monitor has not run, the guard had to put
something right, a candidate waits for an answer.

Telling is beside the work: an address that does not answer is a warning, never a failed window. Addresses may name
variables of the environment, and no message of ours shows what they hold.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from retrain import jobs, ledger
from retrain.errors import RetrainError
from retrain.params import Notify
from retrain.records import from_stamp, parse_time, read_json, write_json
from retrain.registry import Registry
from retrain.workspace import Workspace

Kind = Literal["fire", "failed", "stale", "restored", "waiting"]
Say = Callable[[str], None]
PATIENCE = 1.5  # window lengths without a new window before the monitor counts as standing still: half of one to measure in
NAMED = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def warn(line: str) -> None:
    """To stderr: stdout may be a verb's JSON."""
    print(line, file=sys.stderr, flush=True)


def send(notify: Notify, kind: Kind, *, title: str, body: str, say: Say = warn) -> int:
    """Tell every address, if params ask for this kind; how many took it. Raises nothing that an address can cause."""
    if kind not in notify.events or not notify.urls:
        return 0
    try:
        import apprise
    except ImportError:
        say("warning: nobody was told: notify.urls needs apprise: pip install 'retrain-loop[notify]'")
        return 0
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it logs addresses, and they hold secrets
    return sum(_told(apprise, number, url, title, body, say) for number, url in enumerate(notify.urls))


def _told(apprise: Any, number: int, url: str, title: str, body: str, say: Say) -> bool:
    where = f"notify.urls[{number}] (params.yaml)"
    missing = [name for pair in NAMED.findall(url) if (name := pair[0] or pair[1]) not in os.environ]
    if missing:
        say(f"warning: nobody was told through {where}: it names ${missing[0]}, which the environment does not have")
        return False
    target = apprise.Apprise()
    if not target.add(NAMED.sub(lambda found: os.environ[found[1] or found[2]], url)):
        say(f"warning: nobody was told through {where}: it is no address that apprise knows")
        return False
    try:
        taken = bool(target.notify(title=title, body=body))
    except Exception as error:  # a plugin's own, of some hundred: none of them may fail a window
        say(f"warning: nobody was told through {where}: {type(error).__name__}")
        return False
    if not taken:
        say(f"warning: nobody was told through {where}: it does not answer, or refused the message")
    return taken


def fired(workspace: Workspace, adapter: str, *, end: str, reasons: Sequence[str], page: Path, say: Say = warn) -> int:
    body = "\n".join([*reasons, "", f"the story: {page}"])
    title = f"{adapter}: the window that ended {end} opened a retraining"
    return send(workspace.params.of(adapter).notify, "fire", title=title, body=body, say=say)


def failed(workspace: Workspace, adapter: str, *, end: str, error: BaseException, say: Say = warn) -> int:
    """The kind of the error and its words if it is one of ours, which never quote a row."""
    words = str(error) if isinstance(error, RetrainError) else type(error).__name__
    title = f"{adapter}: the window that ended {end} could not be measured"
    return send(workspace.params.of(adapter).notify, "failed", title=title, body=words, say=say)


def restored(workspace: Workspace, adapter: str, *, what: str, changes: Sequence[str], say: Say = warn) -> int:
    """The guard had to put something right, or the watch after a promotion found harm."""
    title = f"{adapter}: {what}"
    return send(workspace.params.of(adapter).notify, "restored", title=title, body="\n".join(changes), say=say)


def waiting(workspace: Workspace, adapter: str, *, asks: str, subject: str, say: Say = warn) -> int:
    """A candidate waits for a person's answer."""
    title = f"{adapter}: a candidate waits for your answer in {asks}"
    return send(workspace.params.of(adapter).notify, "waiting", title=title, body=subject, say=say)


# --- a monitor that has not run


def stale(
    adapter: str, windows: Sequence[Mapping[str, Any]], now: datetime, window_hours: float, *, since: datetime | None = None
) -> str | None:
    """A sentence if a window that has long ended was not measured; None while all is well. Pure.

    windows: records with `end`, in any order; now and since: aware. Before the first window, `since` (when the champion was
    promoted) is what time counts from; with neither, there is nothing to watch yet.
    """
    ends = [_instant(window["end"]) for window in windows]
    last = max(ends) if ends else since
    if last is None or now - last <= PATIENCE * timedelta(hours=window_hours):
        return None
    missed = int((now - last) / timedelta(hours=window_hours))
    what = (
        f"its newest window ended {last:%Y-%m-%d %H:%M} UTC"
        if ends
        else f"it has measured none since {last:%Y-%m-%d %H:%M} UTC"
    )
    windows_ = "1 window is" if missed == 1 else f"{missed} windows are"
    fix = f"see the DAG monitor_adapters, or run `retrain monitor {adapter}`"
    return f"the monitor of {adapter} stands still: {what}, {windows_} missing: {fix}"


def _instant(text: str) -> datetime:
    try:
        return from_stamp(text)
    except ValueError:
        return parse_time(text)


def stale_now(workspace: Workspace, adapter: str, now: datetime) -> str | None:
    """`stale` of what MLflow and the ledger have."""
    windows = Registry.open(workspace.params.mlflow, workspace.root).window_runs(adapter, 1)
    entries = jobs.entries(workspace, adapter)
    promoted = [entry.at for entry in entries if isinstance(entry, ledger.Promotion)]
    since = parse_time(promoted[0]) if promoted else None
    return stale(adapter, [run.tags for run in windows], now, workspace.params.window.hours, since=since)


def guard_monitor(workspace: Workspace, adapter: str, now: datetime, say: Say = warn) -> str:
    """RetrainError where the monitor stands still; people are told once for each window that it stopped at."""
    found = stale_now(workspace, adapter, now)
    told = workspace.local / "notified" / f"{adapter}.json"
    if found is None:
        told.unlink(missing_ok=True)
        return f"the monitor of {adapter} runs"
    key, title = found.partition(", ")[0], f"{adapter}: the monitor stands still"
    known = told.exists() and read_json(told).get("stale") == key
    if not known and send(workspace.params.of(adapter).notify, "stale", title=title, body=found, say=say):
        write_json(told, {"stale": key})
    raise RetrainError(found)
