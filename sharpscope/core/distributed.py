"""The few words of torch.distributed that training in several processes needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from sharpscope.core.vectors import Vec, flatten, unflatten

__all__ = ["mean_over_ranks", "mean_with_flags", "same_on_all_ranks", "world_size"]


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


def mean_with_flags(vector: Sequence[Tensor], flags: Sequence[bool]) -> tuple[Vec, list[bool]]:
    """The mean of ``vector`` and, for every flag, whether it is raised on any rank, in one collective."""
    if world_size() == 1:
        return list(vector), list(flags)
    raised = torch.tensor(flags, dtype=vector[0].dtype, device=vector[0].device)
    *mean, anywhere = mean_over_ranks([*vector, raised])
    return mean, (anywhere > 0).tolist()


def same_on_all_ranks(number: int, device: torch.device) -> bool:
    """Whether all ranks give the same whole number; they all learn it."""
    mine = torch.tensor([number], dtype=torch.int64, device=device)
    all_of_them = [torch.empty_like(mine) for _ in range(world_size())]
    if len(all_of_them) > 1:
        dist.all_gather(all_of_them, mine)
    return len(all_of_them) == 1 or all(bool(torch.equal(mine, other)) for other in all_of_them)
