"""Training speed, ours beside TRL's and others', on the same rows, seed, rank and learning rate.

    python benchmarks/train_throughput.py [--device cpu|cuda] [--shape NAME] [--data NAME|DIR]
        [--arms A,E,F] [--append FILE] [--json]

  A  TRL SFTTrainer as it comes, with peft and bitsandbytes (NF4; gradient checkpointing on)
  B  TRL tuned: packed, no checkpointing        C  Unsloth, where it installs        D  B with Liger layers (Triton: a GPU)
  E  ours, base in NF4                          F  ours, base dequantised once       G  plain LoRA on a bf16 base, by peft

Each arm is a process of its own, in turns; --rounds repeats the turns, and the best round of an arm counts (what runs beside
it only slows it down). Each result is appended to --append as soon as it is known, and an arm that is there already is not run
again. `mfu` is 4 N FLOPs a non-padding token (N without embeddings) over the peak of a matrix product at the model's own sizes
in the dtype that trained, measured before and after in the same process; `mfu_computed` counts the tokens that really went
through the model: ours computes what the rows of a batch share once. `loss` is that of held-out completions after all rows.

--shape: smollm2 (trained weights), or mistral-7b and llama-3-8b with random weights. --data: support, orders, a folder with
train.csv and test.csv (text,category), or full2048, full4096, lognormal: random tokens, for speed alone.

Example: python benchmarks/train_throughput.py --data ../shared/data/banking77 --arms A,F --threads 1
The GPU figures: python benchmarks/train_throughput.py --device cuda --shape mistral-7b --data lognormal --append F.jsonl
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts import texts  # noqa: E402

from retrain import base, packing, prompts, steps, train  # noqa: E402
from retrain import params as params_  # noqa: E402
from retrain.records import dumps  # noqa: E402

ARMS = "AEFBCDG"  # in this order: what matters most first, so that an interrupted run leaves it
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


# --- what is trained


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
        folder = ROOT / "out/base/smollm2"
        if not folder.exists():
            base.make("smollm2", params_.load(ROOT).bases["smollm2"], folder)
        return folder
    folder = ROOT / ".retrain/shapes" / shape
    if not folder.exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, eos_token_id=2, pad_token_id=0))
        torch.set_default_dtype(torch.float32)
        base.tokenizer(base_of("smollm2")).save_pretrained(folder)
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


# --- arms: each returns (model, seconds of wall and of CPU a step, tokens that went through the model, dtype)


def ours(work: Work, residency: str) -> dict[str, Any]:
    import torch

    settings = work.settings.model_copy(update={"base_residency": residency})
    model, _ = base.load(work.folder, work.device, base.residency_of(work.folder, work.device, settings.model_dump()))
    model = train.prepare_model(model, settings, work.seed, work.device)
    computed, clock = _Counted(model), Clock()
    with tempfile.TemporaryDirectory() as scratch:
        steps.run(
            model, work.data, [str(i) for i in range(len(work.data))], settings, seed=work.seed, pad=work.pad,
            device=work.device, log=Path(scratch) / "log", saved=train.Checkpoints(Path(scratch)),
            ending=clock, at_once=settings.batch,
        )  # fmt: skip
    dtype = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float32
    return {"model": model, "clock": clock, "computed": computed.tokens, "dtype": dtype}


class Clock:
    """Times of the ends of steps; it stands where a training asks after each step whether it shall end."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def is_set(self) -> bool:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if not self.wall or now - self.wall[-1] > 1e-3:  # asked twice a step
            self.wall.append(now)
            self.cpu.append(time.process_time())
        return False

    def seconds(self, times: list[float]) -> float:
        """Of all steps, the first one taken for as long as the mean of the others."""
        return (times[-1] - times[0]) * len(times) / (len(times) - 1)


