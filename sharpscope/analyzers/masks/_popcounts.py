"""Counts over all pairs of many packed masks: population counts of 64-bit words, block by block in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sharpscope.coordinates.packed import PackedMask

__all__ = ["Counts", "count_all"]

_BYTES = 1 << 21  # of one block of all masks: long rows for the loops of numpy, and still within a cache


@dataclass(frozen=True)
class Counts:
    """What ``count_all`` counts, per parameter."""

    shared: np.ndarray  # (L, m, m) int64, ones that masks i and j share
    stayed: np.ndarray  # (L, m, m) int64, for j >= i: ones that came with mask i and were in all masks up to j
    union: np.ndarray  # (L, m) int64, entries that were in any of the masks 0 ... i


def count_all(masks: Sequence[PackedMask], tick: Callable[[int], object] = lambda words: None) -> Counts:
    """Count over masks of one model, all with their parameters in the same order; ``tick`` is told the words done."""
    count, layers = len(masks), len(masks[0].names)
    shared, stayed = (np.zeros((layers, count, count), dtype=np.int64) for _ in range(2))
    union = np.zeros((layers, count), dtype=np.int64)
    width = max(64, _BYTES // (8 * count))
    for layer in range(layers):
        first, last = (int(masks[0].starts[layer + step]) for step in (0, 1))
        for start in range(first, last, width):
            block = np.stack([mask.words[start : min(start + width, last)] for mask in masks])
            _count_block(block, shared[layer], stayed[layer], union[layer])
            tick(block.shape[1])
    upper = np.triu(shared, 1)
    return Counts(shared + upper.transpose(0, 2, 1), stayed, union)


def _count_block(block: np.ndarray, shared: np.ndarray, stayed: np.ndarray, union: np.ndarray) -> None:
    """Add what (m, w) words hold; of ``shared`` and ``stayed`` the upper triangle."""
    buffer = np.empty_like(block)
    for i in range(len(block)):
        both = np.bitwise_and(block[i], block[i:], out=buffer[i:])
        shared[i, i:] += _ones(both)
        if i:
            buffer[i] &= ~block[i - 1]  # those that came with mask i
        last = i
        while last + 1 < len(block) and buffer[last].any():  # none is left: none comes back
            last += 1
            buffer[last] &= buffer[last - 1]
        stayed[i, i : last + 1] += _ones(buffer[i : last + 1])
    union += _ones(np.bitwise_or.accumulate(block, axis=0, out=buffer))


def _ones(words: np.ndarray) -> np.ndarray:
    """(k,) int64: ones per row of (k, w) words."""
    return np.asarray(np.bitwise_count(words).sum(axis=1, dtype=np.int64))
