"""A decoder layer as one step of autograd, where it is of the common kind: pre-norm, SwiGLU, LoRA on a dense base.  [torch]

What is left of a step on a CPU once the products are fast is everything between them: casts, masks, graph nodes, and seven
layers that each read the same rows. Here projections of the same rows are one product, their LoRA A rows stand below the
base's weight and so cost no product of their own, softmax stays in the precision of the scores, heads that share keys are one
product, and the backward pass is written out. The same numbers but for rounding; parameters stay peft's, and so does what is
saved. A layer that computes anything else (another norm, a bias, a scale) answers differently and stays as it was.

Where nothing learns and attention is torch's own (`sdpa`), the same products answer questions, with a cache and, in `serving`,
with the LoRA weights of many adapters beside the base.
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import MethodType
from typing import Any, Protocol

from retrain import fused

ALIKE = 0.03  # of what a layer adds to its rows: bf16 rounds by less, another formula changes it by more
PARTS = {
    "": ("input_layernorm", "mlp", "post_attention_layernorm", "self_attn"),
    "self_attn": ("k_proj", "o_proj", "q_proj", "v_proj"),
    "mlp": ("act_fn", "down_proj", "gate_proj", "up_proj"),
}


class Beside(Protocol):
    """LoRA weights that are no part of the model."""

    def takes(self, names: Sequence[str], sizes: Sequence[int]) -> Callable[[Any, Any], None]:
        """What adds to `out` (rows, at least sum of sizes) what projections of these names say to x (rows, inputs)."""


def fuse(model: Any, beside: Beside | None = None) -> int:
    """Layers of a model that compute so from now on; all others keep their own forward pass.

    beside: the weights of adapters on a bare base that only answers; nothing of them may be in force yet.
    """
    changed, masks = 0, _Masks()
    for name, layer in model.named_modules():
        if _common(layer):
            made = _Layer(layer, masks)
            if made.answers_alike():
                if beside:
                    made.take_over(name, beside)
                layer.forward = MethodType(made.forward, layer)
                changed += 1
    return changed


def release(model: Any) -> None:
    """Every layer that was fused computes as its class does again."""
    for layer in model.modules():
        ours = getattr(layer.__dict__.get("forward"), "__func__", None)
        if isinstance(getattr(ours, "__self__", None), _Layer):
            del layer.forward


def _common(layer: Any) -> bool:
    """Whether a module is built as such a layer is; whether it computes so is seen by its answers."""
    for path, names in PARTS.items():
        inside = getattr(layer, path, None) if path else layer
        if inside is None or sorted(dict(inside.named_children())) != list(names):
            return False
    paths = (f"{path}.{name}" for path in ("self_attn", "mlp") for name in PARTS[path] if name.endswith("_proj"))
    return all(fused.plain(layer.get_submodule(path)) for path in paths) and not layer.self_attn.attention_dropout


class _Group:
    """Projections of the same rows: weight (outputs + ranks, inputs) is theirs and, below, the LoRA A of those that learn."""

    def __init__(self, layer: Any, *paths: str) -> None:
        import torch

        layers = [layer.get_submodule(path) for path in paths]
        bases, learning = [fused.base_of(layer) for layer in layers], [fused.lora_of(layer) for layer in layers]
        self.lora = [weight for found in learning if found for weight in found[:2]]  # A and B of each that learns, in turn
        self.paths, self.sizes = paths, [one.weight.shape[0] for one in bases]
        self.outputs = sum(self.sizes)
        ranks = sum(a.shape[0] for a in self.lora[::2])
        dense = torch.cat([one.weight for one in bases])
        self.weight = torch.cat([dense, dense.new_zeros(ranks, dense.shape[1])])
        self.up = dense.new_zeros(self.outputs, ranks)
        self.places: list[tuple[slice, slice, float]] = []  # of outputs and ranks, and the scale, of each that learns
        row = rank = 0
        for one, found in zip(bases, learning, strict=True):
            count = one.weight.shape[0]
            one.weight.data = self.weight[row : row + count]  # the same memory
            if found:
                self.places.append((slice(row, row + count), slice(rank, rank + found[0].shape[0]), found[2]))
                rank += found[0].shape[0]
            row += count
        self.add: Callable[[Any, Any], None] | None = None  # what lies beside
        self.take()

    def take(self) -> None:
        """Today's A and B, in the precision of the base; B with its scale. The backward pass reads them too: it comes before
        they change."""
        for (rows, ranks, scale), a, b in zip(self.places, self.lora[::2], self.lora[1::2], strict=True):
            self.weight[self.outputs :][ranks].copy_(a.detach())
            self.up[rows, ranks].copy_(b.detach()).mul_(scale)

    def forward(self, x: Any) -> Any:
        """(rows, outputs + ranks) of x (rows, inputs): what the projections say, and beside it what LoRA's A says."""
        out = x @ self.weight.t()
        if self.places:
            out[:, : self.outputs].addmm_(out[:, self.outputs :], self.up.t())
        if self.add:
            self.add(x, out)
        return out

    def room(self, x: Any) -> Any:
        """For the gradient of that output; its last columns are this group's own."""
        return x.new_empty(x.shape[0], self.weight.shape[0])

    def backward(self, gradient: Any, x: Any, thin: Any) -> tuple[Any, list[Any]]:
        """(gradient of x, gradients of A and B in turn in float32)."""
        import torch

        said, beside = gradient[:, : self.outputs], gradient[:, self.outputs :]
        found = []
        if self.places:
            torch.mm(said, self.up, out=beside)
            of_a = (beside.t() @ x).float()
            of_b = (said.t() @ thin).float()
            for rows, ranks, scale in self.places:
                found += [of_a[ranks], of_b[rows, ranks] * scale]
        return gradient @ self.weight, found


