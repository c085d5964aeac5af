"""A user (or a request) is erased: out of every live version, out of every past one, out of what was written about them.

Order, so that a kill at any point leaves what a second call needs: a tombstone and clean data are pushed; then predictions,
cards, reports and MLflow are cleaned; last go the objects that name who is erased, for the rows are found through them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from retrain import jobs, ledger, lineage, overlay, redact, sweep, tombstones
from retrain.errors import ParamsError, RetrainError
from retrain.jobs import TRIES, now
from retrain.params import Params
from retrain.records import dumps, parse_yaml, write_text
from retrain.scrub import Scrubber
from retrain.store import Store
from retrain.text import is_text
from retrain.tombstones import Tombstone, Tombstones
from retrain.userids import LACKING, UserIds
from retrain.workspace import Clone, Workspace

FORMS = (
    *lineage.PARTS.values(),
    "data/quarantine/{}",
    "data/reviews/{}",
    lineage.LEFT,
)  # all that holds rows with their origins
STAGES = ("recheck", "synthesize", "prepare", "train", "evaluate", "serves", "gate")
BESIDE = (".feedback", ".shadow", ".uncounted")  # folders of logs/ that no log store is asked for
ALWAYS = (
    "backups, and caches and checkouts on other machines: run it there too, it does no more than is needed",
    "what people copied out of MLflow, such as evaluation datasets that they made of its traces",
    "the weights of the adapters that learned the rows, until they are replaced and their versions deleted",
    "the weights of routers that were fitted on them, which hold no text: `retrain route fit` makes one without them",
)


@dataclass
class Erased:
    """What an erasure did; `rows` are ids by adapter, `learned` the versions and candidates that used them."""

    tombstone: str
    fresh: bool
    rows: dict[str, list[str]] = field(default_factory=dict)
    learned: list[lineage.Learned] = field(default_factory=list)
    ledger: list[str] = field(default_factory=list)  # its lines about it, those of earlier calls too
    due: list[str] = field(default_factory=list)
    objects: dict[str, int] = field(default_factory=dict)  # deleted, by place
    texts: int = 0  # files and MLflow entries that were cleaned
    unreached: list[str] = field(default_factory=list)


def erase(
    workspace: Workspace, *, kind: tombstones.Kind, value: str, reason: str, say: Callable[[str], None] = lambda line: None
) -> Erased:
    """Erase a user or a request everywhere this machine reaches; run again it finishes what was cut, and finds nothing new.

    All adapters' locks are held. ParamsError where the reason names the user; BusyError while a job of an adapter runs.
    """
    reason = _checked(workspace, kind, value, reason)
    secret = UserIds.of(workspace).key
    if secret is None:
        raise ParamsError(f"nobody's rows can be told: {LACKING}")
    workspace = jobs.as_pushed(workspace)
    stone = Tombstone(at=now(), kind=kind, hash=tombstones.keyed(secret, value), key=tombstones.fingerprint(secret))
    who = Tombstones((stone,), secret)
    with jobs.alone(workspace), workspace.clone("erase") as clone:
        known = tombstones.read(clone.root, workspace.root).of(kind, value)
        store = Store(workspace)
        done = Erased(stone.hash[:12], fresh=known is None)
        places, closed = sweep.listed(store.places)
        traces = redact.Traces(users={value, stone.hash} if kind == "user" else set())
        traces.requests |= {value} if kind == "request" else set()
        _ask_logs(workspace, kind, value, traces, done)
        done.unreached += beside_logs(workspace, traces)

        def covers(origin: Any) -> bool:
            """Some records, such as reviews, know the request alone."""
            return who.cover(origin) or origin.get("request_id") in traces.requests

        found = sweep.rows(places, covers, traces)
        say(f"{len(found)} rows in past and present versions")
        done.learned, unknown = lineage.learned(workspace, store, lambda row: any(map(covers, row.origins)))
        done.unreached += [f"what learned the rows is not known of {line}" for line in unknown]

        def write(clone: Clone) -> None:
            _write(clone, workspace, store, _Job(stone, known is None, reason, covers, traces, found, done))

        write(clone)
        if clone.git("rev-parse", "HEAD") != clone.git("rev-parse", f"origin/{clone.branch}"):
            clone.publish(write, tries=TRIES)
        say("live versions are clean and pushed")
        done.texts, left, down = sweep.texts(workspace, traces, covers)
        done.unreached += left
        deleted, left = sweep.objects(places, covers, traces, hold=down)
        done.objects = {name: len(paths) for name, paths in deleted.items()}
        names = sorted({name for paths in deleted.values() for name in paths})
        left += [f"{name} cannot be listed: delete {', '.join(names) or 'what holds the rows'} there" for name in closed]
        done.unreached += [*left, *_never(workspace), *ALWAYS]
    for adapter in workspace.params.adapters:
        entries = lineage.entries(workspace, adapter)
        done.ledger += [f"{adapter}: {ledger.describe(line)}" for line in entries if _about(line, done.tombstone)]
        done.due += [adapter] if ledger.owed(entries) else []
    return done


def _about(line: ledger.Entry, tombstone: str) -> bool:
    return isinstance(line, ledger.Erasure) and line.tombstone == tombstone


def _checked(workspace: Workspace, kind: str, value: str, reason: str) -> str:
    if not value.strip() or not is_text(value):
        raise ParamsError(f"--{kind} is blank or no UTF-8 text: give the id as the log store has it")
    reason = ledger.reason_of(reason, "why", workspace.params.scrub)
    if value.casefold() in reason.casefold():
        raise ParamsError("--reason names who is to be erased, and the ledger keeps it for ever: leave the id out")
    return reason


# --- live versions


@dataclass(frozen=True)
class _Job:
    stone: Tombstone
    fresh: bool
    reason: str
    covers: redact.Covers
    traces: redact.Traces
    found: dict[str, sweep.Found]
    done: Erased


def _write(clone: Clone, workspace: Workspace, store: Store, job: _Job) -> None:
    """Clean data, locks without the stages that used it, tombstone and ledger lines, in one commit."""
    params, paths = workspace.params, []
    touched, live = _clean(clone, params, job.covers)
    gone = {row_id: row for row_id, row in job.found.items() if row_id not in live}
    job.traces.ids |= set(gone)
    for row in gone.values():
        job.traces.texts |= row.texts(any(spec.labels for spec in params.adapters.values()))
    for path, rows in _left(store, params, clone, job):
        target = clone.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, "".join(f"{dumps(row)}\n" for row in rows))
        touched.setdefault(str(Path(path).parent), set())
    for adapter in params.adapters:
        for path, ids in _changes(clone, adapter, set(gone), job.covers).items():
            touched.setdefault(path, set()).update(ids)
    for path in sorted(touched):
        paths += clone.dvc_add(path)
    for adapter in params.adapters:
        ids = {row_id for path, ids in touched.items() if _owner(path) == adapter for row_id in ids}
        line = _line(clone, adapter, ids, job)
        if line:
            job.done.rows[adapter] = sorted(ids | _learned_ids(adapter, job.done))
            ledger.append(clone.root, adapter, line)
            paths.append(f"ledger/{adapter}.jsonl")
        if (line or ids) and _unlock(clone, adapter):
            paths.append("dvc.lock")
    if job.fresh:
        tombstones.add(clone.root, [job.stone])
        paths.append(tombstones.FILE)
    if paths:
        clone.commit(list(dict.fromkeys(paths)), f"Erased on request: {job.reason}")


def _owner(path: str) -> str:
    return Path(path).name.removesuffix(".jsonl")


def _clean(clone: Clone, params: Params, covers: redact.Covers) -> tuple[dict[str, set[str]], set[str]]:
    """({path that changed: ids of its rows that lost an origin or are gone}, ids of all rows that are left)."""
    touched: dict[str, set[str]] = {}
    live: set[str] = set()
    paths = [form.format(adapter) for adapter in params.adapters for form in FORMS]
    paths = [path for path in paths if (clone.root / f"{path}.dvc").exists()]
    clone.pull(f"{path}.dvc" for path in paths)
    for path in paths:
        target = clone.root / path
        for file in sorted(target.rglob("*.jsonl")) if target.is_dir() else [target]:
            kept, lost = sweep.clean_file(file, covers)
            live |= set() if path.startswith("data/lineage/") else kept  # ids without their texts
            if lost:
                touched.setdefault(path, set()).update(lost)
    return touched, live


def _changes(clone: Clone, adapter: str, gone: set[str], covers: redact.Covers) -> dict[str, set[str]]:
    """Changes of the suites that added, relabelled or retired an erased row keep their place and nothing else."""
    folder = clone.root / "data" / "suites" / adapter
    changes = overlay.read(folder)
    kept: list[overlay.Change] = []
    for change in changes:
        rows = tombstones.without([change.row], covers) if change.row else []
        if {change.id, change.new, change.row.id if change.row else None} & gone or (change.row and not rows):
            kept.append(overlay.Change(at=change.at, kind="erased", reason=change.reason))
        else:
            kept.append(change.model_copy(update={"row": rows[0]}) if rows else change)
    if kept == changes:
        return {}
    overlay.write(folder, kept)
    return {f"data/suites/{adapter}": {c.row.id for c, new in zip(changes, kept, strict=True) if c.row and c != new}}


def _left(store: Store, params: Params, clone: Clone, job: _Job) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Where the other rows of each version came from, for the versions that are about to lose their training rows."""
    for one in job.done.learned:
        attempt = next(a for a in ledger.state(ledger.read(clone.root, one.adapter)).attempts if a.digest == one.digest)
        blob = store.out(attempt.commit, f"prepare@{one.adapter}", f"out/{one.adapter}/data")["train.jsonl"]
        path = f"{lineage.LEFT.format(one.adapter)}/{blob.id}.jsonl"
        if (clone.root / path).exists():
            continue
        cleaned = [redact.cleaned(row, job.covers) for row in store.rows(blob)]
        told = ("schema", "id", "source", "label_source", "reasons", "origins")
        yield path, [{name: row[name] for name in told if name in row} for row in cleaned if row]


