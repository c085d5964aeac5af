"""Who lets a candidate serve and when, what is forced, paused, pruned, explained and compared, on one workspace."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from calling import call
from forging import another_candidate
from small import set_for_all

from retrain import guard, jobs, ledger, permission, prune, release, rollout, routes
from retrain.errors import RejectedError, StaleError, WaitingError
from retrain.params import load
from retrain.permission import Answer
from retrain.records import from_stamp, stamp
from retrain.registry import Registry, load_champion
from retrain.sections import OfficeHours
from retrain.workspace import Workspace


@pytest.fixture
def asks(released: Workspace) -> Iterator[object]:
    """Set promotion.<key> for everybody, by push."""

    def change(*values: str) -> None:
        set_for_all(released, *(f"promotion.{value}" for value in values))

    yield change
    change("approval=auto", "answer_hours=72", "hours=null")


def registry(space: Workspace) -> Registry:
    return Registry.open(space.params.mlflow, space.root)


def serving(space: Workspace) -> ledger.Promotion:
    found = ledger.state(jobs.entries(space, "support")).champion
    assert found is not None
    return found


def judged_again(space: Workspace, attempt: ledger.Attempt) -> ledger.Attempt:
    """A later retraining that came to the same bytes."""
    end = stamp(from_stamp(attempt.end) + timedelta(days=1))
    again = attempt.model_copy(update={"at": jobs.now(), "end": end})
    with space.clone("again") as clone:
        jobs.write_line(clone, "support", again)
    return again


# --- a person's answer


def test_a_candidate_waits_for_the_tag_in_mlflow_and_serves_once_it_says_approved(released: Workspace, asks) -> None:
    asks("approval=mlflow")
    candidate, before = another_candidate(released), serving(released)
    number = release.challenge(released, "support").number
    assert registry(released).aliases("support")["challenger"] == number
    assert registry(released).version("support", number).tags["approval"] == "waiting"
    assert permission.waits(released, "support") == "nobody has answered in MLflow"
    with pytest.raises(WaitingError, match="set the tag `approval` of its version in MLflow"):
        rollout.conclude(released, "support")
    with pytest.raises(WaitingError):  # nor past the question
        release.promote(released, "support")
    assert serving(released) == before
    card = registry(released).client.get_model_version("support", str(number)).description
    assert card.startswith("Passed: ")
    assert "## Checks" in card
    registry(released).tag("support", number, "approval_by", "ada")
    registry(released).tag("support", number, "approval", " Approved ")
    assert permission.waits(released, "support") is None
    done = rollout.conclude(released, "support")
    assert done.promotion.digest == candidate.digest
    lines = jobs.entries(released, "support")
    assert isinstance(lines[-2], ledger.Decision)
    assert (lines[-2].approved, lines[-2].by, lines[-2].via) == (True, "ada", "mlflow")
    place = ledger.state(lines).number(before.version)
    assert registry(released).aliases("support") == {"champion": number, "previous": place}


def test_a_no_is_recorded_and_stays_a_no(released: Workspace, asks) -> None:
    asks("approval=airflow")
    another_candidate(released)
    number, before = release.challenge(released, "support").number, serving(released)
    said = rollout.conclude(released, "support", Answer(False, "airflow", "ada", "the task approve"))
    assert isinstance(said, ledger.Decision)
    assert serving(released) == before
    again = rollout.conclude(released, "support", Answer(True, "airflow", "bob", "the task approve"))  # a retry of the task
    assert again == said
    with pytest.raises(RejectedError, match="rejected by ada in airflow"):
        release.promote(released, "support")
    assert "challenger" not in registry(released).aliases("support")
    assert registry(released).version("support", number).tags["approval"] == "rejected by ada in airflow: the task approve"
    called = call("promote", "support", "-w", released.root)
    assert (called.code, called.err.startswith("the candidate of support was rejected by ada")) == (3, True)


def test_a_no_in_airflow_stays_a_no_where_params_ask_nobody_any_more(released: Workspace, asks) -> None:
    asks("approval=auto")
    another_candidate(released)
    before = serving(released)
    said = rollout.conclude(released, "support", Answer(False, "airflow", "ada", "the task approve"))
    assert isinstance(said, ledger.Decision)
    with pytest.raises(RejectedError):
        release.promote(released, "support")
    assert serving(released) == before


def test_an_answer_counts_for_the_candidate_that_it_is_about_alone(released: Workspace, asks) -> None:
    asks("approval=airflow")
    asked = another_candidate(released)
    another_candidate(released)
    before = jobs.entries(released, "support")
    with pytest.raises(StaleError, match="was asked about, and the candidate of support at .* waits by now"):
        rollout.conclude(released, "support", Answer(True, "airflow", "ada", "the task approve"), about=asked.digest)
    with pytest.raises(WaitingError):
        release.promote(released, "support")
    assert jobs.entries(released, "support") == before


def test_no_answer_in_time_is_a_no(released: Workspace, asks) -> None:
    asks("approval=mlflow", "answer_hours=0.0000001")
    another_candidate(released)
    release.challenge(released, "support")
    assert permission.waits(released, "support") is None
    said = rollout.conclude(released, "support")
    assert isinstance(said, ledger.Decision)
    assert (said.approved, said.reason) == (False, "nobody answered within 1e-07 hours")


def test_bytes_that_nobody_answered_for_in_time_are_asked_about_again_once_they_are_judged_again(
    released: Workspace, asks
) -> None:
    asks("approval=mlflow", "answer_hours=0.0000001")
    first = another_candidate(released)
    number = release.challenge(released, "support").number
    assert not rollout.conclude(released, "support").approved
    asks("approval=mlflow", "answer_hours=72")
    again = judged_again(released, first)
    assert release.challenge(released, "support").number == number
    assert registry(released).version("support", number).tags["approval"] == "waiting"
    assert permission.waits(released, "support") == "nobody has answered in MLflow"
    registry(released).tag("support", number, "approval", "approved")
    assert rollout.conclude(released, "support", about=again.digest).promotion.digest == first.digest


def test_a_yes_counts_where_params_ask_now(released: Workspace, asks) -> None:
    asks("approval=airflow")
    candidate = another_candidate(released)
    number = release.challenge(released, "support").number
    permission.decide(released, "support", Answer(True, "airflow", "ada", "the task approve"))
    asks("approval=mlflow")
    with pytest.raises(WaitingError, match="set the tag `approval` of its version in MLflow"):
        rollout.conclude(released, "support")
    assert permission.waits(released, "support") == "nobody has answered in MLflow"
    registry(released).tag("support", number, "approval", "approved")
    assert permission.waits(released, "support") is None
    assert rollout.conclude(released, "support").promotion.digest == candidate.digest


def test_a_candidate_that_is_not_in_mlflow_is_registered_first_and_again_where_it_was_deleted(
    released: Workspace, asks
) -> None:
    asks("approval=mlflow")
    candidate = another_candidate(released)
    with pytest.raises(WaitingError, match="is not in MLflow: `retrain register support` first"):
        rollout.conclude(released, "support")
    number = release.challenge(released, "support").number
    registry(released).client.delete_model_version("support", str(number))
    assert release.waits(released, "support") == "nobody has answered in MLflow"
    again = registry(released).by_digest("support", candidate.digest)
    assert again is not None
    assert registry(released).version("support", again).tags["approval"] == "waiting"


def test_what_airflow_told_is_an_answer() -> None:
    user = {"id": "1", "name": "ada"}
    told = {"chosen_options": ["Approve"], "params_input": {}, "responded_at": None, "responded_by_user": user}
    assert permission.from_airflow(told) == Answer(True, "airflow", "ada", "the task approve")
    assert permission.from_airflow({**told, "chosen_options": ["Reject"]}).approved is False
    assert permission.from_airflow({**told, "responded_by_user": None}) == Answer(
        False, "airflow", None, "nobody answered in time"
    )
    assert permission.from_airflow(None) is None


# --- pauses and hours


def test_a_pause_holds_back_promotions_and_no_rollback(released: Workspace) -> None:
    candidate = another_candidate(released)
    assert call("pause", "support", "--reason", "sale week", "-w", released.root).code == 0
    told = call("promote", "support", "-w", released.root)
    assert (told.code, told.err) == (
        5, "error: support is not promoted now: promotions are paused until `retrain resume` (sale week)\n",
    )  # fmt: skip
    assert "promotions paused until resumed: sale week" in call("status", "-w", released.root).out
    ill = serving(released).version
    assert release.rollback(released, "support", version=None, reason="ill").line is not None
    assert release.rollback(released, "support", version=ill, reason="well again").line is not None
    assert call("resume", "support", "-w", released.root).code == 0
    assert call("resume", "support", "-w", released.root).code == 4
    assert release.promote(released, "support").promotion.digest == candidate.digest


def test_a_pause_ends_by_itself() -> None:
    now = datetime(2026, 3, 6, 12, tzinfo=UTC)
    line = ledger.Pause(at="2026-03-06T09:00:00Z", adapter="support", until="2026-03-06T18:00:00Z", reason="sale")
    assert ledger.state([line]).paused(now) == line
    assert ledger.state([line]).paused(now + timedelta(hours=6)) is None
    assert ledger.state([line, ledger.Resume(at=line.at, adapter="support", reason="over")]).paused(now) is None
    over = call("pause", "support", "--until", "2020-01-01T00:00:00Z", "--reason", "x", "-w", Path(__file__).parents[1])
    assert over.code == 2


@pytest.mark.parametrize(
    ("at", "after", "before", "opens"),
    [("2026-03-06T14:59:00Z", 8, 16, True), ("2026-03-06T15:00:00Z", 8, 16, False),  # a Friday; Berlin is an hour ahead
     ("2026-03-07T12:00:00Z", 8, 16, False), ("2026-03-05T23:30:00Z", 22, 6, True), ("2026-03-05T12:00:00Z", 22, 6, False)],
)  # fmt: skip
def test_promotions_happen_at_their_hours_alone(at: str, after: int, before: int, opens: bool) -> None:
    hours = OfficeHours(after=after, before=before, timezone="Europe/Berlin", days=("thu", "fri"))
    rules = load(Path(__file__).parents[1]).promotion.model_copy(update={"hours": hours})
    why = permission.closed(rules, ledger.state([]), datetime.fromisoformat(at))
    assert (why is None) == opens, why


# --- past the gate


def test_a_forced_promotion_needs_a_reason_is_marked_for_ever_and_may_serve(released: Workspace, asks) -> None:
    asks("approval=airflow")
    candidate = another_candidate(released)
    assert call("promote", "support", "--force", "-w", released.root).code == 2
    assert call("promote", "support", "--force", "--reason", " ", "-w", released.root).code == 2
    told = call("promote", "support", "--force", "--reason", "the old one is worse", "-w", released.root)
    assert told.code == 0, told.err
    assert "FORCED past the gate: the old one is worse" in told.out
    line = serving(released)
    assert (line.digest, line.forced, line.reason) == (candidate.digest, True, "the old one is worse")
    assert registry(released).version("support", line.version).tags["forced"] == "the old one is worse"
    assert load_champion("support", released).digest == candidate.digest
    assert guard.reconcile(released, "support").changes == ()
    assert "FORCED past the gate" in call("status", "-w", released.root).out
    told = call("explain", line.tag, "-w", released.root)
    assert "FORCED past the gate by a person: the old one is worse" in told.out


def test_a_candidate_that_was_judged_against_another_champion_is_stale(released: Workspace) -> None:
    another_candidate(released)
    ill = serving(released).version
    release.rollback(released, "support", version=None, reason="ill")
    with pytest.raises(StaleError, match="was judged against support-v"):
        release.promote(released, "support")
    release.rollback(released, "support", version=ill, reason="well again")
    release.promote(released, "support")


# --- looking, and old versions


def test_a_version_tells_its_story(released: Workspace) -> None:
    told = call("explain", "support-v1", "-w", released.root)
    assert told.code == 0, told.err
    for words in (
        "why it was trained:\n  purpose first: a person, or an erasure, asked for it",
        "what it learned:\n  4 rows: 4 seed\n", "training:\n  base bbbbbbbbbbbb", "verdict:\n  passed: Passed: it answers",
        "  What was tried: a new adapter.", "approval:\n  nobody was asked", "it was the first champion", "serves now",
    ):  # fmt: skip
        assert words in told.out, told.out
    data = json.loads(call("explain", "support-v1", "-w", released.root, "--json").out)
    assert (data["schema"], data["version"]["tag"], data["attempt"]["purpose"]) == (1, "support-v1", "first")
    assert call("explain", "support-v99", "-w", released.root).code == 2


def test_two_versions_are_compared_row_by_row_from_what_is_stored(released: Workspace) -> None:
    before = serving(released)
    another_candidate(released, wrong=3)
    after = release.promote(released, "support").promotion
    told = call("compare", before.tag, after.tag, "-w", released.root, "--json")
    assert told.code == 0, told.err
    data = json.loads(told.out)
    assert [(side["name"], side["n"], side["won"], side["lost"]) for side in data["suites"]] == [
        ("audit", 20, 0, 3), ("golden", 20, 0, 3), ("retained", 20, 0, 3),
    ]  # fmt: skip
    assert sum(side["lost"] for side in data["slices"]) == 9
    low, high = data["suites"][0]["interval"]
    assert low < -0.15 < high
    page = Path(data["page"]).read_text("utf-8")
    assert f"{after.tag} alone is right on 0, {before.tag} alone on 9" in page
    assert "question 2?" in page
    assert call("compare", before.tag, before.tag, "-w", released.root).code == 2


def test_pruning_keeps_what_serves_and_a_rollback_to_what_left_brings_it_back(released: Workspace) -> None:
    for _ in range(2):
        another_candidate(released)
        release.promote(released, "support")
    state = ledger.state(jobs.entries(released, "support"))
    dry = json.loads(call("prune", "support", "--keep", 1, "--dry-run", "-w", released.root, "--json").out)
    assert dry["dropped"]
    done = prune.prune(released, "support", keep=1, dry=False)
    assert list(done.dropped) == dry["dropped"]
    assert set(done.kept) == {state.number(line.version) for line in (state.champion, state.previous)}
    assert {v.version for v in registry(released).versions("support")} == set(done.kept)
    assert guard.reconcile(released, "support").changes == ()
    back = release.rollback(released, "support", version=1, reason="far back")
    assert back.promotion.version == 1
    state = ledger.state(jobs.entries(released, "support"))
    assert state.number(1) > max(done.kept)
    assert load_champion("support", released).digest == state.versions[1].digest
    assert registry(released).aliases("support")["champion"] == state.number(1)


def test_a_promotion_stands_where_the_router_cannot_be_fitted_again(
    released: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(workspace: Workspace) -> str:
        raise OSError("no disk is left")

    candidate = another_candidate(released)
    monkeypatch.setattr(routes, "waits", fail)
    release.promote(released, "support")
    assert serving(released).digest == candidate.digest
    assert "warning: the router was not fitted again, run `retrain route fit`: no disk is left" in capsys.readouterr().err


def test_what_a_champion_answered_rightly_is_read_at_its_commit(released: Workspace) -> None:
    another_candidate(released, wrong=5)
    release.promote(released, "support")
    with released.clone("test") as clone:
        found = routes.answered_right(released, clone.root, released.params)
    assert [found["support"][f"golden{i:02}"] for i in (4, 5)] == [False, True]
