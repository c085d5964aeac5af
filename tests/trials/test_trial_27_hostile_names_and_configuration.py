"""Trial 27: hostile run configuration, names and arguments: refused by an allow-list, and nothing in them is evaluated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from calling import call
from test_dags import RUN

from retrain import jobs, params
from retrain.errors import ParamsError, RetrainError
from retrain.process import git
from retrain.workspace import Workspace

HOSTILE = ("$(touch x)", "{{7*7}}", "../../x", "`touch x`", "x; touch x", "support\n", "--help me", "suppört", "a" * 300)
OF_AN_ADAPTER = ("repro", "register", "promote", "rollback", "reconcile", "history", "resume", "why", "collect")


def untouched(space: Workspace) -> bool:
    return not [path for place in (space.root, space.root.parent, Path()) for path in place.glob("x*")]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_before_anything_is_made(released: Workspace, name: str) -> None:
    head, state = released.remote_head(), git(released.root, "status", "--porcelain")
    for verb in OF_AN_ADAPTER:
        told = call(verb, "-w", released.root, "--", name)
        assert (told.code, "49" in told.out + told.err.replace(name, "")) == (2, False), (verb, told)
    for words in (("explain",), ("compare", "support-v1"), ("prune", "--keep", "1"), ("data", "show")):
        assert call(*words, "-w", released.root, "--", name).code == 2, words
    assert untouched(released)
    assert (released.remote_head(), git(released.root, "status", "--porcelain")) == (head, state)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_adapter_version_or_time_can_be_called_so(released: Workspace, name: str) -> None:
    text = (released.root / "params.yaml").read_text("utf-8").replace("  support:\n", f"  {json.dumps(name)}:\n", 1)
    with pytest.raises(ParamsError):
        params.parse(text, "params.yaml")
    for words in (("rollback", "--to", name), ("repro", "--end", name), ("pause", "--reason", "r", "--until", name)):
        assert call(words[0], "support", "-w", released.root, *words[1:]).code == 2
    assert untouched(released)


def test_a_hostile_reason_is_text_wherever_it_goes(released: Workspace) -> None:
    reason = "$(touch x) {{7*7}} `touch x` ../../x"
    assert call("pause", "support", "-w", released.root, "--reason", reason).code == 0
    assert jobs.entries(released, "support")[-1].reason == reason  # type: ignore[union-attr]
    assert reason in git(released.root, "log", "-1", "--format=%s", released.remote_head())
    assert call("resume", "support", "-w", released.root, "--reason", reason).code == 0
    assert untouched(released)


@pytest.mark.slow
def test_hostile_configuration_of_a_run_is_refused_and_nothing_is_evaluated(released: Workspace) -> None:
    at = "2026-03-05T00:00:00Z"
    wanted = [("retrain_support", at, {"end": name}) for name in HOSTILE]
    wanted += [("monitor_adapters", at, {"start": name, "end": name}) for name in HOSTILE]
    head = released.remote_head()
    command = [sys.executable, "-c", RUN, str(released.root), json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.split("SAID ")[1])
    assert len(said) == len(wanted)
    assert "success" not in said
    assert not [line for line in said if "49" in line]
    assert released.remote_head() == head
    assert untouched(released)


def test_a_remote_that_names_a_command_is_no_command(released: Workspace) -> None:
    for address in ("ext::sh -c 'touch x'", "--upload-pack=touch x"):
        hostile = Workspace(released.root, released.params.model_copy(update={
            "workspace": released.params.workspace.model_copy(update={"remote": address})
        }))  # fmt: skip
        with pytest.raises(RetrainError):
            jobs.entries(hostile, "support")
    assert untouched(released)
