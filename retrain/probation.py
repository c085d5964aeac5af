"""The watch after a promotion: the new champion and the one it replaced answer the same audited rows of its first windows.

Rows that only one of them gets right feed an e-process (`stats.log_e`), which may be looked at after every window. A loss that
is shown rolls back, where params say so, and opens a retraining. Too little traffic ends as `inconclusive`: the champion stays.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from monitoring import failures
from monitoring.windows import Window
from retrain import jobs, ledger, notify, release, score, stats
from retrain.answers import schema_in
from retrain.errors import RetrainError
from retrain.evaluate import Arms
from retrain.params import Params
from retrain.records import Example, from_stamp, parse_time, stamp, unit_hash, verify_folder
from retrain.registry import Registry
from retrain.scoring import Judge
from retrain.sections import Watch as Rules
from retrain.userids import open_logs
from retrain.workspace import Clone, Workspace

Ask = Callable[[Sequence[Sequence[Example]]], tuple[list[list[str]], list[list[str]]]]  # windows -> answers of old and of new


@dataclass(frozen=True)
class Probation:
    """A promotion that is still watched: what it replaced, and the windows that count so far (event time, half-open)."""

    champion: ledger.Promotion
    before: ledger.Promotion
    windows: tuple[Window, ...]
    over: bool


@dataclass(frozen=True)
class Tally:
    """Rows that both answered: those that only the new one got wrong, and only the new one got right."""

    rows: int
    lost: int
    won: int


def look(workspace: Workspace, adapter: str, end: datetime, *, ask: Ask | None = None) -> ledger.Watch | str | None:
    """Look at the champion's windows that ended by `end`: how the watch ended, or how it stands, in words; None where there is
    nothing to watch (the first champion, one that was put back or forced, a watch that has ended).

    A loss that is shown is in the ledger together with its rollback. Another version that was promoted or put back while both
    were asked is not touched: StaleError, and the next look is at that one. ask: for tests.
    """
    params, lines = jobs.remote_params(workspace).of(adapter), jobs.entries(workspace, adapter)
    watched = newest(lines)
    found = on_probation(lines, params, end, _first_served(workspace, params, *watched, end) if watched else None)
    if found is None:
        return None
    sets = _audited(workspace, params, adapter, found, end)
    old, new = (ask or _asker(workspace, found))(sets)
    counted = tally(sets, old, new, _judge(workspace, params, adapter))
    ended = conclude(found, counted, params.promotion.watch, stamp(end))
    told = ended.told() if ended else standing(found, counted, params.promotion.watch)
    if ended and ended.outcome == "harmed" and params.promotion.watch.rollback:
        release.rollback(
            workspace, adapter, version=ended.against, reason=f"the watch: {ended.why}", also=(ended,), expected=ended.version
        )
    elif ended:
        release.note(workspace, adapter, ended, about=ended.version)
    number = ledger.state(lines).number(found.champion.version)
    try:
        Registry.open(workspace.params.mlflow, workspace.root).tag(adapter, number, "watch", told)
    except RetrainError as error:  # the ledger has it; what follows from it must not wait for MLflow
        notify.warn(f"warning: the tag `watch` of {found.champion.tag} does not say it: {error}")
    return ended or told


def newest(lines: Sequence[ledger.Entry]) -> tuple[ledger.Promotion, datetime] | None:
    """The newest promotion, while it serves and its watch has not ended, and where the data ended that it was trained on.
    Pure."""
    moves = [line for line in lines if isinstance(line, ledger.Promotion | ledger.Rollback | ledger.Watch)]
    last = moves[-1] if moves else None
    if not isinstance(last, ledger.Promotion) or last.replaces is None or last.forced:
        return None
    attempt = next((a for a in reversed(ledger.state(lines).attempts) if a.digest == last.digest), None)
    return (last, from_stamp(attempt.end)) if attempt else None


def _first_served(
    workspace: Workspace, params: Params, champion: ledger.Promotion, since: datetime, end: datetime
) -> datetime | None:
    """When it answered its first request in [since, end); None where it has answered none."""
    if since >= end:
        return None
    rows = open_logs(workspace, params, champion.adapter).rows(Window(since, end))
    return rows.where(lambda t: t.model_version == champion.tag).first()


def on_probation(lines: Sequence[ledger.Entry], params: Params, end: datetime, served: datetime | None) -> Probation | None:
    """How far the watch of the `newest` promotion is, None where none is watched. Pure.

    Its windows follow on the data that it was trained on, in event time, and count from the one in which it answered its
    first request (served): it may have waited for days. Without any they run out that long after its promotion.
    """
    found = newest(lines)
    if found is None:
        return None
    last, trained = found
    length, most = timedelta(hours=params.window.hours), params.promotion.watch.windows
    before = ledger.state(lines).versions[last.replaces or 0]
    if served is None:
        return Probation(last, before, (), over=end >= max(trained, parse_time(last.at)) + most * length)
    first = trained + (served - trained) // length * length
    count = max((end - first) // length, 0)
    windows = tuple(Window(first + n * length, first + (n + 1) * length) for n in range(min(count, most)))
    return Probation(last, before, windows, over=count >= most)


def _audited(workspace: Workspace, params: Params, adapter: str, found: Probation, end: datetime) -> list[list[Example]]:
    """Of each window the audited rows that the new champion had answered, one a question or conversation, some by hash."""
    logs, seen, sets = open_logs(workspace, params, adapter).known(end), set[str](), list[list[Example]]()
    for window in found.windows:
        mine = logs.within(window).where(lambda t: t.model_version == found.champion.tag)
        rows = failures.audited(mine, audit_rate=params.failures.audit_rate)
        fresh = {row.split_key: row for row in sorted(rows, key=lambda row: row.id, reverse=True) if row.split_key not in seen}
        seen |= set(fresh)
        sets.append(sorted(fresh.values(), key=lambda row: unit_hash(row.id, "watch"))[: params.promotion.watch.rows])
    return sets


def _asker(workspace: Workspace, found: Probation) -> Ask:
    """Both versions, from clean loads, with their own prompts and labels; answers are kept, a window is asked once."""

    def ask(sets: Sequence[Sequence[Example]]) -> tuple[list[list[str]], list[list[str]]]:
        if not any(sets):
            return [[] for _ in sets], [[] for _ in sets]
        with workspace.clone(f"watch-{found.champion.adapter}") as clone, contextlib.chdir(clone.root):
            return _answers(workspace, clone, found.before, sets), _answers(workspace, clone, found.champion, sets)

    return ask


def _answers(
    workspace: Workspace, clone: Clone, version: ledger.Promotion, sets: Sequence[Sequence[Example]]
) -> list[list[str]]:
    folder = Path("out") / version.adapter / "adapter"
    params = score.at(clone, version.commit, [str(folder)], version.adapter)
    verify_folder(folder, version.digest)
    arms = Arms(version.adapter, params, workspace.local / "answers")
    return [arms.adapter_arm(folder, rows, version.tag) if rows else [] for rows in sets]


def _judge(workspace: Workspace, params: Params, adapter: str) -> Judge:
    spec = params.adapter(adapter)
    schema = schema_in(jobs.remote_file(workspace, spec.output), spec.output) if spec.output else None
    return Judge(spec.task, schema)


def tally(sets: Sequence[Sequence[Example]], old: Sequence[Sequence[str]], new: Sequence[Sequence[str]], judge: Judge) -> Tally:
    """Pure. A row whose label is no answer itself counts for neither."""
    pairs = [
        (judge.right(a, row.answer), judge.right(b, row.answer))
        for rows, olds, news in zip(sets, old, new, strict=True)
        for row, a, b in zip(rows, olds, news, strict=True)
    ]
    told = [(bool(a), bool(b)) for a, b in pairs if a is not None and b is not None]
    won, lost = stats.discordant([b for _, b in told], [a for a, _ in told])
    return Tally(len(told), lost, won)


def conclude(found: Probation, counted: Tally, rules: Rules, end: str) -> ledger.Watch | None:
    """How the watch ends, None while it goes on. Pure."""
    told = f"{counted.lost} lost and {counted.won} won against {found.before.tag} on {counted.rows} audited rows"
    if stats.e_process_harm(counted.lost, counted.won, level=rules.level):
        outcome, why = "harmed", f"{told}: it is shown to be worse"
    elif not found.over:
        return None
    elif counted.rows < rules.min_rows:
        outcome, why = "inconclusive", f"{told} in {rules.windows} windows, {rules.min_rows} are needed to tell"
    else:
        outcome, why = "kept", f"{told} in {rules.windows} windows: no loss is shown"
    counts = {"rows": counted.rows, "lost": counted.lost, "won": counted.won}
    line = {"version": found.champion.version, "against": found.before.version, "outcome": outcome, "end": end, "why": why}
    return ledger.Watch.model_validate({"at": jobs.now(), "adapter": found.champion.adapter, **line, **counts})


def standing(found: Probation, counted: Tally, rules: Rules) -> str:
    seen = f"window {len(found.windows)} of {rules.windows}"
    against = f"{counted.lost} lost and {counted.won} won against {found.before.tag}"
    return f"{found.champion.tag} is watched: {seen}, {counted.rows} audited rows, {against}"
