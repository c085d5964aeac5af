"""One base in memory and a batch that rows of any adapter join and leave at every token (Orca, Yu et al. 2022).  [torch]

Answers are chosen by the very objects that the evaluation uses (`generate.Labels`, `generate.Free`), one a row, and the tokens
that every question of an adapter begins with are computed once. One thread owns the model; all others hand it work.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from retrain import base, layer, prompts, reading
from retrain.errors import BusyError, IntegrityError, RetrainError
from retrain.generate import Free, Labels, Paths, label_paths
from retrain.records import Message, read_json
from retrain.serving.lora import Mixed, Weights, read

T = TypeVar("T")
Pairs = list[reading.Pair]  # keys and values of every layer


@dataclass(frozen=True)
class Answered:
    """confidence: mean probability of its tokens among those allowed; cut: the length limit ended it."""

    text: str
    confidence: float | None  # None: this backend cannot tell
    cut: bool
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, eq=False)
class Specialist:
    """An adapter that this base holds: how its questions are asked, and the tokens that they all begin with, computed."""

    weights: Weights
    template: prompts.Template
    paths: Paths  # of its labels; empty for free text
    most: int  # tokens of an answer
    prefix: list[int] = field(default_factory=list)
    computed: Pairs | None = None  # keys and values of the prefix


@dataclass(eq=False)
class Row:
    """One question in the batch or waiting for it; `dropped` is set by whoever asked and no longer wants the answer."""

    of: Specialist
    ids: list[int]
    choose: Any
    told: Callable[[str], None] | None
    future: "Future[Answered]" = field(default_factory=Future)
    dropped: bool = False
    said: str = ""

    def tell(self) -> None:
        """What is new in the text so far, without half a character at its end."""
        text = self.choose.text(0).removesuffix("\ufffd") if self.told and isinstance(self.choose, Free) else ""
        if self.told and len(text) > len(self.said):
            self.told(text[len(self.said) :])
            self.said = text

    def end(self) -> None:
        (answer,) = self.choose.answers()
        spent = len(self.of.paths[answer.text]) - 1 if self.of.paths else len(self.choose.tokens[0])
        if self.told and len(answer.text) > len(self.said):
            self.told(answer.text[len(self.said) :])
        self.future.set_result(Answered(answer.text, answer.confidence, answer.cut, len(self.ids), spent))


def choose(of: Specialist, most: int | None = None) -> Any:
    """What picks the tokens of one answer: a label, or a text of at most so many tokens."""
    return Labels(of.paths, 1) if of.paths else Free(of.template, 1, min(most or of.most, of.most))


class Engine:
    """A base, its specialists and their batch; `batch` rows at most are decoded at once, `queue` more may wait."""

    def __init__(self, base_folder: Path, *, device: str, lies: base.Residency, batch: int, queue: int) -> None:
        self.device = base.choose_device(device)
        self.model, self.tokenizer = base.load(base_folder, self.device, lies)
        self.base_digest = base.digest(base_folder)
        self.mixed = Mixed(self.model)
        if self.device == "cpu":
            layer.fuse(self.model, self.mixed)
        self.batch, self.queue = batch, queue
        self.running = Batch(self)
        self.in_line = self.device == "cpu" and reading.keeps_apart(self.model.config, self.tokenizer, self._says)
        self._waiting: deque[Row] = deque()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._encoding = threading.Lock()  # a fast tokenizer may not be used twice at once
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def _says(self, begin: list[int], asked: list[list[int]], in_line: bool) -> Any:
        """Logits of the bare base after these questions."""
        import torch

        with torch.inference_mode():
            bare = reading.Begun(begin, None, Weights("", {}))
            of = bare._replace(computed=self.running.compute(bare))
            return self.running.read([reading.Asked(of, ids) for ids in asked], in_line=in_line)[0]

    def specialist(self, folder: Path, digest: str, most: int) -> Specialist:
        """Make a verified adapter ready to answer; IntegrityError where it does not belong to this base."""
        run = read_json(folder / "run.json")
        if run["base_digest"] != self.base_digest:
            raise IntegrityError(f"{folder} was trained on base {run['base_digest'][:12]}, this is {self.base_digest[:12]}")
        weights = read(folder, digest, self.model)
        template = prompts.Template(self.tokenizer, run["prompt"], run["max_length"])
        with self._encoding:
            paths = label_paths(run["labels"], template)
            begin = prompts.common_prefix([template.question([Message(role="user", content=one)]) for one in ("a", "1")])
        made = Specialist(weights, template, paths, most, begin)
        return self._in_turn(lambda: self._ready(made))

    def _ready(self, of: Specialist) -> Specialist:
        self.mixed.know(of.weights)
        return Specialist(of.weights, of.template, of.paths, of.most, of.prefix, self.running.compute(of)) if of.prefix else of

    def encode(self, of: Specialist, messages: Sequence[Message]) -> tuple[list[int], int]:
        """(token ids, how many a longer question had before its front was cut)."""
        with self._encoding:
            whole = of.template.render(messages)
            return (whole if len(whole) <= of.template.max_length else of.template.question(messages)), len(whole)

    def ask(self, of: Specialist, ids: list[int], *, most: int, told: Callable[[str], None] | None) -> Row:
        """Put a question in line; BusyError where as many wait as may. `told` hears the growing text in the engine's thread."""
        row = Row(of, ids, choose(of, most), told)
        self._put(row)
        return row

    def ask_together(self, rows: Sequence[Row]) -> list[Answered]:
        """The answers to rows that are all in line before the first joins the batch: who shares it with whom is the same each
        time."""
        with self._changed:
            for row in rows:
                self._put(row)
        return [row.future.result() for row in rows]

    def _put(self, row: Row) -> None:
        row.future.set_running_or_notify_cancel()  # who no longer wants it says `dropped`
        with self._changed:
            self._check_alive()
            waiting = sum(not row.dropped for row in self._waiting)
            if waiting >= self.queue + self.free:
                raise BusyError(f"{waiting} questions wait, serve.queue is {self.queue}: try again in a moment")
            self._waiting.append(row)
            self._changed.notify()

    @property
    def free(self) -> int:
        """Places in the batch."""
        return max(0, self.batch - len(self.running.rows))

    @property
    def busy(self) -> tuple[int, int]:
        """(rows in the batch, questions that wait)."""
        return len(self.running.rows), len(self._waiting)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread; whoever still waits is told so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _check_alive(self) -> None:
        if self._closed or not self._thread.is_alive():
            raise RetrainError("the engine has stopped: start `retrain serve` again")

    def _in_turn(self, job: Callable[[], T]) -> T:
        """Run a job in the engine's thread, between two tokens."""
        future: Future[T] = Future()
        with self._changed:
            self._check_alive()
            self._jobs.append((job, future))
            self._changed.notify()
        return future.result()

    def _work(self) -> None:
        import torch

        with torch.inference_mode():
            while True:
                with self._changed:
                    while not (self._closed or self._waiting or self._jobs or self.running.rows):
                        self._changed.wait()
                    if self._closed:
                        break
                self._turn()
        for future in (*(row.future for row in (*self.running.rows, *self._waiting)), *(job[1] for job in self._jobs)):
            future.set_exception(RetrainError("the server stops"))

    def _turn(self) -> None:
        while self._jobs:
            job, future = self._jobs.popleft()
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
        fresh: list[Row] = []
        with self._changed:
            while self._waiting and len(self.running.rows) + len(fresh) < self.batch:
                row = self._waiting.popleft()
                if not row.dropped:
                    fresh.append(row)
        try:
            self.running.step()
            if fresh:
                self.running.join(fresh)
        except Exception as error:  # out of memory, a broken adapter: these rows fail, the next ones need not
            for row in {*fresh, *self.running.rows}:
                if not row.future.done():
                    row.future.set_exception(RetrainError(f"the model failed: {type(error).__name__}: {error}"))
            self.running = Batch(self)


