"""A person lets candidates serve: in Airflow through its REST API, in MLflow through its own, with a real scheduler.

Airflow's database is PostgreSQL here; tests/test_up.py runs it on SQLite.
"""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
import servers
import services
from forging import another_candidate
from small import set_for_all, wait, workspace

from retrain import jobs, ledger
from retrain.records import from_stamp, write_jsonl
from retrain.registry import Registry
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow
DAG, FIRST = "retrain_support", "2026-03-02T00:00:00Z"
Up = tuple[Workspace, services.Airflow, str]


@pytest.fixture(scope="module")
def up(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """(workspace, Airflow, MLflow's address)."""
    space = workspace(tmp_path_factory.mktemp("asked"), tiny, "promotion.approval=airflow", "promotion.users=[admin]")
    day = {"request_id": "r", "timestamp": "2026-03-01T09:00:00Z", "prompt": "question", "response": "order_status"}
    write_jsonl(space.root / "logs" / "support" / "day.jsonl", [day])
    with servers.database() as address:
        named = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": address}
        with services.run(space, **named) as (_, said):
            airflow = services.Airflow.of(said)
            airflow.wait_for_dag(DAG)
            mlflow = re.search(r"MLflow +(http://\S+)", said)
            assert mlflow, said
            yield space, airflow, mlflow[1]


@pytest.fixture(scope="module")
def asked(up: Up) -> tuple[str, dict[str, Any]]:
    """A run that waits for a person, and what he is asked."""
    _, airflow, _ = up
    run = airflow.start(DAG, {"end": FIRST})
    return run, airflow.waits(DAG, run, "approve")


def state(space: Workspace) -> ledger.LedgerState:
    return ledger.state(jobs.entries(space, "support"))


def decisions(space: Workspace) -> list[ledger.Decision]:
    return [line for line in jobs.entries(space, "support") if isinstance(line, ledger.Decision)]


def test_a_browser_shows_verdict_picture_and_working_links_in_airflow_and_in_mlflow(
    up: Up, asked: tuple[str, dict[str, Any]]
) -> None:
    _, airflow, mlflow = up
    verdict = "Passed: it answers the new questions better than the untrained base"
    with browser.page() as page:
        log_in(page, airflow)
        run = urllib.parse.quote(asked[0])
        page.open(f"{airflow.address}/dags/{DAG}/runs/{run}/tasks/approve/required_actions")
        page.reads(f"Shall support-v1 serve? {verdict}")
        page.shows_a_card()
        links = page.links("body")
        version = links["support version 1 in MLflow"]
        assert version.startswith(f"{mlflow}/#/")
        page.open(version)
        page.reads(verdict)
        page.shows_a_card()
        page.open(links["the story of support"])
        page.reads("The story, newest first")


def log_in(page: browser.Page, airflow: services.Airflow) -> None:
    page.open(airflow.address)
    page.type("input[name=username]", airflow.user)
    page.type("input[name=password]", airflow.password)
    page.js("document.querySelector('button[type=submit]').click()")
    page.wait("!location.pathname.includes('/login')")


def test_a_rejection_in_airflow_is_recorded_and_nothing_serves(up: Up, asked: tuple[str, dict[str, Any]]) -> None:
    space, airflow, _ = up
    run, told = asked
    assert told["subject"].startswith("Shall support-v1 serve? Passed: ")
    assert "## Checks" in told["body"]
    assert [user["id"] for user in told["assigned_users"]] == ["admin"]
    assert told["defaults"] == ["Reject"]
    assert state(space).champion is None
    airflow.answer(DAG, run, "approve", "Reject")
    assert airflow.end(DAG, run) == "success"
    states = airflow.states(DAG, run)
    assert (states["approve"], states["wait"], states["promote"]) == ("success", "skipped", "success")
    assert [(said.approved, said.via, said.by) for said in decisions(space)] == [(False, "airflow", "admin")]
    assert state(space).champion is None
    assert Registry.open(space.params.mlflow, space.root).aliases("support") == {}


def test_no_answer_in_time_is_a_no_in_airflow(up: Up) -> None:
    space, airflow, _ = up
    obey(space, "promotion.answer_hours=0.01")
    candidate = another_candidate(space)
    run = airflow.start(DAG, {"end": from_stamp(candidate.end).isoformat()})
    assert airflow.end(DAG, run) == "success"
    states = airflow.states(DAG, run)
    assert (states["approve"], states["wait"], states["promote"]) == ("success", "skipped", "success")
    said = decisions(space)[-1]
    assert (said.digest, said.approved, said.via, said.by) == (candidate.digest, False, "airflow", None)
    assert said.reason == "nobody answered in time"
    assert state(space).champion is None
    obey(space, "promotion.answer_hours=72")


def obey(space: Workspace, *settings: str) -> None:
    """These settings of params.yaml, pushed, and pulled by the checkout that the DAGs read."""
    set_for_all(space, *settings)
    subprocess.run(["git", "pull", "-q", "--ff-only"], cwd=space.root, check=True)


def test_an_approval_in_airflow_promotes(up: Up) -> None:
    space, airflow, _ = up
    candidate = another_candidate(space)
    run = airflow.start(DAG, {"end": from_stamp(candidate.end).isoformat()})
    airflow.waits(DAG, run, "approve")
    airflow.answer(DAG, run, "approve", "Approve")
    assert airflow.end(DAG, run) == "success"
    champion = state(space).champion
    assert champion is not None
    assert champion.digest == candidate.digest
    assert decisions(space)[-1].approved
    assert Registry.open(space.params.mlflow, space.root).aliases("support") == {"champion": champion.version}


def test_a_tag_set_in_mlflow_promotes(up: Up) -> None:
    space, airflow, mlflow = up
    set_for_all(space, "promotion.approval=mlflow")
    candidate, before = another_candidate(space), state(space).champion
    run = airflow.start(DAG, {"end": from_stamp(candidate.end).isoformat()})
    wait(lambda: airflow.states(DAG, run).get("wait") == "up_for_reschedule", "it does not wait", 600)
    assert airflow.states(DAG, run)["approve"] == "skipped"
    assert state(space).champion == before
    found = rest(mlflow, "GET", "registered-models/alias?name=support&alias=challenger")["model_version"]
    assert found["description"].startswith("Passed: ")
    tag = {"name": "support", "version": found["version"], "key": "approval", "value": "approved"}
    rest(mlflow, "POST", "model-versions/set-tag", tag)
    assert airflow.end(DAG, run) == "success"
    champion = state(space).champion
    assert champion is not None
    assert (champion.digest, decisions(space)[-1].via) == (candidate.digest, "mlflow")
    now = rest(mlflow, "GET", "registered-models/alias?name=support&alias=champion")["model_version"]
    assert int(now["version"]) == champion.version


def rest(address: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """MLflow's REST API."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{path}", data=data, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
