"""Simulated traffic: a structured answer is right when it says the same, and who corrects gives the right one."""

import json
import random
from pathlib import Path

import pytest
from calling import call

from retrain import simulate
from retrain.errors import DataError
from retrain.records import read_json
from retrain.scoring import Judge

TIMES = ("--start", "2026-03-02T00:00:00Z", "--end", "2026-03-03T00:00:00Z")
ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "traffic" / "orders.jsonl"
JUDGE = Judge("generation", read_json(ROOT / "data" / "prompts" / "orders.schema.json"))
TEA = {"items": [{"name": "tea", "quantity": 2}], "date": None, "address": None, "reference": "A1"}


MESSAGE = {"text": "2 tea, ref A1", "answer": json.dumps(TEA), "label": "new"}
WRONG = [json.dumps({**TEA, "reference": "A2"}), json.dumps(TEA)[:-1], "two teas"]


def said(answer: str) -> simulate.Said | None:
    """Of an answer to a message whose right answer is TEA."""
    return simulate.opinion(MESSAGE, answer, simulate.Phase(1, thanked=1.0), judge=JUDGE, rng=random.Random(0))


def test_an_answer_that_says_the_same_in_another_order_is_thanked() -> None:
    assert said(json.dumps(dict(reversed(TEA.items())), indent=1)) == simulate.Said(True)


@pytest.mark.parametrize("answer", WRONG)
def test_a_wrong_field_half_an_answer_and_prose_are_corrected(answer: str) -> None:
    assert said(answer) == simulate.Said(False, MESSAGE["answer"])


@pytest.mark.parametrize("answer", [*WRONG, json.dumps(TEA)])
def test_who_labels_the_audit_says_the_right_answer(answer: str) -> None:
    assert simulate.label(MESSAGE, answer, JUDGE) == simulate.Said(answer == json.dumps(TEA), MESSAGE["answer"])


def test_the_shipped_orders_are_traffic_of_two_kinds() -> None:
    rows = simulate.read_answers(SHIPPED, JUDGE)
    assert {row["label"] for row in rows} == {"new", "change"}
    assert json.loads(rows[0]["answer"])["reference"] == "2468"


def test_an_answer_that_the_schema_refuses_names_its_row(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "tea", "answer": "tea"}) + "\n")
    with pytest.raises(DataError, match="answer of row 1 does not fit the adapter's output schema: tea"):
        simulate.read_answers(tmp_path / "t.jsonl", JUDGE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arriving", "chnage"), "--arriving must name some of the kinds in"),
        (("--arriving-share", "0.2"), "has a kind that --arriving names"),
        (("--poison", "a=b"), "--poison swaps labels, and orders answers in free text"),
        (("--arriving", "change", "--arriving-share", "0.2"), "names no remote"),  # all is well but that nothing serves here
    ],
)
def test_what_a_task_without_labels_cannot_simulate_is_bad_usage(bare: Path, options: tuple[str, ...], words: str) -> None:
    prompts = bare / "data" / "prompts"
    prompts.mkdir(parents=True)
    (prompts / "orders.schema.json").write_text((ROOT / "data" / "prompts" / "orders.schema.json").read_text())
    done = call("simulate", "orders", *TIMES, "--traffic", SHIPPED, *options, "-w", bare)
    assert done.code == 2
    assert words in done.err
