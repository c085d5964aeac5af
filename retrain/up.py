"""`retrain up`: Airflow, MLflow, Evidently, the pages and the door of a workspace on loopback, until Ctrl-C stops all of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from retrain import projections, release
from retrain.errors import ParamsError, RetrainError
from retrain.process import dies_with_me, end_group, environment, public
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
def service(
    name: str, command: list[str], *, cwd: Path, env: Mapping[str, str], log: Path, port: int
) -> Iterator[Callable[[], None]]:
    """A child in a group of its own, ended as a group. What it yields waits until the child answers, so that several start
    at once, and raises RetrainError with the end of its log when it does not."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, preexec_fn=dies_with_me(),
        )  # fmt: skip
        try:
            yield lambda: _wait(name, process, port, log)
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
    """All of them, answering; addresses by name, and Airflow's log-in as `user` and `password`.

    An MLflow server that params name is shown and not started here: it is somebody else's, and has the records.
    """
    if workspace.params.workspace.remote is None:
        raise ParamsError(
            f"{workspace.root} names no remote, so its DAGs could not record anything: "
            "run `retrain demo` or `retrain init DIR` first, then `retrain up -w DIR`"
        )
    Registry.open(workspace.params.mlflow, workspace.root)
    _write_pages(workspace, say)
    remote = workspace.params.mlflow.uri
    names = ("Airflow", *(() if remote else ("MLflow",)), "Evidently", "the pages", "the door")
    ports = {name: free_port() for name in names}
    at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    shown = {release.PAGES: at["the pages"], **({release.MLFLOW: at["MLflow"]} if "MLflow" in at else {})}
    env = {**airflow_environment(workspace, port=ports["Airflow"]), **shown}
    say(f"starting {', '.join(names)} (up to a minute and a half on two cores)")
    with ExitStack() as stack:
        waits = [
            stack.enter_context(
                service(name, command, cwd=workspace.root, env=env, port=ports[name], log=workspace.local / "up" / log)
            )
            for name, command, log in _commands(workspace, ports)
        ]
        for wait in waits:
            wait()
        user, password = _login(workspace.local / "airflow")
        mlflow = public(remote) if remote else at["MLflow"]
        projections.write_door(workspace, "mlflow", mlflow if mlflow.startswith("http") else None)
        projections.write_door(workspace, "evidently", at["Evidently"])
        yield {
            "airflow": at["Airflow"], "user": user, "password": password, "mlflow": mlflow, "evidently": at["Evidently"],
            "reports": at["the pages"], "door": at["the door"],
        }  # fmt: skip


def _write_pages(workspace: Workspace, say: Say) -> None:
    """What the ledger and MLflow hold now; deleted pages and panels come back."""
    say("writing the pages")
    for adapter in workspace.params.adapters:
        projections.refresh(workspace, adapter, panels=True, say=say)
    projections.write_index(workspace)
    projections.panels_of(workspace).mkdir(parents=True, exist_ok=True)


def _commands(workspace: Workspace, ports: Mapping[str, int]) -> list[tuple[str, list[str], str]]:
    """Name, command and log of each service that has a port."""
    here, store = ["--host", "127.0.0.1"], workspace.local / "mlflow"
    python, scripts = [sys.executable, "-m"], Path(sys.executable).parent
    serve_mlflow = [
        *python, "mlflow", "server", "--backend-store-uri", f"sqlite:///{store}/mlflow.db", "--artifacts-destination",
        str(store / "artifacts"), *here, "--workers", "1", "--port",
    ]  # fmt: skip
    panels = [str(scripts / "evidently"), "ui", *here, "--workspace", str(projections.panels_of(workspace)), "--port"]
    pages = [*python, "http.server", "--bind", "127.0.0.1", "--directory", str(projections.reports(workspace))]
    door = [*python, "retrain.cli", "serve", "--workspace", str(workspace.root), "--set", "serve.host=127.0.0.1", "--port"]
    commands = {
        "MLflow": (serve_mlflow, "mlflow.log"),
        "Evidently": (panels, "evidently.log"),
        "the pages": (pages, "pages.log"),
        "the door": (door, "serve.log"),
    }
    started = [(name, [*words, str(ports[name])], log) for name, (words, log) in commands.items() if name in ports]
    return [*started, ("Airflow", [*python, "airflow", "standalone"], "airflow.log")]


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
        say(f"Evidently {found['evidently']}")
        say(f"pages    {found['reports']}")
        say(f"door     {found['door']}/v1   OpenAI's protocol; in a browser: label answers")
        say(f"workspace {workspace.root}, logs {os.path.relpath(workspace.local / 'up')}; Ctrl-C stops all of it")
        try:
            signal.pause()
        except KeyboardInterrupt:
            say("stopping")
