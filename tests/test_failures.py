"""Which log rows become failure cases or audited rows, on small tables."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import pytest

from monitoring.failures import Collection, Reviewed, audited, drawn, failure_cases
from monitoring.sources import Rows
from retrain.records import Quarantined

COLUMNS = ["request_id", "user_id", "prompt", "response", "feedback", "correction", "audit_label", "metadata"]
LABELS = ("cancel_order", "refund_status")


def row(request: str, prompt: str = "where is my money", **fields: Any) -> dict[str, Any]:
    return {"request_id": request, "user_id": f"user of {request}", "prompt": prompt, "response": "cancel_order", **fields}


def of(rows: Iterable[dict[str, Any]]) -> Rows:
    return Rows.of_frame(pd.DataFrame(list(rows), columns=COLUMNS))


def collect(*rows: dict[str, Any], rate: float = 0.0, **changes: Any) -> Collection:
    given: dict[str, Any] = {"labels": LABELS, "seen": set(), "collected": "2026-03-02T00-00-00Z", **changes}
    return failure_cases(of(rows), audit_rate=rate, **given)


def test_a_correction_becomes_an_example_that_knows_where_it_came_from() -> None:
    (example,) = collect(row("r1", correction=" refund_status ", feedback=-1)).examples
    assert (example.question, example.answer) == ("where is my money", "refund_status")
    assert (example.source, example.label_source) == ("failure", "correction")
    origin = {"request_id": "r1", "user": "user of r1", "collected": "2026-03-02T00-00-00Z"}
    assert [one.model_dump(exclude_none=True) for one in example.origins] == [origin]


def test_feedback_alone_waits_and_praise_or_silence_is_no_failure() -> None:
    blank = row("r2", feedback=-1, correction="  ")
    made = collect(row("r1", feedback=-1), blank, row("r3", feedback=1), row("r4"))
    assert (made.waiting, made.examples, made.held, made.quarantined) == (2, [], [], [])


def test_a_correction_that_repeats_the_response_is_no_failure() -> None:
    made = collect(row("r1", correction="cancel_order", feedback=-1))
    assert made == Collection()


def test_equal_rows_merge_and_keep_every_origin() -> None:
    made = collect(row("r1", correction="refund_status"), row("r2", "Where is my MONEY?", correction="refund_status"))
    assert [[origin.request_id for origin in example.origins] for example in made.examples] == [["r1", "r2"]]


def test_one_question_with_two_answers_is_kept_out_with_the_reason() -> None:
    other = {"response": "damaged_item", "correction": "cancel_order"}
    made = collect(row("r1", correction="refund_status"), row("r2", "Where is my money?", **other))
    assert made.examples == []
    assert {bad.reason for bad in made.quarantined} == {"one question, two answers: cancel_order | refund_status"}
    found = {(bad.kind, bad.request_id, bad.example and bad.example.answer) for bad in made.quarantined}
    assert found == {("conflict", "r1", "refund_status"), ("conflict", "r2", "cancel_order")}


@pytest.mark.parametrize("prompt", [None, "", " \n"])
def test_a_correction_to_a_blank_prompt_is_counted_not_lost(prompt: str | None) -> None:
    made = collect({**row("r1", correction="refund_status"), "prompt": prompt})
    assert made.examples == []
    assert made.quarantined == [Quarantined(request_id="r1", kind="form", reason="a correction to a blank prompt")]


def test_a_label_that_the_adapter_does_not_list_is_held_and_shown_with_rows_and_users() -> None:
    gifts = [row(f"r{i}", f"gift question {i}", correction="gift_card", user_id=f"u{i % 2}") for i in range(3)]
    made = collect(*gifts, row("r9", correction="refund_status"))
    assert [example.answer for example in made.examples] == ["refund_status"]
    assert {example.answer for example in made.held} == {"gift_card"}
    assert made.new_labels == {"gift_card": (3, 2)}


def test_a_task_without_labels_takes_any_answer() -> None:
    made = collect(row("r1", correction='{"items": []}', response="{}"), labels=())
    assert [example.answer for example in made.examples] == ['{"items": []}']
    assert (made.held, made.new_labels) == ([], {})


def test_a_correction_that_does_not_fit_the_output_schema_is_kept_out_with_the_reason() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    answers = ['{"n": 1}', '{"n": 1', '{"n": "one"}']
    made = collect(
        *(row(f"r{i}", f"question {i}", correction=text) for i, text in enumerate(answers)), labels=(), schema=schema
    )
    assert [example.answer for example in made.examples] == ['{"n": 1}']
    assert [(bad.request_id, bad.kind, bad.reason) for bad in made.quarantined] == [
        ("r1", "form", "the answer is no JSON"),
        ("r2", "form", "the answer does not fit the output schema at $.n: 'one' is not of type 'integer'"),
    ]


def test_a_correction_that_says_the_answers_own_values_is_no_failure() -> None:
    said = {"correction": '{"n":1.0,"m":null}', "response": '{"m": null, "n": 1}'}
    assert collect(row("r1", **said), labels=(), schema={"type": "object"}).examples == []
    assert len(collect(row("r1", **said), labels=()).examples) == 1  # free text


def test_a_correction_that_is_blank_to_the_eye_becomes_no_label() -> None:
    made = collect(row("r1", correction="\u200b\u00ad"))
    assert (made.examples, made.new_labels) == ([], {})
    assert made.quarantined == [Quarantined(request_id="r1", kind="form", reason="the answer is blank")]


def test_what_was_collected_before_is_left_out_unless_its_label_changed() -> None:
    corrected = row("r1", correction="refund_status")
    assert collect(corrected, seen={("r1", "refund_status")}).examples == []
    assert len(collect(corrected, seen={("r1", "cancel_order")}).examples) == 1


def test_a_drawn_row_only_judges_and_every_other_row_only_trains() -> None:
    ids = [f"r{i}" for i in range(300)]
    rows = [row(r, f"question {r}", correction="refund_status", audit_label="refund_status", feedback=-1) for r in ids]
    made = collect(*rows, rate=0.3)
    judging = audited(of(rows), audit_rate=0.3)
    trains = {origin.request_id for example in made.examples for origin in example.origins}
    judges = {origin.request_id for example in judging for origin in example.origins}
    assert judges == {r for r in ids if drawn(r, 0.3)}
    assert trains == set(ids) - judges
    assert 60 <= len(judges) <= 120


def test_what_is_suspected_is_quarantined_with_the_reason_and_drawn_rows_only_tell_about_the_others() -> None:
    rows = [row(f"r{i}", f"question {i}", correction="refund_status", metadata='{"shop": {"id": 7}}') for i in range(40)]
    asked: list[Any] = []

    def doubt(cases: Any) -> dict[str, str]:
        asked.extend(cases)
        return {case.request_id: "a bad hand" for case in cases if int(case.request_id[1:]) < 20}

    made = collect(*rows, rate=0.3, doubt=doubt, source="metadata.shop.id")
    assert {case.request_id for case in asked} == {f"r{i}" for i in range(40)}
    assert {case.source for case in asked} == {"7"}
    assert [case.trains for case in asked] == [not drawn(case.request_id, 0.3) for case in asked]
    kept_out = {bad.request_id for bad in made.quarantined}
    assert kept_out == {f"r{i}" for i in range(20) if not drawn(f"r{i}", 0.3)}
    assert {(bad.kind, bad.reason) for bad in made.quarantined} == {("poisoning", "a bad hand")}
    trains = {origin.request_id for example in made.examples for origin in example.origins}
    assert trains == {f"r{i}" for i in range(20, 40) if not drawn(f"r{i}", 0.3)}
    assert made.unbelieved == {f"r{i}" for i in range(20)}


def test_a_drawn_row_with_bad_feedback_waits_for_nobody() -> None:
    assert collect(row("r1", feedback=-1), rate=1.0).waiting == 0


def test_audited_rows_are_human_merge_and_need_a_label() -> None:
    rows = [
        row("r1", audit_label="refund_status"),
        row("r2", "Where is my money!", audit_label="refund_status"),
        row("r3", "another question"),
        row("r4", " ", audit_label="refund_status"),
    ]
    (example,) = audited(of(rows), audit_rate=1.0)
    assert (example.source, example.label_source) == ("audit", "human")
    assert [origin.request_id for origin in example.origins] == ["r1", "r2"]


def test_an_empty_table_and_one_without_the_columns_give_nothing() -> None:
    assert collect() == Collection()
    assert audited(Rows.of_frame(pd.DataFrame([row("r1")])), audit_rate=1.0) == []


def test_a_larger_rate_only_adds_to_who_is_drawn() -> None:
    ids = [f"r{i}" for i in range(200)]
    few, many = ({r for r in ids if drawn(r, rate)} for rate in (0.1, 0.3))
    assert few < many
    assert not any(drawn(r, 0.0) for r in ids)
    assert all(drawn(r, 1.0) for r in ids)


def reviewed(*rows: dict[str, Any], **answers: str) -> Reviewed:
    return Reviewed(of(rows), {request: (answer,) for request, answer in answers.items()})


def test_a_reviewer_who_confirms_what_a_user_corrected_is_a_conflict_and_not_the_users_word() -> None:
    rows = [row("r1", correction="refund_status", feedback=-1), row("r2", feedback=-1)]
    made = collect(*rows, reviewed=reviewed(*rows, r1="cancel_order", r2="cancel_order"))
    assert (made.examples, made.waiting) == ([], 0)
    assert [(bad.kind, bad.request_id) for bad in made.quarantined] == [("conflict", "r1")]
    assert made.quarantined[0].reason == "one question, two answers: cancel_order | refund_status"


def test_a_reviewer_who_confirms_what_was_collected_otherwise_is_a_conflict() -> None:
    one = row("r1", feedback=-1)
    made = collect(one, seen={("r1", "refund_status")}, reviewed=reviewed(one, r1="cancel_order"))
    assert [(bad.kind, bad.example and bad.example.answer) for bad in made.quarantined] == [("conflict", "cancel_order")]
    assert made.quarantined[0].reason.endswith("; one of them was collected before")


def test_a_reason_quotes_labels_and_never_what_a_user_wrote() -> None:
    secret = {"response": "x", "correction": "my name is Ann"}
    made = collect(row("r1", correction="refund_status"), row("r2", **secret))
    assert {bad.reason for bad in made.quarantined} == {
        "one question, two answers: one that the adapter does not list | refund_status"
    }
    free = collect(row("r1", correction="refund_status"), row("r2", **secret), labels=())
    assert {bad.reason for bad in free.quarantined} == {"one question, two answers"}


def test_a_source_is_a_short_text_whatever_the_metadata_hold() -> None:
    odd = {
        "deep": "[" * 100_000,
        "long": '{"shop": "' + "y" * 5000 + '"}',
        "half": '{"shop": "\\ud800"}',
        "fine": '{"shop": 7}',
    }
    rows = [row(name, f"question {name}", correction="refund_status", metadata=text) for name, text in odd.items()]
    made = collect(*rows, source="metadata.shop")
    found = {origin.request_id: origin.source for example in made.examples for origin in example.origins}
    assert found == {"deep": None, "long": "y" * 200, "half": None, "fine": "7"}
