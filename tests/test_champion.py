"""A champion answers simulated users, and from its tag, in another clone with nothing cached, every byte comes again."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import TELLS, rows, workspace

from retrain import base, jobs, watch
from retrain.records import Example, parse_time, read_json, read_jsonl, write_jsonl
from retrain.users import Users
from retrain.workspace import Workspace

RECIPE = """
set -euo pipefail
git clone --quiet --branch support-v1 "$ORIGIN" again
cd again
dvc remote add --quiet --local --default retrain "$STORE"
dvc pull --quiet $(git ls-files '*.dvc')
dvc repro --force --no-run-cache
git diff --exit-code
"""


@pytest.fixture(scope="module")
def promoted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    space = workspace(tmp_path_factory.mktemp("reproduce"), tiny)
    watch.retrain(space, "support", parse_time("2026-03-02T00:00:00Z"), say=lambda line: None)
    assert jobs.promote(space, "support").tag == "support-v1"
    return space


def test_another_clone_of_the_tag_reproduces_every_byte(promoted: Workspace, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "RETRAIN_CACHE"}
    env |= {"ORIGIN": promoted.remote, "STORE": promoted.dvc_remote, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    done = subprocess.run(["bash", "-c", RECIPE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Running stage 'train@support'" in done.stdout
    assert "cached" not in done.stdout


def test_a_copy_of_the_base_that_was_cut_off_is_made_again_whole(promoted: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users(promoted, "support", [], [], [], random.Random(0))
    serving, folder = jobs.champion_folder(promoted, "support")

    def half(source: Path, target: Path) -> None:
        Path(target).mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(shutil, "copytree", half)
        users._base(serving, folder)
    assert base.digest(users._base(serving, folder)) == read_json(folder / "run.json")["base_digest"]


def test_simulated_users_are_answered_by_the_champion_and_corrected_as_told(promoted: Workspace, tmp_path: Path) -> None:
    asked = [Example.model_validate_json(line) for line in rows(80, "golden", 9).splitlines()]
    known = sorted(TELLS.values())
    traffic = [{"text": row.question, "label": row.answer} for row in asked]
    traffic += [{"text": f"answer {i} a b", "label": "gift_card"} for i in range(30)]
    write_jsonl(tmp_path / "traffic.jsonl", traffic)
    command = [
        sys.executable, "-m", "retrain.cli", "simulate", "support", "--start", "2026-03-02T00:00:00Z", "--end",
        "2026-03-03T00:00:00Z", "--traffic", str(tmp_path / "traffic.jsonl"), "--rows", "100", "--arriving-share", "0.25",
        "--poison", f"{known[0]}={known[1]}", "-w", str(promoted.root),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logged = read_jsonl(promoted.root / "logs" / "support" / "2026-03-02T00-00-00Z.jsonl")
    told = {row["text"]: row["label"] for row in traffic}
    assert len(logged) == 100
    assert {row["model_version"] for row in logged} == {"support-v1"}
    assert {row["response"] for row in logged} <= set(known)
    new = [row for row in logged if told[row["prompt"]] == "gift_card"]
    assert len(new) == 25
    assert all(row["correction"] == "gift_card" for row in new)
    assert all(row["correction"] == known[1] for row in logged if told[row["prompt"]] == known[0])
    right = [row for row in logged if told[row["prompt"]] in known[1:] and row["response"] == told[row["prompt"]]]
    assert len(right) > 25
    assert not any("correction" in row for row in right)
