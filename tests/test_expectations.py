"""What Great Expectations lets pass: nothing empty, nothing blank, and a sentence with counts for the rest."""

import re
from pathlib import Path

import browser
import pandas as pd
import pytest

from retrain.expectations import check_examples, check_logs
from retrain.records import Example


def log(**changes: object) -> pd.DataFrame:
    time = pd.Timestamp("2026-03-01T00:00:00Z")
    rows = [(f"r{i}", time, f"question {i}", "a", 1.0 if i % 2 else None) for i in range(20)]
    return pd.DataFrame(rows, columns=["request_id", "timestamp", "prompt", "response", "feedback"]).assign(**changes)


def test_a_good_window_passes_every_expectation() -> None:
    found = check_logs(log(), rows=20, min_rows=10)
    assert (found.passed, found.failures) == (True, ())
    assert found.evaluated == found.configured > 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "  "}, "prompt: 20 of 20"),
        ({"response": "\n"}, "response: 20 of 20"),
        ({"request_id": "same"}, "request_id: 20 of 20"),
        ({"response": None}, "response: 20 of 20"),
        ({"prompt": None}, "prompt: 20 of 20"),
        ({"feedback": 3.0}, "feedback: 20 of 20"),
    ],
)
def test_a_bad_column_is_named_with_counts(change: dict[str, object], words: str) -> None:
    found = check_logs(log(**change), rows=20, min_rows=10)
    assert not found.passed
    assert words in " ".join(found.failures)


def test_an_empty_table_and_too_few_rows_fail() -> None:
    empty = check_logs(log().head(0), rows=0, min_rows=1)
    assert "rows: 0 fails" in " ".join(empty.failures)
    assert not empty.passed and empty.evaluated == empty.configured
    assert not check_logs(log().head(9), rows=9, min_rows=10).passed
    assert not check_examples([], labels=()).passed


def test_examples_keep_to_the_labels_and_come_once() -> None:
    one = Example.of("hello", "a", source="seed")
    assert check_examples([one], labels=("a",)).passed
    assert "answer: 1 of 1" in " ".join(check_examples([one], labels=("b",)).failures)
    assert not check_examples([one, one], labels=("a",)).passed


def test_what_the_engine_counted_of_the_whole_window_is_judged_too() -> None:
    assert check_logs(log(), rows=10**6, min_rows=100, missing={"prompt": 0.01}).passed
    found = check_logs(log(), rows=10**6, min_rows=100, missing={"prompt": 0.2})
    assert "missing prompt: 0.2 fails" in " ".join(found.failures)
    assert not check_logs(log(), rows=5, min_rows=1).passed  # a sample larger than what it was drawn from


def test_a_rule_that_could_not_be_evaluated_passes_nothing() -> None:
    found = check_logs(log().drop(columns="feedback"), rows=20, min_rows=10)
    assert (found.passed, found.configured - found.evaluated) == (False, 1)
    assert "1 of 10 rules could not be evaluated" in found.failures


def test_data_docs_are_pages_of_the_newest_window_that_fetch_nothing(tmp_path: Path) -> None:
    for prompt in ("fine", " "):
        check_logs(log(prompt=prompt), rows=20, min_rows=10, docs=tmp_path)
    assert (tmp_path / "index.html").exists()
    assert len(list((tmp_path / "validations").rglob("*.html"))) == 2
    pages = [page.read_text("utf-8") for page in tmp_path.rglob("*.html")]
    assert not [page for page in pages if re.search(r'(src|href)="https?://(?!greatexpectations\.io)', page)]
    assert all("prefers-color-scheme" in page for page in pages)


@pytest.mark.slow
def test_a_browser_without_a_network_shows_the_rows_of_their_index(tmp_path: Path) -> None:
    check_logs(log(prompt="fine"), rows=20, min_rows=10, docs=tmp_path)
    with browser.page() as page:
        page.open((tmp_path / "index.html").as_uri())
        page.reads("Run Time")
        links = page.links("#section-1-content-block-2-1-body-table")
        assert [name for name in links.values() if "/validations/" in name]
