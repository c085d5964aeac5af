"""What is looked for when somebody is erased, and what the trigger and the ledger make of it; trial 30 has the whole."""

import dataclasses
import json
from pathlib import Path

import deciding
import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from retrain import erasure, ledger, params, redact, sweep, tombstones
from retrain.errors import ParamsError
from retrain.params import Mlflow
from retrain.records import Example, Origin
from retrain.registry import Registry
from retrain.registry.redact import compact
from retrain.registry.redact import redact as redact_registry
from retrain.rows import row_of
from retrain.tombstones import Tombstone, Tombstones
from retrain.workspace import Workspace

AT = "2026-03-01T00:00:00Z"
ANN = Tombstones((Tombstone(at=AT, kind="user", hash=tombstones.keyed(b"k", "ann"), key="x"),), b"k")


def row(text: str, *users: str) -> Example:
    origins = tuple(Origin(request_id=f"r-{user}", user=user) for user in users)
    return Example.of(text, "a", source="failure", origins=origins)


def test_a_row_that_others_asked_too_stays_without_this_origin() -> None:
    mine, both, other = row("one", "ann"), row("two", "ann", "bob"), row("three", "bob")
    assert ANN.without([mine, both, other]) == [row("two", "bob"), other]
    assert redact.cleaned(mine.as_dict(), ANN.cover) is None
    assert redact.cleaned(both.as_dict(), ANN.cover)["origins"] == row("two", "bob").as_dict()["origins"]
    same = other.as_dict()
    assert redact.cleaned(same, ANN.cover) is same
    quarantined = {"request_id": "r", "example": mine.as_dict()}
    assert redact.cleaned(quarantined, ANN.cover) is None


