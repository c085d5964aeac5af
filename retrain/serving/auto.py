"""`model: "auto"`: the router that the ledger names, verified before it is used, and where it sends a request.

A router that cannot be fetched or verified, or that names an adapter which is not here, changes nothing: the one before it
routes on, and `/healthz` says so. It is loaded in a thread of its own, so that a store that hangs holds up no version.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any

from retrain import routes
from retrain.errors import IntegrityError, RequestRefused, RetrainError
from retrain.records import parse_time
from retrain.routing import NAME, PROBES, Router
from retrain.serving.protocol import Asked, model_card
from retrain.serving.versions import RETRY
from retrain.workspace import Workspace


@dataclass(frozen=True)
class Routed:
    """Where a request went: `route` is auto, or fallback where it was for no specialist."""

    adapter: str
    route: str
    probability: float  # of the likeliest specialist
    digest: str

    def logged(self) -> dict[str, Any]:
        return {"route": self.route, "probability": round(self.probability, 4), "router": self.digest[:12]}

    def headers(self) -> dict[str, str]:
        return {"x-retrain-route": self.route, "x-retrain-route-probability": f"{self.probability:.4f}"}


@dataclass(frozen=True)
class _Serves:
    line: routes.Fitted
    router: Router


class Auto:
    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.rules = workspace, workspace.params.router.get("auto")
        self.should: routes.Fitted | None = None
        self.why: str | None = None
        self._serves: _Serves | None = None
        self._looked = self.rules is None
        self._head: str | None = None
        self._again = 0.0
        self._thread: threading.Thread | None = None

    @property
    def serves(self) -> routes.Fitted | None:
        return self._serves.line if self._serves else None

    @property
    def behind(self) -> bool:
        return (self.should.digest if self.should else None) != (self.serves.digest if self.serves else None)

    def names(self) -> list[str]:
        return [NAME] if self._serves else []

    # --- following

    def see(self, head: str) -> None:
        """The remote is at this commit: look at its ledger where that is news, or what it said is not yet so."""
        again = time.monotonic() >= self._again and (self.why is not None or self.behind)
        if self.rules is None or (head == self._head and not again) or (self._thread and self._thread.is_alive()):
            return
        self._head, self._again = head, time.monotonic() + RETRY
        self._thread = threading.Thread(target=self._look, args=(head,), name="router", daemon=True)
        self._thread.start()

    def _look(self, head: str) -> None:
        try:
            self._settle(head)
        except Exception as error:  # whatever it is: the next look must come
            self.why = f"the router cannot be followed, it routes as before: {_words(error)}"
        self._looked = True

    def _settle(self, head: str) -> None:
        wanted = routes.served_lately(routes.lines_at(self.workspace, head))
        why: list[str] = []
        self.should = wanted[0] if wanted else None
        if not wanted:  # the file was taken out: nothing routes any more
            self._serves = None
        for line in wanted:
            if self._serves and self._serves.line.digest == line.digest:
                self._serves = _Serves(line, self._serves.router)
                break
            try:
                self._serves = _Serves(line, self._loaded(line))
                break
            except (RetrainError, OSError) as error:
                why.append(f"{line.tag} cannot route: {error}")
                if self._serves:
                    break
        serves = self._serves.line.tag if self._serves else "none"
        self.why = f"{wanted[0].tag} should route, {serves} does; {'; '.join(why)}" if why else None

    def _loaded(self, line: routes.Fitted) -> Router:
        found = routes.fetch(self.workspace, line)
        gone = sorted(set(found.specialists) - set(self.workspace.params.adapters))
        if gone:
            raise IntegrityError(f"it routes to {', '.join(gone)}, which params.yaml here does not name: `retrain route fit`")
        found.route(PROBES[0])  # what is imported for a message is imported now, and no request waits for it
        return found

    # --- answering

    def route(self, asked: Asked) -> Routed:
        """By the user's last message; RequestRefused names the specialists where it is for none of them."""
        serves = self._serves
        if serves is None:
            raise self._absent()
        text = next((turn.content for turn in reversed(asked.turns()) if turn.role == "user"), "")
        found = serves.router.route(text)
        if found.specialist is not None:
            return Routed(found.specialist, "auto", found.probability, serves.line.digest)
        if self.rules and self.rules.fallback:
            return Routed(self.rules.fallback, "fallback", found.probability, serves.line.digest)
        raise RequestRefused(
            f"this message is for none of the specialists here ({', '.join(serves.router.specialists)}): the likeliest has "
            f"{found.probability:.2f}, {found.threshold:.2f} is needed. Name one as the model to ask it all the same",
            status=422, code="no_specialist", param="messages",
        )  # fmt: skip

    def _absent(self) -> RequestRefused:
        there = ", ".join(self.workspace.params.adapters)
        if not self._looked or self.why:
            why = self.why or "the server is still loading"
            return RequestRefused(why, status=503, code="model_not_ready", param="model", retry_after=2)
        return RequestRefused(
            f"no router serves here, so the model {NAME!r} does not exist; there are {there}",
            status=404, code="model_not_found", param="model",
        )  # fmt: skip

    def card(self) -> dict[str, Any]:
        """Of /v1/models; RequestRefused where no router serves."""
        if self._serves is None:
            raise self._absent()
        line = self._serves.line
        return model_card(NAME, int(parse_time(line.at, "at").timestamp()), root=line.tag, parent=None)

    def health(self) -> dict[str, Any] | None:
        """For /healthz; None where params have no router."""
        if self.rules is None:
            return None
        return {
            "should_serve": self.should.tag if self.should else None,
            "serves": self.serves.tag if self.serves else None,
            "digest": self.serves.digest if self.serves else None,
            "specialists": list(self._serves.router.specialists) if self._serves else [],
            "fallback": self.rules.fallback,
            "why": self.why,
        }


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, (RetrainError, OSError)) else f"{type(error).__name__}: {error}"
