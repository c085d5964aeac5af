"""Whether a training fits, and what it will take: told before a weight is loaded.  (no torch)

Sizes come from the headers and config.json of the base, tokens from the rows. The micro-batch follows from the total memory of
machine or GPU, never from what is free just then, so that a run reproduces; out of memory all the same, it halves (`steps`).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain import base
from retrain import params as params_
from retrain.errors import ParamsError
from retrain.packing import Tokens
from retrain.records import read_json

MOST = 0.85  # of the memory; the rest is for libraries, allocator and system
STATE = 4 * 4  # bytes of a trained weight: itself, its gradient, AdamW's two moments, all float32
SHARE = 0.4  # of a matrix product's speed is what a training reaches (benchmarks/train_throughput.py)
FLOPS = 4  # a token and weight of the base: forward, and backward to what lies before it


@dataclass(frozen=True)
class Plan:
    """Weights are counted, memory is bytes by part, tokens are of one epoch; `seconds` is None where no speed is known."""

    device: str
    parameters: int
    trained: int
    kept: str
    memory: dict[str, int]
    has: int
    at_once: int
    rows: int
    cut: int
    tokens: int
    supervised: tuple[int, float, int]
    seconds: float | None

    def told(self) -> str:
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in self.memory.items())
        low, middle, high = self.supervised
        takes = "" if self.seconds is None else f", about {self.seconds / 60:.1f} device-minutes"
        cut = f", {self.cut} questions cut at the front" if self.cut else ""
        return (
            f"{self.parameters / 1e6:.1f} M weights in {self.kept} on {self.device}, {self.trained / 1e6:.2f} M trained; "
            f"memory in GB: {parts} of {self.has / 1e9:.1f}; {self.at_once} rows at once; {self.rows} rows{cut}, "
            f"{self.tokens} tokens an epoch, {low} to {high} a row are learned (median {middle:g}){takes}"
        )


def plan(
    folder: Path, settings: params_.Train, lies: base.Residency, data: Sequence[Tokens], *, device: str, cut: int, has: int,
    flops: float | None,
) -> Plan:  # fmt: skip
    """What a training of these rows takes; ParamsError with the numbers where not even one row fits into `has` bytes.

    flops: of a matrix product of this device a second, or None.
    """
    shapes, config = base.shapes(folder), read_json(folder / "config.json")
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    inner = sum(math.prod(shape) for name, shape in matrices.items() if not _outer(name))
    outer = sum(math.prod(shape) for shape in shapes.values()) - inner
    trained = sum(settings.r * sum(shape) for name, shape in matrices.items() if _targeted(name, settings.targets))
    dense = base.WIDTH[base.computes(device, lies.kept)]
    fixed = {
        "base": round(inner * base.WIDTH[lies.kept] + outer * dense),
        "adapter and optimizer": trained * STATE,
    }
    longest = sorted(data, key=lambda row: len(row[0]) + len(row[1]), reverse=True)
    at_once, passing = settings.batch, 0
    while True:
        passing = _activations(longest[:at_once], config, dense)
        if sum(fixed.values()) + passing <= MOST * has or at_once == 1:
            break
        at_once = max(1, at_once // 2)
    memory = {**fixed, "micro-batch": passing}
    lengths, learned = [len(q) + len(c) for q, c in data], [len(c) for _, c in data]
    if sum(memory.values()) > MOST * has:
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in memory.items())
        raise ParamsError(
            f"one row of {max(lengths)} tokens does not fit: GB needed are {parts}, together {sum(memory.values()) / 1e9:.2f}, "
            f"{MOST * has / 1e9:.2f} may be used of {has / 1e9:.2f}: lower train.max_length or train.r, set "
            "train.base_residency to nf4, or take a smaller base or a larger device"
        )
    tokens = sum(lengths)
    return Plan(
        device=device,
        parameters=inner + outer,
        trained=trained,
        kept=lies.kept,
        memory=memory,
        has=has,
        at_once=at_once,
        rows=len(data),
        cut=cut,
        tokens=tokens,
        supervised=(min(learned), statistics.median(learned), max(learned)),
        seconds=FLOPS * inner * tokens * settings.epochs / (SHARE * flops) if flops else None,
    )


def _outer(name: str) -> bool:
    return "embed" in name or "lm_head" in name


def _targeted(name: str, targets: Sequence[str]) -> bool:
    return name.removesuffix(".weight").rpartition(".")[2] in targets


def _activations(rows: Sequence[Tokens], config: Mapping[str, Any], width: float) -> int:
    """Bytes that a forward pass keeps for the backward one: hidden states, attention of short rows, and the logits.

    Counted for a Llama layer of these kernels: 16 hidden and 6 intermediate values a token, and two squares a head where
    attention is not fused; 3 float32 values a logit.
    """
    hidden, layers = int(config.get("hidden_size", 4096)), int(config.get("num_hidden_layers", 32))
    intermediate, heads = int(config.get("intermediate_size", 4 * hidden)), int(config.get("num_attention_heads", 32))
    lengths = [len(q) + len(c) for q, c in rows]
    padded = len(rows) * max(lengths)
    squares = 2 * heads * len(rows) * max(lengths) ** 2 if max(lengths) <= 1024 else 0
    logits = sum(len(c) for _, c in rows) * int(config.get("vocab_size", 128000)) * 12
    return round(width * layers * (padded * (16 * hidden + 6 * intermediate) + squares) + logits)
