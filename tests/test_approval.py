"""A person looks at synthetic rows and approves their recipe: real git and DVC."""

from pathlib import Path

import pytest
from calling import call

from retrain import approval, founding, jobs, ledger, story, synthesize
from retrain.errors import DataError
from retrain.process import dvc
from retrain.records import Example
from retrain.workspace import Workspace

RECIPE = "0123456789abcdef"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return founding.init(tmp_path_factory.mktemp("approval") / "ws", files=story.shipped().files)


def synthesized(space: Workspace, recipe: str) -> None:
    """As a retraining would leave it: the stage's files in the DVC cache, its line in the remote's dvc.lock."""
    row = Example.of("some text", "cancel_order", source="synthetic", label_source="synthetic")
    with space.clone("synthesized") as clone:
        for name in ("out/base/smollm2", "out/support/recheck"):
            (clone.root / name).mkdir(parents=True, exist_ok=True)
            (clone.root / name / "file").write_text("stands in for what this stage does not read")
        clone.pull([f"{path}.dvc" for path in ("data/seed/support.jsonl", "data/suites/support", "data/failures/support")])
        report = {"recipe": recipe, "words": ["1 text written, 1 kept"]}
        synthesize.write(clone.root / "out/support/synthetic", [row], report, f"# a page of {recipe}\n")
        dvc(clone.root, "commit", "--force", "synthesize@support")
        clone.commit(["dvc.lock"], "synthesized")
        clone.publish(lambda clone: None, tries=1)


def test_nothing_is_shown_or_approved_before_a_stage_has_run(space: Workspace) -> None:
    with pytest.raises(DataError, match="set synthesize.rows in params.yaml and retrain"):
        approval.show(space, "support")
    assert call("synthetic", "approve", "support", RECIPE, "--reason", "fine", "-w", space.root).code == 2


def test_a_recipe_is_approved_once_with_a_reason_and_only_the_one_that_was_shown(space: Workspace) -> None:
    synthesized(space, RECIPE)
    shown = call("synthetic", "show", "support", "-w", space.root)
    assert f"a page of {RECIPE}" in shown.out
    assert f"not approved: `retrain synthetic approve support {RECIPE}" in shown.out
    for recipe, reason, said in ((RECIPE, "  ", "0 characters"), (RECIPE, "x" * 501, "501"), ("other", "fine", RECIPE)):
        refused = call("synthetic", "approve", "support", recipe, "--reason", reason, "-w", space.root)
        assert (refused.code, said in refused.err) == (2, True), refused
    done = call("synthetic", "approve", "support", RECIPE, "--reason", "read them\nall", "-w", space.root)
    assert done.code == 0, done.err
    line = jobs.entries(space, "support")[-1]
    assert isinstance(line, ledger.Approval)
    assert (line.recipe, line.reason) == (RECIPE, "read them all")
    assert jobs.remote_params(space).approved == {"support": RECIPE}
    assert "# wanted for each label; 0: off" in jobs.remote_file(space, "params.yaml")
    assert approval.show(space, "support").approved
    assert call("synthetic", "approve", "support", RECIPE, "--reason", "again", "-w", space.root).code == 4
    assert "synthetic rows approved" in call("history", "support", "-w", space.root).out


def test_another_recipe_waits_again(space: Workspace) -> None:
    synthesized(space, "fedcba9876543210")
    assert not approval.show(space, "support").approved


def test_an_adapter_that_params_do_not_know_is_bad_usage(space: Workspace) -> None:
    assert call("synthetic", "show", "nobody", "-w", space.root).code == 2


def test_a_workspace_without_a_remote_shows_what_lies_in_out(bare: Path) -> None:
    called = call("synthetic", "show", "support", "-w", bare)
    assert (called.code, "run `dvc repro synthesize@support`" in called.err) == (2, True)
