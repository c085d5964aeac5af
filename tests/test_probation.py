"""The watch after a promotion: real answers of two versions, and what each outcome writes."""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from forging import another_candidate
from small import TELLS, altered, message

from monitoring import failures
from retrain import jobs, ledger, probation, release, watch
from retrain.errors import RetrainError, StaleError
from retrain.params import load
from retrain.probation import Probation, Tally
from retrain.records import Example, from_stamp, read_json, stamp, write_json, write_jsonl, write_text
from retrain.registry import Registry, load_champion
from retrain.registry.champion import from_dvc
from retrain.scoring import Judge
from retrain.sections import Watch as Rules
from retrain.workspace import Workspace

LABELS = sorted(TELLS.values())
RULES = Rules(windows=14, rows=100, min_rows=30, level=0.05, rollback=True)
DAY = timedelta(days=1)


def traffic(space: Workspace, champion: ledger.Promotion, first: datetime, each: int, days: int) -> None:
    """Days of traffic that the champion answered, every drawn row labelled; a day has `each` of them."""
    rng, rate = random.Random(champion.tag), space.params.failures.audit_rate
    for day in range(days):
        at = first + day * DAY + timedelta(hours=9)
        ids = [name for i in range(20 * each) if failures.drawn(name := f"{champion.tag}-{day}-{i}", rate)][:each]
        rows = [
            {"request_id": name, "timestamp": at.isoformat(), "feedback_at": at.isoformat(), "adapter": "support",
             "model_version": champion.tag, "prompt": f"{message(LABELS[i % 4], rng)} {name}", "latency_ms": 100.0,
             "response": LABELS[i % 4], "audit_label": LABELS[i % 4]}
            for i, name in enumerate(ids)
        ]  # fmt: skip
        write_jsonl(space.root / "logs" / "support" / f"{champion.tag}-{day}.jsonl", rows)


