"""Answers of a base (+ adapter), in batches: greedy, or held to a closed set of labels.  [torch]

The tokens that all prompts share are computed once, and short questions are read in one line; labels are decoded over their
token trie and stop as soon as one label is left; rows that have ended leave the batch.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from retrain import base, fused, layer, prompts, reading
from retrain import train as train_
from retrain.errors import IntegrityError, ParamsError
from retrain.records import Message, read_json

SPREAD, FREE = 1.3, 3  # a padded row may be so many times as long as the shortest of its batch, and so many tokens


@dataclass(frozen=True)
class Answer:
    """text, and the mean probability of its tokens among those allowed (0 to 1); cut: it hit the length limit."""

    text: str
    confidence: float
    cut: bool = False


def lies(base_folder: Path, device: str, adapter: Path | None, train: Mapping[str, Any]) -> base.Residency:
    """How the base lies under an adapter: as where it was trained, by the same rule."""
    settings = read_json(adapter / "run.json")["train"] if adapter is not None else train
    return base.residency_of(base_folder, device, settings)


class Model:
    """A loaded base, and at most one adapter on it at a time: `use` changes it, and what went leaves nothing behind.

    `train`: settings by which the base lies in memory where no adapter's run.json says it.
    """

    def __init__(
        self, base_folder: Path, *, device: str, adapter: Path | None = None, train: Mapping[str, Any] | None = None,
        fuse: bool = True,
    ) -> None:  # fmt: skip
        self.device, self.base_folder, self.fuse = base.choose_device(device), base_folder, fuse
        if adapter is not None:
            train_.verify(adapter)  # before a byte of it is believed
        self.lies = lies(base_folder, self.device, adapter, train or {})
        self.model, self.tokenizer = base.load(base_folder, self.device, self.lies)
        self.run: dict[str, Any] | None = None
        self.use(adapter)

    def use(self, adapter: Path | None) -> None:
        """Answer with this adapter from now on, or as the base alone: LoRA lies beside the weights, which stay as they were."""
        layer.release(self.model)
        if self.run is not None:
            self.model, self.run = self.model.unload(), None
        if adapter is not None:
            digest, run = train_.verify(adapter), read_json(adapter / "run.json")
            self._attach(adapter, run)
            self.digest, self.run = digest, run
        self._fuse()

    @cached_property
    def in_line(self) -> bool:
        """Not before it answers: asked in eval mode, bitsandbytes repacks NF4 on a CPU, and nothing could be trained on it."""
        return self.device == "cpu" and reading.keeps_apart(self.model.config, self.tokenizer, self._says)

    def _fuse(self) -> None:
        if self.fuse:
            fused.fuse(self.model)
            if self.device == "cpu":
                layer.fuse(self.model)

    def _attach(self, adapter: Path, run: Mapping[str, Any]) -> None:
        from peft import PeftModel

        found = base.digest(self.base_folder)
        if run["base_digest"] != found:
            told = f"was trained on base {run['base_digest'][:12]}, {self.base_folder} is {found[:12]}"
            raise IntegrityError(f"{adapter} {told}")
        attached = PeftModel.from_pretrained(self.model, str(adapter), is_trainable=False).eval()
        learned = {name: parameter for name, parameter in attached.named_parameters() if "lora_" in name}
        if bad := next((name for name, parameter in learned.items() if not parameter.isfinite().all()), None):
            attached.unload()
            raise IntegrityError(f"{adapter} has weights that are not finite ({bad}): train it again")
        for parameter in learned.values():
            parameter.data = parameter.data.to(attached.dtype)
        self.model = attached

    def template(self, system: str, max_length: int) -> prompts.Template:
        return prompts.Template(self.tokenizer, system, max_length)

    def answers(
        self,
        questions: Sequence[Sequence[Message]],
        *,
        template: prompts.Template,
        labels: Sequence[str],
        max_new_tokens: int,
        batch: int,
        tick: Callable[[int], None] = lambda n: None,
    ) -> list[Answer]:
        """One answer a question, in their order; labels empty means free text of at most max_new_tokens."""
        import torch

        ids = [template.question(messages) for messages in questions]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found: dict[int, Answer] = {}
        paths = label_paths(labels, template)
        with torch.inference_mode():
            begun = self._begun(prompts.common_prefix(ids))
            lengths = [len(ids[i]) - len(begun.prefix) for i in order]
            if labels:
                short = sum(length <= reading.SHORT for length in lengths) if self.in_line else 0
                stops = reading.stops(lengths[:short], batch) + [short + i for i in _alike(lengths[short:], batch)]
            else:
                stops = [*range(batch, len(order), batch), len(order)]
            for start, stop in pairwise([0, *stops]):
                rows = order[start:stop]
                choose = Labels(paths, len(rows)) if labels else Free(template, len(rows), max_new_tokens)
                self._decode([reading.Asked(begun, ids[i]) for i in rows], choose)
                found |= dict(zip(rows, choose.answers(), strict=True))
                tick(len(rows))
        return [found[i] for i in range(len(ids))]

    def samples(
        self,
        questions: Sequence[Sequence[Message]],
        *,
        template: prompts.Template,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        batch: int,
        seed: int,
    ) -> list[Answer]:
        """One sampled text a question, in their order: the same seed, batch and machine give the same texts."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        ids = [template.question(messages) for messages in questions]
        found: list[Answer] = []
        alone = reading.Begun([], None)
        with torch.inference_mode():
            for start in range(0, len(ids), batch):
                rows = ids[start : start + batch]
                choose = _Sampled(template, len(rows), max_new_tokens, temperature, top_p, generator)
                self._decode([reading.Asked(alone, row) for row in rows], choose)
                found += choose.answers()
        return found

    def _begun(self, shared: list[int]) -> reading.Begun:
        """What all questions begin with, computed."""
        import torch
        from transformers import DynamicCache

        if not shared:
            return reading.Begun([], None)
        cache = DynamicCache()
        decoder, _ = base.parts(self.model)
        decoder(input_ids=torch.tensor([shared], device=self.device), past_key_values=cache, use_cache=True)
        return reading.Begun(shared, [(held.keys, held.values) for held in cache.layers])

    def _read(self, rows: Sequence[reading.Asked], in_line: bool) -> tuple[Any, Any, Any]:
        """(logits after each question, the cache, `kept` of the reading)."""
        from transformers import DynamicCache

        decoder, head = base.parts(self.model)
        pad = self.tokenizer.pad_token_id or 0
        how = reading.of(rows, pad=pad, device=self.device, dtype=self.model.dtype, in_line=in_line)
        cache = DynamicCache(how.cached)
        hidden = decoder(
            input_ids=how.ids, attention_mask=how.attention, position_ids=how.positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return head(hidden.reshape(-1, hidden.shape[-1])[how.last]).float(), cache, how.kept

    def _says(self, begin: list[int], asked: list[list[int]], in_line: bool) -> Any:
        import torch

        with torch.inference_mode():
            begun = self._begun(begin)
            return self._read([reading.Asked(begun, ids) for ids in asked], in_line)[0]

    def _decode(self, rows: Sequence[reading.Asked], choose: Any) -> None:
        """Read the questions, then one token a step, until `choose` has ended every row."""
        import torch
        from transformers import DynamicCache

        decoder, head = base.parts(self.model)
        logits, cache, kept = self._read(rows, self.in_line)
        alive, mask = list(range(len(rows))), None
        while True:
            picked = choose.step(alive, logits)
            keep = [i for i, token in enumerate(picked) if token is not None]
            if not keep:
                return
            if mask is None:
                mask, layers = kept(keep, _drained(cache))
                cache = DynamicCache(layers)
            elif len(keep) < len(alive):
                index = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(index)
                mask = mask[index]
            alive = [alive[i] for i in keep]
            tokens = torch.tensor([[picked[i]] for i in keep], device=self.device)
            mask = torch.cat([mask, mask.new_ones(len(keep), 1)], dim=1)
            hidden = decoder(
                input_ids=tokens, attention_mask=mask, position_ids=mask.sum(-1, keepdim=True) - 1, past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]  # fmt: skip
            logits = head(hidden.contiguous()).float()


def _drained(cache: Any) -> Iterator[reading.Pair]:
    """Keys and values layer by layer, each gone from the cache once the next is asked for."""
    for held in cache.layers:
        yield held.keys, held.values
        held.keys = held.values = None


Paths = dict[str, tuple[int, ...]]  # label -> its tokens and the one that ends an answer


def label_paths(labels: Sequence[str], template: prompts.Template) -> Paths:
    """ParamsError where two labels are the same tokens."""
    paths = {label: tuple(template.completion(label)) for label in labels}
    if len(set(paths.values())) != len(paths):
        raise ParamsError(f"some labels are the same tokens for this base, rename them: {', '.join(labels)}")
    return paths


def _alike(lengths: Sequence[int], most: int) -> list[int]:
    """Where batches of sorted rows stop: after `most`, or where a row would make the others a good deal longer.

    A label takes a step or two, so nearly all of its time goes into the question, padding included.
    """
    stops, first = [], 0
    for i, length in enumerate(lengths):
        if i - first == most or (i > first and length > SPREAD * lengths[first] + FREE):
            stops.append(i)
            first = i
    return [*stops, len(lengths)] if lengths else []


class Labels:
    """Walks the token trie of the labels, greedily among the tokens that it allows."""

    def __init__(self, paths: Paths, rows: int) -> None:
        self.paths = paths
        self.left = [list(paths) for _ in range(rows)]
        self.at = [0] * rows
        self.logs = [0.0] * rows

    def step(self, alive: list[int], logits: Any) -> list[int | None]:
        return [self._choose(row, logits[i]) for i, row in enumerate(alive)]

    def _choose(self, row: int, logits: Any) -> int | None:
        allowed = sorted({self.paths[label][self.at[row]] for label in self.left[row]})
        log_probs = logits[allowed].log_softmax(-1)
        best = int(log_probs.argmax())
        token = allowed[best]
        self.logs[row] += float(log_probs[best])
        self.left[row] = [label for label in self.left[row] if self.paths[label][self.at[row]] == token]
        self.at[row] += 1
        return None if len(self.left[row]) == 1 else token

    def answers(self) -> list[Answer]:
        return [Answer(left[0], math.exp(log)) for left, log in zip(self.left, self.logs, strict=True)]


class Free:
    """Greedy text until the end-of-turn token or the length limit."""

    def __init__(self, template: prompts.Template, rows: int, most: int) -> None:
        self.template, self.most = template, most
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.logs: list[list[float]] = [[] for _ in range(rows)]
        self.ended = [False] * rows

    def step(self, alive: list[int], logits: Any) -> list[int | None]:
        best = logits.argmax(-1).tolist()
        log_probs = logits.log_softmax(-1).max(-1).values.tolist()
        return [self._take(row, best[i], log_probs[i]) for i, row in enumerate(alive)]

    def _take(self, row: int, token: int, log_prob: float) -> int | None:
        self.logs[row].append(log_prob)
        if token == self.template.end:
            self.ended[row] = True
            return None
        self.tokens[row].append(token)
        return token if len(self.tokens[row]) < self.most else None

    def text(self, row: int) -> str:
        """What a row says so far."""
        return str(self.template.tokenizer.decode(self.tokens[row])).strip()

    def answers(self) -> list[Answer]:
        rows = enumerate(zip(self.logs, self.ended, strict=True))
        return [Answer(self.text(row), math.exp(sum(logs) / len(logs)), not ended) for row, (logs, ended) in rows]


class _Sampled(Free):
    """Text drawn from the smallest set of tokens that holds top_p of the probability (Holtzman et al. 2020)."""

    def __init__(
        self, template: prompts.Template, rows: int, most: int, temperature: float, top_p: float, generator: Any
    ) -> None:
        super().__init__(template, rows, most)
        self.temperature, self.top_p, self.generator = temperature, top_p, generator

    def step(self, alive: list[int], logits: Any) -> list[int | None]:
        shares, tokens = (logits / self.temperature).softmax(-1).cpu().sort(-1, descending=True)
        shares = shares.masked_fill(shares.cumsum(-1) - shares >= self.top_p, 0.0)  # the likeliest token always stays
        drawn = shares.multinomial(1, generator=self.generator)
        picked, told = tokens.gather(-1, drawn).squeeze(-1).tolist(), shares.gather(-1, drawn).log().squeeze(-1).tolist()
        return [self._take(row, picked[i], told[i]) for i, row in enumerate(alive)]
