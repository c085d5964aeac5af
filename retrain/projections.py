"""Everything that people open, written anew from MLflow and git: story page, index, window reports, Evidently, OpenMetrics.

All of it lies in .retrain and may be deleted. What is told comes from `monitoring.chronicle`; here it is only gathered.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from monitoring import chronicle, evidently_ui, openmetrics, pages, telling
from monitoring.chronicle import Chronicle, Event, Seen
from retrain import jobs, notify
from retrain.errors import RetrainError
from retrain.markdown import linked
from retrain.process import git
from retrain.records import read_json, write_json, write_text
from retrain.registry import Registry, Run
from retrain.workspace import Workspace

WINDOWS = 90  # shown at most: a quarter of daily windows; each costs one small file of MLflow
PICTURES = 5  # of attempts, the newest: 50 kB of the page each
COLLECTED = re.compile(r"(\d+ failure cases) known before (\S+)$")  # the subject of a collection's commit


@dataclass(frozen=True)
class Written:
    """What was written for an adapter."""

    adapter: str
    headline: str
    page: Path
    metrics: Path
    windows: int


def reports(workspace: Workspace) -> Path:
    return workspace.local / "reports"


def panels_of(workspace: Workspace) -> Path:
    """Evidently's workspace."""
    return workspace.local / "evidently"


def page_of(workspace: Workspace, adapter: str) -> Path:
    return reports(workspace) / f"{adapter}.html"


def refresh(workspace: Workspace, adapter: str, *, panels: bool, say: Callable[[str], None]) -> None:
    """`write` beside work that is done and recorded: whatever fails in it is a warning."""
    try:
        write(workspace, adapter, panels=panels)
    except Exception as error:  # drawing, templates, Evidently: none of them may undo the work
        why = f"{type(error).__name__}: {error}"
        say(f"warning: the pages of {adapter} are not up to date: run `retrain pages {adapter}` ({why})")


def write(workspace: Workspace, adapter: str, *, panels: bool) -> Written:
    """All of one adapter, and the index; the same records give the same bytes. panels: also Evidently's (4 s to import)."""
    registry = Registry.open(workspace.params.mlflow, workspace.root)
    entries = jobs.entries(workspace, adapter)
    windows = _windows(workspace, registry, adapter)
    collections, hours = _collections(workspace, adapter), workspace.params.window.hours
    told = telling.chronicle(adapter, windows=windows, entries=entries, collections=collections, hours=hours)
    _restore_reports(workspace, registry, told)
    runs = {run.tags["digest"]: run for run in registry.ended_trainings(adapter) if "digest" in run.tags}
    story = replace(told, events=tuple(_linked(workspace, event, runs) for event in told.events))
    cards = _cards(registry, runs)
    html = pages.story_page(story, cards=cards, commits=_commits(workspace, told.events))
    page, metrics = page_of(workspace, adapter), workspace.local / "metrics" / f"{adapter}.prom"
    write_text(page, html)
    write_json(reports(workspace) / f"{adapter}.json", pages.summary_row(told))
    write_index(workspace)
    write_text(metrics, openmetrics.text(told))
    if panels:
        evidently_ui.add_to_workspace(panels_of(workspace), adapter, windows)
    return Written(adapter, told.summary.headline, page, metrics, len(windows))


def write_index(workspace: Workspace) -> Path:
    """The index of the adapters whose pages there are, and the doors where there are none yet."""
    known = [reports(workspace) / f"{name}.json" for name in workspace.params.adapters]
    index = reports(workspace) / "index.html"
    write_text(index, pages.index_page([read_json(path) for path in known if path.exists()]))
    for name in ("mlflow", "evidently"):
        if not _door(workspace, name).exists():
            write_door(workspace, name, None)
    return index


def write_door(workspace: Workspace, name: str, address: str | None) -> None:
    """reports/<name>/index.html: where links to MLflow's runs and Evidently's projects go through."""
    title = {"mlflow": "MLflow", "evidently": "Evidently"}[name]
    write_text(_door(workspace, name), pages.hop_page(title, address, by_path=name == "evidently"))


def _door(workspace: Workspace, name: str) -> Path:
    return reports(workspace) / name / "index.html"


# --- for `retrain status`


@dataclass(frozen=True)
class Standing:
    """The last window as MLflow has it (None: none yet), its page, and what is wrong with the watching itself."""

    window: dict[str, Any] | None
    page: Path | None
    trouble: str | None

    def as_dict(self) -> dict[str, Any]:
        names = ("start", "end", "rows", "drift_status", "satisfaction", "accuracy", "fire", "reasons")
        window = {name: self.window.get(name) for name in names} if self.window else None
        return {"window": window, "page": self.page, "trouble": self.trouble}

    def lines(self) -> list[str]:
        found = [self.trouble] if self.trouble else []
        if self.window is None:
            return [*found, "no window measured yet"]
        decision, drift = "fire" if self.window["fire"] else "hold", self.window["drift_status"].replace("_", " ")
        reason = f": {self.window['reasons'][0]}" if self.window["reasons"] else ""
        page = str(self.page) if self.page else "its page is missing: run `retrain pages`"
        return [*found, f"window {self.window['end']}: {self.window['rows']} rows, {drift}, {decision}{reason}", f"page {page}"]


