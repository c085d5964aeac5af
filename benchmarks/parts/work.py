"""What the arms of `train_throughput.py` train on, and how the outcome is measured."""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parts import models, texts
from retrain import base, packing, prompts, steps, train
from retrain import params as params_

ROOT = Path(__file__).resolve().parents[2]
SHAPES: dict[str, dict[str, int]] = {
    "mistral-7b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                       num_key_value_heads=8, vocab_size=32000),
    "llama-3-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                       num_key_value_heads=8, vocab_size=128256),
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 vocab_size=49152),
}  # fmt: skip
LENGTHS: dict[str, Callable[[random.Random], int]] = {
    "full2048": lambda rng: 2048,
    "full4096": lambda rng: 4096,
    "lognormal": lambda rng: max(16, min(2048, round(rng.lognormvariate(5.6, 0.7)))),  # mean about 350
}
HELD = 64
Tokens = packing.Tokens


def random_rows(name: str, n: int, seed: int) -> list[Tokens]:
    """Random tokens; the last quarter of a row is its completion."""
    rng, rows = random.Random(seed), []
    for _ in range(n):
        length = LENGTHS[name](rng)
        ids = [rng.randrange(10, 30000) for _ in range(length)]
        rows.append((ids[: -length // 4], ids[-length // 4 :]))
    return rows


def base_of(shape: str) -> Path:
    """The unpacked base of the workspace, or one of random weights under .retrain, made once."""
    if shape == "smollm2":
        return models.smollm2()
    folder = ROOT / ".retrain/shapes" / shape
    if not folder.exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, eos_token_id=2, pad_token_id=0))
        torch.set_default_dtype(torch.float32)
        base.tokenizer(models.smollm2()).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


class Work:
    """What all arms train on, and how the outcome is measured."""

    def __init__(self, asked: argparse.Namespace) -> None:
        import torch

        self.device, self.folder = asked.device, base_of(asked.shape)
        name = asked.data if asked.data in texts.SHIPPED else "support"
        most = 4096 if asked.data in LENGTHS else 0
        settings = params_.load(ROOT).of(name).train
        self.settings = settings.model_copy(
            update={"epochs": asked.epochs, "device": asked.device, "max_length": most or settings.max_length}
        )
        self.tokenizer, self.seed = base.tokenizer(self.folder), asked.seed
        if asked.data in LENGTHS:
            self.data, self.held = random_rows(asked.data, asked.rows, asked.seed), []
        else:
            text = texts.read(asked.data, rows=asked.rows, held=HELD, seed=asked.seed)
            template = prompts.Template(self.tokenizer, text.system, self.settings.max_length)
            self.data, self.held = train.tokenise(text.rows, template), train.tokenise(text.held, template)
        self.tokens = sum(len(q) + len(c) for q, c in self.data) * asked.epochs
        self.supervised = sum(len(c) for _, c in self.data) * asked.epochs
        shapes = {name: shape for name, shape in base.shapes(self.folder).items() if len(shape) == 2}
        self.shapes = [shape for name, shape in shapes.items() if "embed" not in name and "lm_head" not in name]
        torch.manual_seed(asked.seed)

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    def peak(self, dtype: Any) -> float:
        """FLOP/s of matrix products with the model's weights, at the best of a few numbers of tokens."""
        import torch

        kinds = sorted({tuple(shape) for shape in self.shapes})
        weights = [torch.randn(*kind, dtype=dtype, device=self.device) for kind in kinds]
        count = [sum(tuple(shape) == kind for shape in self.shapes) for kind in kinds]
        best = 0.0
        for tokens in (256, 512, 1024) if self.device == "cpu" else (8192, 16384):
            ins = [torch.randn(tokens, kind[1], dtype=dtype, device=self.device) for kind in kinds]
            seconds = 0.0
            for x, weight, times in zip(ins, weights, count, strict=True):
                x @ weight.t()
                took = []
                for _ in range(5):
                    self.wait()
                    began = time.perf_counter()
                    x @ weight.t()
                    self.wait()
                    took.append(time.perf_counter() - began)
                seconds += times * min(took)
            best = max(best, 2 * tokens * self.parameters / seconds)
        return best

    @property
    def parameters(self) -> int:
        """Weights of the decoder's matrices: without embeddings and head."""
        return sum(rows * columns for rows, columns in self.shapes)

    def wait(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def loss(self, model: Any) -> float | None:
        """Mean loss of the held-out completions' tokens."""
        import torch

        model.eval()
        total = n = 0.0
        with torch.no_grad():
            for start in range(0, len(self.held), 16):
                inputs = packing.padded(self.held[start : start + 16], self.pad, self.device)
                total += steps.loss_of(model, inputs, self.device).item() * len(inputs.targets)
                n += len(inputs.targets)
        return round(total / n, 4) if n else None
