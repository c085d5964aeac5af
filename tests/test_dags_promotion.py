"""The promoting half of the retraining DAG, run by Airflow itself (one process, no scheduler) on forged candidates."""

import json
import sqlite3
import subprocess
import sys
from datetime import timedelta

import pytest
from calling import call
from forging import another_candidate
from small import set_for_all
from test_dags import RUN
from test_notify import Listener, listener  # noqa: F401  # a fixture

from retrain import edits, jobs, ledger, looks, release
from retrain.records import from_stamp, stamp
from retrain.registry import Registry
from retrain.workspace import Workspace


def run(space: Workspace, *attempts: ledger.Attempt, guard: bool = False) -> list[str]:
    """What a DAG run on each of these candidates came to, and then one of the guard."""
    at = [from_stamp(attempt.end).isoformat() for attempt in attempts]
    guarding = [("guard_champion", at[-1], {})] if guard else []
    wanted = json.dumps([*(("retrain_support", end, {"end": end}) for end in at), *guarding])
    done = subprocess.run([sys.executable, "-c", RUN, str(space.root), wanted], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.split("SAID ")[1]))


def answers(space: Workspace, word: str) -> None:
    registry = Registry.open(space.params.mlflow, space.root)
    registry.tag("support", release.challenge(space, "support").number, "approval", word)


def asks(space: Workspace, who: str) -> None:
    set_for_all(space, f"promotion.approval={who}")


@pytest.mark.slow
def test_runs_promote_what_may_serve_and_a_persons_no_is_a_green_run_that_records_it(released: Workspace) -> None:
    alone = another_candidate(released)
    assert run(released, alone) == ["success"]
    assert ledger.state(jobs.entries(released, "support")).champion.digest == alone.digest  # type: ignore[union-attr]
    asks(released, "mlflow")
    try:
        refused = another_candidate(released)
        answers(released, "rejected")
        assert run(released, refused, alone) == ["success", "success"]  # the second is done already
        lines = jobs.entries(released, "support")
        assert ledger.state(lines).champion.digest == alone.digest  # type: ignore[union-attr]
        said = ledger.decision(lines, refused.digest)
        assert said is not None
        assert (said.approved, said.via) == (False, "mlflow")
        wanted = another_candidate(released)
        answers(released, "approved")
        assert run(released, wanted) == ["success"]
        assert ledger.state(jobs.entries(released, "support")).champion.digest == wanted.digest  # type: ignore[union-attr]
    finally:
        asks(released, "auto")


@pytest.mark.slow
def test_a_run_begins_a_rollout_which_the_guard_looks_at_and_a_person_ends(released: Workspace) -> None:
    before = ledger.state(jobs.entries(released, "support")).champion
    set_for_all(released, 'promotion.rollout.steps=[{"weight": 5, "hours": 1}]')
    try:
        tried = another_candidate(released)
        assert run(released, tried, guard=True) == ["success", "success"]
        lines = jobs.entries(released, "support")
        line = looks.running(lines)
        assert line is not None
        assert (line.digest, line.weight, line.action) == (tried.digest, 5, "begun")
        assert ledger.state(lines).champion == before
        assert call("rollout", "promote", "support", "--reason", "seen enough", "-w", released.root).code == 0
        lines = jobs.entries(released, "support")
        assert ledger.state(lines).champion.digest == tried.digest  # type: ignore[union-attr]
        assert looks.running(lines) is None
    finally:
        set_for_all(released, "promotion.rollout.steps=[]")


@pytest.mark.slow
def test_a_harmed_champion_rings_and_is_told_at_the_next_window_where_the_one_that_found_it_died(
    released: Workspace,
    listener: Listener,  # noqa: F811
) -> None:
    end = from_stamp(another_candidate(released).end) + timedelta(days=1)
    ill = release.promote(released, "support").promotion
    harmed = ledger.Watch(
        at=jobs.now(), adapter="support", version=ill.version, against=ill.replaces, outcome="harmed", end=stamp(end), rows=20,
        lost=10, won=0, why="it is shown to be worse",
    )  # fmt: skip
    release.rollback(released, "support", version=ill.replaces, reason="the watch", also=(harmed,))  # and died
    before = (released.root / "params.yaml").read_text()
    edits.set_values(released.root / "params.yaml", [f'notify.urls=["{listener.address}"]'])
    window = {"start": (end - timedelta(days=1)).isoformat(), "end": end.isoformat()}
    try:
        wanted = json.dumps([("monitor_adapters", end.isoformat(), window)])
        subprocess.run([sys.executable, "-c", RUN, str(released.root), wanted], capture_output=True, timeout=900, check=True)
    finally:
        (released.root / "params.yaml").write_text(before)
    assert "support: the new champion is shown to be worse" in [message["title"] for message in listener.heard]
    with sqlite3.connect(released.local / "airflow" / "airflow.db") as airflow:
        events = airflow.execute("select extra from asset_event where source_task_id = 'after_promotion'").fetchall()
    assert [json.loads(extra)["end"] for (extra,) in events] == [stamp(end)]
