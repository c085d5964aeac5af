"""The DAGs, run by Airflow itself (one process, no scheduler) on a real workspace with a base that learns in seconds."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small import TELLS, children_of, wait, workspace

from retrain import jobs, ledger, watch
from retrain.records import parse_time, write_jsonl
from retrain.registry import Registry
from retrain.workspace import Workspace

RUN = """
import json, sys
from retrain.dagruns import DagRuns
from retrain.errors import RetrainError
from retrain.process import collect_seldom
from retrain.records import parse_time
from retrain.workspace import Workspace

collect_seldom()
runs = DagRuns(Workspace.open(sys.argv[1]), print)
said = []
for dag, at, conf in json.loads(sys.argv[2]):
    try:
        runs.run(dag, parse_time(at), conf)
        said.append("success")
    except RetrainError as error:
        said.append(str(error))
print("SAID " + json.dumps(said))
"""
FIRST, END = "2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z"


@pytest.fixture(scope="module")
def ran(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[str]]:
    """What each run came to, in one process as the demo does it."""
    space = workspace(tmp_path_factory.mktemp("dags"), tiny)
    labels = sorted(TELLS.values())
    rows = [
        {"request_id": f"r{i}", "timestamp": "2026-03-02T09:00:00Z", "prompt": f"question {i}", "response": labels[i % 4]}
        for i in range(200)
    ]  # fmt: skip
    write_jsonl(space.root / "logs" / "support" / "day.jsonl", rows)
    wanted = [
        ("retrain_support", FIRST, {"end": FIRST}),
        ("guard_champion", END, {}),
        ("monitor_adapters", END, {}),
        ("retrain_support", END, {}),
        ("monitor_adapters", "2026-03-04T00:00:00Z", {"start": END, "end": FIRST}),
        ("retrain_nobody", END, {}),
        ("monitor_adapters", "2026-03-04T00:00:00Z", {"start": FIRST, "end": END, "ask": True}),
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(space.root), json.dumps(wanted)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return space, json.loads(done.stdout.split("SAID ")[1])


def test_a_retraining_run_trains_gates_and_promotes_and_the_guard_agrees(ran: tuple[Workspace, list[str]]) -> None:
    space, said = ran
    assert said[:2] == ["success", "success"], (space.local / "up" / "dagruns.log").read_text()[-2000:]
    champion = ledger.state(jobs.entries(space, "support")).champion
    assert champion is not None
    alias = Registry.open(space.params.mlflow, space.root).alias("support", "champion")
    assert alias is not None
    assert (alias.version, alias.digest) == (champion.version, champion.digest)


def test_a_monitor_run_measures_the_data_interval_that_ends_at_its_date(ran: tuple[Workspace, list[str]]) -> None:
    space, said = ran
    assert said[2] == "success"
    windows = Registry.open(space.params.mlflow, space.root).windows("support", 10)
    assert [(row["start"], row["end"], row["rows"]) for row in windows] == [
        ("2026-03-02T00-00-00Z", "2026-03-03T00-00-00Z", 200)
    ]
    assert watch.due(space, "support", FIRST) == parse_time(FIRST)
    page, figures = space.local / "reports" / "support.html", space.local / "metrics" / "support.prom"
    assert 'id="w-2026-03-03T00-00-00Z"' in page.read_text("utf-8")
    assert "retrain_window_rows" in figures.read_text("utf-8")


def test_a_person_can_ask_that_a_window_may_train(ran: tuple[Workspace, list[str]]) -> None:
    space, said = ran
    assert said[6] == "success"
    assert [row["facts"]["asked"] for row in Registry.open(space.params.mlflow, space.root).windows("support", 10)] == [True]


def test_a_retraining_woken_without_work_is_a_success_that_tries_nothing(ran: tuple[Workspace, list[str]]) -> None:
    space, said = ran
    assert said[3] == "success"
    assert sum(isinstance(entry, ledger.Attempt) for entry in jobs.entries(space, "support")) == 1


def test_a_run_that_fails_says_why_and_where_to_look(ran: tuple[Workspace, list[str]]) -> None:
    _, said = ran
    assert "starts at 2026-03-03T00-00-00Z and ends before" in said[4]
    assert "dagruns.log" in said[4]
    assert "has no DAG retrain_nobody, it has guard_champion, monitor_adapters, retrain_support" in said[5]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_run_and_its_children(tiny: Path, tmp_path: Path, number: signal.Signals) -> None:
    space = workspace(tmp_path, tiny, "train.epochs=5000")
    wanted = json.dumps([("retrain_support", FIRST, {"end": FIRST})])
    process = subprocess.Popen([sys.executable, "-c", RUN, str(space.root), wanted], stderr=subprocess.PIPE, text=True)
    wait(lambda: any("retrain.train" in command for command in children_of(space)), "no training", 120)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors.splitlines()[-1]
    assert process.returncode != 0
    wait(lambda: not children_of(space), f"still there: {children_of(space)}", 10)
    assert jobs.entries(space, "support") == []
