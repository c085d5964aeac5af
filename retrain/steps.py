"""The optimizer steps of a training: batches and their loss, what is out of the ordinary, and where to go on.  [torch]

A run that was cut off goes on from its newest checkpoint to the same last step and, on the same machine, to the same bytes.
Out of memory halves the rows that go through the model at once, not the batch. A loss or
gradient that is not finite, and a loss that climbs, end the run before anything is published.
"""

import json
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain import base, packing
from retrain import params as params_
from retrain.checkpoints import Checkpoints
from retrain.errors import RetrainError

SAME = 0.03  # of what the model says: bf16 rounds by less, a token that sees another row changes it by more
LOOKED_AT = 20  # steps: the mean loss of so many ...
DEAD, LEARNED = 5, 0.1  # steps without a gradient while the loss is above this: nothing more will be learned
CLIMBED = 2.0  # ... may not be so many times the base's
ENDED = 143  # exit code of a process that SIGTERM ended


@dataclass(frozen=True)
class Trained:
    """The loss of each step, how many rows went through the model at once in the end, and the seconds that steps before a
    resume took."""

    losses: list[float]
    at_once: int
    earlier: float


def batches(data: Sequence[packing.Tokens], size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Rows of one epoch by number, in batches of like length (less padding); the order depends on seed and epoch alone."""
    order = list(range(len(data)))
    rng = random.Random(f"{seed}/{epoch}")
    rng.shuffle(order)
    pool = size * 8
    groups = []
    for start in range(0, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lambda i: len(data[i][0]) + len(data[i][1]))
        groups += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    rng.shuffle(groups)
    yield from groups


def loss_of(model: Any, inputs: packing.Inputs, device: str) -> Any:
    """Mean cross-entropy of the completion tokens; logits are computed at their positions only."""
    import torch

    with torch.autocast(device, dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        _, head = base.parts(model)
        logits = head(_hidden(model, inputs))
    return torch.nn.functional.cross_entropy(logits.float(), inputs.targets)


def _hidden(model: Any, inputs: packing.Inputs) -> Any:
    """(completion tokens, hidden): what the model says where a completion's token comes next."""
    decoder, _ = base.parts(model)
    hidden = decoder(**inputs.arguments, use_cache=False).last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1])[inputs.places]


def inputs_of(model: Any, batch: Sequence[packing.Tokens], pad: int, device: str, pack: bool) -> packing.Inputs:
    """Packed where that is asked for and the rows are short, else padded."""
    return (pack and packing.packed(batch, model.dtype, device)) or packing.padded(batch, pad, device)


def can_pack(model: Any, batch: Sequence[packing.Tokens], pad: int, device: str) -> bool:
    """Whether packed rows come out of this base as padded ones do: asked of it, not of its name.

    On a GPU rows stay padded: its fused attention takes no mask of ours.
    """
    import torch

    packed = packing.packed(batch, model.dtype, device)
    if device != "cpu" or packed is None:
        return False
    with torch.no_grad():
        one, other = (_hidden(model, inputs).float() for inputs in (packed, packing.padded(batch, pad, device)))
    return bool((one - other).norm() < SAME * other.norm())


def run(
    model: Any, data: Sequence[packing.Tokens], names: Sequence[str], settings: params_.Train, *, seed: int, pad: int,
    device: str, log: Path, saved: Checkpoints, ending: threading.Event, at_once: int,
) -> Trained:  # fmt: skip
    """All steps, one line of JSON each in log; names[i] is the id of row i, for what must be said of it.

    at_once: rows that go through the model together, at first. `ending` set: a checkpoint is written after the step, and
    SystemExit raised.
    """
    import torch
    from peft.optimizers import create_loraplus_optimizer
    from tqdm import tqdm

    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=settings.learning_rate, loraplus_lr_ratio=settings.loraplus, weight_decay=0.0, fused=True
    )
    full = [group["lr"] for group in optimizer.param_groups]
    total = settings.epochs * math.ceil(len(data) / settings.batch)
    warm = max(1, round(settings.warmup * total))
    model.train()  # before anything goes through it: in eval mode bitsandbytes repacks NF4 on a CPU, and gradients are lost
    forward = _Forward(model, pad, device, can_pack(model, data[: settings.batch], pad, device), at_once)
    rows = _resumed(saved, weights, optimizer)
    earlier = sum(row.get("seconds", 0.0) for row in rows)
    if rows:
        print(f"goes on after step {len(rows)} of {total}, from a checkpoint of this very run")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, tqdm(total=total, initial=len(rows), desc="train", unit="step", disable=None) as bar:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        order = (batch for epoch in range(settings.epochs) for batch in batches(data, settings.batch, seed, epoch))
        for step, batch in enumerate(order, 1):
            if step <= len(rows):
                continue
            began = time.monotonic()
            where = f"at step {step} of {total}, on rows {', '.join(names[i] for i in batch)}"
            value = forward.backward([data[i] for i in batch], where)
            norm = torch.nn.utils.clip_grad_norm_(weights, 1.0).item()
            if not (math.isfinite(value) and math.isfinite(norm)):
                raise RetrainError(
                    f"the loss is {value}, its gradient {norm}, {where}: lower train.learning_rate, or look at them"
                )
            share = min(step / warm, (total - step + 1) / max(1, total - warm))
            for group, rate in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = share * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            row = {"step": step, "time": int(time.time() * 1000), "loss": value, "grad_norm": norm}
            row["learning_rate"] = share * settings.learning_rate
            rows.append({**row, "seconds": round(time.monotonic() - began, 3), "of": total})
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            bar.update()
            bar.set_postfix(loss=f"{value:.3f}", refresh=False)
            _still_learns(rows, where)
            if ending.is_set() or (step % settings.checkpoint_steps == 0 and step < total):
                _save(saved, step, weights, optimizer, rows)
            if ending.is_set():
                print(f"ended by SIGTERM after step {step} of {total}: the same command goes on from there", flush=True)
                raise SystemExit(ENDED)
    return Trained([row["loss"] for row in rows], forward.at_once, earlier)


