"""A door on loopback in front of a backend that a test tells how to behave, and ledgers that a test writes."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from small import workspace

from retrain import jobs, ledger
from retrain.errors import BusyError
from retrain.params import load
from retrain.records import Message, read_jsonl
from retrain.serving.door import Door
from retrain.serving.engine import Answered
from retrain.serving.keys import Keys
from retrain.serving.routes import application
from retrain.serving.versions import Version
from retrain.workspace import Workspace

AT = "2026-03-01T00:00:00Z"
HELLO: list[Any] = [{"role": "user", "content": "where is my parcel"}]


class Stub:
    """Answers `order_status` after `wait` seconds, word by word where it streams; `loads` may raise or hang."""

    def __init__(self) -> None:
        self.wait, self.most = 0.0, 1000
        self.text: Callable[[Version, list[Message]], str] = lambda version, messages: "order_status"
        self.loads: Callable[[Version], None] = lambda version: None
        self.loaded: list[str] = []
        self.retained: set[str] = set()
        self.running = 0

    def load(self, version: Version) -> None:
        self.loads(version)
        self.loaded.append(version.name)

    def retain(self, digests: set[str]) -> None:
        self.retained = digests

    async def answer(self, version: Version, messages: list[Message], most: int | None, told: Any) -> Answered:
        if self.running >= self.most:
            raise BusyError("too many questions wait")
        self.running += 1
        try:
            text = self.text(version, messages)
            for piece in text.split("|"):
                await asyncio.sleep(self.wait)
                if told:
                    told(piece)
            return Answered(text.replace("|", ""), 0.9, False, 7, 3)
        finally:
            self.running -= 1

    def trouble(self) -> str | None:
        return None

    def note(self) -> str | None:
        return None

    def busy(self) -> tuple[int, int]:
        return self.running, 0

    def close(self) -> None:
        pass


def space_of(folder: Path, tiny: Path, *settings: str) -> Workspace:
    """A workspace with short times; nothing is trained in it."""
    quick = ("serve.follow_seconds=0.1", "serve.timeout=5", "failures.audit_rate=0.5", *settings)
    return workspace(folder, tiny, *quick)


def other(space: Workspace, *settings: str) -> Workspace:
    """The same workspace with other settings of this server."""
    return replace(space, params=load(space.root, settings))


def promote(space: Workspace, *versions: int, back: bool = False, adapter: str = "support") -> None:
    """Ledger lines, pushed: these versions served one after the other; `back`: the last one by a rollback."""
    with space.clone("test") as clone:
        for number in versions:
            entries = ledger.read(clone.root, adapter)
            state = ledger.state(entries)
            before = state.champion.version if state.champion else None
            if back:
                line: Any = ledger.Rollback(
                    at=AT, adapter=adapter, from_version=before or 0, version=number, digest=digest(number), reason="test"
                )
            else:
                line = ledger.Promotion(
                    at=AT, adapter=adapter, version=number, digest=digest(number), tag=f"{adapter}-v{number}",
                    commit=clone.git("rev-parse", "HEAD"), replaces=before,
                )  # fmt: skip
            ledger.append(clone.root, adapter, line)
        clone.commit([f"ledger/{adapter}.jsonl"], "test")
        clone.publish(lambda c: None, tries=1)


def try_out(space: Workspace, number: int, weight: int, *, against: int, action: Any = "begun", **more: Any) -> ledger.Rollout:
    """A line of a rollout, pushed: this version is tried against that one."""
    line = ledger.Rollout(
        **{
            "at": jobs.now(), "adapter": "support", "action": action, "version": number, "digest": digest(number),
            "commit": space.remote_head(), "against": against, "step": 0, "weight": weight, "hours": 1, "why": "test", **more,
        }
    )  # fmt: skip
    with space.clone("test") as clone:
        ledger.append(clone.root, "support", line)
        clone.commit(["ledger/support.jsonl"], "test")
        clone.publish(lambda c: None, tries=1)
    return line


def digest(number: int) -> str:
    return f"{number:064x}"


@contextmanager
def running(
    space: Workspace, backend: Any, *, keys: dict[str, str] | None = None, fetch: Any = None
) -> Iterator[tuple[Door, str]]:
    """(door, address) of a server in a thread, once it has looked at the ledger."""
    door = Door(space, backend, Keys(keys or {}))
    door.versions.fetch = fetch or (lambda workspace, entries, promotion: workspace.root)
    door.versions.start()
    server = uvicorn.Server(uvicorn.Config(application(door), port=0, log_level="critical", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started and door.versions.looked)
        yield door, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        door.close()


def until(holds: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def post(address: str, body: Any, path: str = "/v1/chat/completions", **headers: Any) -> httpx.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.post(address + path, content=data, headers=given, timeout=30)


def chat(address: str, **more: Any) -> httpx.Response:
    return post(address, {"model": "support", "messages": HELLO, **more})


def logged(space: Workspace, request: str) -> dict[str, Any] | None:
    rows = [row for path in (space.root / "logs" / "support").glob("*.jsonl") for row in read_jsonl(path)]
    return next((row for row in rows if row["request_id"] == request), None)
