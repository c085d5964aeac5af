"""What promotion, rollback, guard and watch do where something moves, dies or goes missing meanwhile."""

from pathlib import Path

import pytest
from faults import Held, killed_at
from forging import another_candidate

from retrain import guard, jobs, ledger, release
from retrain.errors import NothingToDo
from retrain.registry import Registry
from retrain.workspace import Workspace


def registry(space: Workspace) -> Registry:
    return Registry.open(space.params.mlflow, space.root)


def state(space: Workspace) -> ledger.LedgerState:
    return ledger.state(jobs.entries(space, "support"))


def promoted(space: Workspace) -> ledger.Promotion:
    another_candidate(space)
    return release.promote(space, "support").promotion


def lose(space: Workspace, version: ledger.Promotion) -> None:
    """Somebody deletes it in MLflow."""
    registry(space).client.delete_model_version("support", str(state(space).number(version.version)))


def rollbacks(space: Workspace, version: ledger.Promotion) -> int:
    return sum(isinstance(e, ledger.Rollback) and e.from_version == version.version for e in jobs.entries(space, "support"))


@pytest.mark.parametrize("elsewhere", ["rollback", "promote"])
def test_a_guard_that_comes_late_leaves_what_was_decided_elsewhere(
    released: Workspace, tmp_path: Path, elsewhere: str
) -> None:
    ill = promoted(released)
    lose(released, ill)
    late = Held(released, tmp_path / "late", "Clone.publish", "before", "reconcile")
    late.arrives()
    if elsewhere == "rollback":
        decided = release.rollback(released, "support", version=None, reason="ill").promotion
    else:
        guard.reconcile(released, "support")
        decided = promoted(released)
    told = late.go()
    assert told.startswith(f"StaleError: {decided.tag} serves by now, not v{ill.version} which this is about"), told
    assert state(released).champion == decided
    assert guard.reconcile(released, "support").serving == decided


@pytest.mark.parametrize("point", ["Clone.publish after", "Registry.set_alias after"])
def test_a_rollback_that_is_run_again_does_not_put_the_ill_version_back(released: Workspace, point: str) -> None:
    ill = promoted(released)
    killed_at(released, *point.split(" "), "rollback")
    guard.reconcile(released, "support")
    with pytest.raises(NothingToDo, match=rf"serves again since .* \(ill\): `--to {ill.version}` puts that one back"):
        release.rollback(released, "support", version=None, reason="ill")
    champion = state(released).champion
    assert champion is not None
    assert (champion.version, rollbacks(released, ill)) == (ill.replaces, 1)


def test_what_mlflow_has_lost_can_be_rolled_back_from(released: Workspace) -> None:
    ill = promoted(released)
    lose(released, ill)
    done = release.rollback(released, "support", version=None, reason="ill")
    assert done.promotion.version == ill.replaces
    assert registry(released).aliases("support")["champion"] == state(released).number(done.promotion.version)
