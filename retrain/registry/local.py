"""MLflow kept quiet, and the SQLite file of a workspace that has no server."""

import logging
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def quiet(timeout: int) -> None:
    """Before MLflow is imported: no telemetry, bars or chatter, no pickles, and a dead server fails in seconds."""
    bounds = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    os.environ.update({**QUIET, **bounds})
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.WARNING)


def database(folder: Path) -> Path:
    """folder/mlflow.db, made once: under a lock, for six first starts at once ruin the file, and renamed when complete."""
    path = folder / "mlflow.db"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "mlflow.db.lock"):
            if not path.exists():
                _create_database(folder / "mlflow.db.new")
                os.replace(folder / "mlflow.db.new", path)
    return path


def _create_database(path: Path) -> None:
    """All of MLflow's migrations without waiting for the disk after each: 1.4 s instead of 6.0."""
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hurry(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    path.unlink(missing_ok=True)  # half of one, from a process that was killed
    event.listen(Engine, "connect", hurry)
    try:
        MlflowClient(f"sqlite:///{path}").search_experiments()
    finally:
        event.remove(Engine, "connect", hurry)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
