"""Which version answers while a challenger is tried, and what is copied to the other one.

The ledger says that a rollout runs and with which weight (`looks.running`); `versions` has loaded the challenger. Who is asked
what is drawn by hash, so that a conversation stays with its version, over restarts too, and a higher weight moves nobody back.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

from monitoring.failures import drawn
from retrain import clock, ledger
from retrain.errors import BusyError, RequestRefused
from retrain.records import unit_hash
from retrain.serving.logs import Call, Logs
from retrain.serving.protocol import Asked
from retrain.serving.versions import Backend, Tried, Version, Versions
from retrain.workspace import Workspace

COPIES = 8  # copies that are answered at once; more are dropped, and so are all while users' requests wait
IN_A_ROW = 5  # failures of the challenger, none of the champion between them: it gets no more requests until the ledger moves


@dataclass(frozen=True)
class Chosen:
    """The version that answers; `step` is what the log row carries where a rollout chose it."""

    version: Version
    arm: str
    step: str | None = None


class Arms:
    def __init__(self, workspace: Workspace, versions: Versions, backend: Backend, logs: Logs) -> None:
        self.versions, self.backend, self.logs = versions, backend, logs
        self.timeout = workspace.params.serve.timeout
        own = {name: workspace.params.of(name) for name in workspace.params.adapters}
        self.rates = {name: params.failures.audit_rate for name, params in own.items()}
        self.sticky = {name: params.promotion.rollout.sticky for name, params in own.items()}
        self._copies: set[asyncio.Task[None]] = set()
        self._failed: dict[str, int] = {}  # step -> failures of the challenger in a row

    def choose(self, model: str, asked: Asked, request: str) -> Chosen:
        """The version for a model's name; where the name is the adapter's, the challenger has its share. 404 as `resolve`."""
        version, arm = self.versions.resolve(model)
        tried = self._tried(model)
        if tried is None:
            return Chosen(version, arm)
        whole = tried.line.weight and self._failed.get(_step(tried.line), 0) < IN_A_ROW
        mine = whole and unit_hash(self._unit(model, asked, request), tried.version.digest) * 100 < tried.line.weight
        return Chosen(tried.version if mine else version, "challenger" if mine else arm, tried.line.key)

    def _tried(self, adapter: str) -> Tried | None:
        tried = self.versions.standings[adapter].tried if adapter in self.versions.standings else None
        return tried if tried and tried.line.action != "paused" else None

    def _unit(self, adapter: str, asked: Asked, request: str) -> str:
        """What stays with its version."""
        known = (asked.conversation, asked.user) if self.sticky[adapter] == "conversation" else (asked.user, asked.conversation)
        return next((unit for unit in known if unit), request)

    def seen(self, call: Call, outcome: str) -> None:
        """What became of a request: whether the challenger goes on, and whether the other version is asked too."""
        tried = self._tried(call.version.adapter)
        if tried is None or call.step != tried.line.key or outcome not in ("answered", "error", "timeout"):
            return
        step, failed = _step(tried.line), outcome != "answered"
        if call.arm == "challenger":
            self._failed[step] = self._failed.get(step, 0) + 1 if failed else 0
        elif failed and self._failed.get(step, 0) < IN_A_ROW:
            self._failed[step] = 0  # whatever it is that fails, it is not the challenger alone
        self._copy(call, tried)

    def _copy(self, call: Call, tried: Tried) -> None:
        """Ask the other version in the background: of a shadow always, of a canary where people label the request anyway."""
        other = tried.version if call.arm == "champion" else self.versions.standings[call.version.adapter].serves
        wanted = tried.line.weight == 0 or drawn(call.id, self.rates[call.version.adapter])
        if other is None or not wanted or call.asked.store is False:
            return
        copy = replace(call, version=other, arm="shadow", began=clock.now(), started=time.perf_counter())
        if len(self._copies) >= COPIES or self.backend.busy()[1]:
            self.logs.copied(copy, "dropped")
            return
        task = asyncio.get_running_loop().create_task(self._answer(copy))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _answer(self, copy: Call) -> None:
        answered: Any = None
        try:
            async with asyncio.timeout(self.timeout):
                answered = await self.backend.answer(copy.version, copy.asked.turns(), copy.asked.most, None)
            outcome = "answered"
        except TimeoutError:
            outcome = "timeout"
        except (BusyError, RequestRefused):
            outcome = "dropped"
        except Exception:  # whatever a model's code raises: it is counted, and nobody waits for it
            outcome = "error"
        self.logs.copied(copy, outcome, answered)


def _step(line: ledger.Rollout) -> str:
    """A step of one rollout: resumed, or begun anew, it is another."""
    return f"{line.key}@{line.at}"
