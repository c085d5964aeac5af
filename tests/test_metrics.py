"""Scores of generated answers, and the gate that compares them."""

import json
import random
from typing import Any

import pytest
from tables import Rows, failing, judge, suite

from retrain import metrics, stats
from retrain.card import one_line
from retrain.errors import ParamsError
from retrain.params import load
from retrain.scoring import Judge, entry

ORDER = {"items": [{"name": "tea", "n": 2}, {"name": "jam", "n": 1}], "day": None, "reference": "a1"}


def changed(**fields: Any) -> str:
    return json.dumps({**ORDER, **fields})


@pytest.mark.parametrize(
    ("answer", "right", "total"),
    [
        (json.dumps(ORDER), 6, 6),
        (json.dumps(dict(reversed(ORDER.items()))), 6, 6),  # keys have no order
        (changed(day="Monday"), 5, 6),
        (changed(items=[{"name": "tea", "n": 2.0}, {"name": "jam", "n": 1}]), 6, 6),
        (changed(items=[{"name": "tea", "n": 2}, {"name": "jam", "n": True}]), 5, 6),  # true is not 1
        (changed(items=[{"name": "tea", "n": "2"}, {"name": "jam", "n": 1}]), 5, 6),
        (changed(items=[{"name": "jam", "n": 1}, {"name": "tea", "n": 2}]), 4, 8),  # the order of a list counts
        (changed(items=[{"name": "jam", "n": 1}]), 4, 6),  # one is missing, and shifts no other
        (changed(items=[{"name": "oil", "n": 1}, *ORDER["items"]]), 6, 8),
        (changed(extra={"a": [], "b": 1}), 6, 8),
        (json.dumps({"items": ORDER["items"], "reference": "a1"}), 5, 6),  # null is a value: it must be said
        ("[]", 0, 6),
        ("no JSON", 0, 1),
        ("[" * 100_000, 0, 1),
    ],
)
def test_field_accuracy_is_the_share_of_fields_that_are_equal(answer: str, right: int, total: int) -> None:
    assert metrics.fields(answer, json.dumps(ORDER)) == pytest.approx(right / total)


def test_nobody_is_held_to_an_expected_answer_that_is_no_json() -> None:
    assert metrics.fields("{}", "{") is None


def test_token_f1_is_that_of_squad() -> None:
    assert metrics.token_f1("the Broncos of Denver", "Denver Broncos") == pytest.approx(2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2))
    assert metrics.token_f1("Denver, Broncos!", "denver broncos") == 1
    assert (metrics.token_f1("", "yes"), metrics.token_f1("no", "yes"), metrics.token_f1("no no", "no")) == (0, 0, 2 / 3)


def test_chrf_is_that_of_sacrebleu_and_never_above_one() -> None:
    from sacrebleu import sentence_chrf

    pairs = [("the cat sat", "the cat sat on the mat"), ("", "x"), ("x", "x"), ("ab", "ba")]
    for answer, expected in pairs:
        assert metrics.chrf(answer, expected) == pytest.approx(sentence_chrf(answer, [expected]).score / 100)
    assert metrics.chrf("the same words", "the same words") == 1


def test_an_answer_is_scored_by_all_that_make_sense_and_a_label_by_none() -> None:
    schema = {"type": "object"}
    found = entry(Judge("generation", schema), '{"a": 1, "b": 2}', '{"a": 1.0, "b": 3}', ())
    assert (found["right"], found["parsed"]) == (False, True)
    assert found["scores"]["fields"] == 0.5 and set(found["scores"]) == {"fields", "token_f1", "chrf"}
    assert "scores" not in entry(Judge("classification", None), "refund", "refund", ("refund",))
    assert set(entry(Judge("generation", None), "a", "b", ())["scores"]) == {"token_f1", "chrf"}


