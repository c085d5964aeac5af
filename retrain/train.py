"""Stage `train`: QLoRA on one adapter's rows.  [torch]

A plain loop: NF4 base, LoRA in float32, AdamW, linear warm-up and decay, the loss on completion tokens alone (logits are
computed at those positions only). Every retraining starts from the base. The folder's manifest is written last.
"""

import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retrain import base, fused, packing, prompts
from retrain import params as params_
from retrain.errors import DataError, RetrainError
from retrain.records import Example, file_digest, read_examples, read_json, rows_digest, text_digest, write_json

SAME = 0.03  # of what the model says: bf16 rounds by less, a token that sees another row changes it by more
FEW = 0.02  # of the rows may be too long to train on: one long order must not stop a night's run, a wrong limit must


def digest(folder: Path) -> str:
    """The identity of an adapter: sha256 of its manifest, which holds the sha256 of every file."""
    return file_digest(Path(folder) / "manifest.json")


def verify(folder: Path) -> str:
    """Check every byte of an adapter folder against its manifest and return its digest."""
    from retrain.errors import IntegrityError

    folder = Path(folder)
    listed = read_json(folder / "manifest.json")["files"]
    present = {path.name for path in folder.iterdir()} - {"manifest.json"}
    if present != set(listed):
        raise IntegrityError(f"{folder} holds {sorted(present)}, its manifest lists {sorted(listed)}: fetch the version again")
    for name, sha in listed.items():
        if file_digest(folder / name) != sha:
            raise IntegrityError(f"{folder / name} does not match the manifest: fetch the version again")
    return digest(folder)


def train(rows: Sequence[Example], adapter: str, params: params_.Params, base_folder: Path, target: Path, log: Path) -> None:
    """Train an adapter on rows and write it to target; one JSON line a step goes to log."""
    import torch

    settings, spec = params.train, params.adapter(adapter)
    device, system = base.choose_device(settings.device), prompts.read_prompt(Path(spec.prompt))
    random.seed(params.seed)
    torch.manual_seed(params.seed)
    model, tokenizer = base.load(base_folder, device)
    template = prompts.Template(tokenizer, system, settings.max_length)
    given = len(rows)
    rows = _short_enough(rows, template)
    data = tokenise(rows, template)
    if device == "cpu" and settings.max_length <= 1024:  # flash attention's backward is slow for short rows on a CPU
        model.set_attn_implementation("eager")
    model = add_lora(model, settings, params.seed)
    fused.fuse(model)
    losses = list(_loop(model, data, settings, params.seed, tokenizer.pad_token_id, device, log))
    _check_learned(model, losses)
    run = {
        "schema": 1,
        "adapter": adapter,
        "task": spec.task,
        "labels": list(spec.labels),
        "base": spec.base,
        "base_digest": base.digest(base_folder),
        "template_digest": template.digest,
        "prompt": template.system,
        "max_length": settings.max_length,
        "dataset": rows_digest(rows),
        "rows": len(rows),
        "too_long": given - len(rows),
        "seed": params.seed,
        "train": settings.model_dump(mode="json"),
        "residency": base.residency(device),
        "steps": len(losses),
        "final_loss": round(sum(losses[-5:]) / len(losses[-5:]), 4),
    }
    _publish(model, run, rows, target)


def _short_enough(rows: Sequence[Example], template: prompts.Template) -> list[Example]:
    """The rows whose answer leaves room for a question; more than FEW others are an error that names the first."""
    tokens = {row.id: len(template.completion(row.answer)) for row in rows}
    longer = [row.id for row in rows if tokens[row.id] >= template.max_length]
    if len(longer) > FEW * len(rows):
        raise DataError(
            f"row {longer[0]}: its answer has {tokens[longer[0]]} tokens, train.max_length is {template.max_length}; "
            f"{len(longer)} of {len(rows)} rows are too long, at most {FEW:.0%} are left out: raise train.max_length"
        )
    return [row for row in rows if row.id not in longer]


def tokenise(rows: Sequence[Example], template: prompts.Template) -> list[packing.Tokens]:
    """Question and completion ids of each row; each answer leaves room for a question."""
    data = []
    for row in rows:
        completion = template.completion(row.answer)
        question = template.question(row.messages[:-1])
        data.append((question[-(template.max_length - len(completion)) :], completion))
    if not data:
        raise DataError("no rows to train on: data/seed holds none that train (see prepare's counts)")
    return data