@pytest.fixture(scope="module")
def trained(learned: Callable[[Path], Workspace], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Its first version has really learned, and can be asked."""
    return learned(tmp_path_factory.mktemp("probation"))


def same_weights(space: Workspace) -> ledger.Attempt:
    """An attempt that passed against today's champion, without a training: the last bytes, but for a space in run.json."""
    with space.clone("candidate") as clone:
        lines = ledger.read(clone.root, "support")
        state = ledger.state(lines)
        newest, out = state.attempts[-1], clone.root / "out" / "support"
        clone.git("checkout", "--quiet", newest.commit, "--", "dvc.lock", "out/support/verdict.json")
        folder = from_dvc(space, "support", newest.commit, clone.root / "scratch", digest=newest.digest)
        digest = altered(folder)
        clone.dvc("add", "scratch")
        made = yaml.safe_load((clone.root / "scratch.dvc").read_text())["outs"][0]
        lock = yaml.safe_load((clone.root / "dvc.lock").read_text())
        old = next(o for o in lock["stages"]["train@support"]["outs"] if o["path"] == "out/support/adapter")
        old.update({key: made[key] for key in ("md5", "size", "nfiles")})
        write_text(clone.root / "dvc.lock", yaml.safe_dump(lock, sort_keys=False))
        verdict = read_json(out / "verdict.json")
        verdict["bound"]["adapter"] = digest
        write_json(out / "verdict.json", verdict)
        (clone.root / "scratch.dvc").unlink()
        clone.commit(["dvc.lock", "out/support/verdict.json"], "another candidate")
        end = stamp(from_stamp(newest.end) + timedelta(days=1))
        told = {"at": jobs.now(), "end": end, "commit": clone.git("rev-parse", "HEAD"), "digest": digest}
        attempt = newest.model_copy(update={**told, "champion": state.champion.digest if state.champion else None})
        ledger.append(clone.root, "support", attempt)
        clone.commit(["ledger/support.jsonl"], "its attempt")
        clone.publish(lambda c: None, tries=1)
        return attempt


def promoted(space: Workspace, make: Callable[[Workspace], ledger.Attempt]) -> tuple[ledger.Promotion, datetime]:
    attempt = make(space)
    return release.promote(space, "support").promotion, from_stamp(attempt.end)


def worse(sets: Sequence[Sequence[Example]]) -> tuple[list[list[str]], list[list[str]]]:
    """The new one gets every other row wrong."""
    old = [[row.answer for row in rows] for rows in sets]
    new = [[answer if i % 2 else "other" for i, answer in enumerate(answers)] for answers in old]
    return old, new


def test_both_versions_are_asked_the_audited_rows_and_equal_ones_differ_on_none(trained: Workspace) -> None:
    champion, first = promoted(trained, same_weights)
    traffic(trained, champion, first, each=12, days=2)
    told = probation.look(trained, "support", first + 2 * DAY)
    before = f"v{champion.replaces}"
    assert told == (f"{champion.tag} is watched: window 2 of 14, 24 audited rows, 0 lost and 0 won against support-{before}")
    registry = Registry.open(trained.params.mlflow, trained.root)
    assert registry.version("support", champion.version).tags["watch"] == told
    ended = probation.look(trained, "support", first + 14 * DAY)
    assert isinstance(ended, ledger.Watch)
    assert (ended.outcome, ended.rows) == ("inconclusive", 24)  # the traffic stopped half-way
    assert load_champion("support", trained).promotion == champion
    assert probation.look(trained, "support", first + 15 * DAY) is None


def test_a_loss_that_is_shown_rolls_back_by_itself_and_opens_a_retraining(released: Workspace) -> None:
    champion, first = promoted(released, another_candidate)
    traffic(released, champion, first, each=20, days=1)
    ended = probation.look(released, "support", first + DAY, ask=worse)
    assert isinstance(ended, ledger.Watch)
    assert (ended.outcome, ended.rows, ended.lost, ended.won) == ("harmed", 20, 10, 0)
    lines = jobs.entries(released, "support")
    assert isinstance(lines[-1], ledger.Rollback)
    assert (lines[-2], lines[-1].version) == (ended, champion.replaces)
    assert lines[-1].reason.startswith(f"the watch: 10 lost and 0 won against support-v{champion.replaces} on 20 audited rows")
    assert watch.due(released, "support", None) == first + DAY
    assert probation.look(released, "support", first + 2 * DAY, ask=worse) is None


@pytest.mark.parametrize(("ask", "after"), [(worse, DAY), (lambda sets: (worse(sets)[0],) * 2, 14 * DAY)])
def test_a_version_promoted_while_both_are_asked_is_not_rolled_back_and_is_watched(
    released: Workspace, ask: probation.Ask, after: timedelta
) -> None:
    champion, first = promoted(released, another_candidate)
    traffic(released, champion, first, each=20, days=1)

    def meanwhile(sets: Sequence[Sequence[Example]]) -> tuple[list[list[str]], list[list[str]]]:
        promoted(released, another_candidate)
        return ask(sets)

    with pytest.raises(StaleError, match=f"serves by now, not v{champion.version} which this is about"):
        probation.look(released, "support", first + after, ask=meanwhile)
    lines = jobs.entries(released, "support")
    newest = ledger.state(lines).champion
    assert newest is not None
    assert (lines[-1], newest.replaces) == (newest, champion.version)
    watched = probation.newest(lines)
    assert watched is not None
    assert watched[0] == newest


def test_a_harmed_champion_whose_tag_cannot_be_written_is_rolled_back_and_opens_a_retraining_until_one_was_tried(
    released: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    champion, first = promoted(released, another_candidate)
    traffic(released, champion, first, each=20, days=1)

    def down(self: Registry, *args: object) -> None:
        raise RetrainError("MLflow is down")

    with monkeypatch.context() as broken:
        broken.setattr(Registry, "tag", down)
        ended = probation.look(released, "support", first + DAY, ask=worse)
    assert f"the tag `watch` of {champion.tag} does not say it: MLflow is down" in capsys.readouterr().err
    lines = jobs.entries(released, "support")
    assert (lines[-2], lines[-1].kind) == (ended, "rollback")
    assert watch.harmed(lines) == [ended]  # whoever looks next rings for it
    another_candidate(released)
    tried = jobs.entries(released, "support")
    assert watch.harmed(tried) == []


def test_windows_count_from_the_first_request_that_the_new_champion_answered(released: Workspace) -> None:
    champion, first = promoted(released, another_candidate)
    traffic(released, champion, first + 20 * DAY, each=20, days=2)
    told = probation.look(released, "support", first + 22 * DAY, ask=lambda sets: (worse(sets)[0],) * 2)
    assert told == (
        f"{champion.tag} is watched: window 2 of 14, 40 audited rows, 0 lost and 0 won against support-v{champion.replaces}"
    )


def test_nothing_is_watched_before_there_is_something_to_compare_with(released: Workspace) -> None:
    params = load(released.root)
    lines = jobs.entries(released, "support")
    end = from_stamp("2027-01-01T00-00-00Z")
    first = [line for line in lines if isinstance(line, ledger.Attempt | ledger.Promotion)][:2]
    back = next(i for i, line in enumerate(lines) if isinstance(line, ledger.Rollback))
    for some in (first, [], lines[: back + 1]):
        assert (probation.newest(some), probation.on_probation(some, params, end, end)) == (None, None)


PROMOTION = ledger.Promotion(
    at="2026-03-02T00:00:00Z", adapter="support", version=2, digest="b", commit="c", tag="support-v2", replaces=1
)
FIRST = PROMOTION.model_copy(update={"version": 1, "digest": "a", "replaces": None})
ATTEMPT = ledger.Attempt(
    at="2026-11-02T00:00:00Z", adapter="support", purpose="improve", end="2026-03-02T00-00-00Z", commit="c", digest="b",
    status="passed", promote=True, dataset="d", audit=None, champion="a", why="",
)  # fmt: skip


@pytest.mark.parametrize(
    ("tally", "over", "outcome"),
    [(Tally(20, 10, 0), False, "harmed"), (Tally(20, 0, 10), False, None), (Tally(20, 3, 2), False, None),
     (Tally(0, 0, 0), True, "inconclusive"), (Tally(29, 2, 2), True, "inconclusive"), (Tally(300, 9, 8), True, "kept"),
     (Tally(300, 30, 5), True, "harmed")],
)  # fmt: skip
def test_a_watch_ends_as_harmed_kept_or_inconclusive(tally: Tally, over: bool, outcome: str | None) -> None:
    before = PROMOTION.model_copy(update={"version": 1, "tag": "support-v1", "replaces": None})
    ended = probation.conclude(Probation(PROMOTION, before, (), over), tally, RULES, "2026-03-03T00-00-00Z")
    assert (ended.outcome if ended else None) == outcome


@pytest.mark.parametrize("waited", [0, 20])
def test_windows_follow_on_the_data_that_trained_it_and_count_no_further_than_asked(waited: int) -> None:
    params = load()
    lines = [FIRST, ATTEMPT, PROMOTION]
    start = from_stamp(ATTEMPT.end)
    begins = start + waited * DAY
    for days, windows, over in ((-1, 0, False), (0.9, 0, False), (3.5, 3, False), (14, 14, True), (99, 14, True)):
        found = probation.on_probation(lines, params, begins + days * DAY, begins + timedelta(hours=9))
        assert found is not None
        assert (len(found.windows), found.over) == (windows, over)
    assert found.windows[0].start == begins
    assert probation.newest([*lines, PROMOTION.model_copy(update={"forced": True})]) is None


@pytest.mark.parametrize(("at", "days", "over"), [(0, 13.9, False), (0, 14, True), (10, 23.9, False), (10, 24, True)])
def test_without_a_request_the_windows_run_out_that_long_after_the_promotion(at: int, days: float, over: bool) -> None:
    start = from_stamp(ATTEMPT.end)
    late = PROMOTION.model_copy(update={"at": (start + at * DAY).isoformat()})
    found = probation.on_probation([FIRST, ATTEMPT, late], load(), start + days * DAY, None)
    assert found is not None
    assert (found.windows, found.over) == ((), over)


def test_a_row_whose_label_is_no_answer_counts_for_neither() -> None:
    schema = {"type": "object", "required": ["a"]}
    rows = [Example.of("one", '{"a": 1}', source="audit"), Example.of("two", "no JSON", source="audit")]
    found = probation.tally([rows], [['{"a": 1.0}', "x"]], [['{"a": 2}', "no JSON"]], Judge("generation", schema))
    assert found == Tally(1, 1, 0)
