"""Masks as packed bits: one bit per parameter at rest, one byte per parameter while a mask is at work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sharpscope.core.vectors import Vec, flatten, unflatten

__all__ = ["check_order", "pack", "top", "unpack"]


def pack(mask: Sequence[Tensor]) -> Tensor:
    """uint8 tensor of ceil(d / 8) bytes: the entries of all tensors in one run, first entry in the highest bit."""
    flat = flatten(mask)
    if flat.dtype != torch.bool:
        raise ValueError(f"a mask got dtype {flat.dtype}, expected torch.bool: convert it with mask.bool()")
    if flat.device.type == "cpu":
        return torch.from_numpy(np.packbits(flat.numpy()))
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.numel() % 8)).view(-1, 8)
    return (padded << torch.arange(7, -1, -1, device=flat.device, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, like: Sequence[Tensor]) -> Vec:
    """The inverse of ``pack``: boolean tensors with the shapes and device of ``like``."""
    count = sum(x.numel() for x in like)
    if bits.numel() != -(-count // 8):
        raise ValueError(
            f"a packed mask got {bits.numel()} bytes, expected {-(-count // 8)} for {count} parameters: "
            f"the trainable parameters are not those that the mask was made for"
        )
    device = like[0].device
    if bits.device.type == "cpu":
        flat = torch.from_numpy(np.unpackbits(bits.numpy(), count=count).view(np.bool_)).to(device)
    else:
        shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
        flat = ((bits[:, None] >> shifts) & 1).view(-1)[:count].bool().to(device)
    return unflatten(flat, like)


def top(scores: Tensor, count: int) -> Tensor:
    """Boolean tensor of shape (d,) with exactly ``count`` ones at the largest scores; ties go to the lower index.

    ``scores`` has shape (d,).  Raises ValueError on a NaN, for which no order exists.
    """
    size = scores.numel()
    check_order(scores)
    if count <= 0 or count >= size:
        return torch.full((size,), count > 0, dtype=torch.bool, device=scores.device)
    threshold = _threshold(scores, count)
    chosen = scores > threshold
    missing = count - int(torch.count_nonzero(chosen))
    ties = torch.nonzero(scores == threshold).view(-1)[:missing]
    chosen[ties] = True
    return chosen


def check_order(scores: Tensor) -> None:
    """Raise ValueError on a NaN, for which no order exists."""
    if scores.numel() and bool(torch.isnan(scores.max())):
        raise ValueError(
            "a mask got scores with NaN, expected numbers that can be ordered: check the loss and its gradients"
        )


def _threshold(scores: Tensor, count: int) -> Tensor:
    """The ``count``-th largest score.

    A sorted sample brackets it between two scores, so that only the few per cent in between have to be ordered; where
    the bracket fails, all are.  By sorting: ``kthvalue`` takes minutes for some orders of a million scores.
    """
    size, sampled = scores.numel(), 1 << 16
    if size > 4 * sampled:
        sample = scores[:: size // sampled].sort().values
        middle, margin = int((1.0 - count / size) * len(sample)), 6 * int(len(sample) ** 0.5) // 2 + 1
        low = sample[middle - margin] if middle >= margin else scores.min()
        high = sample[middle + margin] if middle + margin < len(sample) else scores.max()
        inside = scores[((scores >= low) & (scores <= high)).nonzero().view(-1)]
        rank = count - int(torch.count_nonzero(scores > high))
        if 0 < rank <= len(inside):
            scores, size, count = inside, len(inside), rank
    return scores.sort().values[size - count]
