"""`retrain demo --data`, on a base that learns in seconds: every step, the scores on test.csv, the JSON."""

import csv
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import FAST, TELLS, message

pytestmark = pytest.mark.slow

RUN = """
import dataclasses, json, sys
from pathlib import Path
from retrain import demo, story
from retrain.edits import set_values

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
told = story.from_csv(folder, initial=3, arriving=1, per_intent=60, seed=0)
path = folder / "params.yaml"
path.write_text(told.files["params.yaml"])
set_values(path, settings)
told = dataclasses.replace(told, files={**told.files, "params.yaml": path.read_text()})
result = demo.run(folder / "demo", told, seed=0, corrected=1.0, say=print, poisoned=True)
print("\\n".join(demo.table(result)))
(folder / "demo.json").write_text(json.dumps(result))
"""


def pair(folder: Path) -> None:
    """train.csv and test.csv: one word of each message tells its category."""
    rng = random.Random(5)
    for name, rows in (("train", 260), ("test", 40)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            told = [[message(label, rng), label] for label in sorted(TELLS.values()) for _ in range(rows)]
            csv.writer(file).writerows([["text", "category"], *told])


@pytest.fixture(scope="module")
def ran(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo")
    pair(folder)
    settings = [*FAST, f"bases.smollm2.name={json.dumps(str(tiny.parent / 'raw'))}"]
    command = [sys.executable, "-c", RUN, str(folder), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {**json.loads((folder / "demo.json").read_text()), "said": done.stdout}


def test_each_step_runs_and_new_intents_lead_to_a_second_version(ran: dict[str, Any]) -> None:
    assert [step["name"][0] for step in ran["steps"]] == ["1", "2", "3", "4", "5", "s"]
    first, second = ran["versions"][:2]
    assert (first["version"], first["promoted"]) == (1, True)
    assert [window["decision"] for window in ran["windows"]][:4] == ["hold", "hold", "hold", "fire"], ran["said"]
    assert (second["version"], second["promoted"]) == (2, True), ran["said"]
    assert "guard_champion: ledger, alias and bytes agree" in ran["said"]


def test_scores_on_test_csv_are_of_rows_that_nothing_else_read(ran: dict[str, Any]) -> None:
    first, second = (version["test"] for version in ran["versions"][:2])
    assert (first["initial"]["n"], first["arriving"]["n"]) == (120, 40)
    assert first["arriving"]["exact"] == 0.0
    assert second["arriving"]["exact"] > 0.8
    assert set(ran["alternatives"]) == {"base", "prompted", "regression"}
    assert all(scores["test"] for scores in ran["alternatives"].values())
    assert {"schema", "versions", "alternatives", "windows", "verdicts", "steps", "seconds"} <= ran.keys()


def test_poisoned_corrections_are_stopped_at_the_door_and_by_the_gate_without_it(ran: dict[str, Any]) -> None:
    attack = ran["windows"][-2:]
    assert [window["decision"] for window in attack] == ["hold", "hold"], ran["said"]
    assert all(window["suspected"] > 0 for window in attack)
    door = ran["door"]
    assert door["poisoned"] > 100
    assert door["kept_out"] >= 0.9 * door["poisoned"]
    assert door["honest_kept_out"] <= 3
    last, verdict = ran["versions"][-1], ran["verdicts"][-1]
    assert (last["promoted"], verdict["status"]) == (False, "failed"), ran["said"]
    lost = {check["suite"] for check in verdict["checks"] if not check["passed"]}
    assert lost & {"golden", "retained", "repair"}
