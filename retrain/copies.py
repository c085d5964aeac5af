"""Near copies among texts: the share of character n-grams in common, of pairs that MinHash brings together.

Two texts are near copies where the Jaccard index of the sets of n-grams of their skeletons (`text.skeleton`) is at least
`near`: case, punctuation, white space, accents, look-alike letters and the digits of a number change nothing. n is GRAM up to
SHORT characters and LONG beyond, for long texts have most 3-grams of their language in common; a text of one kind is no near
copy of one of the other. Candidates meet in one of TREES sorted lists of hashes (MinHash, Broder 1997; LSH Forest, Bawa et al.
2005), and every pair is verified on the sets themselves: none is a copy by an estimate, or by way of a third text. What was
measured stands in docs/curation.md.

`kinds`, where given, is one value a text: only texts of an equal kind are copies.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from retrain.text import skeleton

GRAM, SHORT, LONG = 3, 500, 10  # characters: of a gram, of a text that has such grams, of a gram of a longer text
LONGEST = 20_000  # characters of a text that are looked at: a hostile one takes no longer than that
TREES, DEPTH = 16, 4  # hashes of a text: TREES lists, each sorted by DEPTH hashes of 16 bits
MEET = 3  # the first hashes of a tree that two texts must share: with 0.7 in common they do in one of 16 trees in 99.9 %
WINDOW = 24  # neighbours in a tree that a text of one list is held against, besides the first of all that meet there
ROUGH = 0.2  # how far below the truth an estimate by 64 hashes may lie: 3.5 standard deviations where the truth is 0.7
SEED = 11
TAIL = np.uint64(16 * (DEPTH - MEET))
MIX = np.uint64(0x9E3779B97F4A7C15)  # of multiplicative hashing
SET = np.uint64(40)  # bits of a 3-gram's hash: of the grams of two texts no two are equal by chance
CHARS = 1 << 16  # characters that are hashed at a time: what is made of them stays in the processor's cache
PAIRS = 1 << 15  # pairs that are looked at at a time

Ints = Any  # np.ndarray of int64
Pairs = tuple[Ints, Ints]


def pairs(texts: Sequence[str], near: float, kinds: Sequence[Hashable] | None = None) -> Pairs:
    """(left, right), each int (pairs,), left < right: texts that are near copies of each other.

    Of equal skeletons only the first is compared with others, and the rest are paired with it. The time is linear in the
    number of texts, for in a crowd (more than WINDOW texts that share three hashes) each meets its neighbours alone.
    """
    stands, left, right = _joined(texts, near, kinds)
    others = np.flatnonzero(stands != np.arange(len(texts)))
    return np.concatenate([stands[others], left]), np.concatenate([others, right])


def groups(texts: Sequence[str], near: float, kinds: Sequence[Hashable] | None = None) -> Ints:
    """For each text the index of the one that stands for it, its own where it stands for itself; int (texts,).

    A text stands for itself unless it is a near copy of an earlier one that does: each is a near copy of what stands for it,
    no chain makes a group, and texts that are added behind change nothing before them.
    """
    stands, left, right = _joined(texts, near, kinds)
    order = np.lexsort((left, right))
    leader = np.arange(len(texts))
    for a, b in zip(left[order].tolist(), right[order].tolist(), strict=True):
        if leader[b] == b and leader[a] == a:
            leader[b] = a
    return leader[stands]


def copied(
    texts: Sequence[str], known: Sequence[str], near: float,
    kinds: Sequence[Hashable] | None = None, known_kinds: Sequence[Hashable] | None = None,
) -> Ints:  # fmt: skip
    """For each text the index of the known one that it copies most nearly, -1 where it copies none; int (texts,)."""
    found = np.full(len(texts), -1)
    if not texts or not known:
        return found
    ours, theirs = _skeletons(texts), _skeletons(known)
    codes = _codes([*(kinds or [None] * len(ours)), *(known_kinds or [None] * len(theirs))])
    left, right = _across(signatures(ours), signatures(theirs), codes[: len(ours)], codes[len(ours) :], near)
    share = similarity(ours, theirs, left, right)
    order = np.lexsort((-right, share))  # so that the last one written is the most alike, and of these the first
    order = order[share[order] >= near]
    found[left[order]] = right[order]
    return found


def similarity(left: Sequence[str], right: Sequence[str], a: Ints, b: Ints) -> Any:
    """Jaccard index of the n-grams of the skeletons left[a] and right[b], pair by pair; float (pairs,)."""
    parts = [_similarity(left, right, a[i : i + PAIRS], b[i : i + PAIRS]) for i in range(0, len(a), PAIRS)]
    return np.concatenate([np.zeros(0), *parts])


def signatures(skeletons: Sequence[str], hashes: int = TREES * DEPTH, short: int = SHORT) -> Any:
    """MinHash signatures, uint16 (texts, hashes): the share of equal columns estimates the Jaccard index of two texts.

    short: characters up to which a text is one of 3-grams.
    """
    rng = np.random.default_rng(SEED)
    flips, factors = rng.integers(1, 2**32, (2, hashes), dtype=np.uint32)
    factors |= np.uint32(1)
    found = np.empty((len(skeletons), hashes), np.uint16)
    for begin, end in _chunks(skeletons):
        grams, starts = _grams(skeletons[begin:end], short)
        mixed = (grams * MIX >> np.uint64(32)).astype(np.uint32)
        scratch, lowest = np.empty_like(mixed), np.empty((hashes, end - begin), np.uint32)
        for i in range(hashes):
            np.multiply(np.bitwise_xor(mixed, flips[i], out=scratch), factors[i], out=scratch)
            np.minimum.reduceat(scratch, starts, out=lowest[i])
        found[begin:end] = (lowest ^ lowest >> np.uint32(16)).T
    return found


# --- grams


def _skeletons(texts: Sequence[str]) -> list[str]:
    return [skeleton(text[:LONGEST]) for text in texts]


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """[begin, end) of texts with about CHARS characters, at least one text."""
    begin, chars = 0, 0
    for i, text in enumerate(texts):
        chars += len(text) + GRAM
        if chars >= CHARS:
            yield begin, i + 1
            begin, chars = i + 1, 0
    if begin < len(texts):
        yield begin, len(texts)


def _grams(skeletons: Sequence[str], short: int = SHORT) -> tuple[Any, Ints]:
    """(n-grams of " text " as integers, with repetitions; where those of each text begin): a 3-gram has 21 bits a character, a
    longer one is a polynomial modulo 2**64."""
    padded = [f" {text} ".ljust(GRAM) for text in skeletons]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], np.int64)
    long = np.array([len(text) > short for text in skeletons], bool)
    sizes = lengths - np.where(long, LONG, GRAM) + 1
    starts = np.cumsum(sizes) - sizes
    at = np.arange(sizes.sum()) + np.repeat(np.cumsum(lengths) - lengths - starts, sizes)
    grams = codes[at] << np.uint64(42) | codes[at + 1] << np.uint64(21) | codes[at + 2]
    if long.any():
        places = np.flatnonzero(np.repeat(long, sizes))
        mixed = codes[at[places]]
        for i in range(1, LONG):
            mixed = mixed * MIX + codes[at[places] + i]
        grams[places] = mixed
    return grams, starts


def _similarity(left: Sequence[str], right: Sequence[str], a: Ints, b: Ints) -> Any:
    from scipy.sparse import csr_array

    place: dict[str, int] = {}
    rows = np.array([[place.setdefault(left[i], len(place)), place.setdefault(right[j], len(place))]
                     for i, j in zip(a.tolist(), b.tolist(), strict=True)])  # fmt: skip
    grams, starts = _grams(list(place))
    text = np.repeat(np.arange(len(place), dtype=np.uint64), np.diff(starts, append=len(grams)))
    cells = np.sort(text << SET | (grams * MIX) >> (np.uint64(64) - SET))
    cells = cells[np.diff(cells, prepend=~cells[:1]) != 0]
    ends = np.searchsorted(cells, np.arange(len(place) + 1, dtype=np.uint64) << SET)
    columns = (cells & ((np.uint64(1) << SET) - np.uint64(1))).astype(np.int64)
    sets = csr_array((np.ones(len(cells), np.int32), columns, ends), shape=(len(place), 1 << int(SET)))
    sizes = np.diff(ends)[rows]
    both = np.asarray(sets[rows[:, 0]].multiply(sets[rows[:, 1]]).sum(axis=1)).ravel()
    return both / (sizes.sum(axis=1) - both)


# --- candidates


def _joined(texts: Sequence[str], near: float, kinds: Sequence[Hashable] | None) -> tuple[Ints, Ints, Ints]:
    """(the first equal text of each, and verified pairs of those first ones)."""
    named = list(zip(_skeletons(texts), kinds or [None] * len(texts), strict=True))
    first: dict[Any, int] = {}
    stands = np.array([first.setdefault(name, i) for i, name in enumerate(named)], np.int64)
    distinct = np.array(list(first.values()), np.int64)
    skeletons = [text for text, _ in first]
    left, right = _within(signatures(skeletons), _codes([kind for _, kind in first]), near)
    told = similarity(skeletons, skeletons, left, right) >= near
    return stands, distinct[left[told]], distinct[right[told]]


def _codes(kinds: Sequence[Hashable]) -> Ints:
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(kind, len(known)) for kind in kinds], np.int64)


def _trees(signs: Any, kinds: Ints) -> Iterator[Any]:
    """The key of each text in each tree, uint64 (texts,): its first MEET hashes, mixed with its kind, then the others."""
    apart = (kinds.astype(np.uint64) * MIX) >> TAIL << TAIL
    for i in range(TREES):
        part = signs[:, i * DEPTH : (i + 1) * DEPTH].astype(np.uint64)
        yield sum(part[:, j] << np.uint64(16 * (DEPTH - 1 - j)) for j in range(DEPTH)) ^ apart


def _within(signs: Any, kinds: Ints, near: float) -> Pairs:
    """Pairs of one list that may be near copies: each text with its neighbours in a tree, and with the first that it meets."""
    found = [np.zeros(0, np.int64)]
    for keys in _trees(signs, kinds):
        order = np.argsort(keys, kind="stable")
        meet = keys[order] >> TAIL
        starts = np.flatnonzero(np.diff(meet, prepend=meet[:1] ^ np.uint64(1)))
        sizes = np.diff(starts, append=len(order))
        lowest = np.repeat(np.minimum.reduceat(order, starts) if len(starts) else order, sizes)
        found.append(_alike(signs, signs, lowest, order, kinds, kinds, near))
        for step in range(1, WINDOW + 1):
            at = np.flatnonzero(meet[step:] == meet[:-step])
            if not len(at):
                break
            left, right = np.sort([order[at], order[at + step]], axis=0)
            found.append(_alike(signs, signs, left, right, kinds, kinds, near))
    left, right = np.divmod(np.unique(np.concatenate(found)), max(len(signs), 1))
    return left[left != right], right[left != right]


def _across(ours: Any, theirs: Any, our_kinds: Ints, their_kinds: Ints, near: float) -> Pairs:
    """Pairs of two lists that may be near copies: each of ours with all of theirs that it meets in a tree."""
    found = [np.zeros(0, np.int64)]
    for mine, other in zip(_trees(ours, our_kinds), _trees(theirs, their_kinds), strict=True):
        order = np.argsort(other, kind="stable")
        meet = other[order] >> TAIL
        begin, end = (np.searchsorted(meet, mine >> TAIL, side) for side in ("left", "right"))
        for rows in _batches(end - begin):
            n = (end - begin)[rows]
            right = order[np.repeat(begin[rows] - np.cumsum(n) + n, n) + np.arange(n.sum())]
            found.append(_alike(ours, theirs, np.repeat(rows, n), right, our_kinds, their_kinds, near))
    return np.divmod(np.unique(np.concatenate(found)), len(theirs))


def _batches(sizes: Ints) -> Iterator[Ints]:
    """Indices of the rows that have any, so many at a time that their sizes come to about PAIRS."""
    rows = np.flatnonzero(sizes)
    return iter(np.split(rows, np.flatnonzero(np.diff(np.cumsum(sizes[rows]) // PAIRS)) + 1)) if len(rows) else iter(())


def _alike(ours: Any, theirs: Any, left: Ints, right: Ints, our_kinds: Ints, their_kinds: Ints, near: float) -> Ints:
    """The pairs of one kind whose signatures do not rule out that they are near copies, as left * len(theirs) + right."""
    kept = [np.zeros(0, np.int64)]
    for i in range(0, len(left), PAIRS):
        a, b = left[i : i + PAIRS], right[i : i + PAIRS]
        told = ((ours[a] == theirs[b]).mean(axis=1) >= near - ROUGH) & (our_kinds[a] == their_kinds[b])
        kept.append(a[told] * len(theirs) + b[told])
    return np.concatenate(kept)