class _Counted:
    """Counts the tokens that a model's decoder is given."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        base.parts(model)[0].register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, given: dict[str, Any]) -> None:
        ids = given.get("input_ids")
        if ids is not None and module.training:
            self.tokens += ids.numel()


def trl(work: Work, *, residency: str = "nf4", **changed: Any) -> dict[str, Any]:
    """TRL's SFTTrainer on the same tokens; `changed` are settings other than its defaults."""
    import torch

    try:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer
    except ImportError as error:
        raise NotHere("TRL is not installed: pip install -c constraints.txt -e '.[bench]'") from error
    from peft import LoraConfig
    from transformers import TrainerCallback

    settings, clock = work.settings, Clock()
    lies = base.Residency(residency == "nf4", residency, "")
    model, tokenizer = base.load(work.folder, work.device, lies)
    on_cpu = {"use_cpu": True, "bf16": False} if work.device == "cpu" and residency == "nf4" else {}
    if work.device == "cpu":
        on_cpu["use_cpu"] = True
    table = {
        "input_ids": [q + c for q, c in work.data],
        "completion_mask": [[0] * len(q) + [1] * len(c) for q, c in work.data],
    }

    class Told(TrainerCallback):
        def on_step_end(self, *args: Any, **given: Any) -> None:
            clock.is_set()

    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=work.seed,
            per_device_train_batch_size=settings.batch, num_train_epochs=settings.epochs, learning_rate=settings.learning_rate,
            warmup_steps=max(1, round(settings.warmup * settings.epochs * len(work.data) / settings.batch)),
            max_length=settings.max_length, completion_only_loss=True, **on_cpu, **changed,
        )  # fmt: skip
        lora = LoraConfig(
            r=settings.r, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=list(settings.targets), bias="none",
            task_type="CAUSAL_LM",
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_dict(table), processing_class=tokenizer, peft_config=lora,
            callbacks=[Told()],
        )  # fmt: skip
        counted = _Counted(trainer.model)
        trainer.train()
    return {"model": trainer.model, "clock": clock, "computed": counted.tokens,
            "dtype": torch.float32 if on_cpu.get("bf16") is False else torch.bfloat16}  # fmt: skip


def unsloth(work: Work) -> dict[str, Any]:
    try:
        import unsloth  # noqa: F401
    except Exception as error:  # it raises NotImplementedError where it finds no GPU
        raise NotHere(f"Unsloth does not install here ({type(error).__name__})") from error
    return trl(work, **TUNED)


def liger(work: Work) -> dict[str, Any]:
    if work.device == "cpu":
        raise NotHere("Liger's layers are Triton kernels: they need a GPU")
    try:
        import liger_kernel  # noqa: F401
    except ImportError as error:
        raise NotHere("Liger is not installed: pip install liger-kernel") from error
    return trl(work, **TUNED, use_liger_kernel=True)


class NotHere(Exception):
    """An arm that this machine cannot run, and why."""


TUNED: dict[str, Any] = {"packing": True, "gradient_checkpointing": False}
RUN: dict[str, Callable[[Work], dict[str, Any]]] = {
    "A": trl,
    "B": lambda work: trl(work, **TUNED),
    "C": unsloth,
    "D": liger,
    "E": lambda work: ours(work, "nf4"),
    "F": lambda work: ours(work, base.dense_on_cpu() if work.device == "cpu" else "bf16"),
    "G": lambda work: trl(work, residency="bf16", gradient_checkpointing=False),
}


