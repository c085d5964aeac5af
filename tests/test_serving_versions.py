"""What serves follows the ledger, and a version that cannot serve changes nothing for users (trials 37, 44, half of 39)."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from doors import Stub, digest, other, promote, running, space_of, until

from retrain.errors import IntegrityError, RetrainError
from retrain.serving import versions
from retrain.serving.door import Door
from retrain.serving.engine import Answered
from retrain.serving.local import Local
from retrain.serving.versions import Version
from retrain.workspace import Workspace

BODY = {"model": "support", "messages": [{"role": "user", "content": "where is my parcel"}]}


@pytest.fixture(scope="module")
def template(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace where nothing has been promoted; it can be copied, for all that it names lies inside."""
    return space_of(tmp_path_factory.mktemp("versions"), tiny).root


@pytest.fixture
def empty(template: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(template, tmp_path / "ws", symlinks=True))


@pytest.fixture
def space(empty: Workspace) -> Workspace:
    promote(empty, 1)
    return empty


@pytest.fixture
def door(space: Workspace, stub: Stub) -> Iterator[tuple[Door, str]]:
    with running(space, stub) as made:
        yield made


def ask(address: str) -> str:
    answer = httpx.post(address + "/v1/chat/completions", json=BODY, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])


def about(address: str) -> dict[str, Any]:
    return dict(httpx.get(address + "/healthz").json()["adapters"]["support"])


def test_a_promotion_and_a_rollback_are_followed_without_a_restart(
    door: tuple[Door, str], space: Workspace, stub: Stub
) -> None:
    address = door[1]
    assert ask(address) == "support-v1"
    promote(space, 2)
    until(lambda: ask(address) == "support-v2")
    promote(space, 1, back=True)
    until(lambda: ask(address) == "support-v1")
    assert stub.loaded == ["support-v1", "support-v2"]  # v1 had stayed


