"""`retrain up`: Airflow, MLflow and the drift reports of a workspace on loopback, until Ctrl-C stops all of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from retrain.errors import ParamsError, RetrainError
from retrain.process import dies_with_me, end_group, environment
from retrain.registry import Registry
from retrain.story import HOME
from retrain.workspace import Workspace

WAIT = 180.0  # seconds for a service to answer: two busy cores take up to 85
Say = Callable[[str], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def airflow_environment(workspace: Workspace, *, port: int) -> dict[str, str]:
    """What Airflow and its tasks need: home and database inside the workspace, our dags, everything on loopback."""
    home = workspace.local / "airflow"
    return environment(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(HOME / "dags"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://127.0.0.1:{port}/execution/",
        AIRFLOW__API__HOST="127.0.0.1",
        AIRFLOW__API__PORT=str(port),
        AIRFLOW__API__BASE_URL=f"http://127.0.0.1:{port}",
        RETRAIN_WORKSPACE=str(workspace.root),
        DO_NOT_TRACK="true",
        MLFLOW_DISABLE_TELEMETRY="true",
    )


@contextmanager
def service(name: str, command: list[str], *, cwd: Path, env: Mapping[str, str], log: Path, port: int) -> Iterator[None]:
    """A child in a group of its own, ended as a group; RetrainError with the end of its log when it does not answer."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, preexec_fn=dies_with_me(),
        )  # fmt: skip
        try:
            _wait(name, process, port, log)
            yield
        finally:
            end_group(process)


def _wait(name: str, process: "subprocess.Popen[str]", port: int, log: Path) -> None:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = "\n  ".join(log.read_text("utf-8", "replace").splitlines()[-8:])
            raise RetrainError(f"{name} ended with code {process.returncode} ({log}):\n  {tail}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise RetrainError(f"{name} does not answer on 127.0.0.1:{port} after {WAIT:g} s: see {log}")


@contextmanager
def services(workspace: Workspace, say: Say) -> Iterator[dict[str, str]]:
    """All three, answering; addresses by name, and Airflow's log-in as `user` and `password`."""
    if workspace.params.workspace.remote is None:
        raise ParamsError(
            f"{workspace.root} names no remote, so its DAGs could not record anything: "
            "run `retrain demo` or `retrain init DIR` first, then `retrain up -w DIR`"
        )
    Registry.open(workspace.params.mlflow, workspace.root)
    airflow, mlflow, pages = free_port(), free_port(), free_port()
    logs, reports = workspace.local / "up", workspace.local / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    env = airflow_environment(workspace, port=airflow)
    python = [sys.executable, "-m"]
    here = ["--host", "127.0.0.1"]
    store = workspace.local / "mlflow"
    serve_mlflow = [
        *python, "mlflow", "server", "--backend-store-uri", f"sqlite:///{store}/mlflow.db", "--artifacts-destination",
        str(store / "artifacts"), *here, "--port", str(mlflow), "--workers", "1",
    ]  # fmt: skip
    serve_pages = [*python, "http.server", "--bind", "127.0.0.1", "--directory", str(reports), str(pages)]
    say("starting MLflow, reports and Airflow (up to a minute and a half on two cores)")
    with (
        service("MLflow", serve_mlflow, cwd=workspace.root, env=env, log=logs / "mlflow.log", port=mlflow),
        service("the reports", serve_pages, cwd=workspace.root, env=env, log=logs / "reports.log", port=pages),
        service(
            "Airflow", [*python, "airflow", "standalone"], cwd=workspace.root, env=env, log=logs / "airflow.log", port=airflow
        ),
    ):
        user, password = _login(workspace.local / "airflow")
        yield {
            "airflow": f"http://127.0.0.1:{airflow}",
            "user": user,
            "password": password,
            "mlflow": workspace.params.mlflow.uri or f"http://127.0.0.1:{mlflow}",
            "reports": f"http://127.0.0.1:{pages}",
        }


def _login(home: Path) -> tuple[str, str]:
    """What Airflow's simple auth manager wrote at its first start."""
    path = home / "simple_auth_manager_passwords.json.generated"
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip():
            user, password = next(iter(json.loads(path.read_text()).items()))
            return user, password
        time.sleep(0.5)
    raise RetrainError(f"Airflow wrote no log-in to {path}")


def run(workspace: Workspace, say: Say) -> None:
    """Until Ctrl-C or TERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with services(workspace, say) as found:
        say(f"Airflow  {found['airflow']}   log in as {found['user']} / {found['password']}")
        say("         new DAGs are paused there: switch them on")
        say(f"MLflow   {found['mlflow']}")
        say(f"reports  {found['reports']}")
        say(f"workspace {workspace.root}, logs {os.path.relpath(workspace.local / 'up')}; Ctrl-C stops all of it")
        try:
            signal.pause()
        except KeyboardInterrupt:
            say("stopping")
