"""The review queue: failure cases that wait for an answer by a person, and the answers that came back.

data/reviews/<adapter>/<stamp>.jsonl is written once an import, by commit and push, and holds no text of a user: who answered
what to which request, and when that became known. A collection takes the rows from the log store, as it takes corrections.
"""

import difflib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from monitoring import judge
from monitoring.failures import Reviewed, Waiting, drawn, waiting
from monitoring.selection import Selector
from monitoring.sources import LogTable
from monitoring.trigger import WindowRecord
from monitoring.windows import Window
from retrain import jobs, lineage, tombstones
from retrain.answers import Schema, misfit, schema_of
from retrain.errors import DataError, NothingToDo, ParamsError
from retrain.measure import KEPT
from retrain.params import Params
from retrain.policies import MinFailures
from retrain.records import Record, from_stamp, read_records, stamp, write_jsonl
from retrain.registry import Registry
from retrain.reviewfiles import Given, Near, Task
from retrain.scrub import Scrubber
from retrain.store import Store
from retrain.text import is_text
from retrain.tombstones import Tombstones
from retrain.userids import UserIds, open_logs
from retrain.workspace import Clone, Workspace

NEAREST = 3  # labelled rows that are shown beside a question


class Review(Record):
    """A person's answer to a request; `at` is the stamp of the import, from when on it is known."""

    request_id: str
    answer: str
    reviewer: str | None = None
    at: str


@dataclass(frozen=True)
class Taken:
    """What an import came to: answers taken, known before and left blank; problems say file, line and fix."""

    at: str
    taken: int
    known: int
    blank: int
    conflicts: int  # requests that have two answers now
    problems: list[str]


def folder_of(adapter: str) -> str:
    return f"data/reviews/{adapter}"


def reviews(workspace: Workspace, adapter: str) -> list[Review]:
    """All answers as the remote has them, oldest import first; none where nothing was imported."""
    if not workspace.params.workspace.remote:
        return []
    store, head = Store(workspace), workspace.remote_head()
    files = store.files(head, folder_of(adapter))
    return [Review.model_validate(row) for _, blob in sorted(files.items()) for row in store.rows(blob)]


def answers(given: Iterable[Review]) -> dict[str, tuple[str, ...]]:
    """Request id -> the answers that stand: of each reviewer those of his newest import; two are a conflict.  PURE"""
    found: dict[str, set[str]] = defaultdict(set)
    for one in _newest(given):
        found[one.request_id].add(one.answer)
    return {request: tuple(sorted(said)) for request, said in sorted(found.items())}


def _newest(given: Iterable[Review]) -> list[Review]:
    """Of each reviewer and request the answers of his newest import."""
    newest: dict[tuple[str, str | None], list[Review]] = {}
    for one in sorted(given, key=lambda one: one.at):
        mine = newest.setdefault((one.request_id, one.reviewer), [])
        if mine and mine[0].at < one.at:
            mine.clear()
        mine.append(one)
    return [one for mine in newest.values() for one in mine]


# --- what waits


def queue(workspace: Workspace, adapter: str, now: datetime) -> list[Waiting]:
    """Failure cases of the last failures.review_days without an answer by a person, those with the most reasons first."""
    params = params_of(workspace, adapter)
    spec = params.adapter(adapter)
    window = Window(now - timedelta(days=params.failures.review_days), now)
    rows = open_logs(workspace, params, adapter).rows(window)
    selector = Selector.of(params.failures, spec.labels, schema_of(workspace.root, spec), doubted(workspace, params, adapter))
    done = {one.request_id for one in reviews(workspace, adapter)}
    erased = tombstones_of(workspace)
    found = waiting(rows, audit_rate=params.failures.audit_rate, selector=selector)
    kept = [row for row in found if not erased.cover({"request_id": row.request_id, "user": row.user})]
    return [row for row in kept if row.request_id not in done]


def tombstones_of(workspace: Workspace) -> Tombstones:
    text = jobs.remote_file(workspace, tombstones.FILE) if workspace.params.workspace.remote else ""
    return tombstones.parse(text.encode(), tombstones.FILE, workspace.root)


def doubted(workspace: Workspace, params: Params, adapter: str) -> frozenset[str]:
    """Requests that the LLM judge called wrong in recorded windows; where none is asked, MLflow is not either."""
    if params.quality.judge is None:
        return frozenset()
    windows = Registry.open(workspace.params.mlflow, workspace.root).windows(adapter, KEPT)
    return judge.doubted(WindowRecord.model_validate(row).judge for row in windows)


def params_of(workspace: Workspace, adapter: str) -> Params:
    return (jobs.remote_params(workspace) if workspace.params.workspace.remote else workspace.params).of(adapter)


def labels_of(workspace: Workspace, adapter: str) -> tuple[str, ...]:
    """As the remote lists them."""
    return params_of(workspace, adapter).adapter(adapter).labels