def _learned_ids(adapter: str, done: Erased) -> set[str]:
    return {row.id for one in done.learned if one.adapter == adapter for row in one.rows}


def _line(clone: Clone, adapter: str, ids: set[str], job: _Job) -> ledger.Erasure | None:
    """The ledger's line, where this adapter had or learned a row that no line has told yet."""
    entries = ledger.read(clone.root, adapter)
    mine = [one for one in job.done.learned if one.adapter == adapter]
    told = {digest for line in entries if _about(line, job.stone.hash[:12]) for digest in line.candidates}  # type: ignore[union-attr]
    new = [one for one in mine if one.digest not in told]
    if not ids and not new:
        return None
    attempts = ledger.state(entries).attempts
    return ledger.Erasure(
        at=now(), adapter=adapter, rows=len(ids | {row.id for one in mine for row in one.rows}),
        versions=tuple(sorted(one.version for one in mine if one.version)), candidates=tuple(one.digest for one in mine),
        after=max((attempt.end for attempt in attempts), default=None), tombstone=job.stone.hash[:12], reason=job.reason,
    )  # fmt: skip


def _unlock(clone: Clone, adapter: str) -> bool:
    """Take the adapter's stages out of dvc.lock: what they made of the erased rows is nobody's to fetch or push."""
    path = clone.root / "dvc.lock"
    lock = parse_yaml(path.read_text("utf-8")) if path.exists() else {}
    stages = lock.get("stages") or {}
    held = [name for name in (f"{stage}@{adapter}" for stage in STAGES) if stages.pop(name, None)]
    if held:
        write_text(path, yaml.safe_dump(lock, sort_keys=False))
    return bool(held)


