"""An endpoint of chat completions on loopback, which a test tells how to behave."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


class Model:
    """`answer` makes the text of a request; `act`, where given, does all of it on the open connection."""

    def __init__(self) -> None:
        self.answer: Callable[[Body], Any] = lambda body: "right"
        self.act: Callable[[BaseHTTPRequestHandler, Body], None] | None = None
        self.heard: list[Body] = []
        self.signed: list[str | None] = []
        self.url = ""

    def asked(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.heard]


def completion(text: Any, finish: str = "stop") -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}).encode()


def send(handler: BaseHTTPRequestHandler, data: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


@contextmanager
def serve() -> Iterator[Model]:
    model = Model()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.heard.append(body)
            model.signed.append(self.headers.get("Authorization"))
            try:
                if self.path != "/v1/chat/completions":
                    send(self, b"{}", 404)
                elif model.act:
                    model.act(self, body)
                else:
                    send(self, completion(model.answer(body)))
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client had enough

        def log_message(self, *words: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
