"""Trial 7: two promoters at once on one MLflow server (PostgreSQL), as on two machines: one wins, the other hears why not."""

from pathlib import Path

import pytest
from faults import Held
from forging import another_candidate

from retrain import guard, jobs, ledger, release
from retrain.registry import Registry
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow


def promotions(space: Workspace, digest: str) -> int:
    return sum(isinstance(line, ledger.Promotion) and line.digest == digest for line in jobs.entries(space, "support"))


@pytest.mark.parametrize("point", ["Clone.publish before", "Registry.register before"])
def test_of_two_that_promote_the_same_candidate_one_wins_and_the_other_is_told(
    contested: Workspace, tmp_path: Path, point: str
) -> None:
    candidate = another_candidate(contested)
    promoters = [Held(contested, tmp_path / name, *point.split(" "), "promote") for name in ("one", "two")]
    for promoter in promoters:
        promoter.arrives()
    for promoter in promoters:
        (promoter.folder / "go").touch()
    said = [promoter.go() for promoter in promoters]
    won = [text for text in said if text.startswith("Served(")]
    lost = [text for text in said if text not in won]
    assert len(won) == 1, said
    assert lost[0].startswith("NothingToDo: support-v")
    assert "already serves these bytes" in lost[0]
    assert promotions(contested, candidate.digest) == 1
    guard.reconcile(contested, "support")
    champion = ledger.state(jobs.entries(contested, "support")).champion
    alias = Registry.open(contested.params.mlflow, contested.root).alias("support", "champion")
    assert champion is not None
    assert alias is not None
    assert (champion.digest, alias.digest, alias.version) == (candidate.digest, candidate.digest, champion.version)


def test_one_whose_base_has_moved_meanwhile_is_told_that_it_is_stale(contested: Workspace, tmp_path: Path) -> None:
    late = another_candidate(contested)
    promoter = Held(contested, tmp_path / "late", "Clone.publish", "before", "promote")
    promoter.arrives()
    winner = another_candidate(contested)
    promoted = release.promote(contested, "support").promotion
    told = promoter.go()
    assert told.startswith(f"StaleError: {promoted.tag} serves now, but {late.digest[:12]} was judged against support-v")
    assert "retrain, so that it is judged against what serves" in told
    assert (promotions(contested, late.digest), promotions(contested, winner.digest)) == (0, 1)
    assert guard.reconcile(contested, "support").serving == promoted
