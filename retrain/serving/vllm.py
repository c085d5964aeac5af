"""Backend `vllm`: a server of vLLM with runtime LoRA holds the models, this door stays in front.

A version is an immutable folder <adapter>-v<N>, never reloaded in place: vLLM has answered with the old adapter after that
(vllm#42125). What /v1/models says is the proof of what is loaded: `root` is the folder. Questions are sent as token ids, labels
as `structured_outputs.choice`, so that what was judged is what is asked.
"""

import asyncio
import json
import os
import re
import shutil
import ssl
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from retrain import base, prompts
from retrain.errors import BusyError, EndpointError, IntegrityError
from retrain.records import Message, read_json, verify_folder
from retrain.sections import Vllm as Settings
from retrain.serving.engine import Answered
from retrain.serving.limits import check_size, check_tokens
from retrain.serving.versions import Version
from retrain.unpacked import base_of
from retrain.workspace import Workspace

LOAD_SECONDS, LIST_SECONDS = 60.0, 10.0  # for one call that is no answer; for what every look asks
UNKNOWN = re.compile("does not exist|cannot be found")  # an adapter; without it a 404 is the route's
CANNED = ("Hello", "Where is it?", "Please cancel that")


@dataclass(frozen=True)
class Ready:
    """How a loaded version is asked."""

    template: prompts.Template
    labels: tuple[str, ...]
    most: int


