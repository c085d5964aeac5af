"""Every place on this machine where rows may lie, searched by content: DVC's objects, MLflow, reports, a person's checkout."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrain import redact
from retrain.errors import RetrainError
from retrain.process import try_git
from retrain.records import dumps, write_text
from retrain.redact import Covers, Traces
from retrain.registry import Registry
from retrain.registry.redact import ADAPTER, compact
from retrain.registry.redact import redact as redact_registry
from retrain.registry.traces import erase as erase_traces
from retrain.workspace import Workspace

CARD = "## Bound to"  # a card ends with it
LONG = 20  # characters of an answer that could tell who wrote it


@dataclass
class Found:
    """What objects say of one row."""

    questions: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)

    def texts(self, labels: bool) -> set[str]:
        """Question, and answer where it is a text and no label."""
        return self.questions | {answer for answer in self.answers if not labels or (len(answer) > LONG and " " in answer)}


# --- DVC's objects


def listed(places: Sequence[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], list[str]]:
    """(places whose objects can be searched, names of those that list nothing, such as a web server)."""
    found, closed = [], []
    for name, store in places:
        try:
            next(iter(store.fs.find(store.path)), None) if store.fs.exists(store.path) else None
        except NotImplementedError:
            closed.append(name)
        else:
            found.append((name, store))
    return found, closed


def _objects(store: Any) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every object that is text; weights begin with binary numbers."""
    for path in store.fs.find(store.path) if store.fs.exists(store.path) else ():
        try:
            with store.fs.open(path, "rb") as file:
                start = file.read(4096)
                data = b"" if b"\0" in start else start + file.read()
        except FileNotFoundError:
            continue  # another process cleaned up
        if data:
            yield str(path), data


def rows(places: Sequence[tuple[str, Any]], covers: Covers, traces: Traces) -> dict[str, Found]:
    """Rows of every version that name who is erased, by id; their requests go into traces."""
    found: dict[str, Found] = {}
    seen: set[str] = set()
    hints = traces.hints()
    for _, store in places:
        for path, data in _objects(store):
            name = "".join(Path(path).parts[-2:])
            if name in seen or not any(hint in data for hint in hints):
                continue
            seen.add(name)
            for row in redact.rows_in(data):
                if redact.cleaned(row, covers) is row:
                    continue
                traces.requests |= {str(origin["request_id"]) for origin in _origins(row) if covers(origin)}
                row_id, question, answer = redact.read_row(row)
                if not row_id:  # a record about a request, such as a review
                    continue
                held = found.setdefault(row_id, Found())
                held.questions |= {question} - {""}
                held.answers |= {answer} - {""}
    return found


def _origins(row: dict[str, Any]) -> list[dict[str, Any]]:
    row = redact.inner(row)
    own = [{"request_id": row["request_id"], "user": row.get("user")}] if "request_id" in row else []
    given = row.get("origins")
    told = given if isinstance(given, list) else []
    return [*own, *(origin for origin in told if isinstance(origin, dict) and "request_id" in origin)]


def objects(
    places: Sequence[tuple[str, Any]], covers: Covers, traces: Traces, *, hold: bool
) -> tuple[dict[str, list[str]], list[str]]:
    """Delete every object that holds a trace, those that name who is erased last; ({place: their names}, what stayed).

    Through these all else is found again: they stay while something could not be cleaned, or where `hold` says so.
    """
    deleted: dict[str, list[str]] = {}
    stayed: list[str] = []
    hints = traces.hints()
    doomed = [
        (*_holds(data, covers, traces), name, store, path) for name, store in places for path, data in _hinted(store, hints)
    ]
    for names, is_one, name, store, path in sorted(doomed, key=lambda one: one[0]):
        if not (names or is_one):
            continue
        if names and (hold or stayed):
            stayed.append(f"{name} keeps {path}, through which what is left is found: mend that, and run it again")
            continue
        try:
            store.fs.rm_file(path)
        except (OSError, NotImplementedError) as error:
            stayed.append(f"{name} does not delete {path} ({error}): delete it there")
            continue
        deleted.setdefault(name, []).append("".join(Path(path).parts[-2:]))
    return deleted, stayed


def _hinted(store: Any, hints: list[bytes]) -> Iterator[tuple[str, bytes]]:
    return ((path, data) for path, data in _objects(store) if any(hint in data for hint in hints))


def _holds(data: bytes, covers: Covers, traces: Traces) -> tuple[bool, bool]:
    """(names who is erased, holds a row of theirs or quotes it on a card)."""
    names = is_one = False
    for row in redact.rows_in(data):
        names = names or redact.cleaned(row, covers) is not row
        is_one = is_one or redact.read_row(row)[0] in traces.ids
    text = data.decode("utf-8", "replace")
    return names, is_one or (CARD in text and traces.redacted(text) != text)


