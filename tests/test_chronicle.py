"""What the story says first, and where things lie in time."""

import history
import pytest
from timeline import attempt, promotion, seen, told

from monitoring import chronicle, pages, telling
from retrain import ledger
from retrain.records import from_stamp, parse_time
from retrain.registry import Run


@pytest.mark.parametrize(
    ("windows", "entries", "tone", "words"),
    [
        ([], [], "unknown", "support has no champion yet"),
        ([], [attempt(0), promotion(0)], "unknown", "no window of its traffic has been measured yet"),
        ([seen(1)], [attempt(0), promotion(0)], "good", "support is doing well: it gets 90% of the checked messages right"),
        (
            [seen(1, drift={"topic": 0.3})],
            [attempt(0), promotion(0)],
            "warn",
            "needs attention: users ask for things it was not",
        ),
        ([seen(1, drift={"response": 0.3})], [attempt(0), promotion(0)], "warn", "its answers are not what they were"),
        (
            [seen(1, violations=["accuracy on the audit sample fell from 92% to 78%, 10% allowed"], fire=True)],
            [attempt(0), promotion(0)],
            "bad",
            "is to be retrained: accuracy on the audit sample fell from 92% to 78%.",
        ),
        ([seen(1)], [attempt(0), promotion(0), attempt(2, "failed")], "warn", "was refused, and support-v1 keeps serving"),
        ([seen(1)], [attempt(0), promotion(0), attempt(2), promotion(2, 2)], "unknown", "was renewed: support-v2 serves now"),
        ([seen(1, drift_status="logging_broken")], [attempt(0), promotion(0)], "warn", "cannot be told"),
        ([seen(1, drift_status="not_enough_data")], [attempt(0), promotion(0)], "unknown", "too little to tell"),
    ],
)
def test_the_first_sentence_says_how_the_adapter_is_doing(windows: list, entries: list, tone: str, words: str) -> None:
    summary = told(windows, entries).summary
    assert summary.tone == tone
    assert words in f"{summary.headline} {summary.lead}"
    assert pages.story_page(told(windows, entries), cards={}, commits={})


def test_a_ledger_written_long_after_the_windows_lies_beside_the_windows_known_then() -> None:
    """A demo: three days are measured in three hours of a later year."""
    late = "2027-06-01T{:02}:00:00Z"
    windows = [
        chronicle.seen(seen(day).record, Run("r", "1", int(parse_time(late.format(day)).timestamp() * 1000), {}, {}), {})
        for day in (1, 2, 3)
    ]
    entries = [attempt(1, at=late.format(0)), promotion(1, at=late.format(0)), ledger.Rollback(
        at=late.format(3), adapter="support", from_version=1, version=1, digest="d1", reason="try")]  # fmt: skip
    events = told(windows, entries).events
    at = {event.kind: event.at for event in events}
    assert at["promotion"] == from_stamp(entries[0].end)
    assert at["rollback"] == windows[-1].end
    assert events[-1].kind == "rollback"


def test_a_record_from_before_it_held_columns_is_read_from_the_metrics_of_its_run() -> None:
    record = history.record(1, version=1, accuracy=None, satisfaction=None, drift={"topic": 0.3})
    del record["columns"]
    run = Run("r", "1", 0, {}, {"drift.topic": 0.3, "drift.novelty": 0.1, "rows": 300})
    window = chronicle.seen(record, run, {"topic": 0.2, "novelty": 0.235})
    assert [(column.name, column.status) for column in window.columns] == [("novelty", "no_drift"), ("topic", "drift")]
    assert window.drift == pytest.approx(1.5)


def test_labels_too_young_are_not_known_yet_and_draw_no_point() -> None:
    window = seen(1, known=False)
    assert window.accuracy is None
    page = pages.story_page(told([window], [attempt(0), promotion(0)]), cards={}, commits={})
    assert "not yet known: its labels are too young" in page


def test_what_a_window_measured_is_told_in_its_own_unit() -> None:
    slices = {f"channel={n}": {"rows": n, "audited": 3, "right": 2} for n in range(20)}
    window = seen(
        1, relevance=0.31, estimated_accuracy=0.84, latency_p50=1200.0, latency_p95=4000.0, slices=slices, invalid=0.02
    )
    facts = dict(telling.window_facts(window))
    assert facts["likeness of question and answer"] == "0.31 (mean cosine)"
    assert facts["right, estimated without labels"] == "84%"
    assert facts["seconds to answer, middle and slow"] == "1.20 and 4.00"
    assert facts["channel=19"] == "19 messages, 2 of 3 checked right"
    assert "channel=0" not in facts
