"""Drift: on the shipped text, and each way a window can fail to be compared."""

import random
from pathlib import Path

import pandas as pd
import pytest

from monitoring import drift
from monitoring.sources import Rows
from retrain import params as params_
from retrain.records import read_examples, read_folder, read_jsonl

RULES = params_.load(".").of("support").drift
ARRIVING = {"gift_card", "monthly_box", "parcel_locker"}


def frame(prompts: list[str], **columns: object) -> pd.DataFrame:
    ids = [f"r{i}" for i in range(len(prompts))]
    return pd.DataFrame({"request_id": ids, "prompt": prompts, "response": "a", "latency_ms": 100.0, **columns})


def asked(n: int = 150) -> pd.DataFrame:
    return frame([f"where is parcel {i}" for i in range(n)])


def measure(
    inputs: pd.DataFrame,
    outputs: pd.DataFrame | None,
    current: pd.DataFrame,
    html: Path | None = None,
    **columns: dict[str, object],
) -> drift.DriftReport:
    rules = (
        RULES.model_copy(update={"columns": {n: params_.DriftColumn(**c) for n, c in columns.items()}}) if columns else RULES
    )
    rows = [None if side is None else Rows.of_frame(side) for side in (inputs, outputs, current)]
    return drift.measure(*rows, drift=rules, html=html)  # type: ignore[arg-type]


def column(report: drift.DriftReport, name: str) -> drift.ColumnDrift:
    return next(found for found in report.columns if found.column == name)


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    rows = [*read_folder(Path("data/suites/support/audit")), *read_examples(Path("data/suites/support/golden.jsonl"))]
    return frame([row.question for row in rows])


def traffic(new: int) -> pd.DataFrame:
    """A window of 320 shipped messages, `new` of them on intents that the champion has never met."""
    known: list[str] = []
    arriving: list[str] = []
    for row in read_jsonl(Path("data/traffic/support.jsonl")):
        (arriving if row["label"] in ARRIVING else known).append(row["text"])
    draw = random.Random(5)
    return frame(draw.choices(known, k=320 - new) + draw.choices(arriving, k=new))


@pytest.mark.parametrize(("new", "status"), [(0, "no_drift"), (80, "drift")])
def test_a_quarter_of_new_intents_is_drift_and_the_usual_ones_are_not(
    reference: pd.DataFrame, new: int, status: str, tmp_path: Path
) -> None:
    report = measure(reference, None, traffic(new), html=tmp_path / "report.html")
    assert report.status == status, report
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_without_a_window_of_its_own_only_the_inputs_are_compared() -> None:
    report = measure(asked(), None, asked())
    assert column(report, "response").reason == "the champion has no window of its own yet"
    assert column(report, "prompt_length").status == "no_drift"


def test_a_constant_is_not_computable_but_a_constant_that_changed_is_drift() -> None:
    same, changed = asked(), asked().assign(response="b", latency_ms=900.0)
    assert "constant" in str(column(measure(same, same, same), "latency_ms").reason)
    report = measure(same, same, changed)
    assert column(report, "latency_ms").status == column(report, "response").status == "drift"


def test_missing_answers_are_broken_logging_before_anything_else() -> None:
    blank = asked().assign(response=" ")
    for current in (blank, blank.head(20)):
        assert measure(asked(), asked(), current).status == "logging_broken"
    assert measure(asked(), asked(), asked().head(20)).status == "not_enough_data"


def test_topics_of_few_rows_are_not_compared() -> None:
    assert "topics need 300" in str(column(measure(asked(), None, asked()), "topic").reason)
