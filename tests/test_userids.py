"""User ids leave the log store as keyed hashes only, or not at all."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitoring.sources import Privacy, open_logs
from retrain import params as params_
from retrain.errors import IntegrityError, ParamsError
from retrain.records import write_jsonl
from retrain.tombstones import KEY_FILE, VARIABLE
from retrain.userids import UserIds
from retrain.workspace import ORIGIN, Workspace

KEY = "0123456789abcdef"


@pytest.fixture
def space(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose remote lies inside it."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return Workspace(bare, params_.load(bare, [f"workspace.remote={ORIGIN}"]))


def test_a_workspace_of_one_machine_makes_one_key_that_only_its_owner_reads(space: Workspace) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = {ids.key for ids in pool.map(lambda _: UserIds.of(space), range(16))}
    path = space.local / KEY_FILE
    assert keys == {path.read_bytes()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [left.name for left in space.local.iterdir()] == [KEY_FILE]


def test_the_same_user_is_the_same_hash_and_another_key_another(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    one, again = UserIds.of(space)("ann@example.org"), UserIds.of(space)("ann@example.org")
    monkeypatch.setenv(VARIABLE, KEY + "x")
    other = UserIds.of(space)("ann@example.org")
    assert one == again and one is not None and "ann" not in one
    assert other not in (None, one)
    assert UserIds.of(space)(None) is None and UserIds.of(space)("") is None


def test_without_a_key_a_shared_workspace_keeps_no_user_and_goes_on(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    shared = Workspace(bare, params_.load(bare, ["workspace.remote=/srv/git/space.git"]))
    assert UserIds.of(shared)("ann") is None
    assert not shared.local.exists()


@pytest.mark.parametrize("key", ["", " " * 40, "short"])
def test_a_key_that_is_none_is_refused(space: Workspace, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(ParamsError, match=f"{VARIABLE} has"):
        UserIds.of(space)


def test_a_key_file_that_was_cut_is_a_fault_and_no_new_key(space: Workspace) -> None:
    UserIds.of(space)
    (space.local / KEY_FILE).write_text("")
    with pytest.raises(IntegrityError, match="holds no key"):
        UserIds.of(space)


def test_rows_and_samples_of_the_logs_hold_the_hash(space: Workspace) -> None:
    row: dict[str, Any] = {"timestamp": "2026-03-01T10:00:00Z", "prompt": "p", "response": "r"}
    folder = space.root / "logs" / "support"
    folder.mkdir(parents=True)
    write_jsonl(
        folder / "a.jsonl",
        [{**row, "request_id": "r1", "user_id": "ann", "conversation_id": "ann"}, {**row, "request_id": "r2"}],
    )
    from monitoring.windows import of_interval

    ids = UserIds.of(space)
    logs = open_logs(space.params.logs, root=space.root, adapter="support", privacy=Privacy(users=ids))
    rows = logs.rows(of_interval("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"))
    frames: list[pd.DataFrame] = [rows.frame(), rows.frame(["user_id"]), rows.where(lambda t: t.prompt == "p").sample(9, "")]
    assert [sorted(map(str, frame["user_id"])) for frame in frames] == [sorted(["None", str(ids("ann"))])] * 3
    assert [sorted(map(str, frame["conversation_id"])) for frame in frames[::2]] == [sorted(["None", str(ids("ann"))])] * 2
