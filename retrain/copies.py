"""Near copies among many texts: MinHash over their character 4-grams, in numpy, in time that grows with their number."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrain.text import LONGEST, normalise

GRAM = 4
BANDS, ROWS = 10, 3  # texts that share half of their 4-grams meet in a band in 74 % of cases, 70 % of them in 98 %
LEAST = 0.5  # of the 30 hashes equal: an estimate of the share of 4-grams in common
SEED = 11


def clusters(texts: Sequence[str]) -> Any:
    """An integer for each text, equal for those that are near copies of each other (by way of others, too); int (texts,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not texts:
        return np.zeros(0, dtype=np.int64)
    signs = signatures(texts)
    left, right = [], []
    for band in range(BANDS):
        part = np.ascontiguousarray(signs[:, band * ROWS : (band + 1) * ROWS])
        _, first, inverse = np.unique(part, axis=0, return_index=True, return_inverse=True)
        met = first[inverse.ravel()]
        alike = np.flatnonzero((met != np.arange(len(texts))) & ((signs == signs[met]).mean(axis=1) >= LEAST))
        left.append(met[alike])
        right.append(alike)
    edges = np.concatenate(left), np.concatenate(right)
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(len(texts), len(texts)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def signatures(texts: Sequence[str]) -> Any:
    """MinHash signatures, uint64 (texts, 30): the share of equal columns estimates the Jaccard index of two texts' 4-grams."""
    padded = [normalise(text[:LONGEST]).ljust(GRAM) for text in texts]
    lengths = np.array([len(text) for text in padded])
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    rng = np.random.default_rng(SEED)
    base = rng.integers(1, 2**63, GRAM, dtype=np.uint64) | np.uint64(1)
    ends = np.cumsum(lengths)
    grams = np.zeros(len(codes), dtype=np.uint64)
    for i in range(GRAM):  # the last grams of a text run into the next one: they are made equal to its own last one below
        grams[: len(codes) - i] += codes[i:] * base[i]
    last = np.repeat(ends - GRAM, lengths)
    grams = grams[np.minimum(np.arange(len(codes)), last)]
    starts = ends - lengths
    found = np.empty((len(texts), BANDS * ROWS), dtype=np.uint64)
    for i in range(BANDS * ROWS):
        mixed = (grams ^ rng.integers(1, 2**63, dtype=np.uint64)) * (rng.integers(1, 2**63, dtype=np.uint64) | np.uint64(1))
        mixed ^= mixed >> np.uint64(29)
        found[:, i] = np.minimum.reduceat(mixed, starts)
    return found
