"""A rollout from approval to promotion: log rows, ledger lines, MLflow, command line and page, on forged versions."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from calling import call
from forging import another_candidate
from small import set_for_all

from monitoring.failures import drawn
from retrain import jobs, ledger, looks, projections, release, rollout
from retrain.errors import NothingToDo, ParamsError, RejectedError, StaleError, WaitingError
from retrain.params import load
from retrain.records import parse_time, write_jsonl
from retrain.registry import Registry
from retrain.sections import SERVED
from retrain.workspace import Workspace

STEPS = '[{"weight": 0, "hours": 1}, {"weight": 20, "hours": 2}]'


@pytest.fixture
def asks(released: Workspace) -> Iterator[Any]:
    """Set promotion.<key> for everybody, by push."""

    def change(*values: str) -> None:
        set_for_all(released, *(f"promotion.{value}" for value in values))

    change(f"rollout.steps={STEPS}", "rollout.min_requests=20", "rollout.min_labels=5")
    yield change
    change("rollout.steps=[]", "approval=auto", "hours=null")


def begun(space: Workspace) -> ledger.Rollout:
    another_candidate(space)
    line = rollout.conclude(space, "support")
    assert isinstance(line, ledger.Rollout)
    return line


def state(space: Workspace) -> ledger.LedgerState:
    return ledger.state(jobs.entries(space, "support"))


def served(space: Workspace, line: ledger.Rollout, name: str, *, lost: int = 0, n: int = 60, hours: float = 0.9) -> None:
    """The log that a door would have written in a step: n requests, every drawn one asked of both and labelled; `lost` of those
    the challenger answered wrongly."""
    rate, began = space.params.failures.audit_rate, parse_time(line.at)
    ids = [f"{name}-{i}" for i in range(n)]
    wrong = {one for one in ids if drawn(one, rate)} if lost else set()
    wrong = set(sorted(wrong)[:lost])
    rows, copies, told = [], [], []
    champion = state(space).champion
    assert champion is not None
    for i, one in enumerate(ids):
        ours = line.weight > 0 and i % 5 == 0
        made = {
            "timestamp": (began + timedelta(hours=hours * (i + 1) / n)).isoformat(), "adapter": "support", "request_id": one,
            "rollout": line.key, "latency_ms": 100.0, "prompt": f"question {one}",
        }  # fmt: skip
        answers = {True: "cancel_order" if one in wrong else "order_status", False: "order_status"}
        digests = {True: line.digest, False: champion.digest}
        rows.append({**made, "digest": digests[ours], "response": answers[ours], "arm": "challenger" if ours else "champion"})
        if line.weight == 0 or drawn(one, rate):
            copy = {key: value for key, value in made.items() if key != "prompt"}
            copies.append({**copy, "digest": digests[not ours], "response": answers[not ours], "outcome": "answered"})
        if drawn(one, rate):
            told.append({"request_id": one, "audit_label": "order_status", "source": "reviewer"})
    for folder, found in (("logs/support", rows), ("logs/.shadow/support", copies), (SERVED.format(adapter="support"), told)):
        write_jsonl(space.root / folder / f"served-{name}.jsonl", found)


def look(space: Workspace, line: ledger.Rollout, hours: float) -> rollout.Looked:
    return rollout.look(space, "support", parse_time(line.at) + timedelta(hours=hours))


def test_a_candidate_climbs_the_steps_and_is_promoted_at_the_end(released: Workspace, asks: Any) -> None:
    before, first = state(released).champion, begun(released)
    assert (first.step, first.weight, first.hours, state(released).champion) == (0, 0, 1, before)
    assert rollout.conclude(released, "support") == first  # a retry of the task begins nothing
    assert look(released, first, 0.5).wrote is None
    served(released, first, "shadow")
    second = look(released, first, 1.0).wrote
    assert isinstance(second, ledger.Rollout)
    assert (second.action, second.step, second.weight) == ("stepped", 1, 20)
    served(released, second, "canary", n=150, hours=1.9)
    asks("hours={after: 0, before: 0, days: [], timezone: UTC}")
    waits = look(released, second, 2.0)
    assert (waits.wrote and waits.wrote.told().startswith(f"rollout of {first.tag} passed all its steps")) is True
    assert "promotions happen between" in (waits.note or "")
    asks("hours=null")
    last = look(released, second, 2.0).wrote
    assert isinstance(last, ledger.Promotion)
    assert (last.digest, last.version, last.tag) == (first.digest, first.version, first.tag)
    assert Registry.open(released.params.mlflow, released.root).aliases("support")["champion"] == first.version
    assert look(released, second, 3.0).told() == [
        f"the rollout ended when the ledger moved: {ledger.describe(jobs.entries(released, 'support')[-1])}"
    ]
    projections.write(released, "support", panels=False)
    page = projections.page_of(released, "support").read_text()
    said = call("history", "support", "-w", str(released.root)).out
    for words in ("begun against", "goes on with 20 % of the traffic", "passed all its steps"):
        assert words in page and words in said


def test_labels_that_show_harm_take_it_back_and_out_of_the_running(released: Workspace, asks: Any) -> None:
    before, line = state(released).champion, begun(released)
    assert Registry.open(released.params.mlflow, released.root).by_digest("support", line.digest) == line.version
    served(released, line, "harm", n=200, lost=12)
    found = look(released, line, 0.95)
    assert found.look is not None and found.judged is not None
    assert (found.look.lost, found.look.won, found.judged.outcome) == (12, 0, "failure")
    assert (state(released).champion, state(released).challenger) == (before, None)
    with pytest.raises(RejectedError, match="12 labelled requests lost"):
        rollout.conclude(released, "support")
    with pytest.raises(RejectedError, match="--force"):
        release.promote(released, "support")


def test_people_pause_go_on_take_back_and_promote_by_the_command_line(released: Workspace, asks: Any) -> None:
    root = str(released.root)
    first = begun(released)

    def said(*words: str, code: int = 0) -> dict[str, Any]:
        done = call("rollout", *words, "-w", root, "--json")
        assert done.code == code, done.out + done.err
        return dict(json.loads(done.out)) if done.out.strip() else {}

    assert said("status", "support")["judged"]["outcome"] == "inconclusive"
    assert said("pause", "support", "--reason", "sale week")["action"] == "paused"
    assert said("look", "support")["note"] == "paused: sale week"
    said("pause", "support", "--reason", "again", code=4)
    assert said("resume", "support")["weight"] == first.weight
    said("resume", "support", code=4)
    assert said("rollback", "support", "--reason", "refunds went wrong")["outcome"] == "withdrawn"
    said("rollback", "support", "--reason", "again", code=4)
    second = begun(released)
    assert second.version != first.version
    assert said("promote", "support", "--reason", "seen enough")["digest"] == second.digest
    kinds = [(e.kind, getattr(e, "action", None)) for e in jobs.entries(released, "support")][-2:]
    assert kinds == [("rollout", "passed"), ("promotion", None)]


def test_a_newer_candidate_ends_it_and_a_look_that_comes_late_writes_nothing(released: Workspace, asks: Any) -> None:
    line = begun(released)
    another_candidate(released)
    assert looks.running(jobs.entries(released, "support")) is None
    with pytest.raises(StaleError, match="has moved"):
        rollout._write(released, "support", line.model_copy(update={"action": "paused"}), line)
    with pytest.raises(NothingToDo):
        rollout.pause(released, "support", reason="late")


def test_without_steps_or_for_a_candidate_that_waits_for_a_person_nothing_begins(released: Workspace, asks: Any) -> None:
    another_candidate(released)
    asks("approval=airflow")
    with pytest.raises(WaitingError, match="waits for a person"):
        rollout.conclude(released, "support")
    asks("approval=auto", "rollout.steps=[]")
    assert isinstance(rollout.conclude(released, "support"), release.Served)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('steps=[{"weight": 5, "hours": 1}, {"weight": 5, "hours": 1}]', "each must be above the one before"),
        ('steps=[{"weight": 100, "hours": 1}]', "weight"),
        ('steps=[{"weight": 5, "hours": 200}]', "it would always expire"),
    ],
)
def test_rules_that_cannot_hold_are_refused(setting: str, words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        load(".", [f"promotion.rollout.{setting}"])
