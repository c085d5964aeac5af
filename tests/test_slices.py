"""What one label, or one value of another column, lost."""

from tables import Rows, failing, judge, right, suite

from retrain.card import card, one_line
from retrain.records import dumps
from retrain.verdict import Check, Verdict


def losing(name: str, lost: int, label: str = "refund_status") -> Rows:
    """200 rows of which the first `lost` of a label are lost."""
    rows = suite(name, right(200), right(200))
    for row in [row for row in rows if row["slice"]["label"] == label][:lost]:
        row["arms"]["candidate"].update(right=False, answer="cancel_order")
        row["question"] = f"my CASHBACK is late {row['id']}"
    return rows


def sliced(verdict: Verdict) -> Check:
    check = verdict.check("slices")
    assert check
    return check


def spread(golden: int, retained: int) -> Rows:
    return [
        *suite("audit", right(120, 5), right(120, 35)), *losing("golden", golden), *losing("retained", retained),
        *suite("repair", right(8, 1), right(8, 8)),
    ]  # fmt: skip


def test_a_loss_that_no_suite_shows_alone_is_seen_in_the_slice_over_all_of_them() -> None:
    rows = spread(8, 8)
    verdict = judge(rows)
    assert failing(verdict) == [("slices", None)] and verdict.status == "failed"
    check = sliced(verdict)
    assert (check.slice, check.n) == ("refund_status", 65)
    assert check.won is not None and check.lost == 16
    assert "8 of golden, 8 of retained" in check.why
    assert "the word 'cashback' (16)" in check.shared and "the answer 'cancel_order' (16)" in check.shared
    assert "cashback" not in dumps(verdict.as_dict())  # a verdict is in git, and the word is a user's
    assert {(harm.suite, harm.label, harm.lost, len(harm.rows)) for harm in verdict.harmed} == {
        ("golden", "refund_status", 8, 8),
        ("retained", "refund_status", 8, 8),
    }
    assert "but it harmed refund_status (16 rows lost" in one_line(verdict)
    assert "| golden | my CASHBACK is late 0000 | yes | cancel_order | yes |" in card(verdict, {}, rows)


def test_a_few_lost_rows_of_a_slice_are_no_evidence() -> None:
    assert judge(spread(2, 2)).promote


def test_rows_won_back_in_the_slice_weigh_against_those_lost() -> None:
    rows = spread(6, 6)
    for row in [r for r in rows if r["suite"] == "golden" and r["slice"]["label"] == "refund_status"][6:16]:
        row["arms"]["champion"]["right"] = False
    assert sliced(judge(rows)).passed


def test_each_column_that_rows_carry_is_sliced() -> None:
    rows = spread(0, 0)
    for row in [r for r in rows if r["suite"] in ("golden", "retained")][5::20]:
        row["slice"]["country"] = "AT"
        row["arms"]["candidate"]["right"] = False
    check = sliced(judge(rows))
    assert (check.passed, check.slice, check.lost) == (False, "country AT", 20)


def test_a_conversation_in_two_suites_is_one_row_of_its_slice() -> None:
    rows = spread(6, 6)
    for row in rows:
        if row["suite"] in ("golden", "retained"):
            row["joins"] = [f"conversation {row['id']}"]
    check = sliced(judge(rows))
    assert check.n == 40 and check.lost == 6


def test_rows_that_were_not_measured_are_lost_rows_of_their_slice() -> None:
    rows = spread(5, 5)
    for name in ("golden", "retained"):
        rest = [r for r in rows if r["suite"] == name and r["slice"]["label"] == "refund_status"][5:7]
        for row in rest:
            row["arms"]["champion"]["right"] = None
    assert sliced(judge(rows)).lost == 14


def test_the_first_adapter_and_rows_without_slices_are_not_sliced() -> None:
    rows = spread(6, 6)
    for row in rows:
        row["slice"] = {}
    assert judge(rows).check("slices") is None
    first = suite("audit", right(120, 5), right(120, 90), "base") + suite("golden", right(200, 9), right(200, 90), "base")
    assert judge(first, purpose="first").check("slices") is None