def one(arm: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One arm in this process; what it measured, or why it cannot run here."""
    import torch

    base.quiet()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    work = Work(asked)
    told = {"arm": arm, "device": asked.device, "shape": asked.shape, "data": Path(asked.data).name, "rows": len(work.data),
            "epochs": asked.epochs, "batch": work.settings.batch, "threads": torch.get_num_threads()}  # fmt: skip
    try:
        made = RUN[arm](work)
    except NotHere as error:
        return {**told, "not_here": str(error)}
    clock, flops = made["clock"], 4 * work.parameters
    wall, cpu = clock.seconds(clock.wall), clock.seconds(clock.cpu)
    peak = work.peak(made["dtype"])
    # one thread on a busy machine: what it computed for, not what it waited
    seconds = cpu if asked.device == "cpu" and told["threads"] == 1 else wall
    memory = torch.cuda.max_memory_allocated() if asked.device == "cuda" else _resident()
    return {
        **told,
        "tokens_per_second": round(work.tokens / seconds, 1),
        "supervised_per_second": round(work.supervised / seconds, 1),
        "wall_tokens_per_second": round(work.tokens / wall, 1),
        "mfu": round(flops * work.tokens / seconds / peak, 4),
        "mfu_computed": round(flops * made["computed"] / seconds / peak, 4),
        "peak_gflops": round(peak / 1e9, 1),
        "dtype": str(made["dtype"]).removeprefix("torch."),
        "peak_memory_mb": round(memory / 1e6),
        "loss": work.loss(made["model"]),
    }


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- all arms, in turns


def turns(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The best round of each arm; what --append holds of this very call is not run again."""
    same = ("device", "shape", "data", "epochs", "threads")
    found: list[dict[str, Any]] = []
    if asked.append and asked.append.exists():
        known = [json.loads(line) for line in asked.append.read_text("utf-8").splitlines()]
        wanted = {"device": asked.device, "shape": asked.shape, "data": Path(asked.data).name, "epochs": asked.epochs}
        wanted["threads"] = asked.threads or os.cpu_count() or 1
        found = [row for row in known if all(row.get(key) == wanted[key] for key in same)]
    for turn in range(asked.rounds):
        for arm in sorted(asked.arms, key=ARMS.index):
            if sum(row["arm"] == arm for row in found) > turn:
                continue
            found.append(child(arm))
            print(dumps(found[-1]), file=sys.stderr, flush=True)
            if asked.append:
                with asked.append.open("a", encoding="utf-8") as file:
                    file.write(dumps(found[-1]) + "\n")
    ran = [row for row in found if row["arm"] in asked.arms]
    best = {arm: max((r for r in ran if r["arm"] == arm), key=lambda r: r.get("tokens_per_second", 0)) for arm in asked.arms}
    return [best[arm] for arm in sorted(best)]


def child(arm: str) -> dict[str, Any]:
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", arm], env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"arm"')]
    if done.returncode or not lines:
        raise SystemExit(f"arm {arm} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(lines[-1]))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    first = next((row for row in rows if row["arm"] == "A" and "loss" in row), None)
    lines = [f"{'arm':4}{'tokens/s':>10}{'x A':>7}{'supervised':>12}{'MFU':>7}{'computed':>10}{'MB':>7}{'loss':>9}  dtype"]
    for row in rows:
        if "not_here" in row:
            lines.append(f"{row['arm']:4}{row['not_here']}")
            continue
        ratio = f"{row['tokens_per_second'] / first['tokens_per_second']:.2f}" if first else ""
        loss = f"{row['loss']:.4f}" if row["loss"] is not None else "-"
        lines.append(
            f"{row['arm']:4}{row['tokens_per_second']:10.0f}{ratio:>7}{row['supervised_per_second']:12.0f}{row['mfu']:7.0%}"
            f"{row['mfu_computed']:10.0%}{row['peak_memory_mb']:7}{loss:>9}  {row['dtype']}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("smollm2", *SHAPES), default="smollm2")
    parser.add_argument("--data", default="support")
    parser.add_argument("--arms", default=ARMS, type=lambda text: text.replace(",", ""))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of each arm; default: all cores")
    parser.add_argument("--append", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if set(asked.arms) - set(ARMS) or not asked.arms or min(asked.rows, asked.epochs, asked.rounds) < 1:
        parser.error(f"--arms is some of {','.join(sorted(ARMS))}; --rows, --epochs and --rounds are at least 1")
    if asked.one:
        print(dumps(one(asked.one, asked)))
        return
    rows = turns(asked)
    print(json.dumps({"schema": 1, "arms": rows}, indent=2) if asked.json else "\n".join(table(rows)))


if __name__ == "__main__":
    main()
