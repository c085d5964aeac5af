"""Trial 30: a user asks to be erased. Real git, DVC, MLflow and trainings (a tiny base); then every byte is searched."""

import html
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import small
from calling import call

from monitoring import failures, trigger
from retrain import collecting, erasure, jobs, ledger, lineage, projections, redact, release, sweep, tombstones, watch
from retrain.errors import BusyError, NothingToDo, ParamsError
from retrain.process import git
from retrain.records import Example, Origin, parse_time, read_jsonl, write_jsonl
from retrain.registry import Registry
from retrain.store import Store
from retrain.userids import UserIds, open_logs
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow  # three minutes: real retrainings, and every byte searched

ANN, BOB = "ann.müller@example.org", "u-bob"
MARK = {ANN: "quokka", BOB: "wombat"}
DAY = "2026-03-02"
REASON = "asked for it by letter"


@pytest.fixture(scope="module")
def lived(learned: Callable[[Path], Workspace], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """v1 learned the seed; v2 also what Ann and Bob corrected, and was judged by what else they asked; reports quote both."""
    space = learned(tmp_path_factory.mktemp("erase"))
    small.ask(space, DAY, [ANN, BOB], 24, lambda user, i: f"{MARK[user]} {i}" + (' "<b>" \u2028 é_*' if i < 4 else ""))
    collecting.collect(space, "support", parse_time("2026-03-03T00:00:00Z"))
    watch_retrain(space, "2026-03-03T00:00:00Z", "replace")
    assert release.promote(space, "support").promotion.version == 2
    _quote(space)
    return space


def watch_retrain(space: Workspace, end: str, purpose: Any) -> jobs.Attempted:
    """With the audited rows of the log store, whose file judges together with the shipped one."""
    known = open_logs(space, space.params.of("support"), "support").known(parse_time(end))
    audited = failures.audited(known, audit_rate=space.params.failures.audit_rate)
    shipped = [Example.model_validate_json(line) for line in small.rows(170, "audit", 9).splitlines()]
    drawn = [row.model_copy(update={"origins": (Origin(request_id=f"other-{i}"),)}) for i, row in enumerate(shipped)]
    return jobs.retrain(space, "support", end=parse_time(end), purpose=purpose, audited=[*audited, *drawn])


def _quote(space: Workspace) -> None:
    """What quotes questions: a window's record and report, a model version's card, the pages, the answer cache."""
    registry, question = Registry.open(space.params.mlflow, space.root), _questions(space, ANN)[0]
    times = {"start": "2026-03-02T00-00-00Z", "end": "2026-03-03T00-00-00Z"}
    changed = [{"words": "new", "terms": [], "before": 0.0, "now": 0.1, "rows": 9, "examples": [question]}]
    window = trigger.WindowRecord(
        **times, adapter="support", rows=48, drift_status="no_drift", drifted=[], audited=0, violations=[], fire=False,
        reasons=[], changed=changed, version=1,
    )  # fmt: skip
    report = space.local / "reports" / "support" / "2026-03-03T00-00-00Z.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(f"<td>{html.escape(question)}</td><script>{json.dumps({'q': question})}</script>")
    registry.log_window("support", window.as_dict(), {}, [report])
    registry.client.update_model_version("support", "2", description=f"| {question} | {redact.escape(question)} |")
    (space.local / "demo.txt").write_text(f"{ANN} asked {question}")


def _questions(space: Workspace, user: str) -> list[str]:
    return [row["prompt"] for row in read_jsonl(space.root / "logs" / "support" / f"{DAY}.jsonl") if row["user_id"] == user]


def needles(user: str) -> list[bytes]:
    """Whatever tells of a user: the id, the words of the questions, in each spelling."""
    return [form.encode() for word in (user, MARK[user]) for form in redact.forms(word)]


def holding(space: Workspace, user: str) -> list[Path]:
    """Every file of the workspace (but the log store's) that holds a needle, git's objects unpacked."""
    found = [path for path in _files(space.root) if any(needle in path.read_bytes() for needle in needles(user))]
    return [path for path in found if path.relative_to(space.root).parts[0] != "logs"] + _in_git(space, user)


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names if (Path(root) / name).is_file())