# --- what only the log store knows, and what is out of reach


def _ask_logs(workspace: Workspace, kind: str, value: str, traces: redact.Traces, done: Erased) -> None:
    """Requests and questions of who is erased, collected or not: reports quote them, and the log store is only read."""
    from monitoring.sources import RAW, Privacy, open_logs
    from monitoring.windows import EPOCH, Window

    always = Window(EPOCH, datetime.now(UTC) + timedelta(days=1))
    column = "user_id" if kind == "user" else "request_id"
    for adapter in workspace.params.adapters:
        params = workspace.params.of(adapter)
        logs = params.logs
        try:
            table = open_logs(logs, root=workspace.root, adapter=adapter, privacy=Privacy(scrub=Scrubber(params.scrub)))
            rows = table.rows(always).where(lambda t: t[column] == value)
            told, frame = rows.frame(["prompt"]), rows.like(rows.expr, RAW).frame(["request_id", "prompt"])
        except RetrainError as error:
            first = str(error).partition("\n")[0]
            done.unreached.append(f"the log store of {adapter} was not asked for questions that reports may quote: {first}")
            continue
        traces.requests |= {str(row) for row in frame["request_id"]}
        traces.texts |= {str(text) for texts in (frame, told) for text in texts["prompt"].dropna() if str(text).strip()}
        if len(frame):
            left = f"the log store of {adapter} ({logs.uri}) holds {len(frame)} requests: delete them there"
            done.unreached.append(f"{left}, or later reports may quote them")


