"""Drift: on the shipped text, and each way a window can fail to be compared."""

import random
from pathlib import Path

import pandas as pd
import pytest

from monitoring import drift, drift_page
from monitoring.sources import Rows
from retrain import params as params_
from retrain import sections
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
        RULES.model_copy(update={"columns": {n: sections.DriftColumn(**c) for n, c in columns.items()}}) if columns else RULES
    )
    rows = [None if side is None else Rows.of_frame(side) for side in (inputs, outputs, current)]
    return drift.measure(*rows, drift=rules, html=html)  # type: ignore[arg-type]


def labels(shares: list[float], n: int, seed: int) -> pd.DataFrame:
    """A window whose answers are `a`, `b`, ... with these shares."""
    answers = random.Random(seed).choices([chr(ord("a") + i) for i in range(len(shares))], shares, k=n)
    return frame([f"where is parcel {i % 40}" for i in range(n)]).assign(response=answers)


MONDAY, SUNDAY, DOUBLED = [0.17, 0.08] * 4, [0.08, 0.17] * 4, [0.17, 0.16, *[0.155, 0.07] * 3]


@pytest.mark.parametrize(
    ("now", "rows", "status", "same_time"),
    [
        (MONDAY, 2000, "no_drift", True),  # as far from the week as ...
        (DOUBLED, 2000, "drift", True),  # ... a Monday with twice as many of one answer
        (DOUBLED, 600, "no_drift", False),  # so few that chance alone goes as far: against the whole week
    ],
)
def test_answers_are_compared_with_those_of_the_same_time_of_the_week(
    now: list[float], rows: int, status: str, same_time: bool
) -> None:
    monday = labels(MONDAY, rows, 1)
    week = pd.concat([monday, labels(SUNDAY, rows, 2)]).assign(request_id=range(2 * rows)).astype({"request_id": str})
    columns = {"response": sections.DriftColumn(method="jensenshannon", threshold=0.15, weekly=0.065)}
    sides = [Rows.of_frame(side) for side in (week, labels(now, rows, 3), monday)]
    rules = RULES.model_copy(update={"columns": columns})
    report = drift.measure(sides[0], sides[0], sides[1], drift=rules, html=None, same_time=sides[2])
    found = column(report, "response")
    assert (found.status, found.same_time, found.threshold) == (status, same_time, 0.065 if same_time else 0.15), found
    without = column(drift.measure(sides[0], sides[0], sides[1], drift=rules, html=None), "response")
    assert (without.status, without.same_time) == ("no_drift", False)


def test_one_reference_for_inputs_and_outputs_gives_what_two_equal_ones_give() -> None:
    week, now = labels(MONDAY, 400, 1).assign(confidence=0.5), labels(SUNDAY, 350, 2).assign(confidence=0.5)
    one, again, current = (Rows.of_frame(side) for side in (week, week, now))
    found = [drift.measure(one, outputs, current, drift=RULES, html=None) for outputs in (one, again)]
    assert found[0] == found[1]


def column(report: drift.DriftReport, name: str) -> drift.ColumnDrift:
    return next(found for found in report.columns if found.column == name)


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    rows = [*read_folder(Path("data/suites/support/audit")), *read_examples(Path("data/suites/support/golden.jsonl"))]
    return frame([row.question for row in rows])


def traffic(new: int, rows: int = 320, seed: int = 5) -> pd.DataFrame:
    """A window of shipped messages, `new` of them on intents that the champion has never met."""
    known: list[str] = []
    arriving: list[str] = []
    for row in read_jsonl(Path("data/traffic/support.jsonl")):
        (arriving if row["label"] in ARRIVING else known).append(row["text"])
    draw = random.Random(seed)
    return frame(draw.choices(known, k=rows - new) + draw.choices(arriving, k=new))


@pytest.mark.parametrize(("new", "status"), [(0, "no_drift"), (80, "drift")])
def test_a_quarter_of_new_intents_is_drift_and_the_usual_ones_are_not(
    reference: pd.DataFrame, new: int, status: str, tmp_path: Path
) -> None:
    report = measure(reference, None, traffic(new), html=tmp_path / "report.html")
    assert report.status == status, report
    assert (tmp_path / "report.html").stat().st_size > 1000
    grown = column(report, "grown")
    assert (grown.status, grown.reason) == (
        "not_computable", "what grew needs 1,000 prompts in the samples of both sides, one has 320",
    )  # fmt: skip


GROWN = {"grown": {"method": "TVD", "threshold": 0.05}}


@pytest.mark.parametrize(("new", "status"), [(0, "no_drift"), (200, "drift")])
def test_a_tenth_of_new_intents_is_drift_where_both_sides_have_many_rows(new: int, status: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    report = measure(traffic(0, 2000, 6), None, traffic(new, 2000), html=page, **GROWN)
    found = column(report, "grown")
    assert found.status == report.status == status
    assert found.value == pytest.approx(sum(change.now - change.before for change in report.changed))
    assert ("gift card" in " ".join(change.words for change in report.changed)) == bool(new)
    assert f"grown (TVD): {status.replace('_', ' ')}, {found.value:.3f}, threshold 0.05" in drift_page.summary(report)
    assert page.stat().st_size > 1000


def test_a_report_stays_small_whatever_the_windows_size(tmp_path: Path) -> None:
    sizes = []
    for rows in (2_000, 20_000):
        page = tmp_path / f"{rows}.html"
        measure(traffic(0, rows, 6), None, traffic(rows // 5, rows), html=page)
        sizes.append(page.stat().st_size)
    assert sizes[1] < 1.1 * sizes[0]
    assert sizes[1] < 2_000_000


@pytest.mark.parametrize(("day", "status"), [(7 + 6, "no_drift"), (7, "drift")])
def test_what_is_asked_each_sunday_has_grown_on_a_monday_alone(day: int, status: str) -> None:
    week = [sunday(n) if n == 6 else at(traffic(0, 300, n), n) for n in range(7)]
    report = measure(pd.concat(week).assign(request_id=[f"r{i}" for i in range(2100)]), None, sunday(day, 1000), **GROWN)
    assert column(report, "grown").status == status, report


def at(asked: pd.DataFrame, day: int) -> pd.DataFrame:
    times = pd.Timestamp("2026-03-02", tz="UTC") + pd.to_timedelta(86_400 * day + 86_400 * asked.index // len(asked), unit="s")
    return asked.assign(timestamp=times)


def sunday(day: int, rows: int = 300) -> pd.DataFrame:
    return at(traffic(rows // 5, rows, day), day)


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


def test_prompts_that_are_nearer_than_usual_are_not_new(reference: pd.DataFrame) -> None:
    again = measure(
        reference,
        None,
        frame([f"{text}, please" for text in reference["prompt"]]),
        novelty={"method": "wasserstein", "threshold": 0.2},
    )
    found = column(again, "novelty")
    assert (found.status, found.reason, again.status) == ("no_drift", drift.NEARER, "no_drift")
    assert found.value is not None and found.value > 0.2
    assert drift.NEARER in " ".join(drift_page.summary(again))
