"""Trials 38 and 44 on the whole stack: trained bytes, real ledger, `retrain serve` in a process of its own, OpenAI's client."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from small import another_version, promoted, workspace

from retrain import release
from retrain.records import read_jsonl
from retrain.workspace import Workspace

pytestmark = pytest.mark.slow


@contextmanager
def serving(space: Workspace) -> Iterator[tuple["subprocess.Popen[str]", openai.OpenAI]]:
    command = [sys.executable, "-m", "retrain.cli", "serve", "-w", str(space.root), "--port", "0"]
    process = subprocess.Popen([*command, "--set", "serve.follow_seconds=0.5"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+/v1", process.stdout.readline())
        assert found
        client = openai.OpenAI(base_url=found[0], api_key="none", max_retries=0)
        deadline = time.monotonic() + 120
        while not any(model.id == "support" for model in client.models.list()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield process, client
    finally:
        process.kill()
        process.wait()


def ask(client: openai.OpenAI, text: str = "where is my parcel please") -> "openai.types.chat.ChatCompletion":
    return client.chat.completions.create(model="support", messages=[{"role": "user", "content": text}])


def logged(space: Workspace) -> dict[str, str]:
    rows = [row for path in (space.root / "logs/support").glob("served-*.jsonl") for row in read_jsonl(path)]
    return {row["request_id"]: row["model_version"] for row in rows}


def test_promoted_bytes_serve_are_swapped_under_load_and_a_sigkill_loses_no_answer(tiny: Path, tmp_path: Path) -> None:
    space = workspace(tmp_path, tiny)
    promoted(space, "2026-03-02T00:00:00Z")
    with serving(space) as (process, client):
        first = ask(client)
        assert (first.model, first.choices[0].message.content) == ("support-v1", "order_status")
        end, given, failed = threading.Event(), [first], []

        def load() -> None:
            while not end.is_set():
                try:
                    given.append(ask(client))
                except openai.OpenAIError as error:
                    failed.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        another_version(space, forced=True)
        wait_for(lambda: given[-1].model == "support-v2")
        for version in (1, 2):
            release.rollback(space, "support", version=version, reason="a swap under load")
            wait_for(lambda version=version: given[-1].model == f"support-v{version}")
        end.set()
        for thread in threads:
            thread.join()
        assert failed == []
        assert {one.choices[0].message.content for one in given} == {"order_status"}
        time.sleep(1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert logged(space) == {one.id: one.model for one in given}
    with serving(space) as (process, client):  # into the state that the ledger tells
        assert ask(client).model == "support-v2"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def wait_for(holds: "object") -> None:
    deadline = time.monotonic() + 60
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
