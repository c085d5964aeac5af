"""Trial 12: the upload of an adapter is cut half-way: nothing is registered, the manifest tells, and a rerun completes it."""

from dataclasses import replace

import pytest
import servers
from forging import another_candidate

from retrain import jobs, ledger, release
from retrain.errors import RetrainError
from retrain.records import verify_folder
from retrain.registry import Registry
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("after", [0, 20_000])  # bytes of one upload that go through
def test_an_upload_that_is_cut_is_never_registered(
    contested: Workspace, mlflow_server: servers.Server, tmp_path, after: int
) -> None:
    candidate = another_candidate(contested)
    registry = Registry.open(contested.params.mlflow, contested.root)
    before, head = registry.versions("support"), contested.remote_head()
    proxy = servers.Cutting(mlflow_server.port, after)
    mlflow = contested.params.mlflow.model_copy(update={"uri": proxy.uri})
    try:
        with pytest.raises(RetrainError):
            release.promote(replace(contested, params=contested.params.model_copy(update={"mlflow": mlflow})), "support")
    finally:
        proxy.close()
    assert proxy.cuts
    assert registry.versions("support") == before
    assert contested.remote_head() == head
    promoted = release.promote(contested, "support").promotion
    assert promoted.digest == candidate.digest
    verify_folder(registry.download("support", promoted.version, tmp_path / "again", digest=promoted.digest), promoted.digest)
    assert ledger.state(jobs.entries(contested, "support")).champion == promoted
