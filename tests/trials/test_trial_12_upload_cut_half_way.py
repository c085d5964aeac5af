"""Trial 12: the upload of an adapter is cut half-way: nothing is registered, the manifest tells, and a rerun completes it."""

import subprocess
import sys

import pytest
import servers
from forging import another_candidate

from retrain import jobs, ledger, release
from retrain.records import verify_folder
from retrain.registry import Registry
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow
# in a process of its own: MLflow's client remembers for each run through which address its files went
THROUGH = """
import sys
from dataclasses import replace
from retrain import release
from retrain.workspace import Workspace

space = Workspace.open(sys.argv[1])
mlflow = space.params.mlflow.model_copy(update={"uri": sys.argv[2]})
release.promote(replace(space, params=space.params.model_copy(update={"mlflow": mlflow})), "support")
"""


@pytest.mark.parametrize("after", [0, 20_000])  # bytes of one upload that go through
def test_an_upload_that_is_cut_is_never_registered(
    contested: Workspace, mlflow_server: servers.Server, tmp_path, after: int
) -> None:
    candidate = another_candidate(contested)
    registry = Registry.open(contested.params.mlflow, contested.root)
    before, head = registry.versions("support"), contested.remote_head()
    proxy = servers.Cutting(mlflow_server.port, after)
    command = [sys.executable, "-c", THROUGH, str(contested.root), proxy.uri]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    finally:
        proxy.close()
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"RetrainError: MLflow at {proxy.uri}" in done.stderr
    assert proxy.cuts
    assert registry.versions("support") == before
    assert contested.remote_head() == head
    promoted = release.promote(contested, "support").promotion
    assert promoted.digest == candidate.digest
    verify_folder(registry.download("support", promoted.version, tmp_path / "again", digest=promoted.digest), promoted.digest)
    assert ledger.state(jobs.entries(contested, "support")).champion == promoted