def beside_logs(workspace: Workspace, traces: redact.Traces) -> list[str]:
    """What `retrain serve` wrote about who is erased beside the log, a sentence a folder: a running one has the files open."""
    found = []
    for folder in (workspace.root / "logs" / kind / name for kind in BESIDE for name in workspace.params.adapters):
        held = sum(_held(line, traces) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().split(b"\n"))
        if held:
            found.append(f"{folder} holds {held} line{'s' * (held > 1)} about them: stop `retrain serve`, delete them there")
    return found


def _held(line: bytes, traces: redact.Traces) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    about = row if isinstance(row, dict) else {}
    return str(about.get("user_id")) in traces.users or str(about.get("request_id")) in traces.requests


def _never(workspace: Workspace) -> list[str]:
    """Data in git itself, whose history no commit can change."""
    tracked = lineage.git(workspace.root, "ls-tree", "-r", "--name-only", workspace.remote_head(), "--", "data").splitlines()
    rows = [path for path in tracked if path.endswith(".jsonl") and path != tombstones.FILE]
    fix = "rewrite it (git filter-repo), if it holds rows of users"
    return [f"git's history, which holds {rows[0]} itself: {fix}"] if rows else []


def as_dict(done: Erased) -> dict[str, Any]:
    """For --json; ids of rows, and of what learned them."""
    data = {name: value for name, value in vars(done).items() if name != "learned"}
    told = [{"adapter": o.adapter, "name": o.name, "version": o.version, "serves": o.serves} for o in done.learned]
    return json.loads(dumps({"schema": 1, **data, "learned_by": told}))


def lines(done: Erased) -> Sequence[str]:
    rows = ", ".join(f"{len(ids)} of {adapter}" for adapter, ids in done.rows.items())
    first = "erased" if done.fresh else "erased before; looked again"
    told = [f"{first}: {rows or 'no row'} (tombstone {done.tombstone}): never collected again"]
    told += [f"learned by {one.name}{' (serves)' if one.serves else ''}: {len(one.rows)} rows" for one in done.learned]
    told += done.ledger
    told += [f"deleted {n} objects of {place}" for place, n in done.objects.items() if n]
    told += [f"cleaned {done.texts} reports, cards and MLflow entries"] if done.texts else []
    told += [f"due: `retrain repro {adapter}`, purpose replace" for adapter in done.due]
    return [*told, *(f"not reached: {line}" for line in done.unreached)]
