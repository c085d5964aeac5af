"""The routes of the door, who may take them, and the form of every error."""

from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from retrain import clock
from retrain.errors import RequestRefused
from retrain.routing import NAME
from retrain.serving import protocol
from retrain.serving.door import Door, card, told

PAGE = Path(__file__).with_name("page.html")
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


async def _at(request: Request) -> None:
    """It is as late as the request says."""
    if clock.HEADER in request.headers:
        clock.tell(float(request.headers[clock.HEADER]))


def application(door: Door) -> FastAPI:
    """The routes; every error, whatever it is, has OpenAI's form and no traceback."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    guarded = [Depends(door.allowed), *([Depends(_at)] if clock.simulated() else [])]

    async def refused(request: Request, error: Exception) -> Response:
        status, said = told(error)
        wait = getattr(error, "retry_after", None)
        headers = {"x-request-id": getattr(request.state, "id", None) or protocol.request_id()}
        return JSONResponse(said, status, headers={**headers, **({"retry-after": str(wait)} if wait else {})})

    for kind in (RequestRefused, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, refused)

    @app.get("/healthz")
    async def healthz() -> Response:
        status, said = door.health()
        return JSONResponse(said, status)

    @app.get("/metrics", dependencies=guarded)
    async def metrics() -> Response:
        return Response(door.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> Response:
        return JSONResponse(door.models())

    @app.get("/v1/models/{name}", dependencies=guarded)
    async def model(name: str) -> Response:
        if name == NAME:
            return JSONResponse(door.auto.card())
        version, _ = door.versions.resolve(name)
        return JSONResponse(card(name, version, door.workspace))

    @app.post("/v1/chat/completions", dependencies=guarded)
    async def chat(request: Request) -> Response:
        return await door.chat(request)

    @app.post("/v1/feedback", dependencies=guarded)
    async def feedback(request: Request) -> Response:
        return await door.rate(request)

    @app.get("/v1/requests/{request_id}", dependencies=guarded)
    def one_request(request_id: str) -> Response:
        return door.one_request(request_id)

    @app.get("/v1/audit/{adapter}", dependencies=guarded)
    async def audit(adapter: str, skip: int = 0) -> Response:
        return door.next_audit(adapter, max(0, skip))

    @app.get("/")
    async def page() -> Response:
        adapters = "".join(f"<option>{name}</option>" for name in door.versions.standings)  # names have no special characters
        text = PAGE.read_text("utf-8").replace("<!-- adapters -->", adapters)
        return HTMLResponse(text, headers=HEADERS)

    return app
