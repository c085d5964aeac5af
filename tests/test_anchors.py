"""Small losses cannot add up: guardrails hold against who served when each row entered, too."""

import json
from pathlib import Path
from typing import Any

import pytest
from calling import call
from tables import SHA, failing, good, judge, right, suite

from retrain import gate, inputs, jobs, ledger, projections
from retrain.card import one_line
from retrain.verdict import ChampionState, Verdict, read_state
from retrain.workspace import Workspace


def anchored(rows: list[dict[str, Any]], anchors: dict[str, dict[str, Any]]) -> Verdict:
    """Judged with a state that holds these anchors."""
    given = ChampionState(
        adapter="support", purpose="improve", version=1, digest=SHA["v1"], attempts=(), audit=None, anchors=anchors
    )
    real = gate.judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "judge", lambda table, *, state, **rest: real(table, state=given, **rest))
        return judge(rows)


def before(lost: int, of: int = 200) -> dict[str, bool]:
    """The anchors of so many rows, all of them right."""
    return {f"{i:04}": True for i in range(of)} if lost else {}


def test_a_small_loss_against_the_champion_is_a_large_one_against_who_served_when_the_rows_entered() -> None:
    golden = suite("golden", right(200, 18), right(200, 14))  # 2 points below the champion, 9 below the anchor
    assert judge(good(golden=golden)).promote
    verdict = anchored(good(golden=golden), {"golden": before(18)})
    assert failing(verdict) == [("anchored", "golden")] and verdict.status == "failed"
    check = verdict.check("anchored")
    assert check and (check.anchor, check.candidate, check.lost, check.difference) == (1.0, 0.91, 18, -0.09)
    assert "small losses on golden have added up" in one_line(verdict)


def test_a_row_without_an_anchor_of_its_own_is_held_against_the_champion() -> None:
    golden = suite("golden", right(200, 18), right(200, 14))
    verdict = anchored(good(golden=golden), {"golden": before(1, of=186)})  # the lost rows are younger
    check = verdict.check("anchored")
    assert verdict.promote and check and (check.won, check.lost) == (0, 4)


def test_a_suite_that_grows_moves_no_anchor_and_rows_that_left_do_not_count() -> None:
    rows = good()
    verdict = anchored(rows, {"retained": {"a row that left": True}})
    assert verdict.promote and verdict.check("anchored") is None


def test_a_gain_is_no_loss_against_the_anchor() -> None:
    assert anchored(good(), {"golden": {f"{i:04}": False for i in range(200)}}).promote


def test_a_row_that_was_not_measured_is_lost_against_the_anchor_too() -> None:
    rows = good()
    for row in [r for r in rows if r["suite"] == "golden"][:3]:
        row["arms"]["candidate"]["right"] = None
    check = anchored(rows, {"golden": {f"{i:04}": False for i in range(200)}}).check("anchored")
    assert check and check.lost == 3


@pytest.mark.parametrize("value", [None, 1, "true", 0.5])
def test_an_anchor_is_a_truth_value(value: Any) -> None:
    with pytest.raises(ValueError, match="anchors"):
        anchored(good(), {"golden": {"0001": value}})


def test_a_state_of_before_is_read() -> None:
    old = {"adapter": "support", "purpose": "first", "version": None, "digest": None, "attempts": [], "audit": None}
    assert ChampionState.model_validate(old).anchors == {}


# --- written by the job that starts a retraining


