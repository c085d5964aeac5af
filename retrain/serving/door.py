"""The door: requests in OpenAI's form to the version that serves, its answer, its log row and its figures."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from retrain import clock
from retrain.errors import BusyError, RequestRefused
from retrain.routing import NAME
from retrain.serving import keys, protocol
from retrain.serving.arms import Arms
from retrain.serving.auto import Auto, Routed
from retrain.serving.engine import Answered
from retrain.serving.feedback import Feedback, Given
from retrain.serving.logs import Call, Logs
from retrain.serving.metrics import Metrics
from retrain.serving.versions import Backend, Version, Versions
from retrain.workspace import Workspace

T = TypeVar("T")
LOCAL = ("localhost", "127.0.0.1", "[::1]")
MOST_DRAINED = 2**27  # bytes of a body that is too large which are read and forgotten, so that the client hears why


@dataclass
class Door:
    """Everything behind the routes."""

    workspace: Workspace
    backend: Backend
    keys: keys.Keys
    draining: bool = False

    def __post_init__(self) -> None:
        self.settings = self.workspace.params.serve
        self.versions = Versions(self.workspace, self.backend)
        self.auto = Auto(self.workspace)
        self.versions.see, self.versions.aliases = self.auto.see, self.auto.names
        self.logs = Logs(self.workspace)
        self.versions.refused = lambda line, why: self.logs.refused(line.adapter, line.key, why)
        self.arms = Arms(self.workspace, self.versions, self.backend, self.logs)
        self.feedback = Feedback(self.workspace, self.logs)
        self.metrics = Metrics(self.versions, self.logs, self.auto)

    def close(self) -> None:
        self.versions.stop()
        self.backend.close()
        self.logs.journal.close()

    # --- an answer

    async def answer(self, call: Call, told: Any) -> Answered:
        """The answer of a call, logged and counted whatever becomes of it; RequestRefused where there is none."""
        adapter, outcome = call.version.adapter, "error"
        try:
            async with asyncio.timeout(self.settings.timeout):
                answered = await self.backend.answer(call.version, call.asked.turns(), call.asked.most, told)
        except TimeoutError as error:
            outcome = "timeout"
            raise RequestRefused(
                f"no answer in serve.timeout ({self.settings.timeout:g} s)", status=504, code="timeout"
            ) from error
        except BusyError as error:
            outcome = "busy"
            raise RequestRefused(str(error), status=429, code="queue_full", retry_after=1) from error
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except RequestRefused:
            outcome = "refused"
            raise
        else:
            outcome = "answered"
            row = self.logs.answered(call, answered)
            if row is not None:
                self.feedback.saw(row)
            self.metrics.answered(adapter, call.seconds, answered.prompt_tokens, answered.completion_tokens)
            return answered
        finally:
            if outcome != "answered":
                self.metrics.requests.labels(adapter, outcome).inc()
            if outcome in ("error", "timeout", "cancelled"):
                self.logs.unanswered(call, outcome)
            self.arms.seen(call, outcome)

    def headers(self, call: Call) -> dict[str, str]:
        routed = call.routed.headers() if call.routed else {}
        return {"x-request-id": call.id, "x-retrain-model": call.version.name, "x-retrain-arm": call.arm, **routed}

    def route(self, asked: protocol.Asked) -> Routed | None:
        """Where the router sends a request that leaves it to it; RequestRefused where that is nobody."""
        if asked.model != NAME:
            return None
        try:
            routed = self.auto.route(asked)
        except RequestRefused as refusal:
            if refusal.code == "no_specialist":
                self.metrics.routed.labels("none", "refused").inc()
            raise
        self.metrics.routed.labels(routed.adapter, routed.route).inc()
        return routed

    async def chat(self, request: Request) -> Response:
        asked = protocol.parse(await self.body(request))
        began, started = clock.now(), time.perf_counter()
        routed = self.route(asked)
        chosen = self.arms.choose(routed.adapter if routed else asked.model, asked, name := protocol.request_id())
        call = Call(name, began, asked, chosen.version, chosen.arm, chosen.step, routed, started)
        version = call.version
        request.state.id = call.id
        if asked.stream:
            return await self.stream(request, call)
        answered = await until_gone(request, self.answer(call, None))
        used = protocol.usage(answered.prompt_tokens, answered.completion_tokens)
        said = protocol.completion(call.id, version.name, int(call.began), answered.text, answered.cut, used, version.digest)
        return JSONResponse(said, headers=self.headers(call))

    async def stream(self, request: Request, call: Call) -> Response:
        """Headers go out with the first piece, so that a refusal still has its status."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self.answer(call, lambda text: loop.call_soon_threadsafe(pieces.put_nowait, text)))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            first = await until_gone(request, pieces.get())
            if first is None:
                task.result()
        except BaseException:
            task.cancel()
            raise
        return StreamingResponse(
            self._events(call, task, pieces, first), media_type="text/event-stream",
            headers={**self.headers(call), "cache-control": "no-cache"},
        )  # fmt: skip

    async def _events(
        self, call: Call, task: "asyncio.Task[Answered]", pieces: "asyncio.Queue[str | None]", piece: str | None
    ) -> AsyncIterator[bytes]:
        about = (call.id, call.version.name, int(call.began), call.version.digest)
        try:
            yield protocol.event(protocol.chunk(*about, {"role": "assistant", "content": ""}))
            while piece is not None:
                yield protocol.event(protocol.chunk(*about, {"content": piece}))
                piece = await pieces.get()
            while not pieces.empty():  # what was told before the end, and arrived after it
                if (piece := pieces.get_nowait()) is not None:
                    yield protocol.event(protocol.chunk(*about, {"content": piece}))
            try:
                answered = await task
            except Exception as error:
                yield protocol.event(told(error)[1])
                return
            yield protocol.event(protocol.chunk(*about, {}, "length" if answered.cut else "stop"))
            if call.asked.stream_options and call.asked.stream_options.include_usage:
                used = protocol.usage(answered.prompt_tokens, answered.completion_tokens)
                yield protocol.event(protocol.chunk(*about, None, used=used))
            yield protocol.event("[DONE]")
        finally:
            task.cancel()  # nobody reads on: its place is free at the next token

    # --- everything else

    async def rate(self, request: Request) -> Response:
        given = protocol.validated(Given, _json(await self.body(request)))
        outcome = "refused"
        try:
            outcome = await asyncio.to_thread(self.feedback.take, given)
        finally:
            self.metrics.feedback.labels(outcome).inc()
        return JSONResponse({"request_id": given.request_id, "status": outcome})

    def models(self) -> dict[str, Any]:
        cards = [self.auto.card()] if self.auto.serves else []
        for name, standing in self.versions.standings.items():
            if standing.serves:
                cards.append(card(name, standing.serves, self.workspace))
            cards += [card(version.name, version, self.workspace) for version in standing.loaded()]
        return protocol.models(cards)

    def health(self) -> tuple[int, dict[str, Any]]:
        """What serves and what should; 503 where no answer can be had."""
        standings = self.versions.standings
        trouble = self.backend.trouble()
        said = (
            trouble,
            self.backend.note(),
            self.versions.ledger_error,
            self.versions.late(),
            self.logs.journal.error,
            self.auto.why,
        )
        notes = [note for note in said if note]
        nothing = [name for name, one in standings.items() if one.should and not one.serves]
        if self.draining:
            status = "draining"
        elif not self.versions.looked:
            status = "loading"
        elif trouble or nothing:
            status = "failing"
        elif notes or any(one.behind for one in standings.values()):
            status = "degraded"
        else:
            status = "ok"
        about = {
            name: {
                "should_serve": one.should.tag if one.should else None,
                "serves": one.serves.name if one.serves else None,
                "digest": one.serves.digest if one.serves else None,
                "also_loaded": [version.name for version in one.kept],
                "tries": {"challenger": one.tried.version.name, "weight": one.tried.line.weight} if one.tried else None,
                "why": one.why,
            }
            for name, one in standings.items()
        }
        told = {"schema": 1, "status": status, "adapters": about, "router": self.auto.health(), "notes": notes}
        return 200 if status in ("ok", "degraded") else 503, told

    def next_audit(self, adapter: str, skip: int) -> Response:
        """The next request that a person should label, for the page."""
        if adapter not in self.versions.standings:
            raise RequestRefused(f"no adapter {adapter[:40]!r}", status=404, code="model_not_found", param="adapter")
        row = self.feedback.open_audits(adapter, skip)
        return JSONResponse({"request": _shown(row) if row else None})

    def one_request(self, request: str) -> Response:
        row = self.logs.find(request)
        if row is None:
            raise RequestRefused(f"no request {request[:80]!r} was answered here", status=404, code="request_not_found")
        return JSONResponse({"request": _shown(row)})

    async def body(self, request: Request) -> bytes:
        """The whole body; RequestRefused where it is too large, too slow or not JSON by its own word."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestRefused("content-type must be application/json", status=415, code="unsupported_media_type")
        most = self.settings.max_body_kb * 1024
        held, size = bytearray(), 0
        try:
            async with asyncio.timeout(self.settings.timeout):
                async for part in request.stream():
                    size += len(part)
                    if size <= most:
                        held += part
                    if size > MOST_DRAINED:
                        break
        except TimeoutError as error:
            raise RequestRefused("the body did not arrive in time", status=408, code="timeout") from error
        if size > most:
            raise RequestRefused(
                f"the body has more than serve.max_body_kb ({self.settings.max_body_kb} kB): send less",
                status=413,
                code="too_large",
            )
        return bytes(held)

    async def allowed(self, request: Request) -> None:
        """A key where keys are asked for; without any, a browser that another site sent here is refused (DNS rebinding)."""
        self.keys.check(request.headers.get("authorization"))
        if not self.keys.names:
            host = request.headers.get("host", "").rpartition(":")
            name = host[0] if host[2].isdigit() else "".join(host)
            if name not in LOCAL:
                raise RequestRefused(f"this server answers to {', '.join(LOCAL)}", status=403, code="wrong_host")


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which ends as soon as the client hangs up."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestRefused("the client hung up", status=499, code="cancelled")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(body: bytes) -> Any:
    import json

    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"the body is no JSON: {str(error)[:100]}", code="invalid_json") from error


def card(name: str, version: Version, workspace: Workspace) -> dict[str, Any]:
    base = workspace.params.adapter(version.adapter).base
    return protocol.model_card(name, version.created, root=version.name, parent=base)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    names = ("request_id", "timestamp", "adapter", "model_version", "prompt", "messages", "response", "finish_reason")
    return {name: row[name] for name in names if name in row}


def told(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and OpenAI's form of an error; of an unexpected one its kind alone."""
    if isinstance(error, RequestRefused):
        return error.status, protocol.error_body(str(error), status=error.status, code=error.code, param=error.param)
    if isinstance(error, HTTPException):
        return error.status_code, protocol.error_body(str(error.detail), status=error.status_code, code="no_such_route")
    if isinstance(error, RequestValidationError):
        return 400, protocol.error_body("the address has a value that cannot be used", status=400, code="invalid_value")
    return 500, protocol.error_body(
        f"the server failed ({type(error).__name__}); its log says more", status=500, code="internal_error"
    )
