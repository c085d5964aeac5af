"""From versions to rows and from users to versions, on a workspace that trained twice for real: git, DVC, MLflow."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
from calling import call

from retrain import collecting, jobs, lineage
from retrain.errors import IntegrityError, ParamsError
from retrain.process import git
from retrain.records import parse_time
from retrain.store import Store
from retrain.userids import UserIds
from retrain.workspace import Clone, Workspace

ANN, BOB = "u-ann", "u-bob"
DAY = "2026-03-02"


@pytest.fixture(scope="module")
def space(learned: Callable[[Path], Workspace], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """v1 learned the seed, v2 also what Ann and Bob corrected."""
    made = learned(tmp_path_factory.mktemp("lineage"))
    small.ask(made, DAY, [ANN, BOB], 20, lambda user, i: f"{user} {i}")
    collecting.collect(made, "support", parse_time("2026-03-03T00:00:00Z"))
    small.promoted(made, "2026-03-03T00:00:00Z", "replace")
    return made


def asked(space: Workspace, *words: object) -> dict:
    called = call("data", *words, "-w", space.root, "--json")
    assert called.code == 0, called.err
    return json.loads(called.out)


def test_the_log_says_what_came_and_who_learned_it(space: Workspace) -> None:
    first, second = asked(space, "log", "support")["versions"]
    assert (first["came"], first["went"], first["used_by"]) == (sum(first["rows"].values()), 0, ["support-v1"])
    assert second["used_by"] == ["support-v2"]
    assert second["came"] == second["rows"]["failures"] > 0
    assert "known before 2026-03-03T00-00-00Z" in second["subject"]


def test_a_difference_has_the_rows_of_the_collection_by_source_label_and_reason(space: Workspace) -> None:
    found = asked(space, "diff", "support", "support-v1")
    rows = found["came"]["rows"]
    assert not found["went"]["rows"]
    assert found["came"]["by"]["source"] == {"failure": len(rows)}
    assert found["came"]["by"]["reason"] == {"correction": len(rows), "feedback": len(rows)}
    assert sum(found["came"]["by"]["label"].values()) == len(rows)
    back = asked(space, "diff", "support", "support-v2", "support-v1")
    assert [row["id"] for row in back["went"]["rows"]] == [row["id"] for row in rows]
    assert asked(space, "show", "support")["rows"] == asked(space, "show", "support", "2026-03-03T00-00-00Z")["rows"]


def test_a_user_is_followed_to_the_versions_that_learned_from_him_and_a_version_to_its_rows(space: Workspace) -> None:
    found = asked(space, "of-user", ANN)
    assert [(one["name"], one["serves"]) for one in found["learned_by"]] == [("support-v2", True)]
    hashed = UserIds.of(space)(ANN)
    learned = {
        row["id"]
        for row in asked(space, "rows", "support-v2")["rows"]
        if row["origins"] and row["origins"][0]["user"] == hashed
    }
    assert set(found["learned_by"][0]["rows"]) == learned != set()
    assert not any(row["origins"] for row in asked(space, "rows", "support-v1")["rows"])
    assert found["holds"]["support"]["failures"] >= len(learned)
    assert asked(space, "of-user", "nobody")["learned_by"] == []


def test_a_row_leads_back_to_its_request_and_its_collection(space: Workspace) -> None:
    row = next(row for row in asked(space, "rows", "support-v2")["rows"] if row["origins"])
    found = asked(space, "row", row["id"][:12])
    assert found["found"][0]["origins"][0]["request_id"].startswith(("u-ann-2026-03-02", "u-bob-2026-03-02"))
    assert found["found"][0]["collections"] == ["2026-03-03T00-00-00Z"]
    assert found["found"][0]["now"] == ["data/failures/support/2026-03-03T00-00-00Z.jsonl"]
    assert [one["name"] for one in found["learned_by"]] == ["support-v2"]


def test_old_versions_are_read_from_the_remote_where_the_cache_is_empty(space: Workspace) -> None:
    before = asked(space, "log", "support")
    cache, aside = space.root / ".dvc" / "cache" / "files", space.root / ".dvc" / "cache" / "aside"
    shutil.move(cache, aside)
    try:
        assert asked(space, "log", "support") == before
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        shutil.move(aside, cache)


def test_data_that_nobody_has_any_more_is_said_and_stops_no_listing(space: Workspace) -> None:
    store = Store(space)
    version = lineage.find(space, "support", "support-v2")
    blob = next(iter(store.files(version.commit, "data/failures/support").values()))
    held = [Path(odb.oid_to_path(blob.id)) for _, odb in store.places]
    for path in held:
        path.rename(path.with_suffix(".aside"))
    try:
        assert [step["rows"] is None for step in asked(space, "log", "support")["versions"]] == [False, True]
        called = call("data", "show", "support", "-w", space.root)
        assert called.code == 2
        assert "erased, cleaned away or never uploaded" in called.err
    finally:
        for path in held:
            path.with_suffix(".aside").rename(path)


@pytest.mark.parametrize("name", ["support-v9", "no-such", "../..", "", "$(touch x)", "-n", "ffffffff", "support-v0"])
def test_what_names_no_version_is_refused_with_what_there_is(space: Workspace, name: str) -> None:
    with pytest.raises(ParamsError):
        lineage.find(space, "support", name)
    with pytest.raises(ParamsError):
        lineage.promoted(space, name)


@pytest.mark.parametrize("start", ["", "xyz", "12", "f" * 21, "ffffffffffff"])
def test_what_names_no_row_is_refused(space: Workspace, start: str) -> None:
    with pytest.raises(ParamsError):
        lineage.find_row(space, Store(space), start)


def test_a_commit_says_what_was_collected_and_nothing_that_users_wrote(space: Workspace) -> None:
    message = git(space.root, "log", "-1", "--format=%B", lineage.find(space, "support", "2026-03-03T00-00-00Z").commit)
    held = asked(space, "show", "support")["by"]["part"]["failures"]
    assert message.splitlines()[0] == f"support: {held} failure cases known before 2026-03-03T00-00-00Z"
    assert f"{held} requests of 2 users" in message
    assert ANN not in message
    counted = [line.split(": ") for line in message.splitlines()[3:]]
    assert sum(int(n) for _, n in counted) == held
    assert {label for label, _ in counted} == set(small.TELLS.values())


def test_an_upload_that_lost_a_file_or_a_byte_is_never_committed(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = space.remote_head(), Clone.dvc
    small.ask(space, "2026-03-04", ["u-cid"], 8, lambda user, i: f"{user} {i}")

    def lossy(clone: Clone, *args: str, **kwargs: Any) -> str:
        """An upload that says it went well: the last object that came is empty."""
        said = real(clone, *args, **kwargs)
        if args == ("push",):
            came = max((space.root / ".retrain/dvc/files").rglob("*"), key=lambda path: (path.is_file(), path.stat().st_ctime))
            came.chmod(0o644)
            came.write_bytes(b"")
        return said

    monkeypatch.setattr(Clone, "dvc", lossy)
    with pytest.raises(IntegrityError, match="holds other bytes"):
        collecting.collect(space, "support", parse_time("2026-03-05T00:00:00Z"))
    assert space.remote_head() == before


def test_cleaning_up_removes_what_nothing_names_and_nothing_that_a_version_needs(space: Workspace) -> None:
    """After the upload that failed, above: its file was never committed."""

    def readable() -> list[bytes]:
        store, commits = Store(space), [lineage.promoted(space, name).commit for name in ("support-v1", "support-v2")]
        outs = {"prepare": ("data", "suites"), "train": ("adapter",), "evaluate": ("predictions",)}
        blobs = [
            blob for commit in commits for stage, names in outs.items() for name in names
            for blob in store.out(commit, f"{stage}@support", f"out/support/{name}").values()
        ]  # fmt: skip
        return [store.read(blob) for blob in blobs]

    def cleaned(*words: object) -> dict:
        return asked(space, "clean", "--remote", *words)["removed"]

    before, log = readable(), asked(space, "log", "support")
    assert not any(cleaned().values())  # all of it is young
    would = cleaned("--days", 0, "--dry-run")
    assert all(would.values())
    with space.lock("support", wait_seconds=1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "LOCK_WAIT", 0.1)
        assert cleaned("--days", 0, "--dry-run") == would
        assert call("data", "clean", "--days", 0, "-w", space.root).code == 5  # a job's objects are not yet named
    assert cleaned("--days", 0) == would
    assert not any(cleaned("--days", 0).values())
    assert readable() == before
    assert asked(space, "log", "support") == log
