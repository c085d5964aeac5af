"""Event-time windows: half-open intervals [start, end), always aware, always in UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from retrain.errors import ParamsError
from retrain.records import parse_time, plain, stamp

WEEK = timedelta(days=7)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class Window:
    """[start, end): aware datetimes, kept in UTC. ParamsError where it has no length, runs backwards or has no time zone."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            time = getattr(self, name)
            if time.tzinfo is None:
                raise ParamsError(
                    f"{name} is {time.isoformat()} without a time zone: add Z for UTC, or an offset such as +02:00"
                )
            object.__setattr__(self, name, plain(time))
        if self.start == self.end:
            raise ParamsError(f"the window starts and ends at {stamp(self.start)}: it has no length, so it holds no request")
        if self.start > self.end:
            raise ParamsError(f"the window starts at {stamp(self.start)} and ends before, at {stamp(self.end)}: swap them")

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def __str__(self) -> str:
        return f"[{stamp(self.start)}, {stamp(self.end)})"


def of_interval(start: str | datetime, end: str | datetime) -> Window:
    """A window from ISO 8601 text or datetimes, as an Airflow data interval or a command line gives them."""
    try:
        return Window(parse_time(start, "start"), parse_time(end, "end"))
    except ParamsError:
        raise
    except ValueError as error:  # parse_time's DataError: here it is an argument that is wrong, not a file
        raise ParamsError(str(error)) from error


def last_full(now: datetime, hours: float) -> Window:
    """The newest window of that many hours that has ended by `now` (aware); windows are counted from 1970 in UTC."""
    if now.tzinfo is None:
        raise ParamsError(f"now is {now.isoformat()} without a time zone")
    step = timedelta(hours=hours)
    end = EPOCH + (now.astimezone(UTC) - EPOCH) // step * step
    return Window(end - step, end)


def week_before(window: Window, span: Window) -> Window | None:
    """The window whole weeks earlier, as late as it lies inside a span; None where the span has not got all of it."""
    weeks = max(1, -((span.end - window.end) // WEEK))
    then = Window(window.start - weeks * WEEK, window.end - weeks * WEEK)
    return then if span.start <= then.start and then.end <= span.end else None


def following(window: Window) -> Window:
    """The window of the same length that begins where this one ends."""
    return Window(window.end, window.end + window.length)