def add_lora(model: Any, settings: params_.Train, seed: int) -> Any:
    """The model with fresh float32 LoRA weights on the target modules; only they are trainable."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
        bias="none",
    )
    try:
        model = get_peft_model(model, config)
    except ValueError as error:
        raise params_.ParamsError(f"train.targets {list(settings.targets)} do not fit this base: {error}") from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def batches(data: Sequence[packing.Tokens], size: int, seed: int, epoch: int) -> Iterator[list[packing.Tokens]]:
    """One epoch in batches of rows of like length (less padding), in an order that depends on seed and epoch alone."""
    order = list(range(len(data)))
    rng = random.Random(f"{seed}/{epoch}")
    rng.shuffle(order)
    pool = size * 8
    groups = []
    for start in range(0, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lambda i: len(data[i][0]) + len(data[i][1]))
        groups += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    rng.shuffle(groups)
    for group in groups:
        yield [data[i] for i in group]


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


def _loop(
    model: Any, data: list[packing.Tokens], settings: params_.Train, seed: int, pad: int, device: str, log: Path
) -> Iterator[float]:
    import torch
    from tqdm import tqdm

    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    total = settings.epochs * math.ceil(len(data) / settings.batch)
    warm = max(1, round(settings.warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / warm, (total - s) / max(1, total - warm)))
    pack = can_pack(model, data[: settings.batch], pad, device)
    model.train()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, tqdm(total=total, desc="train", unit="step", disable=None) as bar:
        step = 0
        for epoch in range(settings.epochs):
            for batch in batches(data, settings.batch, seed, epoch):
                step += 1  # not the bar's: a bar that is off does not count
                loss = loss_of(model, inputs_of(model, batch, pad, device, pack), device)
                value = loss.item()
                if not math.isfinite(value):
                    raise RetrainError(f"the loss is {value} at step {step}: lower train.learning_rate")
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(weights, 1.0).item()
                rate = schedule.get_last_lr()[0]
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                bar.update()
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
                row = {"step": step, "time": int(time.time() * 1000), "loss": value, "grad_norm": norm, "learning_rate": rate}
                file.write(json.dumps({**row, "of": total}) + "\n")
                file.flush()
                yield value


def _check_learned(model: Any, losses: Sequence[float]) -> None:
    """A run that learned nothing is a fault, said here and not by the gate."""
    import torch

    if not losses or all(loss == 0 for loss in losses):
        raise RetrainError(f"training learned nothing: {len(losses)} steps, every loss 0; look at prepare's rows")
    moved = [p for name, p in model.named_parameters() if "lora_B" in name and p.requires_grad]
    if not all(bool(torch.isfinite(p).all()) for p in moved):
        raise RetrainError("the trained weights are not finite: lower train.learning_rate")
    if not any(bool(p.abs().sum() > 0) for p in moved):
        raise RetrainError("the trained weights did not move from zero: check train.targets and learning_rate")


def _publish(model: Any, run: dict[str, Any], rows: Sequence[Example], target: Path) -> None:
    """Safetensors, configuration, run.json and hashed training keys under a temporary name; the manifest last."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    model.peft_config["default"].base_model_name_or_path = run["base"]
    model.save_pretrained(scratch, safe_serialization=True)
    (scratch / "README.md").unlink(missing_ok=True)
    _sort_lists(scratch / "adapter_config.json")
    write_json(scratch / "run.json", run)
    write_json(scratch / "trained_on.json", sorted({text_digest(row.key)[:20] for row in rows}))
    write_json(scratch / "manifest.json", {"schema": 1, "files": {p.name: file_digest(p) for p in sorted(scratch.iterdir())}})
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)


def _sort_lists(path: Path) -> None:
    """peft keeps target modules as a set: their order would change the bytes from run to run."""
    config = read_json(path)
    write_json(path, {key: sorted(value) if isinstance(value, list) else value for key, value in sorted(config.items())})


def main(adapter: str) -> None:
    params = params_.load().of(adapter)
    rows = read_examples(Path("out") / adapter / "data" / "train.jsonl")
    target = Path("out") / adapter / "adapter"
    log = Path(".retrain") / "train" / f"{adapter}.jsonl"  # git-ignored and declared by no stage: it holds times
    train(rows, adapter, params, Path("out/base") / params.adapter(adapter).base, target, log)
    run = read_json(target / "run.json")
    left_out = f" ({run['too_long']} longer than train.max_length left out)" if run["too_long"] else ""
    learned = f"{run['steps']} steps, final loss {run['final_loss']}, {digest(target)[:12]}"
    print(f"trained {adapter}: {run['rows']} rows{left_out}, {learned}")


if __name__ == "__main__":
    from retrain.stage import run as run_stage

    run_stage(main)
