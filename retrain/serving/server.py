"""`retrain serve` itself: the socket, the signals, and the end in good order."""

import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from retrain.errors import ParamsError, RetrainError
from retrain.process import public
from retrain.serving import keys
from retrain.serving.journal import NAME
from retrain.serving.versions import Backend, Standing, Versions
from retrain.workspace import Workspace

BACKLOG = 1024  # connections that the kernel holds while the loop is busy
Say = Callable[[str], None]


def serve(workspace: Workspace, holding: Backend, say: Say) -> None:
    """Answer until SIGTERM or Ctrl-C; then what runs may end within serve.drain_seconds."""
    import uvicorn

    from retrain.serving.door import Door
    from retrain.serving.routes import application

    settings = workspace.params.serve
    _ = workspace.remote  # there must be a ledger to follow
    allowed = keys.read(workspace.root, settings.keys, settings.host)
    listener = _listen(settings.host, settings.port)
    door = Door(workspace, holding, allowed)
    app = application(door)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        door.versions.start()
        yield
        door.close()

    app.router.lifespan_context = lifespan
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", server_header=False, timeout_graceful_shutdown=int(settings.drain_seconds),
        timeout_keep_alive=30, backlog=BACKLOG,
    )  # fmt: skip

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            door.draining = True
            super().handle_exit(sig, frame)

    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    say(f"serving {', '.join(workspace.params.adapters)} on http://{address}:{port}/v1 (Ctrl-C ends it)")
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # uvicorn drains at it, and raises it once more when it has ended
    for name in workspace.params.adapters:
        if not reads(workspace, name):
            read = public(workspace.params.logs.uri)
            say(f"note: logs.uri is {read}, the monitor does not read logs/{name}/, which this writes")
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listener])


def backend(workspace: Workspace) -> Backend:
    """What params say holds the models."""
    if workspace.params.serve.vllm is None:
        from retrain.serving.local import Local

        return Local(workspace)
    from retrain.serving.vllm import Remote

    return Remote(workspace, workspace.params.serve.vllm)


def sync(workspace: Workspace) -> dict[str, Standing]:
    """One look at the ledger for the vLLM server of params; what came of it, by adapter."""
    if workspace.params.serve.vllm is None:
        raise ParamsError("serve.vllm is null (params.yaml): there is no vLLM server to bring up to date")
    versions = Versions(workspace, backend(workspace))
    versions.look()
    if versions.ledger_error:
        raise RetrainError(versions.ledger_error)
    time.sleep(workspace.params.serve.drain_seconds)  # what others ask of the old versions may end
    versions.look()
    return versions.standings


def reads(workspace: Workspace, adapter: str) -> bool:
    """Whether the monitor's log table has the rows that this server writes."""
    pattern = str(workspace.root / workspace.params.logs.uri.replace("{adapter}", adapter))
    written = workspace.root / "logs" / adapter / f"{NAME}x.jsonl"
    return fnmatch(str(written), pattern) or Path(pattern) in written.parents


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ParamsError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}): set serve.port or serve.host"
        ) from error
