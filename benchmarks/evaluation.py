"""Answers a second, ours beside a plain batched loop of `generate` that is held to the labels too.

    python benchmarks/evaluation.py [--device cpu|cuda] [--rows 64] [--rounds 2] [--threads N] [--json]

Classification asks the adapter `support`, generation `orders`; each is trained first on --train rows and kept under .retrain.
Both loops run in this process on the same base, adapter, prompts and batch, in turns; the best round of each counts. On one
CPU thread the seconds are those that were computed, not those waited for other work. `same`: share of equal answers; in bf16
the rows beside a row can tip one, in float32 (--residency fp32) all are equal.

Example: python benchmarks/evaluation.py --rows 128 --threads 1 --json
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts import models, texts  # noqa: E402

from retrain import params as params_  # noqa: E402
from retrain import quiet  # noqa: E402
from retrain.answers import right  # noqa: E402
from retrain.generate import Model  # noqa: E402

TASKS = {"classification": "support", "generation": "orders"}


def plain(model: Any, tokenizer: Any, ids: Sequence[list[int]], *, labels: Sequence[list[int]], most: int, batch: int,
          end: int, device: str) -> list[str]:  # fmt: skip
    """Left-padded batches in the order given, greedy; with labels, only tokens that go on one of them are allowed."""
    import torch

    found: list[str] = []
    for start in range(0, len(ids), batch):
        rows = ids[start : start + batch]
        longest = max(map(len, rows))
        tokens = torch.tensor([[end] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        held: dict[str, Any] = {}
        if labels:
            held["prefix_allowed_tokens_fn"] = _allowed(labels, longest, end)
        with torch.inference_mode():
            out = model.generate(
                input_ids=tokens, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=end,
                eos_token_id=end, **held,
            )  # fmt: skip
        found += [tokenizer.decode(row, skip_special_tokens=True).strip() for row in out[:, longest:].tolist()]
    return found


def _allowed(labels: Sequence[list[int]], prompt: int, end: int) -> Callable[[int, Any], list[int]]:
    def allowed(row: int, ids: Any) -> list[int]:
        said = ids[prompt:].tolist()
        after = sorted({label[len(said)] for label in labels if len(label) > len(said) and label[: len(said)] == said})
        return after or [end]

    return allowed


def seconds(work: Callable[[], list[str]], device: str, threads: int) -> tuple[list[str], float]:
    import torch

    clock = time.process_time if device == "cpu" and threads == 1 else time.perf_counter
    began = clock()
    answers = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return answers, clock() - began


def measured(task: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import torch

    name = TASKS[task]
    params = params_.load(ROOT).of(name)
    changed = {"device": asked.device, "base_residency": asked.residency, "epochs": asked.epochs}
    params = params.model_copy(update={"train": params.train.model_copy(update=changed)})
    text = texts.read(name, rows=asked.train, held=asked.rows, seed=1)
    adapter = models.adapter_of(text, params, folder)
    model = Model(folder, device=asked.device, adapter=adapter)
    other = Model(folder, device=asked.device, adapter=adapter, fuse=False).model  # as peft leaves it
    template = model.template(text.system, params.train.max_length)
    questions = [row.messages[:-1] for row in text.held]
    ids = [template.question(question) for question in questions]
    labels = [template.completion(label) for label in text.labels]
    most, batch = params.adapter(name).max_new_tokens, params.evaluate.batch

    def ours() -> list[str]:
        found = model.answers(questions, template=template, labels=text.labels, max_new_tokens=most, batch=batch)
        return [answer.text for answer in found]

    def theirs() -> list[str]:
        return plain(other, model.tokenizer, ids, labels=labels, most=most, batch=batch, end=template.end, device=asked.device)

    model.answers(questions[:2], template=template, labels=text.labels, max_new_tokens=2, batch=2)  # what is only made once
    best = {"ours": float("inf"), "plain": float("inf")}
    said: dict[str, list[str]] = {}
    for _ in range(asked.rounds):
        for arm, work in (("plain", theirs), ("ours", ours)):
            said[arm], took = seconds(work, asked.device, torch.get_num_threads())
            best[arm] = min(best[arm], took)
    rows, schema = len(questions), None if text.labels else {"type": "object"}
    return {
        "rows": rows,
        "batch": batch,
        "residency": model.lies.kept,
        "ours_per_second": round(rows / best["ours"], 2),
        "plain_per_second": round(rows / best["plain"], 2),
        "times": round(best["plain"] / best["ours"], 2),
        "same": round(sum(a == b for a, b in zip(said["ours"], said["plain"], strict=True)) / rows, 4),
        "right": round(
            sum(bool(right(a, row.answer, schema)) for a, row in zip(said["ours"], text.held, strict=True)) / rows, 4
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--residency", choices=("auto", "nf4", "bf16", "fp32"), default="auto")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--rows", type=int, default=64, help="that are asked")
    parser.add_argument("--train", type=int, default=200, help="rows that the adapter learns")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if min(asked.rows, asked.train, asked.epochs, asked.rounds) < 1:
        parser.error("--rows, --train, --epochs and --rounds are at least 1")
    quiet.libraries()
    import torch

    torch.set_num_threads(asked.threads or os.cpu_count() or 1)
    os.chdir(ROOT)
    folder = models.smollm2()
    found = {task: measured(task, asked, folder) for task in asked.tasks}
    if asked.json:
        print(json.dumps({"schema": 1, "device": asked.device, "threads": torch.get_num_threads(), **found}, indent=2))
        return
    for task, told in found.items():
        print(
            f"{task}: {told['ours_per_second']:.1f} answers a second, plain loop {told['plain_per_second']:.1f} "
            f"({told['times']:.1f} x), {told['same']:.1%} the same, {told['right']:.1%} right ({told['residency']})"
        )


if __name__ == "__main__":
    main()
