"""Trial 10: MLflow (a server on PostgreSQL) goes down and comes back: failures take seconds, and nothing trains twice."""

import time
from pathlib import Path

import pytest
import servers
from calling import call
from forging import another_candidate
from small import workspace

from retrain import jobs, ledger, release, watch
from retrain.records import parse_time
from retrain.registry import Registry, load_champion
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow
END = parse_time("2026-03-02T00:00:00Z")
SECONDS = 45.0  # two timeouts of 3 s in an idle machine take 6; the rest is for busy ones


def test_a_training_goes_on_without_it_and_the_rerun_registers_what_was_trained(
    tiny: Path, tmp_path: Path, mlflow_server: servers.Server
) -> None:
    space = workspace(tmp_path, tiny, f"mlflow.uri={mlflow_server.uri}", "mlflow.timeout=3")
    said: list[str] = []
    mlflow_server.stop()
    try:
        made = watch.retrain(space, "support", END, say=said.append)
        assert made.attempt.promote
        assert [line for line in said if line.startswith("warning: the training log is not published: MLflow at http://127")]
        started = time.monotonic()
        told = call("promote", "support", "-w", space.root)
        assert time.monotonic() - started < SECONDS
        assert told.code == 1
        assert told.err.startswith(f"error: MLflow at {mlflow_server.uri} (params.yaml, mlflow.uri) failed in ")
        assert ledger.state(jobs.entries(space, "support")).champion is None
    finally:
        mlflow_server.start()
    again = watch.retrain(space, "support", END, say=said.append)
    assert not again.fresh  # nothing trains a second time
    assert release.promote(space, "support").promotion.digest == made.attempt.digest
    assert sum(isinstance(line, ledger.Attempt) for line in jobs.entries(space, "support")) == 1


def test_a_server_that_hangs_fails_a_promotion_within_seconds_and_what_serves_is_served(
    contested: Workspace, mlflow_server: servers.Server
) -> None:
    candidate, before = another_candidate(contested), load_champion("support", contested)
    with mlflow_server.hung():
        started = time.monotonic()
        told = call("promote", "support", "-w", contested.root)
        assert time.monotonic() - started < SECONDS
        assert (told.code, told.err.startswith("error: MLflow at ")) == (1, True)
        assert load_champion("support", contested) == before
    assert release.promote(contested, "support").promotion.digest == candidate.digest
    alias = Registry.open(contested.params.mlflow, contested.root).alias("support", "champion")
    assert alias is not None
    assert alias.digest == candidate.digest
