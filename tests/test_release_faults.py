"""What promotion, rollback, guard and watch do where something moves, dies or goes missing meanwhile."""

import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from faults import Held, killed_at
from forging import another_candidate

from retrain import guard, jobs, ledger, permission, prune, release
from retrain.errors import IntegrityError, NothingToDo, RetrainError
from retrain.process import git
from retrain.records import verify_folder
from retrain.registry import Registry, load_champion
from retrain.registry.champion import from_dvc
from retrain.registry.versions import placed
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
def test_a_guard_that_comes_late_leaves_what_was_decided_elsewhere(released: Workspace, tmp_path: Path, elsewhere: str) -> None:
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


def test_a_promotion_where_mlflow_has_lost_what_serves_says_what_to_do(released: Workspace) -> None:
    lost = promoted(released)
    lose(released, lost)
    another_candidate(released)
    with pytest.raises(IntegrityError, match="`retrain reconcile support` registers what serves again"):
        release.promote(released, "support")
    guard.reconcile(released, "support")
    assert release.promote(released, "support").promotion.replaces == lost.version


# --- a fetch that was cut


def test_what_is_fetched_is_one_pack_that_is_there_whole_or_not_at_all(released: Workspace) -> None:
    def loose() -> str:
        return git(released.root, "count-objects")

    before, champion = loose(), promoted(released)
    jobs.entries(released, "support")
    assert git(released.root, "cat-file", "-t", champion.commit) == "commit"
    assert loose() == before


@contextmanager
def cut(space: Workspace) -> Iterator[None]:
    """The remote moves, and of what a fetch brings the commits alone have come, as loose objects."""
    with space.clone("ahead") as clone:
        (clone.root / "ledger" / "note.txt").write_text("a new tree")
        clone.commit(["ledger/note.txt"], "moved")
        head = clone.publish(lambda c: None, tries=1)
        loose = clone.git("cat-file", "commit", head)
    write = ["git", "hash-object", "-w", "-t", "commit", "--stdin"]
    written = subprocess.run(write, input=f"{loose}\n", cwd=space.root, capture_output=True, text=True)
    assert written.stdout.strip() == head
    try:
        yield
    finally:  # as a person who was told that objects are missing
        git(space.root, "fetch", "--quiet", space.remote, space.params.workspace.branch)


def test_a_fetch_that_was_cut_takes_no_champion_away(released: Workspace) -> None:
    champion = load_champion("support", released)
    lines = jobs.entries(released, "support")
    with cut(released):
        with pytest.raises(RetrainError, match=r"git ls-tree") as told:
            guard.reconcile(released, "support")
        assert not isinstance(told.value, IntegrityError)
        found = load_champion("support", released)
    assert found.promotion == champion.promotion
    assert found.notes[0].startswith("what serves is as of the last look at the ledger: ")
    assert jobs.entries(released, "support") == lines


def test_a_verdict_that_cannot_be_read_is_none_that_is_wrong(released: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted(released)
    lines = jobs.entries(released, "support")

    def unreadable(*args: object) -> None:
        raise RetrainError("git show failed")

    with monkeypatch.context() as broken, pytest.raises(RetrainError, match="git show failed"):
        broken.setattr(guard, "check_verdict", unreadable)
        guard.reconcile(released, "support")
    assert jobs.entries(released, "support") == lines


# --- what an erasure, a pruning and a restore leave


def erase_card(space: Workspace, attempt: ledger.Attempt) -> None:
    """Its object goes from cache and remote, as `retrain data erase` does it."""
    lock = yaml.safe_load(git(space.root, "show", f"{attempt.commit}:dvc.lock"))
    md5 = lock["stages"]["gate@support"]["outs"][0]["md5"]
    gone = [path for place in (space.root / ".dvc" / "cache", space.local / "dvc") for path in place.rglob(md5[2:])]
    assert len(gone) == 2
    for path in gone:
        path.unlink()


def test_a_card_that_was_erased_stands_for_no_bytes(released: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forging.CARD", "Passed: a card that no other candidate has\n")
    attempt = another_candidate(released)
    jobs.entries(released, "support")
    erase_card(released, attempt)
    champion = release.promote(released, "support").promotion
    assert champion.digest == attempt.digest
    lose(released, champion)
    found = guard.reconcile(released, "support")
    assert found.serving == champion
    assert f"{champion.tag} is registered again" in found.changes[0]
    assert rollbacks(released, champion) == 0


def test_pruning_a_second_version_of_one_run_leaves_the_champions_bytes(released: Workspace) -> None:
    champion, here = promoted(released), registry(released)
    run = here.client.get_model_version("support", str(champion.version)).run_id
    second = here.client.create_model_version("support", f"runs:/{run}/adapter", run)
    done = prune.prune(released, "support", keep=1, dry=False)
    assert int(second.version) in done.dropped
    assert here.lost("support", champion.version, champion.digest) is None


def test_marks_of_a_version_are_there_however_it_was_registered(released: Workspace) -> None:
    attempt = another_candidate(released)
    number = release.challenge(released, "support").number
    champion = release.promote(released, "support", forced="it is needed").promotion
    wanted = {"forced": "it is needed", "verdict": "passed", "dataset": "d" * 64, "base": "b" * 64, "commit": attempt.commit}
    assert wanted.items() <= registry(released).version("support", number).tags.items()
    lose(released, champion)
    guard.reconcile(released, "support")
    again = state(released).number(champion.version)
    assert again != number
    assert wanted.items() <= registry(released).version("support", again).tags.items()


# --- two at once


def test_a_pause_that_lands_first_holds_back_a_promotion_in_flight(released: Workspace, tmp_path: Path) -> None:
    candidate = another_candidate(released)
    late = Held(released, tmp_path / "late", "Clone.publish", "before", "promote")
    late.arrives()
    permission.pause(released, "support", until=None, reason="sale week")
    told = late.go()
    permission.resume(released, "support", reason="over")
    assert told.startswith("WaitingError: support is not promoted now: promotions are paused"), told
    assert candidate.digest not in {line.digest for line in state(released).versions.values()}


def test_of_two_that_fetch_one_version_the_later_takes_the_folder_of_the_first(released: Workspace, tmp_path: Path) -> None:
    champion = state(released).champion
    assert champion is not None
    folders = [
        from_dvc(released, "support", champion.commit, tmp_path / name / "adapter", digest=champion.digest)
        for name in ("one", "two")
    ]
    barrier, found = threading.Barrier(2), list[Path]()

    def place(folder: Path) -> None:
        barrier.wait()
        found.append(placed(folder, tmp_path / "served", champion.digest))

    threads = [threading.Thread(target=place, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "served"] * 2
    verify_folder(tmp_path / "served", champion.digest)
    (tmp_path / "served" / "run.json").unlink()
    with tempfile.TemporaryDirectory(dir=tmp_path) as scratch, pytest.raises(IntegrityError):
        copy = from_dvc(released, "support", champion.commit, Path(scratch) / "adapter", digest=champion.digest)
        placed(copy, tmp_path / "served", champion.digest)
