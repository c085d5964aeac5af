"""How questions go through the model: in one line, or, where they are long, padded.  [torch]

In one line (`packing` trains so too) no token is there to fill a row up, and what many questions begin with is there once.
Attention grows with the square of what is in line, so long questions are padded on the left instead, a row each.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from retrain import packing

PROBE = ("The weather was fine all week.", "Where do we go from here, and who comes along?", "thanks")
APART = 0.1  # of what the model says of these: bf16 rounds by up to 0.05, to see another question changes it by 0.3 or more
SHORT = packing.MOST // 4  # tokens: of longer questions too few share a line
WIDE = 4 * packing.MOST  # tokens before a line, where several beginnings stand there and each question sees one
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")  # in a base's configuration: a mask of ours overrules them

Pair = tuple[Any, Any]  # keys and values of a layer, each of shape (rows, heads, length, size)
Layers = Iterable[Pair]


class Beginning(Protocol):
    """weights: LoRA of the questions that begin so; prefix: their first tokens; computed: keys and values of these, one row."""

    @property
    def weights(self) -> Any: ...
    @property
    def prefix(self) -> list[int]: ...
    @property
    def computed(self) -> Sequence[Pair] | None: ...


class Question(Protocol):
    @property
    def of(self) -> Beginning: ...
    @property
    def ids(self) -> list[int]: ...


class Begun(NamedTuple):
    """A beginning in a model that holds the weights itself."""

    prefix: list[int]
    computed: Sequence[Pair] | None
    weights: Any = None


class Asked(NamedTuple):
    of: Beginning
    ids: list[int]


@dataclass(frozen=True)
class Reading:
    """ids and positions: (lines, tokens), what the decoder is asked; attention: the mask that it gets; weights: whose LoRA each
    line takes, or each token; last: where each question ends in the flattened output; cached: what was read before, made as it
    is taken, for it may be as large as all the rest.

    `kept(stay, layers)`: (mask, keys and values) of some of the rows, padded on the left, from those of all lines.
    """

    ids: Any
    positions: Any
    attention: Any
    weights: list[Any]
    last: Any
    cached: Layers
    kept: Callable[[list[int], Layers], tuple[Any, Layers]]


def of(rows: Sequence[Question], *, pad: int, device: str, dtype: Any, in_line: bool) -> Reading:
    """Rows of one beginning stand together. in_line: whether this base keeps questions in one line apart."""
    return (in_line and _in_line(rows, device, dtype)) or _padded(rows, pad, device)


def keeps_apart(config: Any, tokenizer: Any, said: Callable[[list[int], list[list[int]], bool], Any]) -> bool:
    """Whether questions in one line come out of a base as padded ones do: asked of it, not of its name.

    said: logits after questions (token ids) of which all but the last begin with some tokens, read in one line or not. A window
    over what is seen is none of a short question's business, so a base that has one is not asked.
    """
    text = config.get_text_config()
    if any(getattr(text, name, None) for name in WINDOWS):
        return False
    begin, *asked = (list(tokenizer(words)["input_ids"]) for words in PROBE)
    if not (begin and all(asked)):
        return False
    asked = [*([*begin, *ids] for ids in asked), asked[0]]
    try:
        one = said(begin, asked, True)
    except (IndexError, RuntimeError, TypeError, ValueError):  # it takes no such mask
        return False
    one, other = (logits - logits.mean(-1, keepdim=True) for logits in (one, said(begin, asked, False)))
    return bool((one - other).norm() < APART * other.norm())


def stops(lengths: Sequence[int], most: int) -> list[int]:
    """Where lines of short questions of these lengths end: after `most`, or before one would be too long for a line."""
    found, first, tokens = [], 0, 0
    for i, length in enumerate(lengths):
        if i - first == most or (i > first and tokens + length > packing.MOST):
            found.append(i)
            first, tokens = i, 0
        tokens += length
    return [*found, len(lengths)] if lengths else []


def _in_line(rows: Sequence[Question], device: str, dtype: Any) -> Reading | None:
    """All in one line of at most packing.MOST tokens; None where they are more."""
    import torch

    starts: dict[int, int] = {}  # of each prefix among the columns before the line
    before: list[Beginning] = []
    width = 0
    for row in rows:
        if _known(row) and id(row.of) not in starts:
            starts[id(row.of)] = width
            before.append(row.of)
            width += len(row.of.prefix)
    ids: list[int] = []
    positions: list[int] = []
    columns: list[list[int]] = []  # that each row sees
    weights: list[Any] = []
    for row in rows:
        known = _known(row)
        rest, first = row.ids[known:], starts[id(row.of)] if known else 0
        columns.append([*range(first, first + known), *range(width + len(ids), width + len(ids) + len(rest))])
        positions += range(known, len(row.ids))
        weights += [row.of.weights] * len(rest)
        ids += rest
    if len(ids) > packing.MOST or (len(before) > 1 and width > WIDE):
        return None
    last = torch.tensor([own[-1] - width for own in columns], device=device)
    empty = packing.filled(len(ids)) - len(ids)
    sees = torch.zeros(len(ids) + empty, width + len(ids) + empty, dtype=torch.bool)
    for own, row in zip(columns, rows, strict=True):
        known, start = _known(row), own[-1] - width + 1
        tokens = slice(start - (len(own) - known), start)
        sees[tokens, own[:known]] = True
        sees[tokens, own[known:]] = torch.ones(len(own) - known, len(own) - known, dtype=torch.bool).tril()
    sees[len(ids) :, width + len(ids) :] = True  # a filler sees fillers: what sees nothing has no softmax
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[None, None]
    longest = max(map(len, columns))
    index = torch.tensor([[0] * (longest - len(own)) + own for own in columns], device=device)
    real = torch.tensor([[0] * (longest - len(own)) + [1] * len(own) for own in columns], device=device)

    def kept(stay: list[int], layers: Layers) -> tuple[Any, Layers]:
        mine = index[stay]
        return real[stay], ((keys[0][:, mine].transpose(0, 1), values[0][:, mine].transpose(0, 1)) for keys, values in layers)

    return Reading(
        ids=torch.tensor([ids + [0] * empty], device=device),
        positions=torch.tensor([positions + [0] * empty], device=device),
        attention=mask.to(device),
        cached=_side_by_side([one.computed or [] for one in before]),
        weights=weights + weights[-1:] * empty,
        last=last,
        kept=kept,
    )


def _padded(rows: Sequence[Question], pad: int, device: str) -> Reading:
    """A line a row: prefixes padded on the left, then questions padded on the left."""
    import torch

    known = [_known(row) for row in rows]
    rest = [row.ids[n:] for row, n in zip(rows, known, strict=True)]
    before, longest = max(known), max(map(len, rest))
    real = [
        [0] * (before - n) + [1] * n + [0] * (longest - len(ids)) + [1] * len(ids) for n, ids in zip(known, rest, strict=True)
    ]
    mask = torch.tensor(real, device=device)

    def kept(stay: list[int], layers: Layers) -> tuple[Any, Layers]:
        all_stay = len(stay) == len(rows)
        return mask[stay], layers if all_stay else ((keys[stay], values[stay]) for keys, values in layers)

    return Reading(
        ids=torch.tensor([[pad] * (longest - len(ids)) + ids for ids in rest], device=device),
        positions=(mask.cumsum(-1) - 1).clamp(min=0)[:, -longest:],
        attention=mask,
        cached=_stacked([row.of.computed if n else None for row, n in zip(rows, known, strict=True)], before),
        weights=[row.of.weights for row in rows],
        last=torch.arange(1, len(rows) + 1, device=device) * longest - 1,
        kept=kept,
    )


def _known(row: Question) -> int:
    """Tokens of its question that were computed before."""
    prefix = row.of.prefix
    begins = row.of.computed and len(row.ids) > len(prefix) and row.ids[: len(prefix)] == prefix
    return len(prefix) if begins else 0


def _side_by_side(computed: Sequence[Sequence[Pair]]) -> Iterator[Pair]:
    """Prefixes as one line, one behind the other."""
    import torch

    for layer in zip(*computed, strict=True):
        yield torch.cat([keys for keys, _ in layer], dim=2), torch.cat([values for _, values in layer], dim=2)


def _stacked(computed: Sequence[Sequence[Pair] | None], length: int) -> Iterator[Pair]:
    """Prefixes of several rows as one cache, padded on the left to a length."""
    import torch
    from torch.nn.functional import pad

    some: Sequence[Pair] = next((layers for layers in computed if layers), [])

    def rows_of(layer: int, side: int) -> Any:
        none = some[layer][side][:, :, :0]
        rows = [layers[layer][side] if layers else none for layers in computed]
        return torch.cat([pad(row, (0, 0, length - row.shape[2], 0)) for row in rows])

    for layer in range(len(some)):
        yield rows_of(layer, 0), rows_of(layer, 1)