@dataclass
class Remote:
    """The server at `settings.url`; `settings.folder` is where it and this machine both find adapters."""

    workspace: Workspace
    settings: Settings
    _ready: dict[str, tuple[Version, Ready]] = field(default_factory=dict)
    _running: Counter[str] = field(default_factory=Counter)  # answers that are being written, by digest
    _idle: dict[str, float] = field(default_factory=dict)  # loaded and not wanted, since when
    _loading: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))  # by digest
    _swapping: threading.Lock = field(default_factory=threading.Lock)  # held for moments: nothing is asked under it
    _encoding: threading.Lock = field(default_factory=threading.Lock)
    _trusted: ssl.SSLContext = field(default_factory=httpx.create_ssl_context)  # made once: it reads all certificates
    _trouble: str | None = None
    _note: str | None = None

    # --- what is loaded

    def load(self, version: Version) -> None:
        with self._swapping:
            one_at_a_time = self._loading[version.digest]
        with one_at_a_time:
            folder, run = self._placed(version), read_json(version.folder / "run.json")
            self._serve(version, folder, run["base"])
            if version.digest not in self._ready:
                tokenizer = base.tokenizer(base_of(self.workspace, version.commit, version.folder))
                template = prompts.Template(tokenizer, run["prompt"], run["max_length"])
                ready = Ready(template, tuple(run["labels"]), version.most)
                for text in CANNED:
                    self._try(version, ready, text)
                with self._swapping:
                    self._ready = {**self._ready, version.digest: (version, ready)}

    def _placed(self, version: Version) -> Path:
        """The version's own folder, written once and whole; other bytes under its name are never overwritten."""
        target = Path(self.settings.folder).expanduser() / version.name
        if not target.exists():
            scratch = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(version.folder, scratch)
            scratch.rename(target)
        verify_folder(target, version.digest)
        return target

    def _serve(self, version: Version, folder: Path, served: str) -> None:
        """Loaded under its name from its folder, by vLLM's own word."""
        found = self._models()
        bases = [one["id"] for one in found if not one.get("parent")]
        if served not in bases:
            raise IntegrityError(
                f"vLLM at {self.settings.url} serves {', '.join(bases) or 'no base'}, {version.name} was trained on {served}: "
                f"start it with that base and `--served-model-name {served}`"
            )
        if version.name not in [one["id"] for one in found]:
            self._call("POST", "/v1/load_lora_adapter", {"lora_name": version.name, "lora_path": str(folder)})
            found = self._models()
        card = next((one for one in found if one["id"] == version.name), None)
        if card is None:
            raise IntegrityError(f"vLLM took {version.name} and does not list it: look at its log")
        if Path(card.get("root") or "") != folder:
            raise IntegrityError(
                f"vLLM has {version.name} from {card.get('root')}, must be {folder}: unload it there, or restart vLLM"
            )

    def _try(self, version: Version, ready: Ready, text: str) -> None:
        """One canned question must get an answer that the adapter may give."""
        ids = self._encoded(ready, [Message(role="user", content=text)])[0]
        said = self._call("POST", "/v1/completions", self._question(version, ready, ids, None)).json()["choices"][0]["text"]
        if ready.labels and said.strip() not in ready.labels:
            raise IntegrityError(f"{version.name} on vLLM answers {said[:40]!r}, which is none of its labels")

    def retain(self, digests: set[str]) -> None:
        """Unload what nobody has wanted for serve.drain_seconds and no answer still uses, also what an earlier server left."""
        with self._swapping:
            self._ready = {one: found for one, found in self._ready.items() if one in digests or self._running[one]}
            wanted = {version.name for version, _ in self._ready.values()}
            if any(lock.locked() for lock in self._loading.values()):
                return  # what is being loaded is in vLLM's list before it is wanted here
        ours, why = re.compile(rf"({'|'.join(map(re.escape, self.workspace.params.adapters))})-v\d+"), list[str]()
        try:
            names = [card["id"] for card in self._models() if ours.fullmatch(card["id"])]
        except EndpointError as error:
            self._note = str(error)
            return
        now = time.monotonic()
        self._idle = {name: self._idle.get(name, now) for name in names if name not in wanted}
        for name, since in self._idle.items():
            if now - since >= self.workspace.params.serve.drain_seconds:
                try:
                    self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
                except EndpointError as error:
                    if "cannot be found" not in str(error):  # another door was first
                        why.append(f"{name} is not needed and stays loaded: {error}")
        self._note = "; ".join(why) or None

    def _models(self) -> list[dict[str, Any]]:
        """What is loaded, each with its `id`; EndpointError where the answer is no such list."""
        answer = self._call("GET", "/v1/models", timeout=LIST_SECONDS)
        try:
            return [{"id": str(one["id"]), **one} for one in answer.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise EndpointError(
                f"{self.settings.url}/v1/models is no list of models ({answer.text[:80]!r}): is serve.vllm.url vLLM's address?"
            ) from error

    def _call(self, method: str, path: str, body: Any = None, timeout: float = LOAD_SECONDS) -> httpx.Response:
        """vLLM's answer; EndpointError with its words where it is no success."""
        try:
            answer = httpx.request(
                method, self.settings.url + path, json=body, headers=self._headers(), timeout=timeout, verify=self._trusted
            )
        except httpx.HTTPError as error:
            self._trouble = f"vLLM at {self.settings.url} does not answer ({type(error).__name__})"
            raise EndpointError(self._trouble) from error
        self._trouble = None
        if answer.status_code == 404 and path.endswith("_lora_adapter") and not UNKNOWN.search(answer.text):
            raise EndpointError(
                f"{self.settings.url}{path} is not there: start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=true"
            )
        if not answer.is_success:
            raise EndpointError(f"vLLM refuses {path} ({answer.status_code}): {answer.text[:200]}")
        return answer

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.settings.key_env or "")
        return {"authorization": f"Bearer {key}"} if key else {}

    # --- an answer

    async def answer(
        self, version: Version, messages: list[Message], most: int | None, told: Callable[[str], None] | None
    ) -> Answered:
        serve = self.workspace.params.serve
        if sum(self._running.values()) >= serve.batch + serve.queue:
            raise BusyError(f"{sum(self._running.values())} questions are with vLLM, serve.batch and queue allow no more")
        check_size(messages, serve.max_prompt_tokens)
        _, ready = self._ready[version.digest]
        self._running[version.digest] += 1
        try:
            ids, whole = await asyncio.to_thread(self._encoded, ready, messages)
            longest = max((len(ready.template.completion(label)) - 1 for label in ready.labels), default=0)
            check_tokens(whole, most, longest, version.adapter, serve.max_prompt_tokens)
            try:
                return await self._ask(version, ready, ids, most, told)
            except LookupError:  # vLLM was started anew and has forgotten it
                await asyncio.to_thread(self.load, version)
                return await self._ask(version, ready, ids, most, told)
        finally:
            self._running[version.digest] -= 1

    def _encoded(self, ready: Ready, messages: list[Message]) -> tuple[list[int], int]:
        with self._encoding:
            whole = ready.template.render(messages)
            return (whole if len(whole) <= ready.template.max_length else ready.template.question(messages)), len(whole)

    def _question(self, version: Version, ready: Ready, ids: list[int], most: int | None) -> dict[str, Any]:
        asked = {"model": version.name, "prompt": ids, "temperature": 0, "max_tokens": min(most or ready.most, ready.most)}
        if ready.labels:
            longest = max(len(ready.template.completion(label)) for label in ready.labels)
            asked |= {"max_tokens": longest, "structured_outputs": {"choice": list(ready.labels)}}
        return asked

    async def _ask(
        self, version: Version, ready: Ready, ids: list[int], most: int | None, told: Callable[[str], None] | None
    ) -> Answered:
        """LookupError where vLLM does not know the version; EndpointError for any other refusal."""
        body = {**self._question(version, ready, ids, most), "stream": True, "stream_options": {"include_usage": True}}
        text, finish, used = "", None, {"completion_tokens": 0}
        try:
            async with (
                httpx.AsyncClient(headers=self._headers(), timeout=None, verify=self._trusted) as client,
                client.stream("POST", f"{self.settings.url}/v1/completions", json=body) as answer,
            ):
                if answer.status_code == 404:
                    raise LookupError(version.name)
                if not answer.is_success:
                    said = (await answer.aread()).decode("utf-8", "replace")
                    raise EndpointError(f"vLLM refuses a question ({answer.status_code}): {said[:200]}")
                async for event in _events(answer):
                    used = event.get("usage") or used
                    for choice in event.get("choices", ()):
                        piece, finish = (
                            choice["text"] if text else choice["text"].lstrip(),
                            choice.get("finish_reason") or finish,
                        )
                        text += piece
                        if told and piece:
                            told(piece)
        except httpx.HTTPError as error:
            self._trouble = f"vLLM at {self.settings.url} does not answer ({type(error).__name__})"
            raise EndpointError(self._trouble) from error
        if finish is None:
            raise EndpointError("vLLM ended a stream before its answer was whole")
        self._trouble = None
        return Answered(text if told else text.rstrip(), None, finish == "length", len(ids), int(used["completion_tokens"]))

    def trouble(self) -> str | None:
        return self._trouble

    def note(self) -> str | None:
        return self._note

    def busy(self) -> tuple[int, int]:
        return sum(self._running.values()), 0

    def close(self) -> None:
        """Nothing is unloaded: another door may be in front of the same server."""


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of a stream of server-sent events; EndpointError where vLLM tells an error in the middle of it."""
    async for line in answer.aiter_lines():
        if line.startswith("data:") and (data := line.removeprefix("data:").strip()) != "[DONE]":
            event = json.loads(data)
            if "error" in event:
                raise EndpointError(f"vLLM failed in the middle of an answer: {json.dumps(event['error'])[:200]}")
            yield event
