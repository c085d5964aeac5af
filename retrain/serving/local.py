"""Backend `transformers`: models in this process, each base once, rows of all its adapters in one batch."""

import asyncio
import math
import threading
from collections import defaultdict
from collections.abc import Callable

from retrain.base import Residency, choose_device, digest
from retrain.errors import IntegrityError
from retrain.generate import lies
from retrain.records import Message
from retrain.serving.engine import Answered, Engine, Specialist
from retrain.serving.limits import check_size, check_tokens
from retrain.serving.versions import Version
from retrain.unpacked import base_of
from retrain.workspace import Workspace

CANNED = [Message(role="user", content="Hello")]


class Local:
    """Engines by the digest of their base and how it lies in memory, specialists by their own digest."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.settings = workspace.params.serve
        self._engines: dict[tuple[str, Residency], Engine] = {}
        self._ready: dict[str, tuple[Engine, Specialist]] = {}
        self._loads = 0  # that are under way; one that hangs stays
        self._making: dict[tuple[str, Residency], threading.Lock] = defaultdict(threading.Lock)
        self._swapping = threading.Lock()  # held for moments: nothing loads under it

    def load(self, version: Version) -> None:
        with self._swapping:
            if version.digest in self._ready:
                return
            self._loads += 1
        try:
            engine = self._engine(version)
            specialist = engine.specialist(version.folder, version.digest, version.most)
            ids, _ = engine.encode(specialist, CANNED)
            tried = engine.ask(specialist, ids, most=1, told=None).future.result(timeout=self.settings.timeout)
            if tried.confidence is None or not math.isfinite(tried.confidence):
                raise IntegrityError(f"{version.name} answers with numbers that are not finite: train it again")
            with self._swapping:
                self._ready = {**self._ready, version.digest: (engine, specialist)}
        finally:
            with self._swapping:
                self._loads -= 1

    def _engine(self, version: Version) -> Engine:
        folder = base_of(self.workspace, version.commit, version.folder)
        device = choose_device(self.workspace.params.of(version.adapter).train.device)
        key = (digest(folder), lies(folder, device, version.folder, {}))
        with self._swapping:
            making = self._making[key]
        with making:
            if key not in self._engines:
                made = Engine(folder, device=device, lies=key[1], batch=self.settings.batch, queue=self.settings.queue)
                with self._swapping:
                    self._engines = {**self._engines, key: made}
            return self._engines[key]

    def retain(self, digests: set[str]) -> None:
        with self._swapping:
            self._ready = {one: found for one, found in self._ready.items() if one in digests}
            if self._loads:  # what it loads may be the first that uses an engine
                return
            used = {id(engine) for engine, _ in self._ready.values()}
            idle = {key for key, engine in self._engines.items() if id(engine) not in used and not any(engine.busy)}
            closing = [self._engines[key] for key in idle]
            self._engines = {key: engine for key, engine in self._engines.items() if key not in idle}
        for engine in closing:
            engine.close()

    async def answer(
        self, version: Version, messages: list[Message], most: int | None, told: Callable[[str], None] | None
    ) -> Answered:
        engine, specialist = self._ready[version.digest]
        check_size(messages, self.settings.max_prompt_tokens)
        ids, whole = await asyncio.to_thread(engine.encode, specialist, messages)
        longest = max((len(path) - 1 for path in specialist.paths.values()), default=0)
        check_tokens(whole, most, longest, version.adapter, self.settings.max_prompt_tokens)
        row = engine.ask(specialist, ids, most=most or specialist.most, told=told)
        try:
            return await asyncio.wrap_future(row.future)
        finally:
            row.dropped = True

    def trouble(self) -> str | None:
        return None if all(engine.alive for engine in self._engines.values()) else "the engine has stopped: start it again"

    def note(self) -> str | None:
        return None

    def busy(self) -> tuple[int, int]:
        found = [engine.busy for engine in self._engines.values()]
        return sum(running for running, _ in found), sum(waiting for _, waiting in found)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
