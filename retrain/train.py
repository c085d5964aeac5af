"""Stage `train`: QLoRA on one adapter's rows.  [torch]

NF4 base, LoRA in float32, AdamW, linear warm-up and decay, the loss on completion tokens alone (`steps` has the loop). Every
retraining starts from the base; one that was cut off goes on where it was. The folder's manifest is written last.
"""

import math
import os
import random
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrain import base, contamination, fit, fused, launch, layer, packing, process, prompts, steps
from retrain import params as params_
from retrain.checkpoints import Checkpoints
from retrain.errors import DataError, RetrainError
from retrain.meter import Meter
from retrain.records import (
    Example,
    Message,
    file_digest,
    read_examples,
    read_json,
    rows_digest,
    unit_hash,
    verify_folder,
    write_json,
)

ROOM = 4  # tokens that must be left for a question
FREQUENT = 0.75  # of the labels have no more rows than the one that rarer ones are held to
FEW = 0.02  # of the rows may be too long to train on: one long order must not stop a night's run, a wrong limit must


def digest(folder: Path) -> str:
    """The identity of an adapter: sha256 of its manifest, which holds the sha256 of every file."""
    return file_digest(Path(folder) / "manifest.json")


def verify(folder: Path) -> str:
    """Check every byte of an adapter folder against its manifest and return its digest."""
    found = digest(folder)
    verify_folder(Path(folder), found)
    return found


def train(
    rows: Sequence[Example], adapter: str, params: params_.Params, base_folder: Path, target: Path, log: Path, *,
    home: Path, ending: threading.Event | None = None,
) -> None:  # fmt: skip
    """Train an adapter on rows and write it to target; one JSON line a step goes to log.

    Checkpoints lie under home and are gone at the end; `ending` set: one is written, and SystemExit raised.
    """
    import torch

    settings, spec = params.train, params.adapter(adapter)
    device, system = base.choose_device(settings.device), prompts.read_prompt(Path(spec.prompt))
    meter, tokenizer = Meter(device), base.tokenizer(base_folder)
    template = prompts.Template(tokenizer, system, settings.max_length)
    _leaves_room(template, spec.prompt)
    given = len(rows)
    rows = _short_enough(rows, template)
    shown = evened(rows) if spec.labels else list(rows)
    data = tokenise(shown, template)
    lies = base.residency_of(base_folder, device, settings.model_dump())
    planned = fit.plan(
        base_folder, settings, lies, data, device=device, cut=_cut(data, settings.max_length), has=base.memory(device),
        flops=base.matrix_flops(device, lies.kept),
    )  # fmt: skip
    print(f"{planned.told()}; the base: {lies.why}", flush=True)
    random.seed(params.seed)
    torch.manual_seed(params.seed)
    model, _ = base.load(base_folder, device, lies)
    model = prepare_model(model, settings, params.seed, device)
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
        "residency": lies.kept,
    } | ({"repeated": len(shown) - len(rows)} if len(shown) > len(rows) else {})
    saved = Checkpoints.of(home, {**run, "order": [row.id for row in shown], "torch": torch.__version__, "unit": packing.UNIT})
    made = steps.run(
        model, data, [row.id for row in shown], settings, seed=params.seed, pad=tokenizer.pad_token_id, device=device, log=log,
        saved=saved, ending=ending or threading.Event(), at_once=planned.at_once,
    )  # fmt: skip
    _check_learned(model, made.losses)
    final = made.losses[-5:]
    run |= {"steps": len(made.losses), "at_once": made.at_once, "final_loss": round(sum(final) / len(final), 4)}
    _publish(model, run, rows, contamination.Likeness.of(params.prepare.near, spec), target)
    learned = settings.epochs * sum(len(c) for _, c in data)
    meter.stop(cost_file(log), earlier=made.earlier, tokens=settings.epochs * planned.tokens, supervised=learned)
    saved.drop()


def cost_file(log: Path) -> Path:
    """Where what a training cost lies, beside its log."""
    return log.with_suffix(".cost.json")


def _cut(data: Sequence[packing.Tokens], most: int) -> int:
    """Rows that fill the limit: their question was longer, but for the rare one that fits exactly."""
    return sum(len(question) + len(completion) >= most for question, completion in data)