# --- files


def clean_file(path: Path, covers: Covers) -> tuple[set[str], set[str]]:
    """Take who is erased out of a JSONL file; (ids of rows that are left, ids of rows that lost an origin or are gone)."""
    left: set[str] = set()
    lost: set[str] = set()
    touched = False
    lines: list[str] = []
    for line in path.read_text("utf-8", "surrogateescape").split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:  # a person's slip, for `preflight` to name
            lines.append(line)
            continue
        kept = redact.cleaned(row, covers)
        if kept is not row:
            touched = True
            lost.add(redact.read_row(row)[0] or str(row.get("request_id")))
        if kept is not None:
            left.add(redact.read_row(kept)[0])
            lines.append(line if kept is row else dumps(kept))
    if touched:
        write_text(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    return left, lost


def texts(workspace: Workspace, traces: Traces, covers: Covers) -> tuple[int, list[str], bool]:
    """Clean .retrain, MLflow and the checkout; (how many texts were cleaned, what could not be, whether MLflow was down)."""
    cleaned, stayed, down = 0, [], False
    try:
        registry = Registry.open(workspace.params.mlflow, workspace.root)
        for adapter in workspace.params.adapters:
            cleaned += redact_registry(registry, adapter, traces.redacted)
            cleaned += erase_traces(registry, adapter, requests=traces.requests, users=traces.users)
    except RetrainError as error:
        down = True
        stayed.append(f"MLflow: {str(error).partition(chr(10))[0]}: run it again when MLflow answers")
    database = workspace.local / "mlflow" / "mlflow.db"
    if database.exists() and not compact(database):
        stayed.append(f"what was deleted in {database}, which another process uses: run it again when it has ended")
    for path in (workspace.local / "answers").glob("*.json"):
        path.unlink(missing_ok=True)  # a cache
    shutil.rmtree(workspace.local / "checkpoints", ignore_errors=True)  # weights that may have learned the rows
    for path in (workspace.local / "traces").rglob("*.parquet"):
        path.unlink(missing_ok=True)  # a copy of the log store, made anew from it
    hints = traces.hints()
    for path in _own_files(workspace):
        n, left = _clean_text(path, hints, traces)
        cleaned, stayed = cleaned + n, stayed + left
    for path in _checkout(workspace):
        n, left = _clean_checkout(workspace, path, hints, traces, covers)
        cleaned, stayed = cleaned + n, stayed + left
    return cleaned, stayed, down


def _own_files(workspace: Workspace) -> Iterator[Path]:
    """Files of .retrain that may quote users: not the stores of git and DVC, the key, or a version's verified bytes; of
    Airflow its logs, not what it is run with."""
    other = {"origin.git", "dvc", "clones", "locks", "user.key", "base", "serving"}
    for folder in workspace.local.iterdir():
        if folder.name not in other:
            within = folder / "logs" if folder.name == "airflow" else folder
            files = (path for path in ([within] if within.is_file() else within.rglob("*")) if path.is_file())
            yield from (path for path in files if path.parent.name != ADAPTER)


def _checkout(workspace: Workspace) -> Iterator[Path]:
    for name in ("data", "out"):
        yield from (path for path in (workspace.root / name).rglob("*") if path.is_file())


def _clean_text(path: Path, hints: list[bytes], traces: Traces) -> tuple[int, list[str]]:
    data = path.read_bytes()
    if not any(hint in data for hint in hints):
        return 0, []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return 0, [f"{path} is no text and seems to hold what was erased: look at it"]
    clean = traces.redacted(text)
    if clean != text:
        write_text(path, clean)
    return int(clean != text), []


def _clean_checkout(
    workspace: Workspace, path: Path, hints: list[bytes], traces: Traces, covers: Covers
) -> tuple[int, list[str]]:
    """A person's checkout: rows are taken out of its data, products that quote them are removed; git's own files are left."""
    data = path.read_bytes()
    if b"\0" in data[:4096] or not any(hint in data for hint in hints) or not any(_holds(data, covers, traces)):
        return 0, []
    if try_git(workspace.root, "ls-files", "--error-unmatch", "--", str(path)).returncode == 0:
        return 0, [f"{path} is in git, and so is its history: take the rows out, commit, and rewrite the history"]
    if path.suffix == ".jsonl" and path.is_relative_to(workspace.root / "data"):
        clean_file(path, covers)
    else:
        path.unlink()
    return 1, []
