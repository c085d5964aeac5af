"""Whole decoder layers as one step: the same loss and gradients as eager attention over peft's layers, and left alone else."""

from pathlib import Path
from typing import Any

import pytest

from retrain import base, layer, packing, prompts, steps, train
from retrain import params as params_
from retrain.records import Example

ROWS = [
    Example.of("where is my parcel", "order_status", source="seed"),
    Example.of("card lost please cancel a b", "cancel_order", source="seed"),
    Example.of("refund", "refund_status", source="seed"),
]
SETTINGS = params_.load(Path(__file__).parents[1]).train.model_copy(update={"device": "cpu"})


def model_of(tiny: Path, dtype: str, **settings: Any) -> tuple[Any, list[packing.Tokens], int]:
    """(a LoRA model whose B is not zero, eager attention and peft's own layers; rows; padding)."""
    import torch

    model, tokenizer = base.load(tiny, "cpu", base.Residency(False, {"float32": "fp32", "bfloat16": "bf16"}[dtype], ""))
    model.set_attn_implementation("eager")
    model = train.add_lora(model, SETTINGS.model_copy(update=settings), 3)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return model, train.tokenise(ROWS, prompts.Template(tokenizer, "answer", 32)), tokenizer.pad_token_id


def loss_and_gradients(model: Any, data: list[packing.Tokens], pad: int, *, pack: bool) -> tuple[float, dict[str, Any]]:
    model.zero_grad(set_to_none=True)
    inputs = steps.inputs_of(model, data, pad, "cpu", pack)
    assert (inputs.arguments["input_ids"].shape[0] == 1) == pack
    loss = steps.loss_of(model, inputs, "cpu")
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("targets", [SETTINGS.targets, ("q_proj", "v_proj"), ("k_proj", "down_proj")])
@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_a_layer_has_the_loss_and_the_gradients_of_eager_attention_and_pefts_layers(
    tiny: Path, dtype: str, off: float, targets: tuple[str, ...], pack: bool
) -> None:
    model, data, pad = model_of(tiny, dtype, targets=targets)
    loss, theirs = loss_and_gradients(model, data, pad, pack=pack)
    assert layer.fuse(model) == 2
    found, ours = loss_and_gradients(model, data, pad, pack=pack)
    assert found == pytest.approx(loss, rel=off)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.norm() > 0
        assert (ours[name] - gradient).norm() < off * gradient.norm(), name


def test_a_step_changes_what_the_layer_says_next(tiny: Path) -> None:
    import torch

    model, data, pad = model_of(tiny, "float32")
    layer.fuse(model)
    before, gradients = loss_and_gradients(model, data, pad, pack=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in gradients:
                weight -= 0.02 * gradients[name] / gradients[name].norm()
    assert loss_and_gradients(model, data, pad, pack=True)[0] < before - 1e-3


def test_answers_with_a_cache_are_the_layers_own(tiny: Path) -> None:
    import torch

    model, data, _ = model_of(tiny, "float32")
    ids = torch.tensor([data[1][0]])
    with torch.no_grad():
        theirs = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=-1)
        layer.fuse(model)
        assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=-1), theirs)


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize("adapted", [True, False])
def test_what_answers_says_what_the_layers_say_after_a_prefix_that_is_cached(
    tiny: Path, dtype: str, off: float, adapted: bool
) -> None:
    import torch
    from transformers import DynamicCache

    model, data, _ = model_of(tiny, dtype)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.to(model.dtype)
    model = (model if adapted else model.unload()).eval()
    model.set_attn_implementation("sdpa")
    decoder, _ = base.parts(model)
    begin, rows = torch.tensor([data[1][0][:3]]), torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1, 1]])

    def said() -> Any:
        """Of two rows behind a shared beginning, one padded on the left; then one more token of each."""
        cache = DynamicCache()
        with torch.no_grad():
            decoder(input_ids=begin, past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(2)
            given = {"past_key_values": cache, "use_cache": True}
            positions = (mask.cumsum(-1) - 1)[:, -4:]
            first = decoder(input_ids=rows, attention_mask=mask, position_ids=positions, **given).last_hidden_state[:, -1:]
            longer = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            places = (longer.cumsum(-1) - 1)[:, -1:]
            last = decoder(input_ids=rows[:, :1] + 4, attention_mask=longer, position_ids=places, **given).last_hidden_state
        return torch.cat([first, last], dim=1).float()

    theirs, forward = said(), type(decoder.layers[0]).forward
    assert layer.fuse(model) == 2
    assert decoder.layers[0].forward.__func__ is not forward
    assert (said() - theirs).norm() < off * theirs.norm()
    layer.release(model)
    assert decoder.layers[0].forward.__func__ is forward
    assert torch.equal(said(), theirs)


@pytest.mark.parametrize("changed", ["norm", "scale", "bias", "dropout", "part"])
def test_a_layer_that_computes_otherwise_is_left_alone(tiny: Path, changed: str) -> None:
    import torch

    model, data, pad = model_of(tiny, "float32", dropout=0.1 if changed == "dropout" else 0.0)
    first = model.get_base_model().model.layers[0]
    if changed == "norm":  # as Gemma has it
        norm = first.input_layernorm
        norm.forward = lambda x: 2 * type(norm).forward(norm, x)
    elif changed == "scale":  # as Granite has it
        first.mlp.register_forward_hook(lambda module, args, out: 0.5 * out)
    elif changed == "bias":
        first.mlp.down_proj.base_layer.bias = torch.nn.Parameter(torch.zeros(64), requires_grad=False)
    elif changed == "part":
        first.self_attn.q_norm = torch.nn.Identity()
    theirs = loss_and_gradients(model, data, pad, pack=True)[0] if changed != "dropout" else None
    assert layer.fuse(model) == (0 if changed == "dropout" else 1)
    if theirs is not None:
        assert loss_and_gradients(model, data, pad, pack=True)[0] == pytest.approx(theirs, rel=1e-4)