@pytest.mark.parametrize(("adapter", "metric"), [("support", "chrf"), ("support", "fields")])
def test_a_metric_that_an_adapter_cannot_have_is_refused_with_the_reason(adapter: str, metric: str) -> None:
    with pytest.raises(ParamsError, match=f"adapter {adapter}: gates.metric is {metric}, which needs task generation"):
        load(".", [f"gates.metric={metric}"])


# --- the gate


def scored(name: str, ours: list[float], theirs: list[float]) -> Rows:
    """Rows of which no answer is exact; `chrf` is what the arms differ by."""
    rows = suite(name, [i % 2 == 0 for i in range(len(ours))], [False] * len(ours))
    for row, a, b in zip(rows, ours, theirs, strict=True):
        for arm, score in (("candidate", a), ("champion", b), ("base", 0.1)):
            row["arms"][arm] |= {"right": False, "scores": {"chrf": round(score, 6)}}
    return rows


def noisy(mean: float, n: int, seed: int, spread: float = 0.1) -> list[float]:
    rng = random.Random(seed)
    return [min(1.0, max(0.0, rng.gauss(mean, spread))) for _ in range(n)]


def table(audit: float = 0.7, golden: float = 0.7) -> Rows:
    return [
        *scored("audit", noisy(audit, 120, 1), noisy(0.6, 120, 2)),
        *scored("golden", noisy(golden, 150, 3), noisy(0.7, 150, 4)),
        *scored("retained", noisy(0.7, 150, 5), noisy(0.7, 150, 6)),
    ]


RULES: dict[str, Any] = {"task": "generation", "metric": "chrf", "floor": {"golden": 0.5}}


def test_the_gate_compares_scores_where_answers_are_not_right_or_wrong() -> None:
    verdict = judge(table(), **RULES)
    assert verdict.promote
    check = verdict.check("superior")
    assert check and check.metric == "chrf" and check.difference == pytest.approx(0.1, abs=0.03) and (check.p or 1) < 0.001
    assert "% chrF, the champion" in check.why and one_line(verdict).startswith("Passed: ")
    assert not judge(table(), task="generation", floor={}).promote  # by right and wrong nothing is better


def test_scores_that_do_not_gain_or_lose_too_much_are_refused() -> None:
    assert failing(judge(table(audit=0.6), **RULES)) == [("superior", "audit")]
    lost = judge(table(golden=0.6), **RULES)
    assert ("non_inferior", "golden") in failing(lost)
    check = lost.check("non_inferior", "golden")
    assert check and "a loss of 8.0 points cannot be ruled out (interval -" in check.why
    assert "forgot" in one_line(lost)
    assert failing(judge(table(), **{**RULES, "floor": {"golden": 0.9}})) == [("floor", "golden")]


def test_a_row_without_a_score_is_the_largest_loss() -> None:
    rows = table()
    plain = judge(rows, **RULES).check("superior")
    rows[0]["arms"]["champion"]["scores"] = {"chrf": None}
    blind = judge(rows, **RULES).check("superior")
    assert plain and blind and (blind.difference or 0) < (plain.difference or 0) - 0.005


def test_the_interval_of_scores_is_scipys_and_the_same_each_time() -> None:
    values = noisy(0.1, 60, 7)
    low, high = stats.bca_interval(values, level=0.05)
    assert (low, high) == stats.bca_interval(list(reversed(values)), level=0.05)
    mean, error = sum(values) / 60, 0.1 / 60**0.5
    assert low == pytest.approx(mean - 1.645 * error, abs=0.01) and high == pytest.approx(mean + 1.645 * error, abs=0.01)
    assert stats.bca_interval([0.0] * 50, level=0.05) == (0.0, 0.0)


def test_the_sign_flip_test_of_right_and_wrong_is_mcnemars() -> None:
    assert stats.sign_flip_p([1.0] * 9 + [-1.0] * 2 + [0.0] * 50) == pytest.approx(stats.mcnemar_p(9, 2))
    assert (stats.sign_flip_p([0.0] * 5), stats.sign_flip_p([0.3]), stats.sign_flip_p([-0.3])) == (1.0, 0.5, 1.0)
