"""Which versions answer: what the ledger says, verified and loaded before it is pointed at, followed without a restart.

A version that cannot be fetched, verified or loaded changes nothing for users: the one before it serves on, and that is said.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from retrain import jobs, ledger, looks
from retrain.errors import IntegrityError, RequestRefused, RetrainError
from retrain.records import Message, parse_time, verify_folder
from retrain.registry import champion
from retrain.serving.engine import Answered
from retrain.workspace import Workspace

RETRY = 30.0  # seconds until a version that did not load is tried again, unless the ledger moves
ALIASES = ("champion", "previous", "challenger")


@dataclass(frozen=True)
class Version:
    """A verified version on this machine; caches are keyed by `digest`, never by name."""

    adapter: str
    number: int
    digest: str
    folder: Path
    created: int
    commit: str
    most: int  # tokens of an answer

    @property
    def name(self) -> str:
        return f"{self.adapter}-v{self.number}"


class Backend(Protocol):
    """What holds models and answers."""

    def load(self, version: Version) -> None:
        """Ready to answer when it returns; RetrainError where it never will be. Loading what is loaded is nothing. A load that
        hangs holds up neither the load of another version nor `retain`."""

    def retain(self, digests: set[str]) -> None:
        """Let go of all others; answers that have begun end as they began."""

    async def answer(
        self, version: Version, messages: list[Message], most: int | None, told: Callable[[str], None] | None
    ) -> Answered:
        """One answer; `told` hears the text as it grows, from any thread. Cancelled, its place is free."""

    def trouble(self) -> str | None:
        """Why nothing can be answered, or None."""

    def note(self) -> str | None:
        """What a person should mend although all is answered, or None."""

    def busy(self) -> tuple[int, int]:
        """(answers being written, requests that wait)."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Tried:
    """A challenger beside the champion: its version, loaded, and the ledger's line that says with which weight."""

    version: Version
    line: ledger.Rollout
    files: tuple[tuple[str, int, int], ...] = ()  # as they were when they were verified

    def check(self) -> None:
        """IntegrityError where the folder has other bytes than those that were verified."""
        if signature(self.version.folder) != self.files:
            verify_folder(self.version.folder, self.version.digest)


@dataclass(frozen=True)
class Standing:
    """An adapter's state: what the ledger says, what answers, earlier versions that stay loaded, and why the two differ."""

    should: ledger.Promotion | None = None
    serves: Version | None = None
    kept: tuple[Version, ...] = ()
    why: str | None = None
    tried: Tried | None = None

    @property
    def behind(self) -> bool:
        return (self.should.digest if self.should else None) != (self.serves.digest if self.serves else None)

    def loaded(self) -> list[Version]:
        return [version for version in (self.serves, self.tried and self.tried.version, *self.kept) if version]


def signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of an adapter's files; nothing where it has no manifest."""
    if not (folder / "manifest.json").exists():
        return ()
    found = ((path, path.stat()) for path in sorted(folder.iterdir()))
    return tuple((path.name, stat.st_size, stat.st_mtime_ns) for path, stat in found)


def verified(workspace: Workspace, entries: list[ledger.Entry], promotion: ledger.Promotion) -> Path:
    """A version's folder, its verdict passed on these very bytes and every byte hashed; IntegrityError where not."""
    champion.check_verdict(workspace, promotion)
    return champion.fetch(workspace, entries, promotion)


