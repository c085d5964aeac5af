"""A champion answers simulated users, and from its tag, in another clone with nothing cached, every byte comes again."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import TELLS, another_version, rows, workspace

from retrain import base, jobs, ledger, release
from retrain.errors import IntegrityError
from retrain.records import Example, file_digest, read_json, read_jsonl, write_jsonl
from retrain.registry import Registry
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
def space(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("reproduce"), tiny)


@pytest.fixture(scope="module")
def trained(space: Workspace) -> "subprocess.CompletedProcess[str]":
    """`retrain repro` as a script runs it: no terminal anywhere."""
    return retrain(space, "repro", "support", "--end", "2026-03-02T00:00:00Z")


@pytest.fixture(scope="module")
def promoted(space: Workspace, trained: "subprocess.CompletedProcess[str]") -> Workspace:
    assert trained.returncode == 0, trained.stderr
    done = retrain(space, "promote", "support", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tag"] == "support-v1"
    return space


def retrain(space: Workspace, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "retrain.cli", *words, "-w", str(space.root)]
    return subprocess.run(command, capture_output=True, text=True)


def test_without_a_terminal_a_training_is_told_in_plain_lines(trained: "subprocess.CompletedProcess[str]") -> None:
    said = trained.stdout + trained.stderr
    assert "trained support: " in said
    assert trained.stdout.splitlines()[-1].startswith("passed: Passed: ")
    assert [line for line in said.splitlines() if "\r" in line or "\x1b" in line or re.search(r"\d+%\|", line)] == []


def test_what_is_done_already_is_nothing_to_do(promoted: Workspace) -> None:
    again = retrain(promoted, "promote", "support", "--json")
    assert (again.returncode, json.loads(again.stdout)["kind"]) == (4, "promotion")
    assert again.stderr.startswith("support-v1 is champion already, promoted ")
    attempt = retrain(promoted, "repro", "support", "--end", "2026-03-02T00:00:00Z")
    assert (attempt.returncode, attempt.stderr) == (4, "the attempt at 2026-03-02T00-00-00Z is in the ledger already\n")
    back = retrain(promoted, "rollback", "support")
    assert (back.returncode, back.stdout) == (4, "")
    assert "there is no earlier version" in back.stderr
    register = retrain(promoted, "register", "support", "--json")
    assert json.loads(register.stdout) == {"schema": 1, "adapter": "support", "version": 1, "tag": "support-v1"}
    kinds = [line["kind"] for line in json.loads(retrain(promoted, "history", "support", "--json").stdout)["lines"]]
    assert kinds == ["attempt", "promotion"]


def test_another_clone_of_the_tag_reproduces_every_byte(promoted: Workspace, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "RETRAIN_CACHE"}
    env |= {"ORIGIN": promoted.remote, "STORE": promoted.dvc_remote, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    done = subprocess.run(["bash", "-c", RECIPE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Running stage 'train@support'" in done.stdout
    assert "cached" not in done.stdout


def test_a_copy_of_the_base_that_was_cut_off_is_made_again_whole(promoted: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users(promoted, "support", [], [], [], random.Random(0))
    serving, folder = release.champion_folder(promoted, "support")

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
    done = retrain(
        promoted, "simulate", "support", "--start", "2026-03-02T00:00:00Z", "--end", "2026-03-03T00:00:00Z", "--traffic",
        str(tmp_path / "traffic.jsonl"), "--rows", "100", "--arriving-share", "0.25", "--poison", f"{known[0]}={known[1]}",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = Path(json.loads(done.stdout)["log"])
    assert log == promoted.root / "logs" / "support" / "2026-03-02T00-00-00Z.jsonl"
    logged = read_jsonl(log)
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


@pytest.fixture(scope="module")
def second(promoted: Workspace) -> ledger.Promotion:
    return another_version(promoted)


def test_the_guard_reads_mlflows_own_bytes_and_the_verdict(promoted: Workspace, second: ledger.Promotion) -> None:
    with pytest.raises(IntegrityError, match="support-v2 serves .* its verdict .* is passed on"):
        release.guard(promoted, "support")
    assert release.rollback(promoted, "support", version=1, reason="its verdict is another's").promotion.version == 1
    assert release.guard(promoted, "support") == "support-v1 serves, its bytes and its verdict match"
    release.champion_folder(promoted, "support")  # a good copy of our own must not hide what follows
    digest = release.champion_folder(promoted, "support")[0].digest
    manifests = (promoted.root / ".retrain/mlflow/artifacts").rglob("manifest.json")
    weights = next(path for path in manifests if file_digest(path) == digest).with_name("adapter_model.safetensors")
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="missing, added or changed"):
        release.guard(promoted, "support")
    weights.write_bytes(good)


def test_an_alias_that_went_astray_follows_the_ledger_again(promoted: Workspace, second: ledger.Promotion) -> None:
    registry = Registry.open(promoted.params.mlflow, promoted.root)
    before = jobs.entries(promoted, "support")
    for put_right in (
        lambda: release.promote(promoted, "support"),
        lambda: release.rollback(promoted, "support", version=None, reason=""),
        lambda: release.rollback(promoted, "support", version=1, reason=""),
    ):
        registry.set_alias("support", "champion", 2)
        with pytest.raises(IntegrityError, match="`retrain promote support` makes the alias follow the ledger"):
            release.guard(promoted, "support")
        done = put_right()
        assert (done.promotion.version, done.line, done.repaired) == (1, None, True)
        assert release.guard(promoted, "support").startswith("support-v1 serves")
    assert jobs.entries(promoted, "support") == before


def test_a_version_that_mlflow_lost_is_not_rolled_back_to(promoted: Workspace, second: ledger.Promotion) -> None:
    registry = Registry.open(promoted.params.mlflow, promoted.root)
    before = jobs.entries(promoted, "support")
    registry.client.delete_model_version("support", "2")
    with pytest.raises(IntegrityError, match="has no version 2 of support"):
        release.rollback(promoted, "support", version=2, reason="")
    assert jobs.entries(promoted, "support") == before
