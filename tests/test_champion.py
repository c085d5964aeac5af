"""A champion answers simulated users, and from its tag, in another clone with nothing cached, every byte comes again."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from calling import as_a_script
from small import TELLS, another_version, rows

from monitoring.windows import of_interval
from retrain import base, guard, jobs, ledger, release, train
from retrain.errors import IntegrityError
from retrain.params import Mlflow
from retrain.records import Example, file_digest, read_json, write_jsonl
from retrain.registry import Registry, load_champion
from retrain.unpacked import base_of
from retrain.userids import open_logs
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
def promoted(learned: Callable[[Path], Workspace], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return learned(tmp_path_factory.mktemp("champion"))


def retrain(space: Workspace, *words: str) -> "subprocess.CompletedProcess[str]":
    return as_a_script(*words, "-w", space.root)


def test_without_a_terminal_a_training_is_told_in_plain_lines(taught: Path) -> None:
    told = read_json(taught / "said.json")
    said = told["out"] + told["err"]
    assert "trained support: " in said
    assert told["out"].splitlines()[-1].startswith("passed: Passed: ")
    assert json.loads(told["promoted"])["tag"] == "support-v1"
    assert [line for line in said.splitlines() if "\r" in line or "\x1b" in line or re.search(r"\d+%\|", line)] == []


def test_what_is_done_already_is_nothing_to_do(promoted: Workspace) -> None:
    again = retrain(promoted, "promote", "support", "--json")
    assert (again.returncode, json.loads(again.stdout)["kind"]) == (4, "promotion")
    assert again.stderr.startswith("support-v1 is champion already, promoted ")
    attempt = retrain(promoted, "repro", "support", "--end", "2026-03-01T00:00:00Z")
    assert (attempt.returncode, attempt.stderr) == (4, "the attempt at 2026-03-01T00-00-00Z is in the ledger already\n")
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
    champion = load_champion("support", promoted)
    serving, folder = champion.promotion, champion.folder

    def half(source: Path, target: Path) -> None:
        Path(target).mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(shutil, "copytree", half)
        base_of(promoted, serving.commit, folder)
    assert base.digest(base_of(promoted, serving.commit, folder)) == read_json(folder / "run.json")["base_digest"]


def test_simulated_users_are_answered_by_the_champion_and_corrected_as_told(
    promoted: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Example.model_validate_json(line) for line in rows(80, "golden", 9).splitlines()]
    known = sorted(TELLS.values())
    traffic = [{"text": row.question, "label": row.answer} for row in asked]
    traffic += [{"text": f"answer {i} a b " + "c " * 5000 * (i == 0), "label": "gift_card"} for i in range(25)]
    monkeypatch.setenv("RETRAIN_SERVE_KEYS", f"{'0' * 64} nobody")  # of another server: this one is the simulation's own
    write_jsonl(tmp_path / "traffic.jsonl", traffic)
    done = retrain(
        promoted, "simulate", "support", "--start", "2026-03-02T00:00:00Z", "--end", "2026-03-03T00:00:00Z", "--traffic",
        str(tmp_path / "traffic.jsonl"), "--rows", "100", "--arriving-share", "0.25", "--poison", f"{known[0]}={known[1]}",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["log"]) == promoted.root / "logs" / "support"
    logs = open_logs(promoted, promoted.params.of("support"), "support")
    frame = logs.rows(of_interval("2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z")).frame()
    logged = [row.dropna().to_dict() for _, row in frame.iterrows()]
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


def stored(space: Workspace, digest: str) -> Path:
    """The folder in MLflow's store that holds these bytes."""
    manifests = (space.root / ".retrain/mlflow/artifacts").rglob("manifest.json")
    return next(path for path in manifests if file_digest(path) == digest).parent


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_the_guard_rolls_back_from_a_version_whose_verdict_is_anothers(promoted: Workspace, second: ledger.Promotion) -> None:
    found = guard.reconcile(promoted, "support")
    assert found.serving is not None
    assert found.serving.tag == "support-v1"
    assert "support-v2 may not serve: support-v2 has the bytes" in found.changes[0]
    assert "MLflow's alias champion: from v2 to v1; it happened between " in found.changes[1]
    line = jobs.entries(promoted, "support")[-1]
    assert isinstance(line, ledger.Rollback)
    assert (line.from_version, line.version) == (2, 1)
    assert line.reason.startswith("the guard: support-v2 may not serve")
    registry = Registry.open(promoted.params.mlflow, promoted.root)
    assert "alias champion: from v2 to v1" in registry.version("support", 2).tags["guard"]
    assert guard.reconcile(promoted, "support").changes == ()


