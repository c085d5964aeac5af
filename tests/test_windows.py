"""Windows are half-open, aware and in UTC."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from monitoring.windows import Window, following, last_full, of_interval, week_before
from retrain.errors import ParamsError

DAY = of_interval("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z")


def test_an_offset_is_kept_as_utc() -> None:
    berlin = of_interval("2026-03-01T01:00:00+01:00", datetime(2026, 3, 2, 1, tzinfo=timezone(timedelta(hours=1))))
    assert berlin == DAY
    assert berlin.start.tzinfo is UTC
    assert str(berlin) == "[2026-03-01T00-00-00Z, 2026-03-02T00-00-00Z)"


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("2026-03-01T00:00:00", "2026-03-02T00:00:00Z", "start .* without a time zone: add Z"),
        ("2026-03-01T00:00:00Z", "2026-03-02T00:00:00", "end .* without a time zone: add Z"),
        ("2026-03-01T00:00:00Z", "2026-03-01T01:00:00+01:00", "no length"),
        ("2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z", "swap them"),
        ("yesterday", "2026-03-01T00:00:00Z", "start is 'yesterday', must be ISO 8601"),
    ],
)
def test_what_is_no_window_is_refused_with_the_reason(start: str, end: str, words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        of_interval(start, end)


def test_a_naive_datetime_is_refused_not_guessed() -> None:
    naive = datetime(2026, 3, 1)
    with pytest.raises(ParamsError, match="without a time zone"):
        Window(naive, naive + timedelta(days=1))
    with pytest.raises(ParamsError, match="without a time zone"):
        last_full(naive, 24)


def test_the_last_full_window_has_ended_and_the_next_begins_where_it_ends() -> None:
    assert last_full(datetime(2026, 3, 2, 0, 0, tzinfo=UTC), 24) == DAY
    assert last_full(datetime(2026, 3, 2, 23, 59, 59, tzinfo=UTC), 24) == DAY
    assert following(DAY) == last_full(datetime(2026, 3, 3, 12, tzinfo=UTC), 24)
    assert last_full(datetime(2026, 3, 2, 0, 59, tzinfo=UTC), 0.5).length == timedelta(minutes=30)


def test_the_same_time_of_the_week_is_the_latest_one_that_the_span_has_whole() -> None:
    week = timedelta(days=7)
    span = Window(DAY.start, DAY.start + week)
    assert week_before(Window(DAY.start + week, DAY.end + week), span) == DAY
    assert week_before(Window(DAY.start + 3 * week, DAY.end + 3 * week), span) == DAY
    assert week_before(Window(DAY.start + week, DAY.end + week), Window(DAY.start, DAY.start + 2 * week)) == DAY
    assert week_before(Window(DAY.end, DAY.end + DAY.length), DAY) is None
    assert week_before(Window(DAY.start + week, DAY.end + week), Window(DAY.start + timedelta(hours=1), span.end)) is None
    long = Window(span.end, span.end + 2 * week)
    assert week_before(long, span) is None


def test_a_window_of_airflows_own_times_stays_aware_when_it_is_moved() -> None:
    import pendulum  # comes with Airflow

    start = pendulum.datetime(2026, 3, 1, tz="UTC")
    for window in (Window(start, start.add(days=1)), of_interval(start, start.add(days=1))):
        later = window.end + timedelta(hours=1)
        assert type(window.end) is datetime and later > datetime(2026, 3, 2, tzinfo=UTC)
