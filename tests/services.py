"""`retrain up` in a process of its own, and Airflow's REST API, as a person's browser uses it."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from small import wait

from retrain.process import environment
from retrain.workspace import Workspace


class Airflow:
    """Its REST API, as a person's browser uses it."""

    def __init__(self, address: str, user: str, password: str) -> None:
        self.address, self.user, self.password, self.token = address, user, password, None
        self.token = self("POST", "/auth/token", {"username": user, "password": password})["access_token"]

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    @classmethod
    def of(cls, said: str) -> "Airflow":
        found = re.search(r"Airflow +(\S+) +log in as (\S+) / (\S+)", said)
        assert found, said
        return cls(*found.groups())

    def wait_for_dag(self, dag: str) -> None:
        wait(lambda: dag in {found["dag_id"] for found in self("GET", "/api/v2/dags")["dags"]}, f"{dag} is not loaded", 120)

    def start(self, dag: str, conf: dict[str, Any]) -> str:
        """A run started by hand; its id."""
        self("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})
        return str(self("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])

    def end(self, dag: str, run: str, seconds: float = 600) -> str:
        """The state in which a run ends."""
        states: list[str] = []

        def ended() -> bool:
            states.append(self("GET", f"/api/v2/dags/{dag}/dagRuns/{run}")["state"])
            return states[-1] in ("success", "failed")

        wait(ended, f"{dag} {run} does not end", seconds)
        return states[-1]

    def run(self, dag: str, conf: dict[str, Any]) -> str:
        return self.end(dag, self.start(dag, conf))

    def waits(self, dag: str, run: str, task: str) -> dict[str, Any]:
        """The question that a person is asked, once it has stood there for longer than a person takes to read it.

        The process that asks ends up to 6 s later, and where the answer comes first Airflow 3.3.2's scheduler takes the task
        for lost, which is in line again by then (apache/airflow#71580).
        """
        found: list[dict[str, Any]] = []

        def asked() -> bool:
            pending = self("GET", "/api/v2/dags/~/dagRuns/~/hitlDetails?response_received=false")["hitl_details"]
            found[:] = [one for one in pending if one["task_instance"]["dag_run_id"] == run]
            return bool(found)

        wait(asked, f"{dag} {run} does not ask", 600)
        assert found[0]["task_instance"]["task_id"] == task
        time.sleep(15)
        return found[0]

    def answer(self, dag: str, run: str, task: str, option: str) -> None:
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails"
        self("PATCH", path, {"chosen_options": [option]})

    def states(self, dag: str, run: str) -> dict[str, str]:
        tasks = self("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in tasks}


@contextlib.contextmanager
def run(space: Workspace, **variables: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The process, and what it printed once all of it answered."""
    process = subprocess.Popen(
        [sys.executable, "-m", "retrain.cli", "up", "-w", str(space.root)],
        env=environment(**variables), stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said = ""
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        yield process, said
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
