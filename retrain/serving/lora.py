"""LoRA weights beside a base, so that rows of several adapters share a batch.  [torch]

y = W x + (alpha / r) B (A x) for the rows of an adapter, as peft computes it. An adapter is a dict of tensors that never
changes: a swap touches nothing that a running answer uses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from retrain.errors import IntegrityError
from retrain.records import read_json

PLAIN = {
    "peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False, "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "fan_in_fan_out": False, "layer_replication": None, "trainable_token_indices": None,
}  # fmt: skip
FILE = "adapter_model.safetensors"
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, eq=False)
class Weights:
    """deltas: module -> (A of shape (r, in), B of shape (out, r), alpha / r)."""

    digest: str
    deltas: dict[str, tuple[Any, Any, float]]


def read(folder: Path, digest: str, model: Any) -> Weights:
    """The weights of a verified adapter folder, in the precision of the base; IntegrityError where they are not plain LoRA."""
    from safetensors.torch import load

    config = read_json(folder / "adapter_config.json")
    other = [name for name, plain in PLAIN.items() if config.get(name, plain) != plain]
    if other:
        raise IntegrityError(f"{folder} is no plain LoRA ({', '.join(other)} in adapter_config.json): it cannot be served here")
    data = (folder / FILE).read_bytes()
    if sha256(data).hexdigest() != read_json(folder / "manifest.json")["files"][FILE]:  # these very bytes, not those of before
        raise IntegrityError(f"{folder / FILE} does not match the manifest: fetch the version again")
    tensors = load(data)
    linear = {name: module for name, module in model.named_modules() if hasattr(module, "in_features")}
    deltas = {}
    for key in sorted(name for name in tensors if name.endswith(DOWN)):
        name = key.removeprefix(PREFIX).removesuffix(DOWN)
        down, up = tensors.pop(key), tensors.pop(f"{PREFIX}{name}{UP}", None)
        _fits(folder, name, down, up, linear.get(name))
        on = {"dtype": model.dtype, "device": model.device}
        deltas[name] = (down.to(**on), up.to(**on), config["lora_alpha"] / config["r"])
    if tensors or not deltas:
        raise IntegrityError(
            f"{folder} has tensors that are no LoRA of this base: {', '.join(sorted(tensors)[:3]) or 'none at all'}"
        )
    return Weights(digest, deltas)


def _fits(folder: Path, name: str, down: Any, up: Any, module: Any) -> None:
    if up is None or module is None:
        raise IntegrityError(f"{folder} adapts {name}, {'half of it only' if module is not None else 'which the base has not'}")
    wanted = ((down.shape[0], module.in_features), (module.out_features, down.shape[0]))
    if (tuple(down.shape), tuple(up.shape)) != wanted:
        raise IntegrityError(f"{folder} has {name} of shapes {tuple(down.shape)} and {tuple(up.shape)}, must be {wanted}")
    if not (down.isfinite().all() and up.isfinite().all()):
        raise IntegrityError(f"{folder} has weights that are not finite ({name}): train it again")


class Mixed:
    """Adds to each module's output what the adapters of its rows say; `rows` tells whose row each of a batch is."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.runs: list[tuple[Weights, int, int]] = []
        self._heard: set[str] = set()  # modules whose output is added to
        self._joined: WeakKeyDictionary[Weights, dict[tuple[str, ...], Any]] = WeakKeyDictionary()

    def know(self, weights: Weights) -> None:
        """Its modules are listened to from now on; call it between two forward passes."""
        for name in weights.deltas.keys() - self._heard:
            self.model.get_submodule(name).register_forward_hook(self._adding(name))
            self._heard.add(name)

    def rows(self, of: Sequence[Weights]) -> None:
        """Rows of one adapter stand together, or each change costs a product more."""
        self.runs, start = [], 0
        for stop in range(1, len(of) + 1):
            if stop == len(of) or of[stop] is not of[start]:
                self.runs.append((of[start], start, stop))
                start = stop

    def _adding(self, name: str) -> Callable[[Any, Any, Any], Any]:
        add = self.takes([name], [self.model.get_submodule(name).out_features])

        def hook(module: Any, args: Any, out: Any) -> Any:
            add(args[0].reshape(-1, args[0].shape[-1]), out.view(-1, out.shape[-1]))
            return out

        return hook

    def takes(self, names: Sequence[str], sizes: Sequence[int]) -> Callable[[Any, Any], None]:
        """What adds the adapters' part to `out` (rows of all tokens, at least sum of sizes), given x (rows, inputs) that these
        modules all read; whoever has it calls it in their place."""
        self._heard.update(names)
        of, outputs = tuple(names), sum(sizes)

        def add(x: Any, out: Any) -> None:
            for weights, start, stop in self.runs:
                known = self._joined.setdefault(weights, {})
                if of not in known:
                    known[of] = _join([weights.deltas.get(name) for name in names], sizes)
                if known[of]:
                    down, up = known[of]
                    tokens = x.shape[0] // self.runs[-1][2]
                    part = slice(start * tokens, stop * tokens)
                    out[part, :outputs].addmm_(x[part] @ down, up)

        return add


def _join(deltas: Sequence[tuple[Any, Any, float] | None], sizes: Sequence[int]) -> tuple[Any, Any] | None:
    """(A of shape (in, ranks), B with its scale of shape (ranks, out)) of modules side by side; None where none is adapted."""
    import torch

    some = [delta for delta in deltas if delta]
    if not some:
        return None
    down = torch.cat([one[0] for one in some])
    up = down.new_zeros(down.shape[0], sum(sizes))
    row = column = 0
    for delta, size in zip(deltas, sizes, strict=True):
        if delta:
            rank = delta[0].shape[0]
            up[row : row + rank, column : column + size] = delta[1].t() * delta[2]
            row += rank
        column += size
    return down.t().contiguous(), up
