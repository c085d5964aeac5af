"""Trial 8: a promotion killed (SIGKILL) at each outside effect: what the ledger says serves, and a rerun converges."""

import pytest
from faults import killed_at
from forging import another_candidate

from retrain import guard, jobs, ledger, release
from retrain.registry import Registry, load_champion
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow
BEFORE = (
    *("Registry.register before", "Registry.register after"),
    *("Clone.commit after", "Clone.publish before", "Clone._push before"),
)
PUSHED = ("Clone._push after", "Clone.publish after", "Registry.set_alias before", "Registry.set_alias after")


def promotions(space: Workspace, digest: str) -> int:
    return sum(isinstance(line, ledger.Promotion) and line.digest == digest for line in jobs.entries(space, "support"))


@pytest.mark.parametrize("point", [*BEFORE, *PUSHED])
def test_a_promotion_killed_there_leaves_one_that_serves_and_a_rerun_converges(released: Workspace, point: str) -> None:
    before = load_champion("support", released)
    candidate = another_candidate(released)
    killed_at(released, *point.split(" "), "promote")
    decided = point in PUSHED
    serves = load_champion("support", released)
    assert serves.digest == (candidate.digest if decided else before.digest)  # the ledger decides, whatever the alias says
    assert serves.notes == ()
    assert promotions(released, candidate.digest) == decided
    found = guard.reconcile(released, "support")  # carries forward what was decided, and promotes nothing
    assert found.serving is not None
    assert found.serving.digest == serves.digest
    done = release.promote(released, "support")
    assert done.promotion.digest == candidate.digest
    assert promotions(released, candidate.digest) == 1
    registry = Registry.open(released.params.mlflow, released.root)
    assert [version.digest for version in registry.versions("support")].count(candidate.digest) == 1
    number = ledger.state(jobs.entries(released, "support")).number(before.version)
    assert registry.aliases("support") == {"champion": done.promotion.version, "previous": number}
    assert guard.reconcile(released, "support").changes == ()


@pytest.mark.parametrize("point", ["Clone.publish before", "Clone.publish after"])
def test_a_guard_killed_while_it_restores_is_carried_forward_by_the_next_look(released: Workspace, point: str) -> None:
    champion = load_champion("support", released)
    registry = Registry.open(released.params.mlflow, released.root)
    registry.client.delete_model_version("support", str(registry.aliases("support")["champion"]))
    killed_at(released, *point.split(" "), "reconcile")
    assert guard.reconcile(released, "support").changes
    alias = registry.alias("support", "champion")
    assert alias is not None
    assert alias.digest == champion.digest
    assert load_champion("support", released).digest == champion.digest
    assert guard.reconcile(released, "support").changes == ()