def last_window(workspace: Workspace, adapter: str, now: datetime) -> Standing:
    """An MLflow that does not answer is said, and takes nothing else down; a local one that is not there yet is not made."""
    page = page_of(workspace, adapter)
    shown = page if page.exists() else None
    if workspace.params.mlflow.uri is None and not (workspace.local / "mlflow" / "mlflow.db").exists():
        return Standing(None, shown, None)
    try:
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        windows = registry.windows(adapter, 1)
        return Standing(windows[-1] if windows else None, shown, notify.stale_now(workspace, adapter, now))
    except RetrainError as error:
        return Standing(None, shown, str(error))


# --- gathered


def _windows(workspace: Workspace, registry: Registry, adapter: str) -> list[Seen]:
    thresholds = {name: rule.threshold for name, rule in workspace.params.of(adapter).drift.columns.items()}
    runs = registry.window_runs(adapter, WINDOWS)
    return [chronicle.seen(registry.record(run), run, thresholds) for run in runs]


def _collections(workspace: Workspace, adapter: str) -> list[Event]:
    """Dataset versions that collections made, from git: rows and time are in the subject."""
    path = f"data/failures/{adapter}.dvc"
    log = git(workspace.root, "log", "--reverse", "--format=%H %s", workspace.remote_head(), "--", path)
    events = []
    for line in log.splitlines():
        commit, _, subject = line.partition(" ")
        found = COLLECTED.search(subject)
        if found:
            at = chronicle.instant(found[2])
            facts = (("known before", chronicle.moment(at)), ("kept in", f"data/failures/{adapter}"))
            title = f"{found[1]} collected"
            events.append(Event(at, "dataset", f"d-{commit[:10]}", title, facts=facts, commit=commit))
    return events


def _cards(registry: Registry, runs: Mapping[str, Run]) -> dict[str, str]:
    """digest -> card; those of the newest attempts with their picture, which lies in the page as all else does."""
    texts = {digest: registry.artifact(run.id, "card.md") for digest, run in runs.items()}
    found = {digest: text.decode("utf-8", "replace") for digest, text in texts.items() if text is not None}
    for digest in list(found)[-PICTURES:]:
        picture = registry.artifact(runs[digest].id, "scores.png")
        if picture:
            found[digest] = linked(found[digest], [], f"data:image/png;base64,{b64encode(picture).decode()}")
    return found


def _restore_reports(workspace: Workspace, registry: Registry, told: Chronicle) -> None:
    """Window reports that were deleted come back from MLflow."""
    for window in told.windows:
        path = _report(workspace, told.adapter, window)
        if not path.exists() and window.run:
            kept = registry.artifact(window.run.id, path.name)
            if kept is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(kept)


def _report(workspace: Workspace, adapter: str, window: Seen) -> Path:
    return reports(workspace) / adapter / f"{window.key}.html"


def _linked(workspace: Workspace, event: Event, runs: dict[str, Run]) -> Event:
    """The event with the addresses of its report, run and commit; an address relative to the page where there is a file."""
    links: list[tuple[str, str]] = []
    run = event.window.run if event.window else runs.get(event.digest or "")
    if event.window and run:
        adapter = str(event.window.record["adapter"])
        if _report(workspace, adapter, event.window).exists():
            links.append(("drift report", f"{adapter}/{event.window.key}.html"))
        links.append(("panels over time", f"evidently/index.html#/projects/{evidently_ui.project_id(adapter)}"))
    if run:
        server = workspace.params.mlflow.uri
        door = f"{server.rstrip('/')}/" if server and server.startswith("http") else "mlflow/index.html"
        links.append(("MLflow run", f"{door}#/experiments/{run.experiment}/runs/{run.id}"))
    web = web_address(workspace.params.workspace.remote or "")
    if event.commit and web:
        links.append(("commit", f"{web}/commit/{event.commit}"))
    return replace(event, links=tuple(links))


def web_address(remote: str) -> str | None:
    """Where a git remote shows its commits to a browser; None for a folder. User and password in it are left out."""
    if found := re.fullmatch(r"(?:ssh://)?[\w.-]+@([\w.-]+)[:/](.+?)(?:\.git)?/?", remote):
        return f"https://{found[1]}/{found[2]}"
    parts = urlsplit(remote)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/').removesuffix('.git')}"


def _commits(workspace: Workspace, events: Iterable[Event]) -> dict[str, str]:
    """Commit -> subject, time and files, as git says it; one that is not here is left out."""
    wanted = sorted({event.commit for event in events if event.commit and re.fullmatch(r"[0-9a-f]{7,64}", event.commit)})
    if not wanted:
        return {}
    form = "--format=%x00%H%x00%s%n%cd"
    text = git(workspace.root, "log", "--no-walk", "--ignore-missing", "--stat=72", "--date=iso-strict", form, *wanted)
    fields = text.split("\0")[1:]
    return dict(zip(fields[::2], (field.strip() for field in fields[1::2]), strict=True))