def test_a_file_keeps_its_other_lines_as_they_are_and_a_review_goes_by_its_request(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    other = '{"request_id": "r-bob",  "answer": "a"}'
    file.write_text(f'{{"request_id": "r-ann", "answer": "a"}}\n{other}\n\nno JSON\n')
    sweep.clean_file(file, lambda origin: origin.get("request_id") == "r-ann")
    assert file.read_text() == f"{other}\nno JSON\n"
    sweep.clean_file(file, lambda origin: False)
    assert file.read_text() == f"{other}\nno JSON\n"


def test_a_user_is_recognised_raw_and_hashed_and_no_other_is() -> None:
    for user in ("ann", tombstones.keyed(b"k", "ann")):
        assert ANN.cover({"request_id": "r", "user": user})
    for user in ("Ann", "anna", "", None, "\ud800", "x" * 100_000):
        assert not ANN.cover({"request_id": "r", "user": user})
    assert not ANN.cover({"request_id": "ann"})


@pytest.mark.parametrize(
    ("word", "text", "clean"),
    [
        ("where is my parcel", 'a "where is my parcel" b', 'a "[erased]" b'),
        ("where is my parcel", "where is my parcels", "where is my parcels"),
        ("a <b> & c_d * long", f"| {redact.escape('a <b> & c_d * long')} |", "| [erased] |"),
        ('say "é" to all', json.dumps({"q": 'say "é" to all'}), '{"q": "[erased]"}'),
        ("hi", "this is hi, whom I hid", "this is hi, whom I hid"),
        ("hi", '{"q": "hi"} | hi | <td>hi</td>', '{"q": "[erased]"} | [erased] | <td>[erased]</td>'),
        (" ", "a b", "a b"),
    ],
)
def test_texts_are_erased_in_every_spelling_and_nothing_else_is(word: str, text: str, clean: str) -> None:
    assert redact.Traces(texts={word}).redacted(text) == clean


def test_an_erasure_opens_a_retraining_that_replaces_until_it_was_tried() -> None:
    opened = deciding.decided("quiet", erased=deciding.day(0), unread_audit=2000, audit_wrong=0.02)
    assert (opened.fire, opened.purpose) == (True, "replace")
    assert "rows were erased" in deciding.said(opened)
    few = deciding.decided("quiet", erased=deciding.day(0), unread_audit=3)
    assert (few.fire, "label" in deciding.said(few)) == (False, True)
    tried = {"erased": deciding.day(0), "unread_audit": 2000, "audit_wrong": 0.02, "attempts": (deciding.day(0.5),)}
    assert not deciding.decided("quiet", **tried).fire
    assert not deciding.decided("quiet").fire


def test_what_serves_owes_a_retraining_while_it_has_learned_erased_rows() -> None:
    one = ledger.Promotion(at=AT, adapter="support", version=1, digest="d1", commit="c", tag="support-v1", replaces=None)
    line = ledger.Erasure(
        at=AT, adapter="support", rows=1, versions=(1,), candidates=("d1",), after=None, tombstone="t", reason="r"
    )
    two = one.model_copy(update={"version": 2, "digest": "d2", "tag": "support-v2"})
    back = ledger.Rollback(at=AT, adapter="support", from_version=2, version=1, digest="d1", reason="r")
    assert ledger.owed([one, line]) == [line]
    assert ledger.owed([one, line, two]) == []
    assert ledger.owed([one, line, two, back]) == [line]
    assert ledger.describe(line) == f"{AT} 1 row erased on 2026-03-01, no longer reproducible (v1 used them): r"


def test_texts_on_an_mlflow_server_are_cleaned_and_adapters_are_left(tmp_path: Path) -> None:
    registry = Registry.open(Mlflow(uri=None, timeout=10), tmp_path)
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("run.json", "weights.bin"):
        (folder / name).write_bytes(b"ann" if name == "run.json" else b"\xff\xfeann")
    note = tmp_path / "card.md"
    note.write_text("| ann |")
    run = registry.start_training("support", {"why": '"ann"'})
    registry.finish(run, "FINISHED", {}, {}, [note, folder, folder / "weights.bin"])
    change = redact.Traces(users={"ann"}).redacted
    served = dataclasses.replace(registry, artifacts=None)  # as a server is asked, file by file
    assert redact_registry(served, "support", change) == 2
    assert registry.artifact(run, "card.md") == b"| [erased] |"
    assert registry.artifact(run, "weights.bin") == b"\xff\xfeann"
    assert redact_registry(served, "support", change) == 0
    database = tmp_path / ".retrain" / "mlflow" / "mlflow.db"
    assert compact(database)
    assert b'"ann"' not in database.read_bytes()


def test_a_key_is_made_once_kept_private_and_another_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRAIN_USER_KEY", raising=False)
    assert tombstones.read(tmp_path, tmp_path).lines == ()
    secret = tombstones.key(tmp_path, make=True)
    assert secret and tombstones.key(tmp_path, make=True) == secret
    assert (tmp_path / ".retrain" / "user.key").stat().st_mode & 0o077 == 0
    stone = Tombstone(at=AT, kind="user", hash=tombstones.keyed(secret, "ann"), key=tombstones.fingerprint(secret))
    tombstones.add(tmp_path, [stone])
    tombstones.add(tmp_path, [stone.model_copy(update={"kind": "request"})])
    found = tombstones.read(tmp_path, tmp_path)
    assert [line.kind for line in found.lines] == ["user", "request"]
    assert found.cover({"user": "ann"})
    (tmp_path / ".retrain" / "user.key").unlink()
    with pytest.raises(ParamsError, match="RETRAIN_USER_KEY"):
        tombstones.read(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "bad",
    [
        {"messages": ["x"]},
        {"example": "text"},
        {"row": 5},
        {"origins": ["s"], "request_id": "r"},
        {"messages": 5, "reasons": 5},
    ],
)
def test_a_row_of_another_shape_stops_no_erasure(bad: dict[str, object]) -> None:
    assert len(redact.read_row(bad)) == 3
    assert row_of(bad, "seed", "a.jsonl").question == ""
    assert redact.cleaned(bad, lambda origin: False) is bad
    assert sweep._origins(bad) in ([], [{"request_id": "r", "user": None}])


class Held:
    """A DVC object store of one folder."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder)
        self.fs = fsspec.filesystem("file")


@pytest.mark.parametrize("hold", [True, False])
def test_what_names_the_rows_stays_while_something_else_is_out_of_reach(tmp_path: Path, hold: bool) -> None:
    names = tmp_path / "files" / "ab" / "names"
    names.parent.mkdir(parents=True)
    names.write_text(json.dumps(row("one", "ann").as_dict()) + "\n")
    traces = redact.Traces(users={"ann"}, requests={"r-ann"}, texts={"one"})
    deleted, stayed = sweep.objects([("the cache", Held(tmp_path / "files"))], ANN.cover, traces, hold=hold)
    assert names.exists() == hold
    assert (deleted, [left.partition(",")[0] for left in stayed]) == (
        ({}, [f"the cache keeps {names}"]) if hold else ({"the cache": ["abnames"]}, [])
    )


def test_a_place_that_lists_nothing_is_told_from_one_that_can_be_searched(tmp_path: Path) -> None:
    class Web(LocalFileSystem):
        def find(self, path: str, **options: object) -> list[str]:
            raise NotImplementedError

    open_, closed = Held(tmp_path), Held(tmp_path)
    closed.fs = Web()
    assert sweep.listed([("a folder", open_), ("a web server", closed)]) == ([("a folder", open_)], ["a web server"])


def test_what_the_door_wrote_beside_the_log_is_named_with_how_much_it_is(bare: Path) -> None:
    rows = {".feedback": [{"request_id": "r-1", "user_id": "ann"}], ".shadow": [{"request_id": "r-2"}, {"request_id": "r-3"}]}
    for kind, lines in {**rows, ".uncounted": [{"request_id": "r-4", "user_id": ["ann"]}]}.items():
        folder = bare / "logs" / kind / "support"
        folder.mkdir(parents=True)
        (folder / "served-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines) + "half a li")
    told = erasure.beside_logs(Workspace.open(bare), redact.Traces(users={"ann"}, requests={"r-2", "r-3"}))
    assert [line.partition(" about")[0] for line in told] == [
        f"{bare}/logs/.feedback/support holds 1 line",
        f"{bare}/logs/.shadow/support holds 2 lines",
    ]


def test_verified_bytes_and_what_airflow_runs_with_are_no_texts_to_clean(tmp_path: Path) -> None:
    space = Workspace(tmp_path, params.load(Path(__file__).parents[1]))
    kept = ("mlflow/artifacts/1/adapter/run.json", "airflow/airflow.cfg", "dvc/files/x")
    cleaned = ("airflow/logs/task.log", "mlflow/artifacts/1/card.md", "reports/a.html")
    for name in (*kept, *cleaned):
        path = space.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    found = {path.relative_to(space.local).as_posix() for path in sweep._own_files(space)}
    assert found == set(cleaned)


def test_two_keys_that_differ_are_an_error_and_not_a_new_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tombstones.VARIABLE, raising=False)
    own = tombstones.key(tmp_path, make=True)
    assert own
    monkeypatch.setenv(tombstones.VARIABLE, own.decode())
    assert tombstones.key(tmp_path, make=False) == own
    monkeypatch.setenv(tombstones.VARIABLE, "another key than that one")
    with pytest.raises(ParamsError, match="two keys for user ids"):
        tombstones.key(tmp_path, make=False)
