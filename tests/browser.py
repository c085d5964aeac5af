"""A headless chromium, driven through its DevTools protocol: pages that need a log-in, or time until they are drawn."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """One tab. Addresses of pages that are opened, and what their scripts tell, are on loopback alone."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.numbers = socket, itertools.count(1)

    def __call__(self, method: str, **params: Any) -> Any:
        """A command of the protocol; what it returns. AssertionError where the browser refuses it."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self.socket.recv(timeout=60))
            if said.get("id") == number:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]

    def open(self, address: str) -> None:
        self("Page.navigate", url=address)

    def js(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        told = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """The first value of an expression, JSON, that is neither null nor false nor empty."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):  # the page is between two documents
                if found := self.js(script):
                    return found
            assert time.monotonic() < deadline, f"{script} is nothing after {seconds} s; the page reads:\n{self.text()[:3000]}"
            time.sleep(0.3)

    def reads(self, words: str, seconds: float = 60) -> None:
        """Wait until these words stand on the page."""
        self.wait(f"document.body.innerText.includes({json.dumps(words)})", seconds)

    def type(self, field: str, text: str) -> None:
        """Into the field that a CSS selector finds."""
        self.wait(f"(() => {{ const found = document.querySelector({json.dumps(field)}); found?.focus(); return !!found }})()")
        self("Input.insertText", text=text)

    def links(self, inside: str) -> dict[str, str]:
        """Words -> address of the links inside what a CSS selector finds, as the browser would follow them."""
        found = f"[...document.querySelectorAll({json.dumps(inside + ' a[href]')})]"
        return dict(self.js(f"{found}.map(a => [a.innerText, a.href])"))

    def shows_a_card(self) -> None:
        """As a person reads it: what a line is about in bold, a table of checks, and the picture of the scores."""
        self.wait("[...document.querySelectorAll('strong')].some(e => e.innerText.startsWith('What users ask now'))")
        cells = self.js("[...document.querySelectorAll('th, td')].map(e => e.innerText.replace(/[^a-z]/g, ''))")
        assert {"result", "check", "role", "suite", "why", "superior", "success"} <= set(cells)
        self.wait("[...document.querySelectorAll('img')].some(e => e.src.includes('scores.png') && e.naturalWidth > 500)")
        assert "**" not in self.text()
        assert "|---" not in self.text()

    def text(self) -> str:
        """What a person reads on it."""
        return str(self.js("document.body ? document.body.innerText : ''"))

    def sized(self, width: int, height: int) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)


@contextlib.contextmanager
def page(width: int = 1280, height: int = 1000) -> Iterator[Page]:
    """A new tab in a browser of its own; the test is skipped where no chromium is installed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH: how the pages look in a browser was not checked (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        port = Path(folder) / "DevToolsActivePort"
        size = f"--window-size={width},{height}"
        process = subprocess.Popen(
            [chromium, *FLAGS, size, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        stack.callback(_end, process)
        address = _told(lambda: port.read_text().split()[0])
        target = _told(lambda: _first_page(int(address)))
        with connect(target, max_size=None) as socket:
            yield Page(socket)


def _first_page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
        return next(str(one["webSocketDebuggerUrl"]) for one in json.load(answer) if one["type"] == "page")


def _told(read: Callable[[], str], seconds: float = 30) -> str:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return read()
        except (OSError, IndexError, StopIteration):
            assert time.monotonic() < deadline, f"chromium does not answer after {seconds} s"
            time.sleep(0.2)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Its children too, which go on writing into its folder for a moment where the machine is busy."""
    process.terminate()
    process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
