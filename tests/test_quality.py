"""Quality of a window: shares with their n, and nothing where nothing is known."""

import pandas as pd
import pytest

from monitoring import quality

COLUMNS = ["response", "feedback", "audit_label", "latency_ms", "confidence"]


def log(*rows: tuple[object, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def test_shares_count_only_the_rows_that_somebody_judged() -> None:
    found = quality.measure(
        log((" a ", 1, "a", 10.0, 0.9), ("a", -1, "b", 20.0, 0.7), ("b", 1, None, 30.0, None), ("", None, None, 40.0, None))
    )
    assert (found.rows, found.feedback, found.audited) == (4, 3, 2)
    assert (found.satisfaction, found.accuracy) == (pytest.approx(2 / 3), 0.5)
    assert found.accuracy_low == pytest.approx(0.0945, abs=1e-3)  # Wilson, 1 of 2
    assert found.accuracy_high == pytest.approx(0.9055, abs=1e-3)
    assert (found.latency_p50, found.confidence, found.blank) == (25.0, pytest.approx(0.8), 0.25)


def test_nothing_known_is_none_and_never_zero() -> None:
    found = quality.measure(log(("a", None, None, None, None)))
    assert (found.feedback, found.audited) == (0, 0)
    assert found.satisfaction is found.accuracy is found.accuracy_low is found.latency_p95 is found.confidence is None
    assert quality.measure(log()).blank is None
