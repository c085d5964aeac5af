"""Three ways to answer the same questions: the door, `transformers serve`, and a loop of `generate`."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from retrain.process import dies_with_me
from retrain.workspace import Workspace

START = 180.0  # seconds that a server may take to answer for the first time


@dataclass(frozen=True)
class Asked:
    """One question: which adapter, its system text, what is asked, and how long an answer may be."""

    adapter: str
    system: str
    text: str
    most: int


@dataclass(frozen=True)
class Given:
    """One answer and the seconds that its client waited; text is None where there was none."""

    asked: Asked
    text: str | None
    seconds: float
    version: str = ""
    digest: str = ""


Ask = Callable[[Asked], Given]


def chat(client: httpx.Client, url: str, model: str, asked: Asked, *, system: bool) -> Given:
    turns = [{"role": "user", "content": asked.text}]
    if system:
        turns.insert(0, {"role": "system", "content": asked.system})
    began = time.perf_counter()
    try:
        body: dict[str, Any] = {"model": model, "messages": turns, "temperature": 0, "max_tokens": asked.most}
        if not system:
            del body["max_tokens"]  # the door knows how long its adapters' answers are
        answer = client.post(f"{url}/chat/completions", json=body)
        said = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return Given(asked, None, time.perf_counter() - began)
    text = (said["choices"][0]["message"]["content"] or "").strip()
    return Given(asked, text, time.perf_counter() - began, said["model"], said.get("system_fingerprint") or "")


@contextlib.contextmanager
def door(space: Workspace) -> Iterator[Ask]:
    """`retrain serve` in a process of its own, once both adapters answer."""
    command = [sys.executable, "-m", "retrain.cli", "serve", "-w", str(space.root), "--port", "0"]
    with process([*command, "--set", "serve.follow_seconds=0.5"], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        found = re.search(r"http://\S+/v1", server.stdout.readline())
        if not found:
            raise SystemExit("`retrain serve` did not start; its words are above")
        url = found[0]
        with httpx.Client(timeout=START) as client:
            ready(lambda: client.get(url.removesuffix("/v1") + "/healthz").json()["status"] == "ok", "retrain serve")
            yield lambda asked: chat(client, url, asked.adapter, asked, system=False)


@contextlib.contextmanager
def transformers_serve(folders: dict[str, Path], log: Path) -> Iterator[Ask]:
    """`transformers serve`, both merged models loaded by a first question; a line a request goes to log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--model-timeout", "3600"]
    with log.open("w") as file, process(command, stdout=file, stderr=file), httpx.Client(timeout=START) as client:
        ready(lambda: client.get(f"{url}/health").status_code == 200, "transformers serve")
        for adapter, folder in folders.items():
            first = chat(client, f"{url}/v1", str(folder), Asked(adapter, "", "Hello", 1), system=True)
            if first.text is None:
                raise SystemExit(f"`transformers serve` does not answer:\n{log.read_text()[-2000:]}")
        yield lambda asked: chat(client, f"{url}/v1", str(folders[asked.adapter]), asked, system=True)


def loop(folders: dict[str, Path]) -> Ask:
    """One question after the other through `generate`, as a first script does it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    held = {name: AutoModelForCausalLM.from_pretrained(folder).eval() for name, folder in folders.items()}
    tokenizers = {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}
    turn = threading.Lock()

    def ask(asked: Asked) -> Given:
        began, tokenizer = time.perf_counter(), tokenizers[asked.adapter]
        turns = [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.text}]
        with turn, torch.inference_mode():
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
            out = held[asked.adapter].generate(**ids, max_new_tokens=asked.most, do_sample=False)
            text = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        return Given(asked, text, time.perf_counter() - began)

    return ask


@contextlib.contextmanager
def process(command: list[str], **more: Any) -> Iterator["subprocess.Popen[str]"]:
    """A server with its children in a session of its own, which ends with the block."""
    server = subprocess.Popen(command, text=True, start_new_session=True, preexec_fn=dies_with_me(), **more)
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ready(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + START
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if holds():
                return
        if time.monotonic() > end:
            raise SystemExit(f"{what} was not ready after {START:g} s; its words are above")
        time.sleep(0.5)


def merged(folder: Path, adapter: Path, target: Path) -> Path:
    """Base and adapter as one model, as the base lies in memory here, with the base's tokenizer."""
    from retrain.generate import Model

    model = Model(folder, device="cpu", adapter=adapter, fuse=False)
    model.model.merge_and_unload().save_pretrained(target)
    model.tokenizer.save_pretrained(target)
    return target