@dataclass
class Versions:
    """Follows the ledgers of a workspace's adapters in a thread of its own."""

    workspace: Workspace
    backend: Backend
    fetch: Callable[[Workspace, list[ledger.Entry], ledger.Promotion], Path] = verified
    refused: Callable[[ledger.Rollout, str], None] = lambda line, why: None  # told of a challenger that cannot answer
    see: Callable[[str], None] = lambda head: None  # told where the remote is, at each look
    aliases: Callable[[], list[str]] = list  # further names of models
    standings: dict[str, Standing] = field(default_factory=dict)
    ledger_error: str | None = None
    looked: bool = False  # once: before that nothing is known
    ended: float = 0.0  # when the last look did, by time.monotonic()
    _unsettled: dict[str, str] = field(default_factory=dict)  # adapters whose ledger cannot be followed, and why
    _loads: dict[str, threading.Thread] = field(default_factory=dict)  # the last one of a digest
    _before: set[str] = field(default_factory=set)
    _head: str | None = None
    _again: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.standings = {name: Standing() for name in self.workspace.params.adapters}
        self.ended = time.monotonic()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._follow, name="versions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def resolve(self, model: str) -> tuple[Version, str]:
        """(version, arm) for a model's name: an adapter, adapter@alias, or a version; RequestRefused (404) names all."""
        name, _, alias = model.partition("@")
        if name in self.standings and alias in ("", *ALIASES):
            standing = self.standings[name]
            if alias == "previous":
                found, arm = next(iter(standing.kept), None), "previous"
            elif alias == "challenger":
                found, arm = standing.tried.version if standing.tried else None, "exact"
            else:
                found, arm = standing.serves, "champion"
            if found is None:
                why = standing.why or (
                    f"{name} has no {alias or 'champion'} yet" if self.looked else "the server is still loading"
                )
                raise RequestRefused(why, status=503, code="model_not_ready", param="model", retry_after=2)
            return found, arm
        for standing in self.standings.values():
            for version in standing.loaded():
                if version.name == model:
                    return version, "champion" if version is standing.serves else "exact"
        raise RequestRefused(
            f"the model {model[:80]!r} does not exist here; there are {', '.join(self.names())}",
            status=404, code="model_not_found", param="model",
        )  # fmt: skip

    def names(self) -> list[str]:
        return [
            *self.standings,
            *self.aliases(),
            *(one.name for standing in self.standings.values() for one in standing.loaded()),
        ]

    # --- following

    def _follow(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self.workspace.params.serve.follow_seconds)

    def look(self) -> None:
        """Ask the ledgers once; what fails is kept as a sentence, and nothing is raised."""
        try:
            head = self.workspace.remote_head()
            self.see(head)
            again = time.monotonic() >= self._again and any(one.behind for one in self.standings.values())
            every = again or head != self._head
            for adapter in self.standings if every else tuple(self._unsettled):
                self._try_to_settle(adapter)
            if every:
                self._head, self._again = head, time.monotonic() + RETRY
            for adapter, standing in self.standings.items():
                self.standings[adapter] = replace(standing, tried=self._trusted(standing.tried))
            now = {one.digest for standing in self.standings.values() for one in standing.loaded()}
            self.backend.retain(now | self._before)  # a request may hold what was pointed at a moment ago
            self._before = now
            self.ledger_error, self.looked = "; ".join(self._unsettled.values()) or None, True
        except Exception as error:  # whatever it is: the next look must come
            self.ledger_error = f"the ledger cannot be read, what serves is as of the last look: {_words(error)}"
        self.ended = time.monotonic()

    def late(self) -> str | None:
        """A sentence where the look that is under way takes longer than its longest load should."""
        past, serve = time.monotonic() - self.ended, self.workspace.params.serve
        if past <= RETRY + serve.follow_seconds + serve.load_seconds:
            return None
        return f"the ledger was last followed {past:.0f} s ago: a look at it hangs, what serves is as of then"

    def _try_to_settle(self, adapter: str) -> None:
        """One adapter that cannot be followed holds up no other; it is tried again at each look."""
        try:
            self._settle(adapter)
            self._unsettled.pop(adapter, None)
        except Exception as error:
            self._unsettled[adapter] = why = f"the ledger cannot be read, {adapter} serves as before: {_words(error)}"
            self.standings[adapter] = replace(self.standings[adapter], why=why)

    def _settle(self, adapter: str) -> None:
        """Make what the ledger says serve; at a start, where that cannot be, the newest earlier version that can."""
        before, entries = self.standings[adapter], jobs.entries(self.workspace, adapter)
        wanted = ledger.good(entries)
        if not wanted:
            self.standings[adapter] = Standing()
            return
        serves, why = before.serves, []
        known = {version.digest: version for version in before.loaded()}
        for promotion in wanted:
            if serves and promotion.digest == serves.digest:
                break
            try:
                serves = known.get(promotion.digest) or self._loaded(entries, promotion)
                break
            except (RetrainError, OSError) as error:
                why.append(f"{promotion.tag} cannot serve: {error}")
                if serves:
                    break
        if why:
            why.insert(0, f"should serve {wanted[0].tag}, serves {serves.name if serves else 'nothing'}")
        now = Standing(wanted[0], serves, before.kept, "; ".join(why) or None)
        line = None if now.behind else looks.running(entries)  # held against what serves, or not tried
        if line and before.tried and before.tried.line.digest == line.digest:
            now = replace(now, tried=replace(before.tried, line=line))
        self.standings[adapter] = now  # from here on it answers
        now = replace(now, kept=self._kept(entries, wanted, serves, known))
        self.standings[adapter] = replace(now, tried=now.tried or self._try(entries, line, known))

    def _try(self, entries: list[ledger.Entry], line: ledger.Rollout | None, known: dict[str, Version]) -> Tried | None:
        """The challenger of a rollout; None where it cannot be loaded, which the next look is told."""
        if line is None:
            return None
        try:
            version = known.get(line.digest) or self._loaded(entries, line.promotion())
            return Tried(version, line, signature(version.folder))
        except (RetrainError, OSError) as error:
            self.refused(line, str(error))
            return None

    def _trusted(self, tried: Tried | None) -> Tried | None:
        try:
            if tried:
                tried.check()
            return tried
        except (RetrainError, OSError) as error:
            if tried:
                self.refused(tried.line, str(error))
            return None

    def _kept(
        self, entries: list[ledger.Entry], wanted: list[ledger.Promotion], serves: Version | None, known: dict[str, Version]
    ) -> tuple[Version, ...]:
        """Earlier versions that stay loaded; one that does not load is missed by nobody."""
        kept: list[Version] = []
        for promotion in wanted:
            if len(kept) == self.workspace.params.serve.keep or serves is None:
                break
            if promotion.digest != serves.digest:
                try:
                    kept.append(known.get(promotion.digest) or self._loaded(entries, promotion))
                except (RetrainError, OSError):
                    continue
        return tuple(kept)

    def _loaded(self, entries: list[ledger.Entry], promotion: ledger.Promotion) -> Version:
        """Fetched, verified and loaded within serve.load_seconds, in a thread that is left behind, alone, if it hangs."""
        limit = self.workspace.params.serve.load_seconds
        if (before := self._loads.get(promotion.digest)) and before.is_alive():
            raise RetrainError(f"it is being loaded since an earlier look, longer than serve.load_seconds ({limit:g})")
        done: Future[Version] = Future()

        def load() -> None:
            try:
                folder = self.fetch(self.workspace, entries, promotion)
                created = int(parse_time(promotion.at, "at").timestamp())
                most = champion.length_at(self.workspace, promotion)
                version = Version(
                    promotion.adapter, promotion.version, promotion.digest, folder, created, promotion.commit, most
                )
                files = signature(folder)
                self.backend.load(version)
                if signature(folder) != files:
                    raise IntegrityError(f"the files of {version.name} changed while they were loaded: {folder}")
                done.set_result(version)
            except Exception as error:  # whatever a model's code raises
                done.set_exception(error if isinstance(error, RetrainError) else RetrainError(_words(error)))

        self._loads[promotion.digest] = thread = threading.Thread(target=load, name=f"load {promotion.tag}", daemon=True)
        thread.start()
        try:
            return done.result(timeout=limit)
        except TimeoutError as error:
            raise RetrainError(f"it took longer than serve.load_seconds ({limit:g}) to load") from error


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, (RetrainError, OSError)) else f"{type(error).__name__}: {error}"