class Folder:
    """A clone whose predictions are there already."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dvc.lock").write_text("path: out/support/predictions")

    def dvc(self, *args: str) -> str:
        return ""

    def judged(self, champion: str | None, answers: dict[str, bool | None]) -> None:
        """The last attempt asked this champion about golden rows."""
        out = self.root / "out" / "support"
        (out / "predictions").mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps({"champion": champion}))
        arm = {row: {"champion": {"right": told}} if champion else {"base": {"right": told}} for row, told in answers.items()}
        rows = [{"suite": name, "id": row, "arms": arms} for row, arms in arm.items() for name in ("golden", "audit")]
        (out / "predictions" / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_anchor_of_a_row_is_the_first_champion_that_was_asked_about_it(tmp_path: Path) -> None:
    clone: Any = Folder(tmp_path)
    state: dict[str, Any] = {"digest": None}
    assert inputs.anchors(clone, "support", state, "right") == {}
    clone.judged(None, {"a": True})
    assert inputs.anchors(clone, "support", state, "right") == {}
    state = {"digest": "v1"}
    assert inputs.anchors(clone, "support", state, "right") == {}  # v1 serves, and no attempt has asked it yet
    clone.judged("v1", {"a": True, "b": False, "c": None})
    state["anchors"] = inputs.anchors(clone, "support", state, "right")
    assert state["anchors"] == {"golden": {"a": True, "b": False}}  # audit has no anchors; c was not measured
    state["digest"] = "v2"
    clone.judged("v2", {"a": False, "c": True, "d": True})
    found = inputs.anchors(clone, "support", state, "right")
    assert found == {"golden": {"a": True, "c": True, "d": True}}  # a keeps v1's; b has left
    assert inputs.anchors(clone, "support", {**state, "anchors": found}, "right") == found


def test_predictions_that_an_erasure_took_are_not_asked_for(tmp_path: Path) -> None:
    clone: Any = Folder(tmp_path)
    clone.judged("v1", {"a": True})
    (tmp_path / "dvc.lock").write_text("stages: {}")
    clone.dvc = None  # calling it would fail
    kept = {"golden": {"b": True}}
    assert inputs.anchors(clone, "support", {"digest": "v1", "anchors": kept}, "right") == kept


def test_anchors_of_another_metric_begin_anew_and_are_scores(tmp_path: Path) -> None:
    clone: Any = Folder(tmp_path)
    clone.judged("v1", {"a": True})
    path = tmp_path / "out" / "support" / "predictions" / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["arms"]["champion"]["scores"] = {"chrf": 0.8}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    state = {"digest": "v1", "metric": "right", "anchors": {"golden": {"a": True}}}
    assert inputs.anchors(clone, "support", state, "chrf") == {"golden": {"a": 0.8}}


def test_after_a_rebaseline_losses_add_up_from_what_serves(tmp_path: Path) -> None:
    clone: Any = Folder(tmp_path)
    clone.judged("v1", {"a": True, "b": False})
    before = {"digest": "v1", "anchors": {"golden": {"a": False, "b": True}}}  # of one that served before v1
    assert inputs.anchors(clone, "support", inputs.rebaselined(before, "v1"), "right") == {"golden": {"a": True, "b": False}}
    assert inputs.anchors(clone, "support", inputs.rebaselined(before, "v2"), "right") == {}  # v2's answers are not known yet


def test_a_rebaseline_needs_a_reason_and_is_told_for_ever(released: Workspace) -> None:
    assert call("rebaseline", "support", "--reason", " ", "-w", released.root).code == 2
    told = call("rebaseline", "support", "--reason", "refunds are a form now", "--json", "-w", released.root)
    line = json.loads(told.out)
    champion = ledger.state(jobs.entries(released, "support")).champion
    assert champion is not None
    assert (told.code, line["kind"], line["version"]) == (0, "rebaseline", champion.version)
    with released.clone("next") as clone:
        inputs.put(clone, inputs.Asked("support", "2027-01-01T00-00-00Z", "improve", (), ()))
        state = read_state(clone.root / "champion" / "support.json")
    assert state.anchors == {}
    assert len(state.rebaselined) == 1  # every card from now on says it
    assert state.rebaselined[0].endswith(f"from v{line['version']} on: refunds are a form now")
    assert state.rebaselined[0] in call("history", "support", "-w", released.root).out
    assert "refunds are a form now" in projections.page_of(released, "support").read_text("utf-8")
