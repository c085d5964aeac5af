"""Trial 1: a task is killed (SIGKILL) at a fail-point; run again it converges, with no duplicate row, version or promotion.

The task is a process of its own that kills itself at one call, before or after it: nothing of ours gets to clean up.
"""

from pathlib import Path

import pytest
from faults import END, killed_at
from forging import another_candidate
from small import TELLS, another_version, workspace

from retrain import collecting, guard, jobs, ledger, release, watch
from retrain.process import git
from retrain.records import parse_time, read_folder, write_jsonl
from retrain.registry import Registry
from retrain.workspace import Workspace


@pytest.fixture(scope="module")
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("trial1"), tiny)


@pytest.fixture(scope="module")
def attempted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, ledger.Attempt]:
    """A candidate that passed, in a workspace without a champion."""
    folder = tmp_path_factory.mktemp("passed")
    space = workspace(folder, folder)
    return space, another_candidate(space)


@pytest.mark.slow
def test_a_retraining_killed_before_or_after_its_push_is_one_attempt(space: Workspace) -> None:
    killed_at(space, "Clone.publish", "before", "retrain")
    assert jobs.entries(space, "support") == []
    made = watch.retrain(space, "support", parse_time(END), say=lambda line: None)
    assert made.verdict is not None
    assert made.verdict.status == "passed"
    attempted = made.attempt
    again = watch.retrain(space, "support", parse_time(END), say=lambda line: None)
    assert not again.fresh
    assert jobs.entries(space, "support")[:1] == [attempted]
    assert sum(isinstance(entry, ledger.Attempt) for entry in jobs.entries(space, "support")) == 1


def test_a_killed_promotion_leaves_one_version_and_one_promotion(attempted: tuple[Workspace, ledger.Attempt]) -> None:
    space, attempt = attempted
    registry = Registry.open(space.params.mlflow, space.root)
    killed_at(space, "Registry.register", "after", "promote")  # registered, not in the ledger
    assert ledger.state(jobs.entries(space, "support")).champion is None
    assert registry.alias("support", "champion") is None
    killed_at(space, "Clone.publish", "after", "promote")  # in the ledger, the alias not yet moved
    assert ledger.state(jobs.entries(space, "support")).champion is not None
    assert registry.alias("support", "champion") is None
    promoted = release.promote(space, "support")
    assert (promoted.promotion.version, promoted.promotion.digest) == (1, attempt.digest)
    assert (promoted.line, promoted.repaired) == (None, True)
    assert release.promote(space, "support") == release.Served(promoted.promotion, None, repaired=False)
    assert sum(isinstance(entry, ledger.Promotion) for entry in jobs.entries(space, "support")) == 1
    assert len(registry.client.search_model_versions("name='support'")) == 1
    assert guard.reconcile(space, "support") == guard.Guarded("support", promoted.promotion, ())


def test_a_killed_rollback_run_again_does_not_undo_itself(attempted: tuple[Workspace, ledger.Attempt]) -> None:
    space, _ = attempted
    release.promote(space, "support")
    another_version(space)
    registry = Registry.open(space.params.mlflow, space.root)
    killed_at(space, "Clone.publish", "after", "rollback")  # in the ledger, the alias not yet moved
    assert registry.alias("support", "champion").version == 2
    done = release.rollback(space, "support", version=None, reason="ill")
    assert (done.promotion.version, done.line) == (1, None)
    assert registry.alias("support", "champion").version == 1
    assert sum(isinstance(entry, ledger.Rollback) for entry in jobs.entries(space, "support")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("when", "end"), [("before", "2026-03-03T00:00:00Z"), ("after", "2026-03-04T00:00:00Z")])
def test_a_killed_collection_has_each_row_once(space: Workspace, when: str, end: str) -> None:
    time = end.replace("T00", "T10").replace(end[8:10], f"{int(end[8:10]) - 1:02d}")
    label = sorted(TELLS.values())[0]
    rows = [
        {"request_id": f"{when}{i}", "timestamp": time, "prompt": f"{when} question {i}", "response": "other",
         "feedback": -1, "correction": label, "feedback_at": time}
        for i in range(40)
    ]  # fmt: skip
    write_jsonl(space.root / "logs" / "support" / f"{when}.jsonl", rows)
    killed_at(space, "Clone._push", when, "collect", end)
    made = collecting.collect(space, "support", parse_time(end))
    head = git(space.root, "ls-remote", "origin", "refs/heads/main")
    assert collecting.collect(space, "support", parse_time(end)).rows == made.rows
    assert git(space.root, "ls-remote", "origin", "refs/heads/main") == head
    with space.clone("look") as clone:
        clone.pull(["data/failures/support.dvc"])
        kept = [origin.request_id for row in read_folder(clone.root / "data/failures/support") for origin in row.origins]
    assert len(kept) == len(set(kept))
    assert sum(name.startswith(when) for name in kept) == made.rows > 0
