"""`retrain up`: a real scheduler runs the DAGs, and Ctrl-C leaves no process behind."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small import children_of, wait, workspace

from retrain import jobs, ledger
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow
FIRST = "2026-03-02T00:00:00Z"


class Airflow:
    """Its REST API, as a person's browser uses it."""

    def __init__(self, address: str, user: str, password: str) -> None:
        self.address, self.token = address, None
        self.token = self("POST", "/auth/token", {"username": user, "password": password})["access_token"]

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def wait_for_dag(self, dag: str) -> None:
        wait(lambda: dag in {found["dag_id"] for found in self("GET", "/api/v2/dags")["dags"]}, f"{dag} is not loaded", 120)

    def run(self, dag: str, conf: dict[str, Any]) -> str:
        """The state in which a run started by hand ends."""
        self("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})
        run = self("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
        states: list[str] = []

        def ended() -> bool:
            states.append(self("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])
            return states[-1] in ("success", "failed")

        wait(ended, f"{dag} {run} does not end", 300)
        return states[-1]


@pytest.fixture(scope="module")
def up(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, "subprocess.Popen[str]", str]]:
    """A workspace, `retrain up` on it, and what it printed once all of it answered."""
    space = workspace(tmp_path_factory.mktemp("up"), tiny)
    process = subprocess.Popen(
        [sys.executable, "-m", "retrain.cli", "up", "-w", str(space.root)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = ""
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        yield space, process, said
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_the_scheduler_trains_and_promotes_and_nothing_is_left_after_an_interrupt(
    up: tuple[Workspace, "subprocess.Popen[str]", str],
) -> None:
    space, process, said = up
    found = re.search(r"Airflow +(\S+) +log in as (\S+) / (\S+)", said)
    assert found, said
    airflow = Airflow(*found.groups())
    for name, words in (("pages", "How the adapters are doing"), ("Evidently", "Evidently"), ("MLflow", "MLflow")):
        address = re.search(rf"{name} +(http://\S+)", said)
        assert address, said
        with urllib.request.urlopen(address[1], timeout=30) as answer:
            assert words in answer.read().decode()
    for name in ("mlflow", "evidently"):
        assert "http://127.0.0.1:" in (space.local / "reports" / name / "index.html").read_text()
    airflow.wait_for_dag("retrain_support")
    assert airflow("GET", "/api/v2/importErrors")["total_entries"] == 0
    assert airflow.run("retrain_support", {"end": FIRST}) == "success"
    champion = ledger.state(jobs.entries(space, "support")).champion
    assert champion is not None
    assert champion.tag == "support-v1"
    assert airflow.run("guard_champion", {}) == "success"
    assert children_of(space)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    wait(lambda: not children_of(space), f"still there: {children_of(space)}", 10)