@dataclass
class _Forward:
    """A batch through the model and back, in as many parts as memory asks for."""

    model: Any
    pad: int
    device: str
    pack: bool
    at_once: int  # rows

    def backward(self, batch: Sequence[packing.Tokens], where: str) -> float:
        """The mean loss of the batch's completion tokens; its gradients are in the weights, however many parts it took."""
        import torch

        while True:
            try:
                return self._parts(batch)
            except torch.OutOfMemoryError as error:
                self.model.zero_grad(set_to_none=True)
                longest = max(len(question) + len(completion) for question, completion in batch)
                if self.at_once == 1:
                    raise RetrainError(
                        f"one row of {longest} tokens does not fit into memory {where}: lower train.max_length or train.r, "
                        f"take a smaller base, or a larger device ({str(error).splitlines()[0]})"
                    ) from error
            self.at_once = max(1, min(self.at_once, len(batch)) // 2)
            print(f"warning: out of memory {where}: {self.at_once} rows at once from now on, the same batch of {len(batch)}")
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _parts(self, batch: Sequence[packing.Tokens]) -> float:
        whole, value = sum(len(completion) for _, completion in batch), 0.0
        for start in range(0, len(batch), self.at_once):
            part = batch[start : start + self.at_once]
            loss = loss_of(self.model, inputs_of(self.model, part, self.pad, self.device, self.pack), self.device)
            if len(part) < len(batch):
                loss = loss * (sum(len(completion) for _, completion in part) / whole)
            loss.backward()
            value += loss.item()
        return value


def _still_learns(rows: Sequence[dict[str, Any]], where: str) -> None:
    """The first step's loss is the base's own, before anything was learned."""
    some = rows[-LOOKED_AT:]
    last = sum(row["loss"] for row in some) / len(some)
    if len(some) == LOOKED_AT and last > CLIMBED * max(rows[0]["loss"], 1.0):
        told = f"the loss climbs: {last:.3g} over the last {LOOKED_AT} steps, {rows[0]['loss']:.3g} at the start"
    elif len(rows) >= DEAD and not any(row["grad_norm"] for row in rows[-DEAD:]) and last > LEARNED:
        told = f"the gradient has been 0 for {DEAD} steps, and the loss is {last:.3g}"
    else:
        return
    raise RetrainError(f"{told}, {where}: lower train.learning_rate")


# --- the state of a run


def _save(saved: Checkpoints, step: int, weights: Sequence[Any], optimizer: Any, rows: list[dict[str, Any]]) -> None:
    import torch

    tensors = {f"weight/{i}": p.detach().contiguous() for i, p in enumerate(weights)}
    state = optimizer.state_dict()["state"]
    tensors |= {f"optimizer/{i}/{name}": value.contiguous() for i, held in state.items() for name, value in held.items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    try:
        saved.write(step, tensors, rows)
    except OSError as error:
        print(f"warning: no checkpoint at step {step} ({error.strerror}: {saved.folder}); the training goes on without")


def _resumed(saved: Checkpoints, weights: Sequence[Any], optimizer: Any) -> list[dict[str, Any]]:
    """Put the newest checkpoint into weights, optimizer and random state; the rows of its log, none where there is none."""
    import torch

    found = saved.newest()
    if found is None:
        return []
    with torch.no_grad():
        for i, parameter in enumerate(weights):
            parameter.copy_(found.tensors[f"weight/{i}"])
    state: dict[int, dict[str, Any]] = {}
    for name, value in found.tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            number, _, key = rest.partition("/")
            state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(found.tensors["random"])
    if "random/cuda" in found.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(found.tensors["random/cuda"])
    return found.log
