"""Another base: each adapter is retrained to replace what serves, and keeps its old base until a candidate passes."""

import json
import shutil
from pathlib import Path

import pytest
import small
from calling import call

from retrain import jobs, ledger, release
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """v1 serves on one base; another is in params: the same architecture with other weights."""
    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("rebase")
    other = shutil.copytree(tiny.parent / "raw", folder / "other")
    model = LlamaForCausalLM.from_pretrained(other)
    torch.manual_seed(1)
    model.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    model.save_pretrained(other)
    named = {"source": "path", "name": str(other), "file": None, "revision": None, "sha256": None}
    space = small.workspace(folder, tiny, f"bases.other={json.dumps(named)}")
    small.promoted(space, "2026-03-01T00:00:00Z")
    small.ask(space, "2026-03-01", [f"user {i}" for i in range(700)], 1, lambda user, i: "")
    return space


def base_of(space: Workspace) -> str:
    return jobs.remote_params(space).adapter("support").base


def test_a_base_is_kept_where_the_candidate_on_the_new_one_does_not_pass(space: Workspace) -> None:
    small.set_for_all(space, "gates.margin=0.0001")
    told = call("rebase", "other", "--end", "2026-03-03T00:00:00Z", "-w", space.root)
    assert (told.code, "the old base stays" in told.err) == (3, True), told
    assert base_of(space) == "smollm2"
    attempt = ledger.state(jobs.entries(space, "support")).attempts[-1]
    assert (attempt.purpose, attempt.promote) == ("replace", False)


def test_one_that_passes_is_on_the_new_base_and_may_be_promoted(space: Workspace) -> None:
    small.set_for_all(space, "gates.margin=0.2", "gates.floor={}")
    told = call("rebase", "other", "--end", "2026-03-04T00:00:00Z", "-w", space.root)
    assert told.code == 0, told.out + told.err
    assert base_of(space) == "other"
    first, *_, last = ledger.state(jobs.entries(space, "support")).attempts
    assert (last.purpose, last.base_digest != first.base_digest) == ("replace", True)
    assert release.promote(space, "support").promotion.digest == last.digest
    assert call("rebase", "other", "-w", space.root).code == 4
    assert call("rebase", "none", "-w", space.root).code == 2