def tasks(workspace: Workspace, adapter: str, rows: Sequence[Waiting]) -> list[Task]:
    """The rows with the nearest rows that people labelled, by cosine of static sentence vectors."""
    known = _labelled(workspace, adapter)
    near = _nearest([row.question for row in rows], known)
    return [
        Task(row.request_id, row.question, row.response, row.confidence, row.reasons, tuple(around))
        for row, around in zip(rows, near, strict=True)
    ]


def _labelled(workspace: Workspace, adapter: str) -> list[lineage.Row]:
    """What people wrote or corrected and what may train: nothing that judges is shown to who labels."""
    labels = labels_of(workspace, adapter)
    found = lineage.rows_at(Store(workspace), adapter, lineage.head(workspace))
    train = [row for row in found if row.part in ("seed", "failures") and row.label_source != "synthetic" and row.question]
    return [row for row in train if not labels or row.answer in labels]


def _nearest(questions: Sequence[str], known: Sequence[lineage.Row]) -> list[list[Near]]:
    from retrain.text import vectors

    if not questions or not known:
        return [[] for _ in questions]
    points = vectors([row.question for row in known])
    found = []
    for start in range(0, len(questions), 512):  # so many times len(known) cosines are in memory
        cosines = vectors(questions[start : start + 512]) @ points.T
        for one in cosines:
            best = sorted(range(len(known)), key=lambda i: (-one[i], known[i].id))[:NEAREST]
            found.append([Near(known[i].question, known[i].answer, round(float(one[i]), 3)) for i in best])
    return found


@dataclass(frozen=True)
class Standing:
    """The queue for `retrain status`: rows (None: cannot be told, see trouble), since when the oldest waits, how many by
    reason, and what cannot go on before people have labelled more."""

    waiting: int | None
    oldest: datetime | None
    reasons: dict[str, int]
    blocks: list[str]
    trouble: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "oldest": self.oldest.isoformat() if self.oldest else None}

    def lines(self, adapter: str, now: datetime) -> list[str]:
        if self.trouble is not None:
            return [f"review queue: cannot be told: {self.trouble}", *self.blocks]
        if not self.waiting or self.oldest is None:
            return ["review queue: nothing waits", *self.blocks]
        told = ", ".join(f"{n} {reason}" for reason, n in self.reasons.items())
        waits = f"review queue: {self.waiting} failure cases wait for a person, the oldest for {(now - self.oldest).days} days"
        return [f"{waits} ({told}): `retrain review export {adapter} FILE`", *self.blocks]


def standing(workspace: Workspace, adapter: str, now: datetime, window: dict[str, Any] | None) -> Standing:
    """window: the newest record of one. A log store that does not answer is said, and takes nothing else down."""
    params = params_of(workspace, adapter)
    blocks = _blocks(params, window or {})
    try:
        rows = queue(workspace, adapter, now)
    except (DataError, ParamsError) as error:
        return Standing(None, None, {}, blocks, str(error))
    counted = Counter(reason for row in rows for reason in row.reasons)
    oldest = min((row.timestamp for row in rows), default=None)
    return Standing(len(rows), oldest, dict(counted.most_common()), blocks)


def _blocks(params: Params, window: dict[str, Any]) -> list[str]:
    """Retrainings that wait for labels, by what the last window knew."""
    needed = {policy.kind: policy.rows for policy in params.trigger.policies if isinstance(policy, MinFailures)}
    wants = [("labelled failure cases", needed.get("min_failures", 0), window.get("new_failures"))]
    wants.append(("audited rows", params.trigger.min_audit, window.get("unread_audit")))
    return [
        f"a retraining waits for labels: {have} of {least} {what}"
        for what, least, have in wants
        if have is not None and have < least
    ]


# --- what came back


def take(
    workspace: Workspace, adapter: str, given: Sequence[Given], *, new_labels: bool, now: datetime
) -> Taken:  # fmt: skip
    """Write the answers that are new as one file, commit and push; what cannot be taken is said and left where it is.

    new_labels: labels that the adapter does not list are taken too, and wait until they are admitted. NothingToDo where
    nothing is new and nothing is wrong, DataError where nothing could be taken.
    """
    with jobs.job(workspace, adapter, "review") as clone:
        params = params_of(workspace, adapter)
        logs = open_logs(workspace, params, adapter)
        before = reviews(workspace, adapter)
        at = stamp(max([now, *(from_stamp(one.at) + timedelta(seconds=1) for one in before)]))
        erased = tombstones.read(clone.root, workspace.root)
        checker = _Checker.of(params, adapter, schema_of(clone.root, params.adapter(adapter)), logs, given, new_labels, erased)
        who = _Reviewers(Scrubber(params.scrub), UserIds.of(workspace))
        good = [Review(request_id=one.request_id, answer=one.answer, reviewer=who(one.reviewer), at=at) for one in checker.good]
        known = {(one.request_id, one.reviewer, one.answer) for one in _newest(before)}
        new = [one for one in dict.fromkeys(good) if (one.request_id, one.reviewer, one.answer) not in known]
        both = answers([*before, *new])
        conflicts = sum(len(both[request]) > 1 for request in {one.request_id for one in new})
        taken = Taken(at, len(new), len(set(good)) - len(new), checker.blank, conflicts, checker.problems)
        if not new:
            if taken.problems:
                raise DataError("\n".join([*taken.problems, "nothing was taken: mend these, and import the file again"]))
            raise NothingToDo(f"{adapter}: nothing new: {taken.known} answers are known, {taken.blank} are blank")

        def write(clone: Clone) -> None:
            if (clone.root / f"{folder_of(adapter)}.dvc").exists():
                clone.pull([f"{folder_of(adapter)}.dvc"])
            path = clone.root / folder_of(adapter) / f"{at}.jsonl"
            others = read_records(path, Review) if path.exists() else []  # of another machine, in the same second
            write_jsonl(path, [*others, *(one for one in new if one not in others)])
            clone.commit(clone.dvc_add(folder_of(adapter)), f"{adapter}: {len(new)} answers of reviewers at {at}")

        write(clone)
        clone.publish(write, tries=jobs.TRIES)
        return taken


