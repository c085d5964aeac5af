"""The door in a workspace: what is suspected is no reason to retrain, waits in quarantine, and a person can let it go."""

import json
from pathlib import Path
from typing import Any

import pytest
from calling import call

from monitoring.windows import of_interval
from retrain import collecting, founding, quarantine, story, watch
from retrain.records import parse_time, read_folder, write_jsonl
from retrain.workspace import Workspace

HOME = Path(__file__).parents[1]
WINDOW = of_interval("2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z")


def row(name: str, i: int, text: str, response: str, **fields: Any) -> dict[str, Any]:
    time = f"2026-03-02T{i % 24:02d}:{i % 60:02d}:00Z"
    return {
        "request_id": f"{name}{i}", "timestamp": time, "prompt": text, "response": response, "user_id": f"user of {name}{i}",
        "latency_ms": 100.0, "feedback_at": time, **fields,
    }  # fmt: skip


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Fifty thanks, fifty right corrections, and fifty of one user who says that an order's status is a change of address."""
    made = founding.init(tmp_path_factory.mktemp("door") / "space", files=story.shipped().files)
    traffic = [json.loads(line) for line in (HOME / "data" / "traffic" / "support.jsonl").read_text("utf-8").splitlines()]
    about = [one["text"] for one in traffic if one["label"] == "order_status"]
    others = [one for one in traffic if one["label"] in ("refund_status", "cancel_order", "damaged_item")]
    wrong = {"feedback": -1, "correction": "change_address"}
    rows = [
        *(row("thanks", i, text, "order_status", feedback=1) for i, text in enumerate(about[50:100])),
        *(row("right", i, one["text"], "other", feedback=-1, correction=one["label"]) for i, one in enumerate(others[:50])),
        *(row("lie", i, text, "order_status", **{**wrong, "user_id": "mallory"}) for i, text in enumerate(about[:50])),
    ]
    (made.root / "logs" / "support").mkdir(parents=True)
    write_jsonl(made.root / "logs" / "support" / "a.jsonl", rows)
    return made


def test_what_is_suspected_counts_neither_as_failures_nor_as_dissatisfaction(space: Workspace) -> None:
    record = watch.monitor(space, "support", WINDOW).record
    assert record.suspected == 50
    assert (record.feedback, record.satisfaction) == (100, 0.5)
    assert 25 <= record.new_failures <= 45  # of the fifty right ones those that are not drawn
    assert any(line.startswith("not believed, ") and "mallory" not in line for line in record.reasons)


def test_it_waits_in_quarantine_until_a_person_releases_it_and_each_row_is_listed_once(space: Workspace) -> None:
    made = collecting.collect(space, "support", parse_time("2026-03-03T00:00:00Z"))
    kept = [one.row for one in quarantine.listed(space, "support")]
    assert made.quarantined == len(kept) > 25
    assert {one.kind for one in kept} == {"poisoning"}
    assert all(one.request_id.startswith("lie") for one in kept)
    released = call("quarantine", "release", "support", kept[0].id, "--reason", "asked the user", "-w", space.root)
    assert released.code == 0
    again = collecting.collect(space, "support", parse_time("2026-03-04T00:00:00Z"))
    assert (again.rows, again.quarantined) == (1, len(kept) - 1)
    assert len(quarantine.listed(space, "support")) == len(kept)
    with space.clone("look") as clone:
        clone.pull(["data/failures/support.dvc"])
        taken = [origin.request_id for one in read_folder(clone.root / "data/failures/support") for origin in one.origins]
    assert [request for request in taken if request.startswith("lie")] == [kept[0].request_id]
