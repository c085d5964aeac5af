"""The serving benchmark's arithmetic; what it measures needs real models and minutes (make bench)."""

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import serving
from parts.answering import Asked, Given


def asked(i: int) -> Asked:
    return Asked("support", "", f"question {i}", 8)


def test_every_question_is_asked_once_and_never_by_more_clients_than_told() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def ask(one: Asked) -> Given:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return Given(one, one.text, 0.01)

    questions = [asked(i) for i in range(20)]
    given, took = serving.load(ask, questions, 4)
    assert [one.text for one in given] == [one.text for one in questions]
    assert most <= 4
    assert took >= 0.05


def test_a_failed_request_is_counted_and_the_slowest_of_a_hundred_is_beyond_p99() -> None:
    given = [Given(asked(i), None if i == 3 else "yes", i / 100) for i in range(1, 101)]
    found = serving.told(given, 10.0)
    assert (found["failed"], found["rps"], found["p50"], found["p99"]) == (1, 10.0, 0.5, 0.99)
