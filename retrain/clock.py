"""What time it is where users are answered: the system's, or in a simulation what each request says.

`retrain serve` asks here. Whoever simulates the traffic of other days sets NAME in the environment of that child, and sends
HEADER, seconds since 1970, with each request.
"""

import os
import time
from contextvars import ContextVar

NAME = "RETRAIN_SIMULATED"
HEADER = "x-retrain-clock"
_request: ContextVar[float | None] = ContextVar("clock", default=None)


def simulated() -> bool:
    """Whether requests say what time it is."""
    return NAME in os.environ


def tell(seconds: float) -> None:
    """For the rest of this request it is so late."""
    _request.set(seconds)


def told() -> float | None:
    """What this request said."""
    return _request.get()


def now() -> float:
    """Seconds since 1970."""
    at = told()
    return time.time() if at is None else at
