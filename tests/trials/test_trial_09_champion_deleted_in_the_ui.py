"""Trial 9: somebody deletes the champion's version, or all of them, in MLflow: noticed, and restored or rolled back."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from forging import another_candidate

from retrain import guard, jobs, ledger, release
from retrain.process import git
from retrain.records import file_digest
from retrain.registry import Registry, load_champion
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def champion(released: Workspace) -> ledger.Promotion:
    another_candidate(released)
    promoted = release.promote(released, "support").promotion
    guard.reconcile(released, "support")
    return promoted


def registry(space: Workspace) -> Registry:
    return Registry.open(space.params.mlflow, space.root)


def test_a_deleted_champion_is_registered_again_and_serves_under_its_name(
    released: Workspace, champion: ledger.Promotion
) -> None:
    here = registry(released)
    looked = here.last_check("support")
    here.client.delete_model_version("support", str(champion.version))
    assert here.alias("support", "champion") is None  # MLflow drops the alias without a word
    found = guard.reconcile(released, "support")
    assert found.serving == champion
    assert found.changes[0].startswith(f"{champion.tag} is registered again: MLflow at ")
    assert f"has no version {champion.version} of support" in found.changes[0]
    assert f"; it happened between {looked} and " in found.changes[0]
    line = jobs.entries(released, "support")[-1]
    assert isinstance(line, ledger.Restored)
    assert (line.version, line.digest) == (champion.version, champion.digest)
    alias = here.alias("support", "champion")
    assert alias is not None
    assert (alias.version, alias.digest, alias.tags["name"]) == (line.number, champion.digest, champion.tag)
    assert "registered again" in alias.tags["guard"]
    assert here.client.get_model_version("support", str(line.number)).description.startswith("Passed: ")
    assert load_champion("support", released).name == champion.tag
    assert guard.reconcile(released, "support").changes == ()


def test_where_nobody_has_its_bytes_the_last_good_version_is_rolled_back_to(
    released: Workspace, champion: ledger.Promotion, tmp_path: Path
) -> None:
    here, before = registry(released), ledger.state(jobs.entries(released, "support")).previous
    assert before is not None
    here.client.delete_model_version("support", str(champion.version))
    with _away(manifests(released, champion), tmp_path):
        found = guard.reconcile(released, "support")
        assert load_champion("support", released).digest == before.digest
    assert found.serving is not None
    assert found.serving.version == before.version
    assert found.changes[0].startswith(f"{champion.tag} may not serve: nobody has its bytes: no data with md5 ")
    line = jobs.entries(released, "support")[-1]
    assert isinstance(line, ledger.Rollback)
    assert line.reason.startswith(f"the guard: {champion.tag} may not serve")
    assert here.aliases("support")["champion"] == ledger.state(jobs.entries(released, "support")).number(before.version)


def manifests(space: Workspace, champion: ledger.Promotion) -> list[Path]:
    """Where DVC keeps the file by which a version's bytes are known: its cache and its remote."""
    places = (space.root / ".dvc" / "cache", space.local / "dvc")
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return [path for path in files if file_digest(path) == champion.digest]


@contextlib.contextmanager
def _away(paths: list[Path], folder: Path) -> Iterator[None]:
    assert len(paths) == 2
    moved = [(path, folder / str(number)) for number, path in enumerate(paths)]
    for path, place in moved:
        shutil.move(path, place)
    try:
        yield
    finally:
        for path, place in moved:
            shutil.move(place, path)


def test_a_registry_that_was_wiped_is_filled_again_and_no_number_gets_other_bytes(released: Workspace) -> None:
    another_candidate(released)
    release.promote(released, "support")
    here, state = registry(released), ledger.state(jobs.entries(released, "support"))
    here.client.delete_registered_model("support")
    guard.reconcile(released, "support")
    after = ledger.state(jobs.entries(released, "support"))
    assert after.champion == state.champion
    assert after.previous == state.previous
    for line in (after.champion, after.previous):
        assert line is not None
        assert here.version("support", after.number(line.version)).digest == line.digest
    for version in here.versions("support"):
        known = after.versions.get(version.version)
        assert known is None or known.digest == version.digest or after.number(known.version) != version.version
    assert git(released.root, "ls-remote", "origin", f"refs/tags/{after.champion.tag}")  # type: ignore[union-attr]