@dataclass(frozen=True)
class _Reviewers:
    """A reviewer as he is kept: by name, but an e-mail address as user ids are."""

    scrubber: Scrubber
    ids: UserIds

    def __call__(self, name: str | None) -> str | None:
        return self.ids(name) if name and self.scrubber.kinds(name) else name


@dataclass
class _Checker:
    """What can be taken of a file, and what is wrong with the rest."""

    good: list[Given]
    problems: list[str]
    blank: int = 0

    @classmethod
    def of(
        cls, params: Params, adapter: str, schema: Schema | None, logs: LogTable, given: Sequence[Given], new_labels: bool,
        erased: Tombstones,
    ) -> "_Checker":  # fmt: skip
        made = cls([], [])
        filled = [one for one in given if one.answer]
        made.blank = len(given) - len(filled)
        ids = sorted({one.request_id for one in filled if is_text(one.request_id)})
        frame = logs.requests(ids).frame(["request_id", "user_id"]) if ids else None
        users = dict(zip(frame["request_id"], frame["user_id"], strict=True)) if frame is not None else {}
        gone = {request for request, user in users.items() if erased.cover({"request_id": request, "user": user})}
        labels = () if new_labels else params.adapter(adapter).labels
        scrubber = Scrubber(params.scrub)
        for one in filled:
            why = _wrong(one, users.keys(), gone, params.failures.audit_rate) or _unfit(one.answer, adapter, labels, schema)
            why = why or _personal(one.answer, scrubber)
            if why:
                made.problems.append(f"{one.where}: {why}")
            else:
                made.good.append(one)
        return made


def _wrong(one: Given, found: Collection[str], gone: Collection[str], audit_rate: float) -> str | None:
    if not one.request_id:
        return "no request_id: it says which request the answer is for"
    if one.request_id not in found:
        return f"no request {one.request_id[:80]!r} in the log: a spreadsheet may have changed it, or the log lost it"
    if one.request_id in gone:
        return f"request {one.request_id!r} was erased on request: nothing is learned from it"
    if drawn(one.request_id, audit_rate):
        return f"request {one.request_id!r} was drawn for the audit, and never trains: label it in the log, as audit_label"
    return None


def _unfit(answer: str, adapter: str, labels: Sequence[str], schema: Schema | None) -> str | None:
    if not is_text(answer):
        return "the answer is not UTF-8 text"
    if labels and answer not in labels:
        near = difflib.get_close_matches(answer, labels, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(labels)};"
        return f"{adapter} does not list the label {answer[:60]!r}: {hint} or take it as a new label with --new-labels"
    return misfit(answer, schema)


def _personal(answer: str, scrubber: Scrubber) -> str | None:
    """An answer is kept as it is: in place of what is personal it has to say what the question shows for it."""
    found = ", ".join(scrubber.kinds(answer))
    return f"the answer holds what looks like {found}: write the placeholder that the question shows" if found else None


def told(taken: Taken, adapter: str) -> list[str]:
    """What an import came to, in words."""
    lines = [f"{adapter}: {taken.taken} answers taken, {taken.known} were known, {taken.blank} are blank"]
    lines += [f"{taken.conflicts} requests have two answers: the next collection quarantines them"] if taken.conflicts else []
    return [*lines, *taken.problems]


def known(
    workspace: Workspace, adapter: str, logs: LogTable, before: datetime, since: datetime | None = None
) -> Reviewed | None:  # fmt: skip
    """Requests that somebody answered in [since, before), with the answers that stood before it; None where there are none."""
    given = [one for one in reviews(workspace, adapter) if from_stamp(one.at) < before]
    fresh = {one.request_id for one in given if since is None or from_stamp(one.at) >= since}
    said = {request: told for request, told in answers(given).items() if request in fresh}
    return Reviewed(logs.requests(sorted(said)), said) if said else None
