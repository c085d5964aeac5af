"""Trial 39: the ledger moves while a canary runs, or the same path gets other bytes; caches are keyed by digest."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from canary import arms, ask, look, running, traffic, tries, written
from doors import Stub, try_out, until
from doors import running as serving

from retrain import jobs, ledger
from retrain.errors import IntegrityError
from retrain.records import Message, file_digest, verify_folder, write_json, write_text
from retrain.serving.door import Door
from retrain.serving.versions import Version
from retrain.workspace import Workspace

MOVE = """
import sys; sys.path[:0] = sys.argv[3].split(':')
from pathlib import Path
from doors import promote
from retrain.workspace import Workspace
promote(Workspace.open(Path(sys.argv[1])), int(sys.argv[2]))
"""


class Files(Stub):
    """Holds the bytes that it read when it loaded a version, by digest, and answers with them."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, str] = {}
        self.loads = self._read
        self.text = self._said

    def _read(self, version: Version) -> None:
        self.held[version.digest] = (version.folder / "adapter_model.safetensors").read_text()

    def _said(self, version: Version, messages: list[Message]) -> str:
        return self.held[version.digest]


def adapter(folder: Path, text: str) -> str:
    """An adapter's files; the digest."""
    write_text(folder / "adapter_model.safetensors", text)
    write_json(
        folder / "manifest.json",
        {"schema": 1, "files": {"adapter_model.safetensors": file_digest(folder / "adapter_model.safetensors")}},
    )
    return file_digest(folder / "manifest.json")


@pytest.fixture
def files(canary: Workspace, tmp_path: Path) -> Iterator[tuple[Door, str, Path, Files]]:
    """A door over real folders, whose challenger `support-v8` says `eight` to half of the users."""
    folders = {8: tmp_path / "v8"}
    digest = adapter(folders[8], "eight")
    champion = adapter(tmp_path / "v7", "seven")

    def fetch(workspace: Workspace, entries: Any, promotion: ledger.Promotion) -> Path:
        if promotion.version == 8:
            verify_folder(folders[8], promotion.digest)
            return folders[8]
        verify_folder(tmp_path / "v7", champion)
        return tmp_path / "v7"

    stub = Files()
    with serving(canary, stub, fetch=fetch) as (door, address):
        try_out(canary, 8, 50, against=7, digest=digest)
        tries(address, "support-v8")
        assert texts(address) == {"seven", "eight"}
        yield door, address, folders[8], stub


def texts(address: str) -> set[str]:
    return {answer.json()["choices"][0]["message"]["content"] for answer in traffic(address, range(30))}


def test_trial_39_a_promotion_by_another_process_ends_the_canary(canary: Workspace) -> None:
    with serving(canary, Stub()) as (_, address):
        try_out(canary, 8, 50, against=7)
        tries(address, "support-v8")
        assert set(arms(traffic(address, range(30)))) == {"champion", "challenger"}
        paths = [str(Path(__file__).parents[1]), *sys.path]
        subprocess.run([sys.executable, "-c", MOVE, str(canary.root), "9", ":".join(paths)], check=True)
        tries(address, None)
        answers = traffic(address, range(30))
        assert set(arms(answers)) == {"champion"}
        assert {answer.headers["x-retrain-model"] for answer in answers} == {"support-v9"}
        assert (look(canary).line, running(canary)) == (None, None)
        assert ask(address, user="u", model="support@challenger").status_code == 503


def test_trial_39_other_bytes_under_the_challengers_path_end_the_canary(
    canary: Workspace, files: tuple[Door, str, Path, Files]
) -> None:
    _, address, folder, stub = files
    write_text(folder / "adapter_model.safetensors", "evil!")
    tries(address, None)
    assert texts(address) == {"seven"}
    written(canary, 1, ".shadow")
    found = look(canary)
    assert found.judged is not None
    assert found.judged.outcome == "failure"
    assert "is not what its manifest.json says" in found.judged.reasons[0]
    assert isinstance(line := jobs.entries(canary, "support")[-1], ledger.Rollout)
    assert (line.action, line.outcome) == ("ended", "failed")
    assert "evil!" not in stub.held.values()


def test_trial_39_a_file_that_was_only_touched_changes_nothing(canary: Workspace, files: tuple[Door, str, Path, Files]) -> None:
    door, address, folder, _ = files
    os.utime(folder / "adapter_model.safetensors")
    door.versions.look()
    assert texts(address) == {"seven", "eight"}


def test_trial_39_bytes_that_change_while_they_are_loaded_never_answer(canary: Workspace, tmp_path: Path) -> None:
    digest, stub = adapter(tmp_path / "v8", "eight"), Files()
    read = stub._read

    def swapped(version: Version) -> None:
        if version.number == 8:
            write_text(version.folder / "adapter_model.safetensors", "evil!")
        read(version)

    stub.loads = swapped
    adapter(tmp_path / "v7", "seven")
    with serving(canary, stub, fetch=lambda workspace, entries, line: tmp_path / line.tag[-2:]) as (_, address):
        try_out(canary, 8, 50, against=7, digest=digest)
        written(canary, 1, ".shadow")
        assert texts(address) == {"seven"}
        assert "changed while they were loaded" in look(canary).told()[-1]


@pytest.mark.parametrize("fault", ["raises", "is damaged"])
def test_trial_37_a_challenger_that_does_not_load_is_taken_back_and_the_champion_serves(canary: Workspace, fault: str) -> None:
    stub = Stub()

    def loads(version: Version) -> None:
        if version.number == 8 and fault == "raises":
            raise MemoryError("no room")

    def fetch(workspace: Workspace, entries: Any, promotion: Any) -> Path:
        if promotion.version == 8 and fault == "is damaged":
            raise IntegrityError("adapter_model.safetensors does not match the manifest")
        return workspace.root

    stub.loads = loads
    with serving(canary, stub, fetch=fetch) as (_, address):
        try_out(canary, 8, 50, against=7)
        written(canary, 1, ".shadow")
        assert set(arms(traffic(address, range(20)))) == {"champion"}
        found = look(canary)
        assert found.judged is not None
        assert (found.judged.outcome, running(canary)) == ("failure", None)
        assert ("no room" if fault == "raises" else "does not match") in found.judged.reasons[0]


def test_trial_38_a_server_that_starts_anew_goes_on_where_the_ledger_is(canary: Workspace) -> None:
    """Whoever was with the challenger is with it again; paused, nobody is."""
    with serving(canary, Stub()) as (_, address):
        try_out(canary, 8, 50, against=7)
        tries(address, "support-v8")
        before = arms(traffic(address, range(40)))
    with serving(canary, Stub()) as (_, address):
        tries(address, "support-v8")
        assert arms(traffic(address, range(40))) == before
        try_out(canary, 8, 80, against=7, action="stepped", step=1)
        until(lambda: httpx.get(address + "/healthz").json()["adapters"]["support"]["tries"]["weight"] == 80)
        after = arms(traffic(address, range(40)))
        assert after.count("challenger") > before.count("challenger")
        assert all(a == "challenger" for b, a in zip(before, after, strict=True) if b == "challenger")
        try_out(canary, 8, 80, against=7, action="paused", step=1)
    with serving(canary, Stub()) as (_, address):
        tries(address, "support-v8")
        assert set(arms(traffic(address, range(40)))) == {"champion"}