class _Layer:
    """One decoder layer: its groups, norms and shapes."""

    def __init__(self, layer: Any, masks: "_Masks") -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.layer, self.masks, self.head, self.scale = layer, masks, attention.head_dim, attention.scaling
        self.qkv = _Group(layer, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.o, self.down = _Group(layer, "self_attn.o_proj"), _Group(layer, "mlp.down_proj")
        self.gate_up = _Group(layer, "mlp.gate_proj", "mlp.up_proj")
        self.groups = (self.qkv, self.o, self.gate_up, self.down)
        self.heads, self.shared = (
            fused.base_of(one).weight.shape[0] // self.head for one in (attention.q_proj, attention.k_proj)
        )
        self.norms = [(norm.weight, norm.variance_epsilon) for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
        self.wide = fused.base_of(mlp.gate_proj).weight.shape[0]
        self.attend = _attends(attention)
        self.answers_alone = False  # with the weights beside, which the layer's own pass no longer hears of

    def take_over(self, name: str, beside: Beside) -> None:
        """Add to the outputs of these projections what lies beside, in the place of hooks on them."""
        for group in self.groups:
            group.add = beside.takes([f"{name}.{path}" for path in group.paths], group.sizes)
        self.answers_alone = True

    def forward(
        self, layer: Any, hidden: Any, attention_mask: Any = None, position_embeddings: Any = None, **others: Any
    ) -> Any:
        """In place of the layer's own, which goes on where neither way is its: a cache while it learns, no mask of numbers."""
        import torch

        fits = hidden.dtype == self.qkv.weight.dtype
        if self.answers_alone or (self.attend and fits and not (layer.training or torch.is_grad_enabled())):
            return self.answer(hidden, attention_mask, position_embeddings, others.get("past_key_values"))
        masked = attention_mask is not None and attention_mask.is_floating_point() and attention_mask.dim() == 4
        if others.get("past_key_values") is not None or not (masked and fits):
            return type(layer).forward(
                layer, hidden, attention_mask=attention_mask, position_embeddings=position_embeddings, **others
            )
        cos, sin = position_embeddings
        return _step().apply(
            self, hidden, cos, sin, attention_mask, *(weight for group in self.groups for weight in group.lora)
        )

    def answer(self, hidden: Any, mask: Any, turned: Any, cache: Any) -> Any:
        """Without gradients; keys and values of what was read before are in the cache, and these join them."""
        from torch.nn.functional import silu

        attention = self.layer.self_attn
        (batch, tokens, width), (cos, sin) = hidden.shape, (part[:, None] for part in turned)
        x = hidden.reshape(-1, width)
        said = self.qkv.forward(_normed(x, *self.norms[0])[0])
        split = said[:, : self.qkv.outputs].view(batch, tokens, -1, self.head).transpose(1, 2)
        q, k = _turn(split[:, : self.heads], cos, sin), _turn(split[:, self.heads : self.heads + self.shared], cos, sin)
        v = split[:, self.heads + self.shared :]
        if cache is not None:
            k, v = cache.update(k, v, attention.layer_idx)
        seen, _ = self.attend(attention, q, k, v, mask, dropout=0.0, scaling=self.scale)
        middle = x + self.o.forward(seen.reshape(batch * tokens, -1))[:, :width]
        both = self.gate_up.forward(_normed(middle, *self.norms[1])[0])
        act = silu(both[:, : self.wide]).mul_(both[:, self.wide : 2 * self.wide])
        return (middle + self.down.forward(act)[:, :width]).view_as(hidden)

    def answers_alike(self) -> bool:
        """Whether it adds to random rows what the layer adds; they are small, so that their sum rounds little of it away."""
        import torch

        dtype, tokens = self.qkv.weight.dtype, 12
        generator = torch.Generator().manual_seed(0)
        hidden = 0.02 * torch.randn(2, tokens, self.qkv.weight.shape[1], generator=generator).to(dtype)
        angles = torch.randn(2, tokens, self.head // 2, generator=generator).repeat(1, 1, 2)
        turned = (angles.cos().to(dtype), angles.sin().to(dtype))
        mask = torch.full((tokens, tokens), torch.finfo(dtype).min, dtype=dtype).triu(1).expand(2, 1, -1, -1)
        with torch.no_grad():
            given = {"attention_mask": mask, "position_embeddings": turned}
            theirs = type(self.layer).forward(self.layer, hidden, **given) - hidden
            ours = self.forward(self.layer, hidden, **given) - hidden
        return bool((ours - theirs).float().norm() < ALIKE * theirs.float().norm())


def _attends(attention: Any) -> Any:
    """torch's own attention as transformers calls it, None where the layer uses another (`eager` while it learns)."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS["sdpa"] if attention.config._attn_implementation == "sdpa" else None


class _Masks:
    """The mask as scores need it; all layers of a pass have one."""

    def __init__(self) -> None:
        self._given: Any = None
        self._made: Any = None

    def of(self, mask: Any, batch: int, heads: int, shared: int) -> Any:
        """Of (batch or 1, 1, tokens, tokens): (batch x shared, heads that share keys x tokens, tokens)."""
        if self._given is not mask:
            rows = mask.expand(batch, heads // shared, -1, -1).reshape(batch, 1, -1, mask.shape[-1])
            self._given, self._made = mask, rows.expand(-1, shared, -1, -1).reshape(batch * shared, -1, mask.shape[-1])
        return self._made


def _normed(x: Any, weight: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """(RMSNorm of x, x over its root mean square, that root's inverse)."""
    wide = x.float()
    inverse = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    unit = wide.mul_(inverse) if wide is not x else wide * inverse
    return unit.to(x.dtype) * weight, unit, inverse


def _norm_back(gradient: Any, weight: Any, unit: Any, inverse: Any) -> Any:
    wide = (gradient * weight).float()
    mean = (wide * unit).mean(-1, keepdim=True)
    return wide.addcmul_(unit, mean, value=-1).mul_(inverse).to(gradient.dtype)


def _turn(x: Any, cos: Any, sin: Any) -> Any:
    """Rotary position embedding of x (batch, heads, tokens, size); the result is contiguous, whatever x is."""
    import torch

    half = x.shape[-1] // 2
    out = torch.mul(x, cos, out=x.new_empty(x.shape))
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


@cache
def _step() -> Any:
    """The autograd function; a class of torch's can only be made where torch may be loaded."""
    import torch
    from torch.nn.functional import silu

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, of: _Layer, hidden: Any, cos: Any, sin: Any, mask: Any, *_lora: Any) -> Any:
            """_lora: what the groups hold, named here so that autograd asks for its gradients."""
            with torch.autocast(hidden.device.type, enabled=False):
                for group in of.groups:
                    group.take()
                batch, tokens, width = hidden.shape
                x = hidden.reshape(-1, width)
                normed, unit, inverse = _normed(x, *of.norms[0])
                said = of.qkv.forward(normed)
                split = said[:, : of.qkv.outputs].view(batch, tokens, -1, of.head).transpose(1, 2)
                cos, sin = cos[:, None], sin[:, None]
                q = _turn(split[:, : of.heads], cos, sin).mul_(of.scale)
                k = _turn(split[:, of.heads : of.heads + of.shared], cos, sin)
                v = split[:, of.heads + of.shared :].contiguous()
                many, group_rows = batch * of.shared, of.heads // of.shared * tokens
                q, k, v = q.view(many, group_rows, of.head), k.view(many, tokens, of.head), v.view(many, tokens, of.head)
                shares = torch.baddbmm(of.masks.of(mask, batch, of.heads, of.shared), q, k.transpose(1, 2)).softmax(-1)
                seen = (shares @ v).view(batch, of.heads, tokens, of.head).transpose(1, 2).reshape(batch * tokens, -1)
                mixed = of.o.forward(seen)
                middle = x + mixed[:, :width]
                normed2, unit2, inverse2 = _normed(middle, *of.norms[1])
                both = of.gate_up.forward(normed2)
                act = silu(both[:, : of.wide]).mul_(both[:, of.wide : 2 * of.wide])
                last = of.down.forward(act)
                out = (middle + last[:, :width]).view_as(hidden)
            ctx.of, ctx.shape = of, hidden.shape
            thin = [
                one[:, group.outputs :].contiguous() for one, group in zip((said, mixed, both, last), of.groups, strict=True)
            ]
            ctx.save_for_backward(
                cos, sin, normed, unit, inverse, q, k, v, shares, seen, normed2, unit2, inverse2, both, act, *thin
            )
            return out

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            of, (batch, tokens, width) = ctx.of, ctx.shape
            cos, sin, normed, unit, inverse, q, k, v, shares, seen, normed2, unit2, inverse2, both, act, *thin = (
                ctx.saved_tensors
            )
            with torch.autocast(gradient.device.type, enabled=False):
                g = gradient.reshape(-1, width)
                room = of.down.room(g)
                room[:, :width] = g
                of_act, learned_down = of.down.backward(room, act, thin[3])
                gate, up = both[:, : of.wide], both[:, of.wide : 2 * of.wide]
                room = of.gate_up.room(g)
                torch.mul(of_act, silu(gate), out=room[:, of.wide : 2 * of.wide])
                room[:, : of.wide] = torch.ops.aten.silu_backward(of_act.mul_(up), gate)
                of_normed, learned_gate = of.gate_up.backward(room, normed2, thin[2])
                g = g + _norm_back(of_normed, of.norms[1][0], unit2, inverse2)
                room = of.o.room(g)
                room[:, :width] = g
                of_seen, learned_o = of.o.backward(room, seen, thin[1])
                many, back = (
                    batch * of.shared,
                    -sin.roll(of.head // 2, -1),
                )  # the other half's angle, turned back
                of_seen = of_seen.view(batch, tokens, of.heads, of.head).transpose(1, 2).reshape(many, -1, of.head)
                of_v = shares.transpose(1, 2) @ of_seen
                of_scores = torch._softmax_backward_data(of_seen @ v.transpose(1, 2), shares, -1, shares.dtype)
                of_q, of_k = (of_scores @ k).mul_(of.scale), of_scores.transpose(1, 2) @ q
                room = of.qkv.room(g)
                split = room[:, : of.qkv.outputs].view(batch, tokens, -1, of.head).transpose(1, 2)
                split[:, : of.heads] = _turn(of_q.view(batch, of.heads, tokens, of.head), cos, back)
                split[:, of.heads : of.heads + of.shared] = _turn(of_k.view(batch, of.shared, tokens, of.head), cos, back)
                split[:, of.heads + of.shared :] = of_v.view(batch, of.shared, tokens, of.head)
                of_normed, learned_qkv = of.qkv.backward(room, normed, thin[0])
                g = g + _norm_back(of_normed, of.norms[0][0], unit, inverse)
            return None, g.view(ctx.shape), None, None, None, *learned_qkv, *learned_o, *learned_gate, *learned_down

    return Step
