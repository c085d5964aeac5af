"""Which rows are failure cases and why, and conditions of the user's own, on small tables."""

from typing import Any

import pandas as pd
import pytest

from monitoring.condition import condition
from monitoring.failures import failure_cases, waiting
from monitoring.selection import Selector
from monitoring.sources import Rows
from retrain.errors import ParamsError

LABELS = ("cancel_order", "refund_status")


def row(request: str, **fields: Any) -> dict[str, Any]:
    at = pd.Timestamp("2026-03-01T10:00:00Z")
    given = {"user_id": "u", "prompt": f"question {request}", "response": "cancel_order", "timestamp": at}
    return {"request_id": request, **given, **fields}


def of(*rows: dict[str, Any]) -> Rows:
    return Rows.of_frame(pd.DataFrame(list(rows)))


def queue(*rows: dict[str, Any], rate: float = 0.0, **rules: Any) -> dict[str, tuple[str, ...]]:
    selector = Selector(**{"labels": LABELS, **rules})
    return {one.request_id: one.reasons for one in waiting(of(*rows), audit_rate=rate, selector=selector)}


def holds(text: str, **fields: Any) -> bool:
    rows = of(row("r1", **fields))
    return bool(rows.where(lambda t: condition(rows, text)).count())


def test_each_rule_chooses_its_rows_and_a_row_keeps_all_its_reasons() -> None:
    rows = [
        row("fine", confidence=0.9, feedback=1),
        row("bad", feedback=-1, confidence=0.2, response="I do not know", latency_ms=3000.0),
        row("unsure", confidence=0.49),
        row("form", response=" "),
        row("slow", latency_ms=2001.0),
    ]
    found = queue(*rows, confidence_below=0.5, form=True, where="latency_ms > 2000")
    assert found == {
        "bad": ("feedback", "confidence", "form", "condition"),
        "unsure": ("confidence",),
        "form": ("form",),
        "slow": ("condition",),
    }
    assert next(iter(found)) == "bad"  # the most reasons first
    assert queue(*rows) == {"bad": ("feedback",)}
    assert queue(*rows, doubted=frozenset({"fine", "gone"})) == {"fine": ("judge",), "bad": ("feedback",)}


def test_an_answer_that_does_not_fit_the_output_schema_is_chosen_and_json_null_is_none() -> None:
    schema = {"type": "object", "required": ["n"]}
    answers = {"ok": '{"n": 1}', "other": '{"m": 1}', "text": "no", "none": None}
    rows = [row(name, response=answer) for name, answer in answers.items()]
    assert set(queue(*rows, labels=(), schema=schema, form=True)) == {"other", "text", "none"}
    assert set(queue(*rows, labels=(), form=True)) == {"none"}  # free text


def test_what_a_person_answered_or_what_was_drawn_does_not_wait() -> None:
    bad = row("r1", feedback=-1)
    assert queue(bad, rate=1.0) == queue({**bad, "correction": "refund_status"}) == queue({**bad, "prompt": " "}) == {}
    assert queue({**bad, "correction": "  "}) == queue(bad) == {"r1": ("feedback",)}


def test_a_collected_row_keeps_all_its_reasons() -> None:
    rows = of(row("r1", correction="refund_status", feedback=-1, confidence=0.1))
    selector = Selector(confidence_below=0.5, labels=LABELS)
    made = failure_cases(rows, audit_rate=0.0, labels=LABELS, seen=set(), collected="x", selector=selector)
    assert [example.reasons for example in made.examples] == [("correction", "feedback", "confidence")]
    assert made.examples[0].as_dict()["reasons"] == ["correction", "feedback", "confidence"]


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("latency_ms > 2000 and prompt ilike '%REFUND%'", {"latency_ms": 2001.0, "prompt": "my Refund"}, True),
        ("latency_ms > 2000 and prompt like '%REFUND%'", {"latency_ms": 2001.0, "prompt": "my Refund"}, False),
        ("not (user_id in ('u', 'v')) or completion_tokens between 1 and 3", {"completion_tokens": 3.0}, True),
        ("metadata.tier = 'gold' and metadata.a.b is not null", {"metadata": '{"tier": "gold", "a": {"b": 1}}'}, True),
        ("metadata.tier = 'gold'", {"metadata": "no JSON"}, False),
        ("length(trim(prompt)) + 1 <= 3 * 1 - -1", {"prompt": " abc "}, True),
        ("latency_ms / completion_tokens > 5", {"latency_ms": 1.0, "completion_tokens": 0.0}, False),
        ("timestamp >= '2026-03-01T11:00:00+01:00'", {}, True),
        ('"LATENCY_MS" > 1' .lower(), {"latency_ms": 2.0}, True),
        ("coalesce(correction, 'none') <> 'none'", {}, False),
        ("confidence < 0.5", {}, False),
        ("not (confidence < 0.5)", {}, False),
        ("prompt = 'it''s' -- mine", {"prompt": "it's"}, True),
    ],
)  # fmt: skip
def test_a_condition_means_what_it_says_and_unknown_is_no(text: str, fields: dict[str, Any], expected: bool) -> None:
    assert holds(text, **fields) is expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latncy_ms > 1", "did you mean latency_ms"),
        ("nothing = 1", "columns are request_id, timestamp"),
        ("prompt > 1", "compares a number with a text"),
        ("latency_ms", "a number: must be true or false"),
        ("latency_ms and true", "where a condition must stand"),
        ("prompt = (select 1)", "not understood"),
        ("read_text('/etc/passwd') = ''", "not understood"),
        ("exists(select 1)", "not understood"),
        ("1; drop table logs", "one condition"),
        ("drop table logs", "not understood"),
        ("", "one condition"),
        ("latency_ms > ", "no condition in SQL"),
        ("prompt = 'open", "no condition in SQL"),
        ("prompt like user_id", "pattern"),
        ("response.a = 'x'", "only metadata"),
        ("timestamp > 'yesterday'", "ISO 8601"),
        ("timestamp > '2026-03-01T00:00:00'", "time zone"),
        ("timestamp > 3", "compares"),
        ("latency_ms > 1 > 2", "compares"),
        ("trim('x' from prompt) = ''", "not understood"),
        ("(" * 3000 + "true" + ")" * 3000, "at most 4000"),
        ("(" * 1900 + "true" + ")" * 1900, "condition"),
        (" and ".join(["true"] * 150), "more than 100"),
        ("confidence between symmetric 1 and 0", "not understood"),
    ],
)
def test_a_wrong_condition_is_an_error_that_says_what_stands_there(text: str, said: str) -> None:
    with pytest.raises(ParamsError, match=r"failures\.where") as error:
        holds(text)
    assert said in str(error.value)