def _leaves_room(template: prompts.Template, where: str) -> None:
    """ParamsError where the prompt alone fills the limit: every question would be cut to nothing."""
    taken = len(template.render([Message(role="user", content="")]))
    if template.max_length - taken < ROOM:
        raise params_.ParamsError(
            f"train.max_length is {template.max_length}, the prompt ({where}) alone takes {taken} tokens: nothing is left "
            f"for a question; raise train.max_length to {taken + 64} or more, or shorten the prompt"
        )


def evened(rows: Sequence[Example]) -> list[Example]:
    """The rows, and some of the rarer labels' once more, until each is there as often as a frequent one or twice over.

    Failures are collected where the champion is wrong: of a label that it gives too often there are few, and many of its
    neighbours, to which the next one would lose what this one had. FREQUENT of the labels have no more rows than the one that
    the rarer ones are held to, so that a single label which is everywhere does not double a training.
    """
    found: dict[str, list[Example]] = {}
    for row in rows:
        found.setdefault(row.answer, []).append(row)
    counts = sorted(map(len, found.values()))
    enough = counts[math.ceil(FREQUENT * len(counts)) - 1] if counts else 0
    again = {
        row.id
        for mine in found.values()
        for row in sorted(mine, key=lambda row: unit_hash(row.id, "again"))[: max(0, enough - len(mine))]
    }
    return [*rows, *(row for row in rows if row.id in again)]


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


def prepare_model(model: Any, settings: params_.Train, seed: int, device: str) -> Any:
    """The base as it trains: attention that suits the rows, fresh LoRA weights, fused layers."""
    short = device == "cpu" and settings.max_length <= 1024  # flash attention's backward is slow for short rows on a CPU
    if short:
        model.set_attn_implementation("eager")
    model = add_lora(model, settings, seed)
    fused.fuse(model)
    if short:
        layer.fuse(model)
    return model


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


def _publish(
    model: Any, run: dict[str, Any], rows: Sequence[Example], like: contamination.Likeness, target: Path
) -> None:  # fmt: skip
    """Safetensors, configuration, run.json and hashed training keys under a temporary name; the manifest last."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    model.peft_config["default"].base_model_name_or_path = run["base"]
    model.save_pretrained(scratch, safe_serialization=True)
    (scratch / "README.md").unlink(missing_ok=True)
    _sort_lists(scratch / "adapter_config.json")
    write_json(scratch / "run.json", run)
    contamination.write_trained(scratch / contamination.FILE, rows, like)
    write_json(scratch / "manifest.json", {"schema": 1, "files": {p.name: file_digest(p) for p in sorted(scratch.iterdir())}})
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)


def _sort_lists(path: Path) -> None:
    """peft keeps target modules as a set: their order would change the bytes from run to run."""
    config = read_json(path)
    write_json(path, {key: sorted(value) if isinstance(value, list) else value for key, value in sorted(config.items())})


def main(adapter: str) -> None:
    params = params_.load().of(adapter)
    target = Path("out") / adapter / "adapter"
    log = Path(".retrain") / "train" / f"{adapter}.jsonl"  # git-ignored and declared by no stage: it holds times
    order = launch.ordered()
    if order:
        process.die_with_parent(signal.SIGTERM)  # the command is ended, and the ref taken away, by us and not by the kernel
        launch.train(order, adapter, params, target, log)
    else:
        rows = read_examples(Path("out") / adapter / "data" / "train.jsonl")
        bases, home = Path("out/base") / params.adapter(adapter).base, process.cache("checkpoints")
        train(rows, adapter, params, bases, target, log, home=home, ending=process.ends_itself())
    run = read_json(target / "run.json")
    left_out = f" ({run['too_long']} longer than train.max_length left out)" if run["too_long"] else ""
    learned = f"{run['steps']} steps, final loss {run['final_loss']}, {digest(target)[:12]}"
    again = f", {run['repeated']} of them twice" if "repeated" in run else ""
    print(f"trained {adapter}: {run['rows']} rows{again}{left_out}, {learned}")


if __name__ == "__main__":
    from retrain.stage import run as run_stage

    run_stage(main)