def _in_git(space: Workspace, user: str) -> list[Path]:
    """Objects of the remote, reachable or not."""
    origin = space.local / "origin.git"
    names = git(origin, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)").splitlines()
    texts = {name: git(origin, "cat-file", "-p", name.split()[0]) for name in names if not name.endswith("tree")}
    return [Path(name) for name, text in texts.items() if any(needle.decode() in text for needle in needles(user))]


def erase(space: Workspace, user: str = ANN, **more: Any) -> erasure.Erased:
    return erasure.erase(space, kind="user", value=user, reason=REASON, **more)


@pytest.fixture(scope="module")
def before(lived: Workspace) -> dict[str, Any]:
    learned, unknown = lineage.learned(lived, Store(lived), lineage.of_user(lived, ANN))
    assert not unknown
    places = {path.relative_to(lived.root).parts[:2] for path in holding(lived, ANN) if path.is_absolute()}
    kinds = {path.suffix for path in holding(lived, ANN)}
    return {"learned": learned, "places": places, "kinds": kinds, "bob": len(holding(lived, BOB))}


class Killed(Exception):
    pass


def dies(*args: Any, **kwargs: Any) -> Any:
    raise Killed


def after(n: int, real: Any) -> Any:
    """real, which dies at its n-th call."""
    calls = itertools.count(1)
    return lambda *args, **kwargs: dies() if next(calls) == n else real(*args, **kwargs)


@pytest.fixture(scope="module")
def erased(lived: Workspace, before: dict[str, Any]) -> erasure.Erased:
    """Killed five times, each time further on, and run again."""
    disk = type(Store(lived).places[0][1].fs)
    points = [(erasure.Clone, "publish", 1), (sweep, "texts", 1), (sweep, "write_text", 2)]
    for place, name, n in [*points, (disk, "rm_file", 1), (disk, "rm_file", 4)]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(place, name, after(n, getattr(place, name)))
            with pytest.raises(Killed):
                erase(lived)
    return erase(lived)


def test_there_was_something_to_erase_everywhere(before: dict[str, Any]) -> None:
    assert {(".dvc", "cache"), (".retrain", "dvc"), (".retrain", "mlflow"), (".retrain", "reports")} <= before["places"]
    assert [one.name for one in before["learned"]] == ["support-v2"]


def test_after_it_no_byte_of_any_folder_tells_of_the_user_and_others_stay(
    lived: Workspace, before: dict[str, Any], erased: erasure.Erased
) -> None:
    projections.write(lived, "support", panels=False)
    assert holding(lived, ANN) == []
    assert sum(row.part == "failures" for row in lineage.rows_at(Store(lived), "support", lived.remote_head())) > 5
    assert holding(lived, BOB)
    assert erased.objects["the DVC cache"] > 1
    assert not (lived.local / "checkpoints").exists()
    assert not erased.fresh
    assert ["v2 used them" in told for told in erased.ledger] == [True]
    line = next(e for e in jobs.entries(lived, "support") if isinstance(e, ledger.Erasure))
    assert (line.versions, line.rows > 0, line.reason) == ((2,), True, REASON)
    assert any("log store of support" in left and "24 requests" in left for left in erased.unreached)


def test_it_is_told_wherever_the_version_is_and_what_else_it_learned_is_still_known(
    lived: Workspace, before: dict[str, Any], erased: erasure.Erased
) -> None:
    told = call("history", "support", "-w", lived.root).out
    assert "erased on" in told and "no longer reproducible (v2 used them)" in told
    assert "no longer reproducible" in call("status", "-w", lived.root).out
    assert "no longer reproducible" in call("data", "log", "support", "-w", lived.root).out
    rows = call("data", "rows", "support-v2", "-w", lived.root)
    assert "no longer reproducible" in rows.out
    bob, unknown = lineage.learned(lived, Store(lived), lineage.of_user(lived, BOB))
    assert [one.name for one in bob] == ["support-v2"]
    assert not unknown
    assert ANN not in rows.out


