"""What people and programs said of answers, as MLflow assessments of one trace a request, in the adapter's experiment.

A projection of the log: run again it makes MLflow say what the log says. Nothing raw leaves: all texts of a request are
searched for personal data together, users and conversations are keyed hashes, who was erased stays out, and a request whose
content was not stored is no row of the log.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring import sources
from monitoring.sources import Privacy
from monitoring.sources.traces import TRACES
from retrain import jobs, review
from retrain.errors import ParamsError
from retrain.params import Params
from retrain.records import parse_time
from retrain.registry import Registry
from retrain.registry.traces import Asked, Said, Source, erase, exported_until, put, set_exported_until
from retrain.scrub import Scrubber
from retrain.sections import SERVED
from retrain.tombstones import Tombstones
from retrain.userids import UserIds
from retrain.workspace import Workspace

OVERLAP = timedelta(hours=1)  # what is said now is on disk by then
COLUMNS = (
    *("request_id", "timestamp", "latency_ms", "model_version", "user_id", "conversation_id", "messages", "prompt", "response"),
    *("feedback", "correction", "audit_label", "feedback_at"),
)
TEXTS = ("prompt", "response", "correction", "audit_label", "messages")
EXPECTED: dict[str, Source] = {"correction": "user", "audit_label": "reviewer"}  # and who usually gives them
ABOUT = ("digest", "arm")  # of the version that answered, as the door wrote them beside the feedback
Row = dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """Requests that have feedback: traces that are new, those that were changed, and those that are not to be in MLflow."""

    requests: int
    new: int
    changed: int
    unsearched: int
    erased: int


def export(workspace: Workspace, adapter: str, *, since: datetime | None = None) -> Exported:
    """Every request of the log that has feedback, all of that; since: only those of which something became known from then on.

    ParamsError where the log is MLflow itself, RetrainError where MLflow is down, BusyError while another export or an erasure
    runs. Killed anywhere and run again it converges.
    """
    params, began = review.params_of(workspace, adapter), datetime.now(UTC)
    if params.logs.uri.startswith(TRACES):
        raise ParamsError(
            f"logs.uri is {params.logs.uri} (params.yaml): what was said of these answers is in MLflow already, as "
            "assessments of the very traces"
        )
    with workspace.lock(jobs.FEEDBACK.format(adapter), wait_seconds=jobs.LOCK_WAIT):
        registry, erased = Registry.open(workspace.params.mlflow, workspace.root), review.tombstones_of(workspace)
        until = exported_until(registry, adapter)  # a dead MLflow is noticed before the log is read
        found = _judged(workspace, params, adapter, began, since)
        kept = [row for row in found if not _covers(erased, row)]
        told = _told(_folder(workspace, params, adapter), {row["request_id"] for row in kept})
        asked = [one for one in _asked(kept, told, Scrubber(params.scrub)) if one]
        done = put(registry, adapter, asked)
        later = review.tombstones_of(workspace)  # another machine's erasure holds no lock of this one
        if gone := {row["request_id"] for row in found if _covers(later, row)}:
            erase(registry, adapter, requests=gone, users=frozenset())
        whole = len(asked) == len(kept)  # else a later window tries again
        if whole and (since is None or (until is not None and since <= parse_time(until))):
            set_exported_until(registry, adapter, began.isoformat())
    return Exported(len(found), done.new, done.changed, len(kept) - len(asked), len(found) - len(kept))


def _covers(erased: Tombstones, row: Row) -> bool:
    return erased.cover({"request_id": row["request_id"], "user": row["user_id"]})


def catch_up(workspace: Workspace, adapter: str, *, say: Callable[[str], None]) -> None:
    """`export` of what the door was told since the last time; whatever fails in it is a warning. Without a door: nothing."""
    written = [path.stat().st_mtime for path in (workspace.root / SERVED.format(adapter=adapter)).glob("*.jsonl")]
    if not written:
        return
    try:
        logs = review.params_of(workspace, adapter).logs
        if logs.feedback != "served" or logs.uri.startswith(TRACES):
            return
        until = exported_until(Registry.open(workspace.params.mlflow, workspace.root), adapter)
        since = parse_time(until) - OVERLAP if until else None
        done = export(workspace, adapter, since=since) if since is None or max(written) >= since.timestamp() else None
        if done and done.unsearched:
            say(f"warning: {done.unsearched} requests stay out of MLflow: what searches them for personal data failed")
    except Exception as error:  # the window is recorded: nothing here may undo that
        why = f"{type(error).__name__}: {error}"
        say(f"warning: feedback on {adapter} is not all in MLflow: run `retrain feedback export {adapter}` ({why})")


# --- gathered


def _folder(workspace: Workspace, params: Params, adapter: str) -> Path | None:
    """Where the door keeps what it was told; None where the log does not read it."""
    return workspace.root / SERVED.format(adapter=adapter) if params.logs.feedback == "served" else None


def _judged(workspace: Workspace, params: Params, adapter: str, before: datetime, since: datetime | None) -> list[Row]:
    """Rows with feedback, hashes in place of ids, and texts that are not searched yet."""
    ids = Privacy(users=UserIds.of(workspace))
    rows = sources.open_logs(params.logs, root=workspace.root, adapter=adapter, privacy=ids).known(before)
    if since is not None:
        rows = rows.where(lambda t: t.feedback_at >= since)
    return list(rows.frame(COLUMNS).to_dict("records"))


def _told(folder: Path | None, requests: AbstractSet[str]) -> dict[str, list[Row]]:
    """Request -> what each source said last under each name, oldest first; half a line is not there yet."""
    lines: list[Row] = []
    for path in sorted(folder.glob("*.jsonl")) if folder else ():
        for line in path.read_bytes().split(b"\n"):
            row = _json(line)
            if isinstance(row, dict) and row.get("request_id") in requests:
                lines.append(row)
    last: dict[str, dict[tuple[str, str], Row]] = {}
    for row in sorted(lines, key=lambda row: str(row["feedback_at"])):
        said = last.setdefault(row["request_id"], {})
        said.pop((row["name"], row["source"]), None)  # what is said again comes last
        said[row["name"], row["source"]] = row
    return {request: list(rows.values()) for request, rows in last.items()}


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# --- made of it


def _asked(rows: Sequence[Row], told: dict[str, list[Row]], scrub: Scrubber) -> Iterable[Asked | None]:
    """One trace a row; None for one that could not be searched for personal data."""
    texts = [_texts(row, told.get(row["request_id"], [])) for row in rows]
    for row, clean in zip(rows, scrub(texts), strict=True):
        yield None if clean.row is None else _trace(row, clean.row, told.get(row["request_id"], []))


def _texts(row: Row, told: Sequence[Row]) -> Row:
    """All that anybody wrote about one request, so that one value is one placeholder in all of it."""
    own = {name: row[name] for name in TEXTS if isinstance(row[name], str)}
    said = {f"{name} {i}": _written(one[name]) for i, one in enumerate(told) for name in ("value", "comment") if name in one}
    return {**own, **{name: value for name, value in said.items() if isinstance(value, str)}}


def _written(value: Any) -> Any:
    """A whole number as a person writes it, for it may be that of a card or a telephone."""
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value == int(value)
    return str(int(value)) if whole else value


def _trace(row: Row, clean: Row, told: Sequence[Row]) -> Asked:
    turns = _json(clean.get("messages") or "")
    fits = isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns)
    about = {"model_version": row["model_version"], **{name: one[name] for one in told for name in ABOUT if name in one}}
    return Asked(
        request=row["request_id"],
        at=_ms(row["timestamp"]),
        took=0 if math.isnan(row["latency_ms"]) else round(row["latency_ms"]),
        messages=turns if fits else [{"role": "user", "content": clean["prompt"]}],
        answer=clean.get("response") or "",
        tags={name: str(value) for name, value in about.items() if value},
        user=row["user_id"],
        session=row["conversation_id"],
        said=tuple(_said(row, clean, told)),
    )


def _said(row: Row, clean: Row, told: Sequence[Row]) -> Iterable[Said]:
    """Feedback as each source gave it; correction and audit label as the log has them now, by whom gave them last."""
    known = _ms(row["feedback_at"])
    for i, one in enumerate(told):
        written = _written(one["value"])
        found: Any = clean.get(f"value {i}", written)
        value = found if isinstance(one["value"], str) or found != written else _number(one["value"])
        thumb = one["value"] == 1 if one["name"] == "thumbs" else value
        yield Said("feedback", one["name"], one["source"], thumb, _at(one), clean.get(f"comment {i}"))
    people = [one for one in told if one["source"] != "code"]
    if not math.isnan(row["feedback"]) and not any(one["name"] == "thumbs" for one in people):
        yield Said("feedback", "thumbs", "user", row["feedback"] > 0, known)
    for name, usual in EXPECTED.items():
        if clean.get(name):
            by = next((one for one in reversed(told) if one.get(name)), None)
            who: Source = by["source"] if by else usual
            yield Said("expectation", name, who, clean[name], _at(by) if by else known)


def _number(value: Any) -> bool | float | str:
    """As MLflow keeps it; what JSON has no number for becomes a text."""
    try:
        number = value if isinstance(value, bool) else float(value)
    except OverflowError:
        number = math.inf
    return number if math.isfinite(number) else str(value)[:100]


def _at(one: Row) -> int:
    return round(datetime.fromisoformat(one["feedback_at"]).timestamp() * 1000)


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)
