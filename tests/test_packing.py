"""Rows packed into one line, and LoRA as one step: the loss and the gradients of padded rows and of peft's layers."""

from pathlib import Path
from typing import Any

import pytest

from retrain import base, fused, packing, prompts, steps, train
from retrain import params as params_
from retrain.records import Example

SETTINGS = params_.load(Path(__file__).parents[1]).train
ROWS = [
    Example.of(f"where is my {word}", label, source="seed")
    for word, label in (
        ("parcel", "order status"),
        ("refund", "refund card"),
        ("card", "refund order"),
        ("order", "order status"),
    )
]


def lora_model(tiny: Path, dtype: object, settings: params_.Train) -> tuple[Any, Any]:
    """(model whose LoRA changes something, tokenizer)."""
    import torch

    model, tokenizer = base.load(tiny, "cpu", base.Residency(True, "fp32", ""))
    model.to(dtype).set_attn_implementation("eager")
    model = train.add_lora(model, settings, 0)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    return model, tokenizer


def loss_and_gradients(model: Any, tokenizer: Any, *, pack: bool) -> tuple[int, float, Any]:
    """(tokens that went through the model, loss, all gradients in a row)."""
    import torch

    data = train.tokenise(ROWS, prompts.Template(tokenizer, "answer", 32))
    inputs = steps.inputs_of(model, data, tokenizer.pad_token_id, "cpu", pack)
    model.zero_grad()
    loss = steps.loss_of(model, inputs, "cpu")
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return inputs.arguments["input_ids"].numel(), loss.item(), gradients


def test_packed_rows_have_the_loss_and_the_gradients_of_padded_ones(tiny: Path) -> None:
    import torch

    model, tokenizer = lora_model(tiny, torch.float32, SETTINGS)
    few, one, packed = loss_and_gradients(model, tokenizer, pack=True)
    many, other, padded = loss_and_gradients(model, tokenizer, pack=False)
    assert few < 0.7 * many  # the shared tokens are there once
    assert few % packing.UNIT == 0 and many % (len(ROWS) * packing.UNIT // 2) == 0  # sizes that come again
    assert one == pytest.approx(other, abs=1e-4)
    assert (packed - padded).abs().max() < 1e-3 * padded.abs().max()


def test_each_example_has_the_same_loss_packed_with_others_and_alone(tiny: Path) -> None:
    import torch

    model, tokenizer = lora_model(tiny, torch.float32, SETTINGS)
    data = train.tokenise(ROWS, prompts.Template(tokenizer, "answer", 32))
    together = steps.inputs_of(model, data, tokenizer.pad_token_id, "cpu", True)
    assert together.arguments["input_ids"].shape[0] == 1
    with torch.no_grad():
        logits = base.parts(model)[1](steps._hidden(model, together))
        each = torch.nn.functional.cross_entropy(logits, together.targets, reduction="none")
        losses = [part.mean().item() for part in each.split([len(completion) for _, completion in data])]
        alone = [
            steps.loss_of(model, steps.inputs_of(model, [row], tokenizer.pad_token_id, "cpu", False), "cpu").item()
            for row in data
        ]
    assert len({round(loss, 3) for loss in alone}) > 1
    assert losses == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_fused_lora_has_the_loss_and_the_gradients_of_pefts(tiny: Path, dtype: str, off: float) -> None:
    import torch

    model, tokenizer = lora_model(tiny, getattr(torch, dtype), SETTINGS)
    _, one, pefts = loss_and_gradients(model, tokenizer, pack=True)
    assert fused.fuse(model) == 2 * len(SETTINGS.targets)  # two layers
    _, other, ours = loss_and_gradients(model, tokenizer, pack=True)
    assert other == pytest.approx(one, rel=off)
    assert (ours - pefts).norm() < off * pefts.norm()


def test_lora_with_dropout_is_left_to_peft(tiny: Path) -> None:
    import torch

    model, _ = lora_model(tiny, torch.float32, SETTINGS.model_copy(update={"dropout": 0.1}))
    assert fused.fuse(model) == 0


def test_a_base_that_does_not_keep_packed_rows_apart_is_trained_padded(tiny: Path) -> None:
    model, tokenizer = base.load(tiny, "cpu", base.Residency(True, "fp32", ""))
    data = train.tokenise(ROWS, prompts.Template(tokenizer, "answer", 32))
    pad = tokenizer.pad_token_id
    assert steps.can_pack(model, data, pad, "cpu")
    assert not steps.can_pack(model, [(q * 40, c) for q, c in data], pad, "cpu")  # too long
    decoder = base.parts(model)[0]
    real = decoder.forward

    def careless(attention_mask: object, **kwargs: object) -> object:
        return real(attention_mask=attention_mask if attention_mask.dim() == 2 else None, **kwargs)

    decoder.forward = careless
    assert not steps.can_pack(model, data, pad, "cpu")
