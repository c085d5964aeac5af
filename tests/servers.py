"""A real MLflow server on a PostgreSQL database of its own, which can be stopped, started again, hung and cut off."""

import contextlib
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from stores import POSTGRES, postgres

from retrain import up
from retrain.process import environment


@contextlib.contextmanager
def database() -> Iterator[str]:
    """The address of a new, empty database, as SQLAlchemy takes it; dropped at the end."""
    connection = postgres()
    name = f"retrain_{uuid.uuid4().hex[:12]}"
    try:
        connection.execute(f"CREATE DATABASE {name}")
        yield urlunsplit(urlsplit(POSTGRES)._replace(scheme="postgresql+psycopg", path=f"/{name}"))
    finally:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.close()


class Server:
    """`mlflow server` on loopback, always on the same port."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.backend, self.folder, self.port = backend, folder, up.free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.running: contextlib.ExitStack | None = None

    def start(self, *, wait: bool = True) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.backend, "--artifacts-destination"),
            *(str(self.folder / "artifacts"), "--host", "127.0.0.1", "--workers", "1", "--port", str(self.port)),
        ]
        self.running = contextlib.ExitStack()
        log = self.folder / "mlflow.log"
        env = environment(MLFLOW_DISABLE_TELEMETRY="true")
        answers = self.running.enter_context(up.service("MLflow", command, cwd=self.folder, env=env, log=log, port=self.port))
        if wait:
            answers()

    def stop(self) -> None:
        if self.running:
            self.running.close()
            self.running = None

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """All of its processes stand still: it takes connections and answers nothing."""
        import psutil

        found = [p for p in psutil.process_iter(["cmdline"]) if self.backend in (p.info["cmdline"] or [])]
        every = [*found, *(child for process in found for child in process.children(recursive=True))]
        for process in every:
            os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in every:
                os.kill(process.pid, signal.SIGCONT)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    with database() as address:
        server = Server(address, folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


class Cutting:
    """A proxy in front of a server that cuts a connection once so many bytes of an upload (PUT) went through."""

    def __init__(self, port: int, after: int) -> None:
        self.target, self.after, self.cuts = port, after, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        through, uploads = 0, False
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                uploads = uploads or (counted and data.startswith(b"PUT "))
                through += len(data) if uploads else 0
                if through > self.after:
                    self.cuts += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self.listener.close()
