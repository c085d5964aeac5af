"""Simulated users of `retrain serve`: a window of messages by HTTP, in event time, and what they say of the answers.

The server is a child to which each request says what time it is: it follows the ledger, answers, and writes request log and
feedback as it does for anybody; only who asks, and when, is made up. In bf16 what a message shares a batch with may tip its
answer, so two runs need not be the same to the row.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from monitoring.failures import drawn
from monitoring.windows import Window
from retrain import clock, jobs, ledger, simulate
from retrain.answers import schema_of
from retrain.errors import NothingToDo, RetrainError
from retrain.process import environment
from retrain.scoring import Judge
from retrain.serving import keys
from retrain.up import WAIT, free_port, service
from retrain.workspace import Workspace

LOOKS = 0.25  # seconds between two looks at what the server serves
USERS = 4000
SOON = timedelta(seconds=1)  # after the answer, somebody says what it is worth
TIMEOUT = 120.0  # seconds for one answer
AT_ONCE = 8  # messages
# it is reached from here alone, so the bounds on what strangers may send are not for it: a text of any length is asked
ALONE = (
    *("serve.host=127.0.0.1", "serve.keys=null", "serve.batch=16", "serve.queue=64", "serve.max_body_kb=65536"),
    *("serve.max_prompt_tokens=10000000", "serve.feedback.per_user=1000000"),
)


class Users:
    """Messages of `initial` and `arriving` labels, dealt from `rows` ({"text", "label", "answer"?, "style"?}).

    A context, at whose end the server ends.
    """

    def __init__(
        self, workspace: Workspace, adapter: str, rows: Sequence[dict[str, str]], initial: Sequence[str],
        arriving: Sequence[str], rng: random.Random,
    ) -> None:  # fmt: skip
        self.workspace, self.adapter, self.rng = workspace, adapter, rng
        self.initial, self.arriving = tuple(initial), tuple(arriving)
        self.decks = simulate.Decks(rows, rng)
        self.poisoned: set[str] = set()  # requests with a correction that phase.poison made
        self._ends = ExitStack()
        self._server: Server | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._ends.close()

    def send(self, phase: simulate.Phase, window: Window) -> Path:
        """Ask the champion one window of messages; the folder of the log. NothingToDo without a champion."""
        from tqdm import tqdm

        serving = ledger.state(jobs.entries(self.workspace, self.adapter)).champion
        if serving is None:
            fix = f"run `retrain repro {self.adapter}` and `retrain promote {self.adapter}`"
            raise NothingToDo(f"{self.adapter} has no champion yet: {fix}")
        if self._server is None:
            self._server = self._ends.enter_context(_server(self.workspace, self.adapter))
        self._server.wait(serving.tag)
        rate, judge = self.workspace.params.of(self.adapter).failures.audit_rate, judge_of(self.workspace, self.adapter)
        messages = simulate.window(phase, decks=self.decks, initial=self.initial, arriving=self.arriving, rng=self.rng)
        step = (window.end - window.start) / (len(messages) + 1)
        times = [window.start + step * i for i in range(1, len(messages) + 1)]
        people = [f"u{self.rng.randrange(USERS):04d}" for _ in messages]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            asked = pool.map(self._server.ask, [message["text"] for message in messages], people, times)
            answers = tqdm(asked, total=len(messages), desc="traffic", unit="row", disable=None)
            for message, (request, answer), at in zip(messages, answers, times, strict=True):
                said = simulate.opinion(message, answer, phase, judge=judge, rng=self.rng)
                if said is not None:
                    self._server.say(request, said, "user", at + SOON)
                if drawn(request, rate):
                    self._server.say(request, simulate.label(message, answer, judge), "reviewer", at + SOON)
                if message["label"] in phase.poison:
                    self.poisoned.add(request)
        return self._server.log


@contextmanager
def _server(workspace: Workspace, adapter: str) -> "Iterator[Server]":
    import httpx

    port, log = free_port(), workspace.local / "simulated" / "serve.log"
    command = [sys.executable, "-m", "retrain.cli", "serve", "--workspace", str(workspace.root), "--port", str(port)]
    command += [word for setting in ALONE for word in ("--set", setting)]
    env = environment(**{clock.NAME: "1", keys.VARIABLE: ""})
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT, trust_env=False)
    with client, service("retrain serve", command, cwd=workspace.root, env=env, log=log, port=port) as answers:
        answers()
        yield Server(adapter, workspace.root / "logs" / adapter, client, log)


@dataclass(frozen=True)
class Server:
    """`retrain serve` as a child; `at`: what time it is then, for the child. output: where what it prints is."""

    adapter: str
    log: Path
    client: Any
    output: Path

    def wait(self, name: str) -> None:
        """Until this version serves; RetrainError where it does not come to that."""
        end, about = time.monotonic() + WAIT, {}
        while time.monotonic() < end:
            about = self._call("GET", "/healthz")["adapters"].get(self.adapter, {})
            if about.get("serves") == name:
                return
            time.sleep(LOOKS)
        why = f" ({about['why']})" if about.get("why") else ""
        raise RetrainError(f"retrain serve does not serve {name} after {WAIT:g} s{why}: see {self.output}")

    def ask(self, text: str, user: str, at: datetime) -> tuple[str, str]:
        """(id of the request, answer)."""
        body = {"model": self.adapter, "user": user, "messages": [{"role": "user", "content": text}]}
        told = self._call("POST", "/v1/chat/completions", body, at)
        return told["id"], told["choices"][0]["message"]["content"]

    def say(self, request: str, said: simulate.Said, source: str, at: datetime) -> None:
        told = {"correction": said.correction} if said.correction is not None else {}
        body = {"request_id": request, "name": "thumbs", "value": said.good, "source": source, **told}
        self._call("POST", "/v1/feedback", body, at)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, at: datetime | None = None) -> dict[str, Any]:
        """What it answers; RetrainError where it does not, or refuses what was asked."""
        import httpx

        headers = {clock.HEADER: repr(at.timestamp())} if at else {}
        try:
            answer = self.client.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            what = f"retrain serve does not answer ({type(error).__name__})"
            raise RetrainError(f"{what}: see {self.output}") from error
        if body and answer.is_error:
            raise RetrainError(f"retrain serve refused {path}: {answer.json()['error']['message']}")
        return dict(answer.json())


def judge_of(workspace: Workspace, adapter: str) -> Judge:
    """What says whether an answer of this adapter is right, with the schema as it lies in the workspace."""
    spec = workspace.params.adapter(adapter)
    return Judge(spec.task, schema_of(workspace.root, spec))