@pytest.mark.parametrize("fault", ["raises", "hangs", "is damaged"])
def test_trial_37_a_version_that_does_not_load_leaves_the_old_one_serving_and_says_so(
    space: Workspace, stub: Stub, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = threading.Event()

    def loads(version: Version) -> None:
        if version.number == 2 and fault == "raises":
            raise MemoryError("no room")
        if version.number == 2 and fault == "hangs":
            end.wait(60)

    def fetch(workspace: Workspace, entries: Any, promotion: Any) -> Path:
        if promotion.version == 2 and fault == "is damaged":
            raise IntegrityError("adapter_model.safetensors does not match the manifest")
        return workspace.root

    stub.loads = loads
    monkeypatch.setattr(versions, "RETRY", 0.1)  # on a busy machine v1 may take longer than that too, once
    seconds = 1 if fault == "hangs" else 60
    with running(other(space, f"serve.load_seconds={seconds}"), stub, fetch=fetch) as (_, address):
        until(lambda: about(address)["serves"] == "support-v1")
        promote(space, 2)
        until(lambda: "support-v2 cannot serve: " in (about(address)["why"] or ""))
        said = about(address)
        assert said["why"].startswith("should serve support-v2, serves support-v1; support-v2 cannot serve: ")
        assert (said["should_serve"], said["serves"], ask(address)) == ("support-v2", "support-v1", "support-v1")
        assert httpx.get(address + "/healthz").json()["status"] == "degraded"
        assert 'retrain_serve_behind{adapter="support"} 1.0' in httpx.get(address + "/metrics").text
        promote(space, 3)
        until(lambda: ask(address) == "support-v3")
        until(lambda: about(address)["why"] is None)
        end.set()


class Quick:
    """An engine that has every answer at once."""

    alive, busy = True, (0, 0)

    def specialist(self, *about: Any) -> None:
        pass

    def encode(self, *about: Any) -> tuple[list[int], int]:
        return [1], 1

    def ask(self, *about: Any, **more: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(Answered("x", 1.0, False, 1, 1))
        return SimpleNamespace(future=future)


def test_trial_37_a_load_that_hangs_in_this_process_stops_neither_a_rollback_nor_a_promotion(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, end = Local(other(space, "serve.load_seconds=0.3")), threading.Event()
    earlier = threading.enumerate()
    monkeypatch.setattr(versions, "RETRY", 0.1)
    monkeypatch.setattr(local, "_engine", lambda version: end.wait(30) and None if version.number == 2 else Quick())
    with running(local.workspace, local) as (door, address):
        for number, back in ((2, False), (1, True), (2, False), (3, False)):
            promote(space, number, back=back)
            until(lambda number=number: about(address)["should_serve"] == f"support-v{number}")
            if number == 2:
                until(lambda: "longer than serve.load_seconds" in (about(address)["why"] or ""))
            else:
                until(lambda number=number: about(address)["serves"] == f"support-v{number}")
            here = [thread for thread in threading.enumerate() if thread not in earlier]
            assert sum(thread.name == "load support-v2" for thread in here) == 1
        end.set()
        assert door.versions.late() is None


def test_whatever_a_look_meets_the_next_one_comes(door: tuple[Door, str], space: Workspace, stub: Stub) -> None:
    def raises(digests: set[str]) -> None:
        monkey.undo()
        raise KeyError("data")

    monkey = pytest.MonkeyPatch()
    monkey.setattr(stub, "retain", raises)
    until(lambda: stub.retain is not raises)
    promote(space, 2)
    until(lambda: ask(door[1]) == "support-v2")
    until(lambda: httpx.get(door[1] + "/healthz").json()["status"] == "ok")


def test_a_damaged_ledger_holds_up_no_other_adapter(space: Workspace, stub: Stub) -> None:
    adapters = {**space.params.adapters, "second": space.params.adapters["support"]}
    both = replace(space, params=space.params.model_copy(update={"adapters": adapters}))
    with space.clone("test") as clone:
        path, line = clone.root / "params.yaml", "  second: {base: smollm2, task: classification, labels: [a, b]}"
        path.write_text(path.read_text().replace("\n  support:\n", f"\n{line}\n  support:\n", 1))
        clone.commit(["params.yaml"], "test")
        clone.publish(lambda c: None, tries=1)
    promote(space, 1, adapter="second")
    with running(both, stub) as (_, address):
        promote(space, 2)
        with space.clone("test") as clone:
            ledger = clone.root / "ledger" / "support.jsonl"
            whole = ledger.read_text()
            ledger.write_text(whole + "{\n")
            clone.commit(["ledger/support.jsonl"], "damaged")
            clone.publish(lambda c: None, tries=1)
        promote(space, 2, adapter="second")
        until(lambda: httpx.get(address + "/healthz").json()["adapters"]["second"]["serves"] == "second-v2")
        said = httpx.get(address + "/healthz").json()
        assert said["status"] == "degraded"
        assert "support serves as before" in said["notes"][0]
        assert ask(address) in ("support-v1", "support-v2")


def test_a_look_that_hangs_is_told(door: tuple[Door, str], stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(versions, "RETRY", -120.0)  # less serve.load_seconds: late at once
    monkeypatch.setattr(stub, "retain", lambda digests: end.wait(20))
    until(lambda: httpx.get(door[1] + "/healthz").json()["status"] == "degraded")
    assert "a look at it hangs" in httpx.get(door[1] + "/healthz").json()["notes"][0]
    end.set()


def test_a_server_that_starts_on_a_version_it_cannot_load_serves_the_one_before(space: Workspace, stub: Stub) -> None:
    def loads(version: Version) -> None:
        if version.number == 2:
            raise RetrainError("weights that are not finite")

    stub.loads = loads
    promote(space, 2)
    with running(space, stub) as (_, address):
        assert ask(address) == "support-v1"
        assert "should serve support-v2, serves support-v1" in about(address)["why"]


def test_without_a_champion_the_door_says_so_and_answers_once_there_is_one(empty: Workspace, stub: Stub) -> None:
    with running(empty, stub) as (_, address):
        answer = httpx.post(address + "/v1/chat/completions", json=BODY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["error"]["message"] == "support has no champion yet"
        promote(empty, 1)
        until(lambda: about(address)["serves"])
        assert ask(address) == "support-v1"


def test_a_ledger_that_cannot_be_read_changes_nothing_and_is_told(door: tuple[Door, str], space: Workspace) -> None:
    address, origin = door[1], space.local / "origin.git"
    origin.rename(space.local / "gone.git")
    until(lambda: httpx.get(address + "/healthz").json()["status"] == "degraded")
    assert ask(address) == "support-v1"
    assert "the ledger cannot be read" in httpx.get(address + "/healthz").json()["notes"][0]
    (space.local / "gone.git").rename(origin)
    until(lambda: httpx.get(address + "/healthz").json()["status"] == "ok")


def length(root: Path, tokens: int) -> None:
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("task: classification", f"task: classification\n    max_new_tokens: {tokens}", 1))


def test_an_answer_is_as_long_as_it_was_judged_at_and_not_as_the_checkout_has_it(space: Workspace, stub: Stub) -> None:
    with space.clone("test") as clone:
        length(clone.root, 9)
        clone.commit(["params.yaml"], "shorter")
        clone.publish(lambda c: None, tries=1)
    promote(space, 2)
    length(space.root, 33)
    with running(other(space, "serve.follow_seconds=0.1"), stub) as (door, _):
        assert door.workspace.params.adapter("support").max_new_tokens == 33
        until(lambda: door.versions.standings["support"].kept)
        standing = door.versions.standings["support"]
        assert standing.serves is not None
        assert (standing.serves.most, standing.kept[0].most) == (9, 16)


def test_what_no_longer_serves_is_let_go(space: Workspace, stub: Stub) -> None:
    promote(space, 2, 3, 4)
    with running(other(space, "serve.keep=1", "serve.follow_seconds=0.1"), stub) as (door, _):
        until(lambda: len(door.versions.standings["support"].kept) == 1)
        promote(space, 5)
        until(lambda: len(door.versions.standings["support"].kept) == 1 and digest(5) in stub.retained)
        until(lambda: digest(3) not in stub.retained)
        assert stub.retained == {digest(4), digest(5)}


def test_a_swap_under_load_fails_no_request_and_names_the_version_that_answered(
    door: tuple[Door, str], space: Workspace, stub: Stub
) -> None:
    address = door[1]
    stub.text, stub.wait = (lambda version, messages: version.name), 0.01
    end, found = threading.Event(), []

    def load() -> None:
        with httpx.Client(timeout=30) as client:
            while not end.is_set():
                answer = client.post(address + "/v1/chat/completions", json=BODY)
                found.append(
                    (answer.status_code, answer.json().get("model"), answer.json()["choices"][0]["message"]["content"])
                )

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in (2, 3, 4):
        promote(space, number)
        until(lambda number=number: found and found[-1][1] == f"support-v{number}")
    end.set()
    for thread in threads:
        thread.join()
    assert {status for status, _, _ in found} == {200}
    assert [one for one in found if one[1] != one[2]] == []
