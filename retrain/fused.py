"""LoRA on a dense base as one step of autograd.  [torch]

peft's layer is a base product, two thin ones, a scaling and an addition, and autocast converts both thin weights each time.
Here the thin products are added where the base's lie (`addmm`), and nothing else touches them. The same numbers but for
rounding; the parameters stay peft's, and so does what is saved.
"""

from functools import cache
from types import MethodType
from typing import Any


def fuse(model: Any) -> int:
    """Layers of a peft model that compute so from now on: those on a dense base without bias, and no dropout."""
    changed = 0
    for layer in model.modules():
        if lora_of(layer) and plain(layer):
            layer.forward = MethodType(_forward, layer)
            changed += 1
    return changed


def plain(layer: Any) -> bool:
    """Whether a projection is dense and without bias, and its LoRA, where it has one, without dropout."""
    from torch import nn

    base = base_of(layer)
    if type(base) is not nn.Linear or base.bias is not None:
        return False
    if base is layer:
        return True
    return lora_of(layer) is not None and isinstance(layer.lora_dropout["default"], nn.Identity)


def base_of(layer: Any) -> Any:
    return getattr(layer, "base_layer", layer)


def lora_of(layer: Any) -> tuple[Any, Any, float] | None:
    """(A, B, scale) of peft's layer, None where nothing learns."""
    from peft.tuners.lora import Linear

    if not isinstance(layer, Linear) or layer.active_adapters != ["default"]:
        return None
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]


def _forward(layer: Any, x: Any) -> Any:
    weight, a, b = layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return _step().apply(x.to(weight.dtype), weight, a, b, layer.scaling["default"])


@cache
def _step() -> Any:
    """The autograd function; a class of torch's can only be made where torch may be loaded."""
    import torch

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, a: Any, b: Any, scale: float) -> Any:
            rows, a, b = x.reshape(-1, x.shape[-1]), a.to(x.dtype), b.to(x.dtype)
            thin = rows @ a.t()
            ctx.save_for_backward(rows, thin, weight, a, b)
            ctx.scale = scale
            return (rows @ weight.t()).addmm_(thin, b.t(), alpha=scale).view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            rows, thin, weight, a, b = ctx.saved_tensors
            g = gradient.reshape(-1, gradient.shape[-1])
            of_thin = (g @ b).mul_(ctx.scale)
            of_x = (g @ weight).addmm_(of_thin, a).view(*gradient.shape[:-1], -1)
            return of_x, None, (of_thin.t() @ rows).float(), (g.t() @ thin).float().mul_(ctx.scale), None

    return Step