def test_what_is_erased_is_not_collected_or_audited_again(lived: Workspace, erased: erasure.Erased) -> None:
    more = small.ask(lived, "2026-03-05", [ANN, "u-cid"], 12, lambda user, i: f"{MARK.get(user, 'numbat')} again {i}")
    made = collecting.collect(lived, "support", parse_time("2026-03-06T00:00:00Z"))
    rows = [row for row in lineage.rows_at(Store(lived), "support", lived.remote_head()) if "again" in row.question]
    assert len(rows) == made.rows > 0
    assert {origin["user"] for row in rows for origin in row.origins} == {UserIds.of(lived)("u-cid")}
    assert len(more) == 24
    stones = tombstones.read(_checkout(lived), lived.root)
    assert stones.cover({"request_id": "new", "user": ANN})
    assert not stones.cover({"request_id": "new", "user": BOB})


def _checkout(space: Workspace) -> Path:
    git(space.root, "pull", "--quiet", "origin", "main")
    return space.root


def test_the_retraining_that_is_due_replaces_the_champion_and_learns_no_erased_row(
    lived: Workspace, erased: erasure.Erased
) -> None:
    asked = small.ask(lived, "2026-03-06", [f"u-dan-{i}" for i in range(560)], 1, lambda user, i: f"numbat {user}")
    rate = lived.params.failures.audit_rate
    drawn = [row for row in asked if failures.drawn(row["request_id"], rate)]
    write_jsonl(lived.root / "logs" / "support" / "2026-03-06.jsonl", drawn)
    assert erased.due == ["support"]
    assert watch.due(lived, "support", None)
    made = watch.retrain(lived, "support", parse_time("2026-03-07T00:00:00Z"), say=lambda line: None)
    assert made.verdict is not None
    assert (made.attempt.purpose, made.verdict.check("superior")) == ("replace", None)
    assert made.verdict.check("non_inferior", "audit") is not None
    assert made.attempt.promote, made.attempt.why
    version = release.promote(lived, "support").promotion
    lived.remote_head()  # brings the commit here
    learned = lineage.trained(Store(lived), "support", version.commit)
    assert {origin["user"] for row in learned for origin in row.origins} == {*map(UserIds.of(lived), (BOB, "u-cid"))}
    assert holding(lived, ANN) == []
    assert not ledger.owed(jobs.entries(lived, "support"))
    assert erase(lived).due == []
    with pytest.raises(NothingToDo):
        watch.due(lived, "support", None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--user", "x"), "Missing option"),
        (("--reason", "r"), "give --user or --request"),
        (("--user", "x", "--request", "y", "--reason", "r"), "give --user or --request"),
        (("--user", " ", "--reason", "r"), "blank"),
        (("--user", "x", "--reason", " "), "--reason"),
        (("--user", "Ann", "--reason", "ann asked"), "leave the id out"),
    ],
)
def test_a_call_that_cannot_be_followed_changes_nothing(lived: Workspace, words: tuple[str, ...], said: str) -> None:
    head = lived.remote_head()
    called = call("data", "erase", *words, "-w", lived.root)
    assert (called.code, said in called.out + called.err) == (2, True), called.err
    assert lived.remote_head() == head


def test_an_erasure_waits_for_no_job_and_one_of_a_request_is_one_row(lived: Workspace, erased: erasure.Erased) -> None:
    row = next(row for row in lineage.rows_at(Store(lived), "support", lived.remote_head()) if row.part == "failures")
    request = row.origins[0]["request_id"]
    with lived.lock("support", wait_seconds=1), pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs, "LOCK_WAIT", 0.2)
        with pytest.raises(BusyError):
            erasure.erase(lived, kind="request", value=request, reason=REASON)
    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(jobs, "LOCK_WAIT", 90)
        two = [pool.submit(erasure.erase, lived, kind="request", value=request, reason=REASON) for _ in range(2)]
        both = [one.result() for one in two]
    assert sorted(one.fresh for one in both) == [False, True]
    left = lineage.rows_at(Store(lived), "support", lived.remote_head())
    assert row.id not in {one.id for one in left}
    assert all(request.encode() not in path.read_bytes() for path in _files(lived.root) if "logs" not in path.parts)


def test_another_key_recognises_nobody_and_is_an_error(lived: Workspace, erased: erasure.Erased) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RETRAIN_USER_KEY", "another key than before")
        with pytest.raises(ParamsError, match="two keys for user ids"):
            collecting.collect(lived, "support", parse_time("2026-03-20T00:00:00Z"))
        with pytest.raises(ParamsError, match="two keys for user ids"):
            erase(lived)
