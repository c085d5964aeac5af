"""A stand-in that keeps vLLM's documented behaviour for runtime LoRA, traps included; it answers the first choice, or words."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class VLLM:
    """`adapters`: name -> path. `runtime`: whether it was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING."""

    def __init__(self) -> None:
        self.base, self.adapters, self.runtime = "smollm2", dict[str, str](), True
        self.words = ["two", " words"]
        self.asked: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.breaks = False  # in the middle of a stream
        self.odd: dict[str, tuple[int, Any]] = {}  # path -> what it answers in place of what it should
        self.stalls: dict[str, threading.Event] = {}  # adapter -> until when its load hangs
        self.url = ""

    def models(self) -> dict[str, Any]:
        cards = [{"id": self.base, "object": "model", "root": f"/models/{self.base}", "parent": None}]
        cards += [{"id": name, "object": "model", "root": path, "parent": self.base} for name, path in self.adapters.items()]
        return {"object": "list", "data": cards}

    def lora(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["lora_name"]
        self.calls.append(f"{path.rpartition('/')[2].partition('_')[0]} {name}")
        if name in self.stalls:
            self.stalls[name].wait(30)
        if not self.runtime:
            return 404, {"detail": "Not Found"}
        if path == "/v1/unload_lora_adapter":
            if name not in self.adapters:
                return 404, error(f"The lora adapter '{name}' cannot be found.", 404)
            del self.adapters[name]
            return 200, f"Success: LoRA adapter '{name}' removed successfully."
        if name in self.adapters and not body.get("load_inplace"):
            return 400, error(f"The lora adapter '{name}' has already been loaded.", 400)
        if not (Path(body["lora_path"]) / "adapter_model.safetensors").exists():
            return 404, error(f"Loading lora {name} failed: No adapter found for {body['lora_path']}; it does not exist", 404)
        self.adapters.setdefault(name, body["lora_path"])  # in place it goes on with the old bytes (vllm#42125)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def pieces(self, body: dict[str, Any]) -> list[str]:
        choice = (body.get("structured_outputs") or {}).get("choice")
        return [choice[0]] if choice else self.words


def error(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}


@contextmanager
def serve() -> Iterator[VLLM]:
    vllm = VLLM()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.say(*vllm.odd.get(self.path, (200, vllm.models())))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path in vllm.odd:
                return self.say(*vllm.odd[self.path])
            if self.path.endswith("_lora_adapter"):
                return self.say(*vllm.lora(self.path, body))
            vllm.asked.append(body)
            if body["model"] not in vllm.adapters:
                return self.say(404, error(f"The model `{body['model']}` does not exist.", 404))
            if not body.get("stream"):
                text = "".join(vllm.pieces(body))
                return self.say(200, {"choices": [{"text": text, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}})
            return self.stream(body)

        def stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for piece in vllm.pieces(body):
                self.event({"choices": [{"text": piece, "finish_reason": None}]})
                if vllm.breaks:
                    return
            self.event({"choices": [{"text": "", "finish_reason": "stop"}]})
            self.event({"choices": [], "usage": {"completion_tokens": 2}})
            self.wfile.write(b"data: [DONE]\n\n")

        def event(self, data: Any) -> None:
            self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

        def say(self, status: int, data: Any) -> None:
            sent = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    vllm.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield vllm
    finally:
        server.shutdown()
        server.server_close()
