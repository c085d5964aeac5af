"""Trial 6: dvc.lock cut off, a git index.lock left behind: a clear error or a safe rebuild, and nothing lost is committed."""

from collections.abc import Iterator

import pytest
from calling import call
from forging import another_candidate

from retrain import jobs, release, watch
from retrain.errors import DataError
from retrain.process import git, try_git
from retrain.records import parse_time
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow
END = parse_time("2027-06-01T00:00:00Z")


def half(text: str) -> str:
    return text[: text.index("md5: ") + 9]


@pytest.fixture
def pushed_cut(released: Workspace) -> Iterator[str]:
    """A person has pushed half a dvc.lock; its whole text. It is put back at the end."""
    with released.clone("cut") as clone:
        path = clone.root / "dvc.lock"
        whole = path.read_text("utf-8")
        path.write_text(half(whole), "utf-8")
        clone.commit(["dvc.lock"], "half of it")
        clone.git("push", "--quiet", "origin", "HEAD")
    yield whole
    with released.clone("whole") as clone:
        (clone.root / "dvc.lock").write_text(whole, "utf-8")
        clone.commit(["dvc.lock"], "the whole of it")
        clone.publish(lambda c: None, tries=1)


def test_half_a_dvc_lock_on_the_remote_stops_a_retraining_with_the_fix_and_commits_nothing(
    released: Workspace, pushed_cut: str
) -> None:
    before, head = jobs.entries(released, "support"), released.remote_head()
    with pytest.raises(DataError, match="dvc.lock is cut off or no lock of DVC.*git checkout COMMIT -- dvc.lock"):
        watch.retrain(released, "support", END, say=lambda line: None)
    assert released.remote_head() == head
    assert jobs.entries(released, "support") == before


def test_half_a_dvc_lock_in_a_checkout_is_diagnosed_and_stops_no_job(released: Workspace) -> None:
    candidate = another_candidate(released)
    git(released.root, "pull", "--quiet", "--ff-only")
    path = released.root / "dvc.lock"
    path.write_text(half(path.read_text("utf-8")), "utf-8")
    told = call("doctor", "-w", released.root)
    assert "BAD dvc.lock: " in told.out
    assert "fix: `git checkout -- dvc.lock`" in told.out
    assert release.promote(released, "support").promotion.digest == candidate.digest
    git(released.root, "checkout", "--", "dvc.lock")
    assert "dvc.lock" not in call("doctor", "-w", released.root).out


def test_an_index_lock_left_behind_stops_no_job_and_is_taken_away(released: Workspace) -> None:
    lock = released.root / ".git" / "index.lock"
    lock.touch()
    try:
        candidate = another_candidate(released)
        assert release.promote(released, "support").promotion.digest == candidate.digest
        assert try_git(released.root, "add", "params.yaml").returncode
        assert f"BAD left behind: {lock}" in call("doctor", "-w", released.root).out
        assert f"removed {lock}" in call("doctor", "--repair", "-w", released.root).out
        assert try_git(released.root, "add", "params.yaml").returncode == 0
    finally:
        lock.unlink(missing_ok=True)
