"""What the gate cannot tell is never promoted, and the card says what to do."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from tables import SHA, Rows, failing, good, judge, right, suite, untold

from retrain import params as params_
from retrain.card import one_line
from retrain.errors import ParamsError
from retrain.verdict import Verdict, status_of

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "keep", "words"),
    [
        ("audit", 74, "only 74 unread audited rows, 100 are needed: label 26 more"),
        ("golden", 99, "only 99 golden rows, 100 are needed: write 1 more"),
        ("repair", 3, "only 3 held-out failure rows, 4 are needed"),
        ("retained", 0, "only 0 retained rows, 100 are needed"),
    ],
)
def test_too_few_rows_of_a_needed_suite_tell_nothing_and_say_how_many_are_lacking(name: str, keep: int, words: str) -> None:
    rows = [row for row in good() if row["suite"] != name or int(row["id"]) < keep]
    verdict = judge(rows)
    assert (verdict.promote, verdict.status) == (False, "not_evaluated")
    assert any(words in why for why in untold(verdict).values())


def test_without_collected_failures_repair_is_not_needed() -> None:
    verdict = judge([row for row in good() if row["suite"] != "repair"], floor={"golden": 0.75, "repair": 0.9})
    assert verdict.promote and not [check for check in verdict.checks if check.suite == "repair"]


def test_a_failed_check_is_said_before_an_untold_one() -> None:
    rows = [row for row in good(golden=suite("golden", right(200, 40), right(200))) if row["suite"] != "audit"]
    verdict = judge(rows)
    assert verdict.status == "failed" and ("superior", "audit") in untold(verdict)


def test_a_row_that_was_not_measured_for_either_arm_counts_against_the_candidate() -> None:
    for arm in ("candidate", "champion"):
        rows = good()
        for row in rows[:2]:
            row["arms"][arm]["right"] = None
        superior = judge(rows).check("superior")
        assert superior and (superior.won, superior.lost) == (30, 2), arm


def test_too_many_unmeasured_rows_make_the_suite_untold_not_failed() -> None:
    rows = good()
    for row in rows[120:130]:
        row["arms"]["champion"]["right"] = None
    verdict = judge(rows)
    assert verdict.status == "not_evaluated" and not failing(verdict)
    assert "10 of 200 rows of golden could not be scored" in untold(verdict)["non_inferior", "golden"]
    assert {name for name, _ in untold(verdict)} == {"non_inferior", "floor", "measured"}


def test_unmeasured_rows_never_raise_a_candidate() -> None:
    rng = random.Random(1)
    for _ in range(30):
        rows, hidden = good(), good()
        for row in rng.sample(range(len(rows)), 3):
            hidden[row]["arms"][rng.choice(["candidate", "champion"])]["right"] = None
        for plain, blind in zip(judge(rows).checks, judge(hidden).checks, strict=True):
            if plain.difference is not None and blind.difference is not None:
                assert blind.difference <= plain.difference and (blind.p or 0) >= (plain.p or 0)


@pytest.mark.parametrize("value", [math.nan, 1.5, -1, 1, "true"])
def test_a_score_that_is_no_truth_value_tells_nothing(value: Any) -> None:
    rows = good()
    rows[7]["arms"]["candidate"]["right"] = value
    verdict = judge(rows)
    assert (
        verdict.status == "not_evaluated"
        and "row 8 of the predictions is malformed at arms.candidate.right" in verdict.checks[0].why
    )


def test_a_margin_that_so_few_rows_could_never_show_is_untold() -> None:
    verdict = judge(good(), margin=0.01)
    assert "only 200 golden rows, 268 are needed" in untold(verdict)["non_inferior", "golden"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapter": None}, "adapter has no hash"),
        ({"dataset": "abc"}, "dataset has no hash"),
        ({"evaluated": {"candidate": "f" * 64, "champion": SHA["v1"]}}, "the predictions are of candidate fff"),
        ({"evaluated": {"candidate": SHA["adapter"], "champion": None}}, "the predictions are of champion None"),
        ({"evaluated": {}}, "the predictions are of candidate None"),
        ({"champion": None}, "not those of the champion's state file"),
        ({"attempts": None}, "not those of the champion's state file"),
        ({"suites": {}}, "suite audit has no hash"),
        (
            {"suites": dict.fromkeys(["audit", "golden", "retained", "repair"], "f" * 64)},
            "suite audit is not the file that was evaluated: run dvc repro",
        ),
        (
            {"rows": {"audit": 150, "golden": 200, "retained": 200, "repair": 8}},
            "120 rows of audit were evaluated, the suite has 150",
        ),
    ],
)
def test_predictions_of_other_bytes_tell_nothing(change: dict[str, Any], words: str) -> None:
    verdict = judge(good(), **change)
    assert verdict.status == "not_evaluated" and words in verdict.checks[0].why


def test_an_unknown_purpose_and_a_purpose_without_its_champion_tell_nothing() -> None:
    assert "purpose is 'refresh', must be one of first, improve, replace" in judge(good(), purpose="refresh").checks[0].why
    verdict = judge(good(), purpose="improve", serving=None)
    assert [check.why for check in verdict.checks] == ["purpose is improve, but the champion's digest is missing"]
    assert verdict.status == "not_evaluated"
    assert (
        "purpose is first, but the champion's digest is 666" in judge(good(), purpose="first", serving=SHA["v1"]).checks[0].why
    )


def test_no_predictions_and_double_rows_tell_nothing() -> None:
    assert judge([]).status == "not_evaluated"
    verdict = judge([*good(), good()[0]])
    assert verdict.status == "not_evaluated" and "row 0000 of audit is there twice" in verdict.checks[0].why


def test_a_verdict_that_does_not_follow_from_its_checks_cannot_be_made() -> None:
    refused = judge(good(golden=suite("golden", right(200, 40), right(200)))).as_dict()
    with pytest.raises(ValueError, match="do not follow from the checks"):
        Verdict.model_validate({**refused, "promote": True, "status": "passed"})


# --- the list of what is never promoted: each is not evaluated, and the card's first line says what to do


def without_rules(rows: Rows) -> Verdict:
    return judge(rows, purpose="none of ours")


def without_the_metric(rows: Rows) -> Verdict:
    return judge(rows, task="generation", metric="chrf")


def not_finite(rows: Rows) -> Verdict:
    rows[3]["arms"]["candidate"]["scores"] = {"chrf": math.inf}
    return judge(rows, task="generation", metric="chrf")


def out_of_range(rows: Rows) -> Verdict:
    rows[3]["arms"]["champion"]["scores"] = {"chrf": 1.01}
    return judge(rows, task="generation", metric="chrf")


def unmeasured(rows: Rows) -> Verdict:
    for row in rows[:9]:
        row["arms"]["candidate"]["right"] = None
    return judge(rows)


def copied(rows: Rows) -> Verdict:
    for row in rows[:40]:
        row["excluded"] = "copy of a training row"
    return judge(rows)


def joined(rows: Rows) -> Verdict:
    for row in rows[:40]:
        row["joins"] = ["one user"]
    return judge(rows)


def as_the_base(rows: Rows) -> Verdict:
    for row in rows:
        row["arms"]["base"]["answer"] = row["arms"]["candidate"]["answer"]
    return judge(rows)


def base_not_asked(rows: Rows) -> Verdict:
    for row in rows:
        del row["arms"]["base"]
    return judge(rows)


def other_suite(rows: Rows) -> Verdict:
    return judge(rows, suites=dict.fromkeys(["audit", "golden", "retained", "repair"], "f" * 64))


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (without_rules, "purpose is 'none of ours', must be one of first, improve, replace"),
        (without_the_metric, "120 of 120 rows of audit could not be scored by chrf, at most 2.0 % may be: why of these rows"),
        (not_finite, "row 4 of the predictions is malformed at arms.candidate.scores.chrf"),
        (out_of_range, "row 4 of the predictions is malformed at arms.champion.scores.chrf"),
        (unmeasured, "9 of 120 rows of audit could not be scored by right, at most 2.0 % may be: why of these rows in pred"),
        (copied, "only 80 unread audited rows (40 more copy what an arm trained on), 100 are needed: label 20 more"),
        (joined, "only 81 unread audited rows (39 more are joined to one of them by conversation, user or near copy), 100"),
        (as_the_base, "the candidate answers all 528 rows as the base does: it did not load, or learned nothing; look at the"),
        (base_not_asked, "no row was asked of both the candidate and the base, so nobody knows that the adapter loaded"),
        (other_suite, "suite audit is not the file that was evaluated: run dvc repro"),
    ],
)
def test_what_cannot_be_told_is_not_evaluated_and_the_first_line_says_what_to_do(made: Any, line: str) -> None:
    verdict = made(good())
    assert (verdict.promote, verdict.status) == (False, "not_evaluated")
    assert one_line(verdict).startswith(f"Could not tell: {line}")


def test_without_a_check_nothing_passes() -> None:
    assert status_of(()) == "not_evaluated"


def test_params_without_rules_stop_before_anything_is_trained(tmp_path: Path) -> None:
    data = yaml.safe_load((ROOT / "params.yaml").read_text())
    del data["gates"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ParamsError, match="gates is missing: add it"):
        params_.load(tmp_path)