class Batch:
    """Rows that are being answered: their cache (padded on the left), what of it is real, and each one's next token."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.decoder, self.head = base.parts(engine.model)
        self.rows: list[Row] = []
        self.layers: Pairs = []
        self.mask: Any = None  # (rows, length): 1 where a token is
        self.tokens: list[int] = []

    def compute(self, of: reading.Beginning) -> Pairs:
        """Keys and values of the tokens that all questions of a specialist begin with."""
        import torch

        self.engine.mixed.rows([of.weights])
        mask = torch.ones(1, len(of.prefix), dtype=torch.long, device=self.engine.device)
        _, layers = self._forward(torch.tensor([of.prefix], device=self.engine.device), mask, [])
        return layers

    def join(self, fresh: list[Row]) -> None:
        """Read the questions of new rows, choose their first tokens, and take those along that go on."""
        fresh = sorted(fresh, key=lambda row: row.of.weights.digest)
        logits, layers, read = self.read(fresh, in_line=self.engine.in_line)
        picked = _chosen(fresh, logits)
        stay = [i for i, token in enumerate(picked) if token is not None]
        if stay:
            new = Batch(self.engine)
            new.rows = [fresh[i] for i in stay]
            new.mask, kept = read.kept(stay, layers)
            new.layers = list(kept)
            new.tokens = [token for token in picked if token is not None]
            self._merge(new)

    def read(self, rows: Sequence[reading.Question], *, in_line: bool) -> tuple[Any, Pairs, reading.Reading]:
        """(logits after each question, keys and values of all that was read, how)."""
        engine = self.engine
        pad = engine.tokenizer.pad_token_id or 0
        how = reading.of(rows, pad=pad, device=engine.device, dtype=engine.model.dtype, in_line=in_line)
        engine.mixed.rows(how.weights)
        ends = (how.last, [row.of.weights for row in rows])
        logits, layers = self._forward(how.ids, how.attention, how.cached, positions=how.positions, ends=ends)
        return logits, layers, how

    def step(self) -> None:
        """One token for every row; those that have ended, or are no longer wanted, leave."""
        import torch

        self._keep([i for i, row in enumerate(self.rows) if not row.dropped])
        if not self.rows:
            return
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        self.engine.mixed.rows([row.of.weights for row in self.rows])
        tokens = torch.tensor([[token] for token in self.tokens], device=self.engine.device)
        logits, self.layers = self._forward(tokens, self.mask, self.layers)
        picked = _chosen(self.rows, logits)
        self.tokens = [token or 0 for token in picked]
        self._keep([i for i, token in enumerate(picked) if token is not None])

    def _forward(
        self, ids: Any, mask: Any, layers: reading.Layers, *, positions: Any = None, ends: tuple[Any, list[Any]] | None = None
    ) -> tuple[Any, Pairs]:
        """(logits in float32, keys and values with these tokens); positions follow from a mask of rows, and the logits are
        those after the last token of each; or of `ends`: (places in the flattened output, whose LoRA each takes)."""
        from transformers import DynamicCache

        cache = DynamicCache(layers)
        if positions is None:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        hidden = self.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        if ends is None:
            said = hidden[:, -1].contiguous()
        else:
            said = hidden.reshape(-1, hidden.shape[-1])[ends[0]]
            self.engine.mixed.rows(ends[1])
        return self.head(said).float(), [(layer.keys, layer.values) for layer in cache.layers]

    def _keep(self, stay: list[int]) -> None:
        import torch

        if len(stay) == len(self.rows):
            return
        if not stay:
            self.rows, self.layers, self.mask, self.tokens = [], [], None, []
            return
        index = torch.tensor(stay, device=self.engine.device)
        mask = self.mask[index]
        first = int(mask.any(0).nonzero()[0])  # columns that only rows had which have left
        self.rows, self.tokens = [self.rows[i] for i in stay], [self.tokens[i] for i in stay]
        self.mask = mask[:, first:]
        self.layers = [(keys[index, :, first:], values[index, :, first:]) for keys, values in self.layers]

    def _merge(self, new: "Batch") -> None:
        """Take new rows in, those of an adapter side by side."""
        import torch
        from torch.nn.functional import pad

        if self.rows:
            rows, tokens = [*self.rows, *new.rows], [*self.tokens, *new.tokens]
            order = sorted(range(len(rows)), key=lambda i: rows[i].of.weights.digest)
            length, index = max(self.mask.shape[1], new.mask.shape[1]), torch.tensor(order, device=self.engine.device)

            def together(ours: Any, theirs: Any) -> Any:
                return torch.cat([pad(part, (0, 0, length - part.shape[2], 0)) for part in (ours, theirs)])[index]

            new.mask = torch.cat([pad(one.mask, (length - one.mask.shape[1], 0)) for one in (self, new)])[index]
            both = zip(self.layers, new.layers, strict=True)
            new.layers = [(together(ours[0], theirs[0]), together(ours[1], theirs[1])) for ours, theirs in both]
            new.rows, new.tokens = [rows[i] for i in order], [tokens[i] for i in order]
        self.rows, self.layers, self.mask, self.tokens = new.rows, new.layers, new.mask, new.tokens


def _chosen(rows: list[Row], logits: Any) -> list[int | None]:
    """The token that each row goes on with, None where it has ended and its answer is given."""
    picked = []
    for i, row in enumerate(rows):
        (token,) = row.choose.step([0], logits[i : i + 1])
        row.end() if token is None else row.tell()
        picked.append(token)
    return picked
