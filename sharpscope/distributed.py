"""The few words of torch.distributed that training in several processes needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from sharpscope.vectors import Vec, flatten, unflatten

__all__ = ["mean_over_ranks", "world_size"]


def world_size() -> int:
    """How many processes train together; 1 where torch.distributed is not set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(vector: Sequence[Tensor]) -> Vec:
    """The mean of ``vector`` over all ranks, in one collective; ``vector`` itself where there is one rank."""
    if world_size() == 1:
        return list(vector)
    flat = flatten(vector)
    dist.all_reduce(flat)
    flat /= world_size()
    return [torch.empty_like(x).copy_(part) for x, part in zip(vector, unflatten(flat, vector), strict=True)]
