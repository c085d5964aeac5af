"""Trial 22: no rows, one row, all null, all blank: "not enough data" or "logging broken", never a pass and never "no drift"."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from small import workspace

from monitoring.windows import Window
from retrain import watch
from retrain.records import write_jsonl
from retrain.workspace import Workspace

START = datetime(2026, 3, 1, tzinfo=UTC)
INPUTS: dict[str, list[dict[str, Any]]] = {
    "empty": [],
    "one-row": [{"prompt": "where is my parcel", "response": "order_status"}],
    "all-null": [{"prompt": None, "response": None}] * 200,
    "blank-answers": [{"prompt": f"question {i}", "response": " "} for i in range(200)],
    "blank-prompts": [{"prompt": "\t", "response": "order_status"}] * 200,
}


@pytest.fixture(scope="module")
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One day for each input, and a row elsewhere so that logs exist."""
    made = workspace(tmp_path_factory.mktemp("trial22"), tiny)
    for day, (name, rows) in enumerate(INPUTS.items()):
        time = (START + timedelta(days=day, hours=3)).isoformat()
        whole = [{"request_id": f"{name}{i}", "timestamp": time, **row} for i, row in enumerate(rows)]
        write_jsonl(made.root / "logs" / "support" / f"{name}.jsonl", whole)
    return made


@pytest.mark.parametrize(("day", "name"), list(enumerate(INPUTS)))
def test_a_window_that_tells_nothing_is_neither_a_pass_nor_no_drift(space: Workspace, day: int, name: str) -> None:
    start = START + timedelta(days=day)
    seen = watch.monitor(space, "support", Window(start, start + timedelta(days=1)))
    assert seen.record.drift_status in ("not_enough_data", "logging_broken", "not_computable")
    assert not seen.decision.fire
    assert not seen.record.violations
    assert any(line.startswith("data check: ") for line in seen.record.reasons)
