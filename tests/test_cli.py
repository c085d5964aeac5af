"""The command line as people and programs meet it: help, one JSON object a call, exit codes, errors of one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from calling import call
from typer.testing import CliRunner

from retrain import cli, jobs, ledger, story, up, watch
from retrain import params as params_
from retrain.errors import DataError
from retrain.founding import init
from retrain.workspace import Workspace

ROOT = Path(__file__).parents[1]
TIMES = ("--start", "2026-03-02T00:00:00Z", "--end", "2026-03-03T00:00:00Z")
END = ("--end", "2026-03-02T00:00:00Z")


# --- help


def verbs() -> Iterator[tuple[str, ...]]:
    """Every command, as the words that call it."""
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        yield from ((name, sub) for sub in inner) if inner else [(name,)]


@pytest.mark.parametrize("verb", list(verbs()), ids=" ".join)
def test_the_help_of_every_verb_shows_an_example_of_it(verb: tuple[str, ...]) -> None:
    text = CliRunner().invoke(cli.app, [*verb, "--help"], env={"COLUMNS": "200"}).output
    assert f"Example: retrain {' '.join(verb)}" in text


# --- errors


OF_AN_ADAPTER = ("monitor", "why", "trigger", "collect", "repro", "register", "promote", "rollback", "history", "pages")


@pytest.mark.parametrize(
    "words",
    [*((verb, "suport") for verb in OF_AN_ADAPTER), ("labels", "list", "suport"), ("labels", "admit", "suport", "x"),
     ("quarantine", "list", "suport"), ("quarantine", "release", "suport", "x", "--reason", "y"),
     ("simulate", "suport", *TIMES, "--traffic", "t.jsonl")],
    ids=lambda words: " ".join(words[:2]),
)  # fmt: skip
def test_an_adapter_that_is_not_there_is_bad_usage_and_nothing_is_made(bare: Path, words: tuple[str, ...]) -> None:
    done = call(*words, "-w", bare)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: adapter 'suport' is not in params.yaml, which has support, orders\n"
    assert [path.name for path in bare.iterdir()] == ["params.yaml"]


def test_what_the_system_refuses_is_one_line_and_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("init", tmp_path / "file" / "ws")
    assert done.code == 1
    assert done.err == f"error: {tmp_path}/file/ws: Not a directory: a file is where a folder must be: move it away\n"


def test_a_full_disk_says_how_to_make_room() -> None:
    assert (
        cli._told(OSError(28, "No space left on device"))
        == "No space left on device: free some space, such as with `retrain data clean`"
    )
    assert cli._told(OSError("lost")) == "lost"


def test_a_reader_that_has_left_is_no_traceback(bare: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "retrain.cli", "history", "support", "-w", str(bare)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_workspace_that_is_a_file_is_bad_usage(bare: Path) -> None:
    done = call("status", "-w", bare / "params.yaml")
    assert done.code == 2
    assert "give the folder that holds params.yaml" in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "t.jsonl does not exist"),
        ("", "t.jsonl holds no rows: each line is"),
        ('{"text": "a"}\n', "row 1 has no text or no label"),
        ('{"text": "a", "label": "b"}\n', "has no label of support, which lists account_login"),
    ],
)
def test_traffic_that_cannot_be_sent_is_bad_usage(bare: Path, text: str | None, words: str) -> None:
    path = bare / "t.jsonl"
    if text is not None:
        path.write_text(text)
    done = call("simulate", "support", *TIMES, "--traffic", path, "-w", bare)
    assert done.code == 2
    assert words in done.err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "train.csv does not exist: --data names a folder"),
        (b"a,b\n1,2\n", "must have text and category"),
        (b"text,category\n\xff,x\n", "is not UTF-8 (byte 14): save the file as UTF-8"),
        ("folder", "cannot be read (Is a directory)"),
    ],
)
def test_csvs_that_cannot_be_read_are_bad_usage_and_leave_no_workspace(tmp_path: Path, data: Any, words: str) -> None:
    if data == "folder":
        (tmp_path / "train.csv").mkdir()
    elif data is not None:
        (tmp_path / "train.csv").write_bytes(data)
    done = call("demo", "--data", tmp_path, "--directory", tmp_path / "ws")
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "ws").exists()


# --- a workspace without a remote


def test_status_without_a_remote_tells_what_the_files_say(bare: Path) -> None:
    (bare / "out" / "support").mkdir(parents=True)
    shutil.copy(ROOT / "out" / "support" / "verdict.json", bare / "out" / "support")
    told = call("status", "-w", bare)
    assert told.code == 0
    assert "nothing is pushed from here" in told.out
    assert "support: no champion; out/support/verdict.json: passed\n  Passed: it answers" in told.out
    assert "orders: no champion; no verdict\n  run `dvc repro gate@orders` for one" in told.out
    data = json.loads(call("status", "-w", bare, "--json").out)
    assert (data["schema"], data["pushed"], data["adapters"]["support"]["verdict"]["status"]) == (1, False, "passed")


def test_history_without_a_remote_reads_the_ledger_that_lies_here(bare: Path) -> None:
    assert "no remote is named, so attempts are not recorded" in call("history", "support", "-w", bare).out
    line = ledger.Label(at="2026-03-02T00:00:00Z", adapter="support", label="gift_card", rows=3)
    ledger.append(bare, "support", line)
    assert json.loads(call("history", "support", "-w", bare, "--json").out) == {
        "schema": 1, "adapter": "support", "lines": [line.as_dict()],
    }  # fmt: skip


# --- what a call came to


ATTEMPT = {
    "at": "2026-03-02T01:00:00Z", "adapter": "support", "purpose": "first", "end": "2026-03-02T00-00-00Z", "commit": "c",
    "digest": "d", "dataset": "s", "audit": None, "champion": None, "why": "Could not tell: label 70 more rows.",
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "fresh", "code", "words"),
    [("passed", True, 0, ""), ("failed", True, 3, "the gate did not pass it"), ("not_evaluated", True, 4, "label 70 more rows"),
     ("passed", False, 4, "is in the ledger already")],
)  # fmt: skip
def test_the_exit_code_of_repro_tells_refused_from_could_not_tell(
    bare: Path, monkeypatch: pytest.MonkeyPatch, status: Any, fresh: bool, code: int, words: str
) -> None:
    attempt = ledger.Attempt(**ATTEMPT, status=status, promote=status == "passed")  # type: ignore[arg-type]
    monkeypatch.setattr(watch, "retrain", lambda *args, **more: jobs.Attempted(attempt, None, {}, fresh))
    done = call("repro", "support", "-w", bare, "--json")
    assert done.code == code
    assert words in done.err
    assert json.loads(done.out) == attempt.as_dict()


def test_several_windows_are_one_object_also_when_a_later_one_fails(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def monitor(space: Workspace, adapter: str, window: int, *, asked: bool) -> Any:
        assert not asked
        if window == 3:
            raise DataError("logs/support/3.jsonl is not JSON")
        return SimpleNamespace(record=SimpleNamespace(as_dict=lambda: {"rows": window}))

    monkeypatch.setattr(watch, "pending", lambda *args: [1, 2, 3])
    monkeypatch.setattr(watch, "monitor", monitor)
    done = call("monitor", "support", "-w", bare, "--json")
    assert json.loads(done.out) == {"schema": 1, "adapter": "support", "windows": [{"rows": 1}, {"rows": 2}]}
    assert (done.code, done.err) == (2, "error: logs/support/3.jsonl is not JSON\n")


def test_of_several_windows_only_the_one_that_was_asked_for_may_train(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def monitor(space: Workspace, adapter: str, window: Any, *, asked: bool) -> Any:
        return SimpleNamespace(record=SimpleNamespace(as_dict=lambda: {"asked": asked}))

    monkeypatch.setattr(watch, "pending", lambda space, adapter, window: ["missed", window])
    monkeypatch.setattr(watch, "monitor", monitor)
    done = call("monitor", "support", "--ask", "-w", bare, "--json")
    assert json.loads(done.out)["windows"] == [{"asked": False}, {"asked": True}]


def test_doctor_prints_one_object(bare: Path) -> None:
    told = json.loads(call("doctor", "-w", bare, "--json").out)
    assert (told["schema"], told["ok"]) == (1, all(found["ok"] is not False for found in told["findings"]))
    assert "git remote" in {found["name"] for found in told["findings"]}


# --- a workspace with logs


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """30 corrections to a listed label, 30 to one that waits."""
    files = {"params.yaml": story.params_text("support", ["order_status", "refund_status"])}
    made = init(tmp_path_factory.mktemp("cli") / "ws", files=files)
    time = "2026-03-01T10:00:00+00:00"
    rows = [
        {"request_id": f"{label}{i}", "timestamp": time, "prompt": f"{label} {i}", "response": "order_status", 
         "user_id": f"u{i}", "feedback": -1, "correction": label, "feedback_at": time}
        for i in range(30) for label in ("refund_status", "gift_card")
    ]  # fmt: skip
    (made.root / "logs" / "support").mkdir(parents=True)
    (made.root / "logs" / "support" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def test_a_second_collection_of_an_interval_has_nothing_to_do(space: Workspace) -> None:
    first = call("collect", "support", *END, "-w", space.root, "--json")
    assert first.code == 0, first.err
    assert json.loads(first.out)["fresh"]
    again = call("collect", "support", *END, "-w", space.root, "--json")
    assert json.loads(again.out) == {**json.loads(first.out), "fresh": False}
    assert (again.code, again.err.count("\n")) == (4, 1)
    assert "data/failures/support/2026-03-02T00-00-00Z.jsonl was collected before" in again.err


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("gift_crad", "did you mean 'gift_card' (corrections wait with it)?"),
        ("refund-status", "did you mean 'refund_status' (support lists it)?"),
        ("zebra", "waiting: gift_card. Give --new"),
    ],
)
def test_a_label_that_nobody_waits_for_is_refused_with_the_nearest(space: Workspace, label: str, words: str) -> None:
    head = space.behind()
    done = call("labels", "admit", "support", label, "-w", space.root)
    assert done.code == 2
    assert f"no waiting correction has the label {label!r}: {words}" in done.err
    assert space.behind() == head


def test_a_label_that_nobody_waits_for_is_admitted_when_it_is_meant(space: Workspace) -> None:
    words = ("labels", "admit", "support", "zebra", "-w", space.root)
    done = call(*words, "--new", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"schema": 1, "adapter": "support", "admitted": ["zebra"]}
    again = call(*words)
    assert (again.code, again.err) == (4, "support already lists zebra\n")


# --- up


def test_up_starts_no_mlflow_beside_a_server_that_params_name(bare: Path) -> None:
    ports = {"Airflow": 1, "Evidently": 2, "the pages": 3}
    space = Workspace(bare, params_.load(bare))
    assert [name for name, _, _ in up._commands(space, ports)] == ["Evidently", "the pages", "Airflow"]
    assert up._commands(space, {**ports, "MLflow": 4})[0][1][-1] == "4"
