"""The arms of `train_throughput.py`: each returns the model, the clock of its steps, tokens gone through, dtype."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parts.work import Work
from retrain import base, steps, train


def ours(work: Work, residency: str) -> dict[str, Any]:
    import torch

    settings = work.settings.model_copy(update={"base_residency": residency})
    model, _ = base.load(work.folder, work.device, base.residency_of(work.folder, work.device, settings.model_dump()))
    model = train.prepare_model(model, settings, work.seed, work.device)
    computed, clock = _Counted(model), Clock()
    clock.is_set()
    with tempfile.TemporaryDirectory() as scratch:
        steps.run(
            model, work.data, [str(i) for i in range(len(work.data))], settings, seed=work.seed, pad=work.pad,
            device=work.device, log=Path(scratch) / "log", saved=train.Checkpoints(Path(scratch)),
            ending=clock, at_once=settings.batch,
        )  # fmt: skip
    dtype = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float32
    return {"model": model, "clock": clock, "computed": computed.tokens, "dtype": dtype}


class Clock:
    """Times of the start and of the ends of steps; it stands where a training asks after each step whether it shall end."""

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
        """From the start to the end of the last step."""
        return times[-1] - times[0]


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
        def on_train_begin(self, *args: Any, **given: Any) -> None:
            clock.is_set()

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
