"""Prepare, and drift column by column: what decides, on small tables."""

import random
import string
from typing import Any

import pandas as pd

from monitoring import drift
from monitoring.sources import Rows
from retrain import params as params_
from retrain.prepare import Prepared, merge, prepare
from retrain.records import Example, Origin
from retrain.text import normalise

PARAMS = params_.load(".")


def example(text: str, answer: str = "a", source: str = "seed", request: str | None = None, talk: str | None = None) -> Example:
    """With words behind the text that no other text has: "question 1" and "question 2" would be near copies."""
    origins = (Origin(request_id=request, conversation=talk),) if request else ()
    rng = random.Random(normalise(text))
    words = ("".join(rng.choices(string.ascii_lowercase, k=12)) for _ in range(3))
    return Example.of(f"{text} {' '.join(words)}", answer, source=source, origins=origins)


def prepared(labels: tuple[str, ...] = ("a", "b"), schema: dict | None = None, **given: Any) -> Prepared:
    rows = {"seed": [], "failures": [], "golden": [], "audits": [], **given}
    return prepare(**rows, rules=PARAMS.prepare, labels=labels, schema=schema)


# --- prepare


def test_a_training_row_that_copies_golden_is_dropped_and_counted() -> None:
    seed = [example(f"question number {i}") for i in range(40)]
    train = prepared(seed=seed).train
    again = prepared(seed=seed, golden=[Example.of(f"{train[0].question.upper()}!", "b", source="golden")])
    assert again.left_out["copy of a golden row"] == 1
    assert train[0].key not in {row.key for row in again.train}


def test_a_question_with_two_answers_trains_nothing() -> None:
    failures_ = [example("same question", answer, "failure", answer) for answer in ("a", "b")]
    made = prepared(seed=[example(f"question {i}") for i in range(20)], failures=failures_)
    assert failures_[0].question not in {row.question for row in made.train}


def test_no_row_both_trains_and_judges_and_growing_data_moves_none() -> None:
    seed = [example(f"question {i}") for i in range(60)]
    small, large = prepared(seed=seed[:30]), prepared(seed=seed)
    for made in (small, large):
        judging = {row.id for rows in made.suites.values() for row in rows}
        assert not judging & {row.id for row in made.train}
    assert {row.id for row in small.train} <= {row.id for row in large.train}


def test_a_label_that_is_not_admitted_trains_nothing_and_equal_rows_keep_all_origins() -> None:
    held = [example(f"new thing {i}", "gift", "failure", f"r{i}") for i in range(10)]
    made = prepared(seed=[example(f"question {i}") for i in range(20)], failures=held)
    assert "gift" not in {row.answer for row in made.train}
    assert made.left_out["label not admitted"] > 0
    twice = merge([example("hello", "a", "failure", "r1"), example("Hello!", "a", "failure", "r2")])
    assert [origin.request_id for origin in twice[0].origins] == ["r1", "r2"]


def test_a_wrong_correction_does_not_evict_the_seed_row_of_its_question() -> None:
    seed = [example(f"question {i}") for i in range(40)]
    wrong = [example(f"Question {i}?", "b", "failure", f"r{i}") for i in range(40)]
    made = prepared(seed=seed, failures=wrong)
    assert {row.id for row in made.train} == {row.id for row in prepared(seed=seed).train}
    assert "repair" not in made.suites
    assert made.left_out["correction contradicts the seed"] == 40
    agreeing = prepared(seed=seed, failures=[example(f"question {i}", "a", "failure", f"r{i}") for i in range(40)])
    assert agreeing.left_out["correction contradicts the seed"] == 0


def test_what_no_candidate_could_repair_is_not_asked_of_it() -> None:
    held = [example(f"new thing {i}", "gift", "failure", f"r{i}") for i in range(40)]
    known = [example(f"old thing {i}", "b", "failure", f"s{i}") for i in range(40)]
    made = prepared(seed=[example(f"question {i}") for i in range(20)], failures=[*held, *known])
    assert {row.answer for row in made.suites["repair"]} == {"b"}
    assert made.left_out["label not admitted"] == 40


def test_new_failures_train_first_and_what_the_champion_knows_by_now_only_fills_up() -> None:
    seed = [example(f"question {i}") for i in range(200)]
    failures_ = [example(f"failure {i}", "a", "failure", f"r{i}") for i in range(60)]
    known = {row.id for row in failures_[:30]}
    new = {row.id for row in prepared(seed=[], failures=failures_[30:]).train}
    made = prepared(seed=seed, failures=failures_, known=known)
    assert len(made.train) == PARAMS.prepare.max_per_label
    assert new < {row.id for row in made.train}
    assert 0 < len(known & {row.id for row in made.train}) < len(known)  # beside the seed, by hash
    everything = {row.id for row in prepared(seed=seed, failures=failures_, known={row.id for row in failures_}).train}
    assert not new <= everything


def test_what_the_champion_gets_right_by_now_judges_no_repair_and_trains_neither() -> None:
    failures_ = [example(f"failure {i}", "a", "failure", f"r{i}") for i in range(60)]
    held = {row.id for row in prepared(failures=failures_).suites["repair"]}
    known = set(sorted(held)[:5]) | {row.id for row in failures_[:20]} - held
    made = prepared(failures=failures_, known=known, repair_least=4)
    assert {row.id for row in made.suites["repair"]} == held - known
    assert made.left_out["held-out failure that the champion gets right by now"] == 5
    assert not held & {row.id for row in made.train}
    few = prepared(failures=failures_, known=known, repair_least=len(held))
    assert {row.id for row in few.suites["repair"]} == held  # too few would be left to judge by


def test_an_answer_that_does_not_fit_the_output_schema_neither_trains_nor_judges() -> None:
    schema = {"type": "object", "required": ["n"]}
    good, bad = [[(f"{kind} {i}", answer) for i in range(40)] for kind, answer in (("good", '{"n": 1}'), ("bad", '{"n": 1'))]
    rows = {
        source: [example(f"{source} {question}", answer, source) for question, answer in (*good, *bad)]
        for source in ("seed", "failure", "audit")
    }
    made = prepared((), schema, seed=rows["seed"], failures=rows["failure"], audits=[("2026", rows["audit"])])
    kept = [row for suite in (made.train, *made.suites.values()) for row in suite]
    assert {row.answer for row in kept} == {'{"n": 1}'}
    assert {row.source for row in kept} == {"seed", "failure", "audit"}
    assert made.left_out["answer does not fit the output schema"] == 120


# --- drift


def window(n: int, prompt: str, label: str = "a") -> Rows:
    rows = [
        {"request_id": f"{label}{i}", "prompt": f"{prompt} {i}", "response": label, "latency_ms": 100.0 + i} for i in range(n)
    ]
    return Rows.of_frame(pd.DataFrame(rows))


def test_one_column_that_cannot_be_compared_takes_no_other_down() -> None:
    quiet, other = window(150, "where is my parcel"), window(150, "my gift card code does not work", "b")
    report = drift.measure(quiet, quiet, other, drift=PARAMS.drift, html=None)
    by_name = {column.column: column for column in report.columns}
    assert report.status == "drift"
    assert by_name["response"].status == "drift"
    assert by_name["confidence"].status == "not_computable"
