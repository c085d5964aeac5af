"""What Great Expectations lets pass: nothing empty, nothing blank, and a sentence with counts for the rest."""

import pandas as pd
import pytest

from retrain.expectations import check_examples, check_logs
from retrain.records import Example


def log(**changes: object) -> pd.DataFrame:
    time = pd.Timestamp("2026-03-01T00:00:00Z")
    rows = [(f"r{i}", time, f"question {i}", "a", 1.0 if i % 2 else None) for i in range(20)]
    return pd.DataFrame(rows, columns=["request_id", "timestamp", "prompt", "response", "feedback"]).assign(**changes)


def test_a_good_window_passes_every_expectation() -> None:
    found = check_logs(log(), min_rows=10)
    assert (found.passed, found.failures) == (True, ())
    assert found.evaluated > 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "  "}, "prompt: 20 of 20"),
        ({"response": "\n"}, "response: 20 of 20"),
        ({"request_id": "same"}, "request_id: 20 of 20"),
        ({"feedback": 3.0}, "feedback: 20 of 20"),
    ],
)
def test_a_bad_column_is_named_with_counts(change: dict[str, object], words: str) -> None:
    found = check_logs(log(**change), min_rows=10)
    assert not found.passed
    assert words in " ".join(found.failures)


def test_an_empty_table_and_too_few_rows_fail() -> None:
    assert "0 fails" in " ".join(check_logs(log().head(0), min_rows=10).failures)
    assert not check_logs(log().head(9), min_rows=10).passed
    assert not check_examples([], labels=()).passed


def test_examples_keep_to_the_labels_and_come_once() -> None:
    one = Example.of("hello", "a", source="seed")
    assert check_examples([one], labels=("a",)).passed
    assert "answer: 1 of 1" in " ".join(check_examples([one], labels=("b",)).failures)
    assert not check_examples([one, one], labels=("a",)).passed
