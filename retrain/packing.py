"""How a batch of rows goes through the model: padded, or packed into one row.  [torch]

Packed, the tokens that all rows begin with (the system text) are there once, and each row sees them and itself alone: no
token's numbers change, and a third of the tokens of short rows is gone. Attention grows with the square of what is packed, so
long rows are padded. Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retrain import prompts

Tokens = tuple[list[int], list[int]]  # question ids, completion ids
MOST = 512  # tokens of a packed batch
UNIT = 16  # tokens: batches are filled up to a multiple, for a CPU's library compiles its products anew for each size it meets


@dataclass(frozen=True)
class Inputs:
    """Arguments of the decoder; `places` in its flattened output predict `targets`, the completions' tokens."""

    arguments: dict[str, Any]
    places: Any
    targets: Any


def padded(batch: Sequence[Tokens], pad: int, device: str) -> Inputs:
    """One row a line, filled with pad on the right."""
    import torch

    longest = filled(max(len(q) + len(c) for q, c in batch), UNIT // 2)
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros((len(batch), longest), dtype=torch.long)
    places: list[int] = []
    targets: list[int] = []
    for row, (question, completion) in enumerate(batch):
        n = len(question) + len(completion)
        ids[row, :n] = torch.tensor(question + completion)
        mask[row, :n] = 1
        places += range(row * longest + len(question) - 1, row * longest + n - 1)
        targets += completion
    return _on(device, {"input_ids": ids, "attention_mask": mask}, places, targets)


def packed(batch: Sequence[Tokens], dtype: Any, device: str) -> Inputs | None:
    """All rows in one line of at most MOST tokens, what they share once; None where they are more."""
    import torch

    shared = prompts.common_prefix([question for question, _ in batch])
    ids, positions, owner = list(shared), list(range(len(shared))), [0] * len(shared)
    places: list[int] = []
    targets: list[int] = []
    for row, (question, completion) in enumerate(batch, 1):
        rest = [*question[len(shared) :], *completion]
        ids += rest
        positions += range(len(shared), len(shared) + len(rest))
        owner += [row] * len(rest)
        places += range(len(ids) - len(completion) - 1, len(ids) - 1)
        targets += completion
    if len(ids) > MOST:
        return None
    empty = filled(len(ids)) - len(ids)
    ids, positions, owner = ids + [0] * empty, positions + [0] * empty, owner + [-1] * empty
    of = torch.tensor(owner)
    sees = ((of[:, None] == of[None, :]) | (of[None, :] == 0)).tril()
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[None, None]
    arguments = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions]), "attention_mask": mask}
    return _on(device, arguments, places, targets)


def filled(tokens: int, unit: int = UNIT) -> int:
    """So many tokens, and as many more as make a multiple of the unit."""
    return -(-tokens // unit) * unit


def _on(device: str, arguments: dict[str, Any], places: list[int], targets: list[int]) -> Inputs:
    import torch

    moved = {name: value.to(device) for name, value in arguments.items()}
    return Inputs(moved, torch.tensor(places, device=device), torch.tensor(targets, device=device))
