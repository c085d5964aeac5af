"""Trial 24: feedback poisoning, 300 rows from one user and 30 users acting as one.

Caps hold what one user may bring, what disagrees goes to quarantine, and with the door off a guardrail blocks the candidate.
"""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small import TELLS, message, workspace

from retrain import collecting, edits, quarantine, release, watch
from retrain.errors import NothingToDo
from retrain.records import Example, parse_time, read_folder, write_jsonl
from retrain.workspace import Clone, Workspace

pytestmark = pytest.mark.slow

LABELS = sorted(TELLS.values())
WRONG = {"order_status": "refund_status"}


def row(request: str, label: str, rng: random.Random, *, day: int, user: str | None, **fields: Any) -> dict[str, Any]:
    """A request answered wrongly and corrected rightly; fields say otherwise."""
    time = f"2026-03-{day:02d}T{rng.randrange(24):02d}:{rng.randrange(60):02d}:00Z"
    return {
        "request_id": request, "timestamp": time, "model_version": "support-v1", "prompt": message(label, rng),
        "response": next(other for other in LABELS if other != label), "latency_ms": 100.0, "user_id": user, "feedback": -1,
        "correction": label, "audit_label": label, "feedback_at": time, **fields,
    }  # fmt: skip


def honest(day: int, n: int = 300) -> list[dict[str, Any]]:
    rng = random.Random(day)
    return [row(f"honest-{day}-{i}", LABELS[i % 4], rng, day=day, user=f"u{rng.randrange(100)}") for i in range(n)]


def lies(day: int, n: int, users: int, rng: random.Random) -> list[dict[str, Any]]:
    """Rows about a parcel, each from one of so many users, corrected to what another says."""
    wrong = {"response": "order_status", "correction": "refund_status"}
    return [row(f"lie-{day}-{i}", "order_status", rng, day=day, user=f"evil{day}-{i % users}", **wrong) for i in range(n)]


def send(space: Workspace, name: str, rows: list[dict[str, Any]]) -> None:
    (space.root / "logs" / "support").mkdir(parents=True, exist_ok=True)
    write_jsonl(space.root / "logs" / "support" / f"{name}.jsonl", rows)


def collected(space: Workspace, day: int) -> list[Example]:
    """What the collection of that day's end takes."""
    end = parse_time(f"2026-03-{day + 1:02d}T00:00:00Z")
    with contextlib.suppress(NothingToDo):
        collecting.collect(space, "support", end)
    with space.clone("look") as clone:
        clone.pull(["data/failures/support.dvc"])
        rows = read_folder(clone.root / "data" / "failures" / "support")
    return [row for row in rows if row.origins[0].collected == f"{end:%Y-%m-%dT%H-%M-%SZ}"]


def requests(rows: list[Example], name: str) -> list[str]:
    return [origin.request_id for row in rows for origin in row.origins if origin.request_id.startswith(name)]


def why(space: Workspace, name: str) -> set[str]:
    """The reasons in quarantine of requests with that name, without the numbers."""
    found = [one.row for one in quarantine.listed(space, "support")]
    assert {one.kind for one in found} == {"poisoning"}
    assert len({one.id for one in found}) == len(found)  # each once, however often it comes back
    return {one.reason.partition(":")[0] for one in found if one.request_id.startswith(name)}


@contextlib.contextmanager
def door_off(space: Workspace) -> Iterator[None]:
    for setting in ("false", "true"):
        with space.clone("door") as clone:

            def write(clone: Clone, setting: str = setting) -> None:
                edits.set_values(clone.root / "params.yaml", [f"failures.poisoning.door={setting}"])
                clone.commit(["params.yaml"], f"door={setting}")

            write(clone)
            clone.publish(write, tries=2)
        if setting == "false":
            yield


@pytest.fixture(scope="module")
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A champion that serves, and honest traffic."""
    made = workspace(tmp_path_factory.mktemp("trial24"), tiny)
    first = watch.retrain(made, "support", parse_time("2026-03-01T00:00:00Z"), say=lambda line: None)
    assert first.verdict is not None
    assert first.verdict.promote, first.verdict.as_dict()
    release.promote(made, "support")
    return made


def test_300_false_rows_of_one_user_are_kept_out_and_300_right_ones_are_capped(space: Workspace) -> None:
    rng = random.Random(24)
    eager = [row(f"eager-2-{i}", LABELS[i % 4], rng, day=2, user="eager") for i in range(300)]
    send(space, "two", [*honest(2), *lies(2, 300, 1, rng), *eager])
    rows = collected(space, 2)
    assert requests(rows, "lie") == []
    assert len(requests(rows, "eager")) == space.params.failures.poisoning.user_window == 50
    assert 180 < len(requests(rows, "honest")) < 240  # all that are not drawn for the audit
    assert requests([one.row.example for one in quarantine.listed(space, "support") if one.row.example], "honest") == []
    assert len(why(space, "lie")) == len(why(space, "eager")) == 1


def test_thirty_users_acting_as_one_are_kept_out(space: Workspace) -> None:
    rng = random.Random(30)
    send(space, "three", [*honest(3), *lies(3, 90, 30, rng)])
    rows = collected(space, 3)
    assert requests(rows, "lie") == []
    assert len(requests(rows, "honest-3")) > 180
    assert why(space, "lie-3") == {"answered order_status, corrected to refund_status"}


def test_with_the_door_off_a_guardrail_blocks(space: Workspace) -> None:
    send(space, "four", [*honest(4), *lies(4, 300, 30, random.Random(4))])
    with door_off(space):
        rows = collected(space, 4)
        assert len(requests(rows, "lie-4")) > 180
        assert len(requests(rows, "lie-2")) > 180  # what was only suspected before comes in as well
    made = watch.retrain(space, "support", parse_time("2026-03-05T00:00:00Z"), say=lambda line: None)
    assert made.verdict is not None
    failed = {check.suite for check in made.verdict.checks if not check.passed}
    assert made.verdict.status == "failed"
    assert failed & {"golden", "retained"}, made.verdict.as_dict()
    assert not made.attempt.promote
