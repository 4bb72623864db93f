"""Random batches as functions of (seed, epoch).

Nothing here touches the global random state, so a resumed training sees the batches that the straight one saw, and an
analysis in between changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sharpscope.core.vectors import generator as seeded
from sharpscope.data.errors import DataError

__all__ = ["batches"]


def batches(count: int, batch_size: int, seed: int, epoch: int, drop_last: bool = False) -> Iterator[Tensor]:
    """One epoch of shuffled batches: index tensors (batch_size,) int64 on the CPU that together permute range(count).

    The permutation is a function of ``(seed, epoch)`` and ``count`` alone; ``batch_size`` only cuts it.  The last batch
    may be smaller; ``drop_last`` leaves a smaller one out.

    Raises:
        DataError: ``count`` or ``batch_size`` below 1, or ``drop_last`` with fewer than ``batch_size`` images.

    Example:
        >>> [len(index) for index in batches(10, 4, seed=0, epoch=0)]
        [4, 4, 2]
        >>> sorted(torch.cat(list(batches(10, 4, seed=0, epoch=0))).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if count < 1 or batch_size < 1:
        raise DataError(
            f"got count={count} and batch_size={batch_size}, expected both at least 1, so give batches some images."
        )
    if drop_last and count < batch_size:
        raise DataError(
            f"got {count} images for batches of {batch_size} with drop_last, expected at least one full batch, "
            f"so lower batch_size to {count} or keep the last batch."
        )
    order = torch.randperm(count, generator=seeded("batches", seed, epoch))
    stop = count - count % batch_size if drop_last else count
    return (order[start : start + batch_size] for start in range(0, stop, batch_size))