def test_an_alias_that_went_astray_follows_the_ledger_again_and_it_is_said_when(
    promoted: Workspace, second: ledger.Promotion
) -> None:
    guard.reconcile(promoted, "support")
    registry = Registry.open(promoted.params.mlflow, promoted.root)
    before, looked = jobs.entries(promoted, "support"), registry.last_check("support")
    registry.set_alias("support", "champion", 2)
    told = json.loads(retrain(promoted, "reconcile", "support", "--json").stdout)
    assert told["serving"]["version"] == 1
    assert len(told["changes"]) == 1
    assert told["changes"][0].startswith(f"MLflow's alias champion: from v2 to v1; it happened between {looked} and ")
    for put_right in (
        lambda: release.promote(promoted, "support"),
        lambda: release.rollback(promoted, "support", version=None, reason=""),
        lambda: release.rollback(promoted, "support", version=1, reason=""),
    ):
        registry.set_alias("support", "champion", 2)
        done = put_right()
        assert (done.promotion.version, done.line, done.repaired) == (1, None, True)
        assert guard.reconcile(promoted, "support").changes == ()
    assert jobs.entries(promoted, "support") == before


def test_a_version_that_nobody_has_is_not_rolled_back_to(promoted: Workspace, second: ledger.Promotion) -> None:
    guard.reconcile(promoted, "support")
    registry = Registry.open(promoted.params.mlflow, promoted.root)
    before = jobs.entries(promoted, "support")
    registry.client.delete_model_version("support", "2")
    with pytest.raises(IntegrityError, match="manifest.json is not the one"):
        release.rollback(promoted, "support", version=2, reason="")  # DVC has other bytes at that commit
    assert jobs.entries(promoted, "support") == before
    found = guard.reconcile(promoted, "support")
    assert found.changes == ()
    assert found.notes[0].startswith("support-v2, which a rollback would need, is gone: ")


def test_bytes_that_changed_in_mlflows_store_are_registered_again_from_dvc(
    promoted: Workspace, second: ledger.Promotion
) -> None:
    guard.reconcile(promoted, "support")
    champion = load_champion("support", promoted)  # a good copy of our own must not hide what follows
    flip(stored(promoted, champion.digest) / "adapter_model.safetensors")
    found = guard.reconcile(promoted, "support")
    assert "support-v1 is registered again: " in found.changes[0]
    assert "adapter_model.safetensors missing, added or changed" in found.changes[0]
    line = jobs.entries(promoted, "support")[-1]
    assert isinstance(line, ledger.Restored)
    assert (line.version, line.digest) == (1, champion.digest)
    alias = Registry.open(promoted.params.mlflow, promoted.root).alias("support", "champion")
    assert alias is not None
    assert (alias.version, alias.digest) == (line.number, champion.digest)
    assert load_champion("support", promoted) == champion


# --- for whatever serves


def test_a_copy_that_was_damaged_here_is_fetched_again(promoted: Workspace) -> None:
    champion = load_champion("support", promoted)
    flip(champion.folder / "adapter_model.safetensors")
    assert load_champion("support", promoted) == champion
    train.verify(champion.folder)
    assert champion.run["labels"] == sorted(TELLS.values())


def test_the_champion_comes_from_dvc_while_mlflow_is_down_and_from_here_while_git_is(promoted: Workspace) -> None:
    champion = load_champion("support", promoted)
    shutil.rmtree(champion.folder)
    down = replace(promoted, params=promoted.params.model_copy(update={"mlflow": Mlflow(uri="http://127.0.0.1:9", timeout=1)}))
    assert load_champion("support", down) == champion
    origin = promoted.root / ".retrain" / "origin.git"
    origin.rename(origin.with_name("away.git"))
    try:
        found = load_champion("support", down)
    finally:
        origin.with_name("away.git").rename(origin)
    assert (found.digest, found.folder) == (champion.digest, champion.folder)
    assert "as of the last look at the ledger" in found.notes[0]


def test_a_champion_that_cannot_be_trusted_is_passed_over_for_the_last_good_one_which_is_said(promoted: Workspace) -> None:
    bad = another_version(promoted)
    found = load_champion("support", promoted)
    assert (found.name, found.notes[0].partition(":")[0]) == ("support-v1", f"{bad.tag} should serve, and does not")
