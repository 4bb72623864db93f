"""Masks as packed bits: one bit per parameter at rest, one byte per parameter while a mask is at work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sharpscope.vectors import Vec, flatten, unflatten

__all__ = ["pack", "top", "unpack"]


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
    if bool(torch.isnan(scores).any()):
        raise ValueError(
            "a mask got scores with NaN, expected numbers that can be ordered: check the loss and its gradients"
        )
    if count <= 0 or count >= size:
        return torch.full((size,), count > 0, dtype=torch.bool, device=scores.device)
    if scores.device.type == "cpu":
        known = scores.float() if scores.dtype == torch.bfloat16 else scores  # numpy has no bfloat16
        threshold = torch.as_tensor(np.partition(known.numpy(), size - count)[size - count], dtype=scores.dtype)
    else:
        threshold = torch.kthvalue(scores, size - count + 1).values
    chosen = scores > threshold
    missing = count - int(chosen.sum())
    ties = torch.nonzero(scores == threshold).view(-1)[:missing]
    chosen[ties] = True
    return chosen
