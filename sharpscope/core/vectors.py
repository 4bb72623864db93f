"""Linear algebra on lists of tensors: the only place that loops over parameters.

A ``Vec`` is a list of tensors, one per parameter, in one order and on one device.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Vec",
    "add",
    "content",
    "dot",
    "flatten",
    "generator",
    "length",
    "mismatch",
    "mix",
    "multiply",
    "norm",
    "reject",
    "scale",
    "slices",
    "subtract",
    "unflatten",
]

_AT_ONCE = 1 << 18  # entries

Vec = list[Tensor]


def content(x: Tensor) -> memoryview:
    """The bytes of a tensor in the order of its entries: the same on any device and in any memory layout."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product over all entries, as a 0-dim tensor that stays on the device.

    Half-precision entries are multiplied and summed in float32; the sums of the tensors are added in float64 where the
    device has it.
    """
    parts = [torch.dot(_wide(x).flatten(), _wide(y).flatten()) for x, y in zip(a, b, strict=True)]
    return _total(parts)


def norm(a: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all entries, as a 0-dim tensor that stays on the device (float32 at least).

    Squares that leave float32's range (entries beyond 1e19 or below 1e-23) are summed in float64: always on a GPU,
    where that costs nothing, and on a CPU, where it does, when the quick sum was out of range.
    """
    if not a:
        return torch.zeros((), device="cpu")
    wide = a[0].device.type == "cuda" or any(x.dtype == torch.float64 for x in a)
    dtype = torch.float64 if wide else torch.float32
    total = _norm(a, dtype)
    if a[0].device.type == "cpu" and dtype == torch.float32 and not 1e-15 < float(total) < 1e18:
        total = _norm(a, torch.float64)
    return total


def _norm(a: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    total: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(a), 2, dtype=dtype)))
    return total


def scale(a: Sequence[Tensor], factor: Tensor | float) -> Vec:
    """factor * a.  A 0-dim tensor as factor costs no synchronisation."""
    if isinstance(factor, Tensor):
        factor = factor.to(a[0].dtype)
    return list(torch._foreach_mul(list(a), factor))


def add(a: Sequence[Tensor], b: Sequence[Tensor], alpha: float = 1.0) -> Vec:
    """a + alpha * b, in the memory layout of ``a``, on which kernels and so the last bits of a result depend."""
    found = [x.clone() for x in a]
    torch._foreach_add_(found, list(b), alpha=alpha)
    return found


def subtract(a: Sequence[Tensor], b: Sequence[Tensor]) -> Vec:
    """a - b."""
    return list(torch._foreach_sub(list(a), list(b)))


def multiply(a: Sequence[Tensor], b: Sequence[Tensor]) -> Vec:
    """Entry by entry; a boolean ``b`` keeps or clears the entries of ``a``."""
    return [x * y for x, y in zip(a, b, strict=True)]


def reject(a: Sequence[Tensor], onto: Sequence[Tensor]) -> Vec:
    """The part of ``a`` that is orthogonal to ``onto``; all of ``a`` where ``onto`` is zero."""
    square = dot(onto, onto)
    share = torch.where(square > 0, dot(a, onto) / square, torch.zeros_like(square))
    return subtract(a, scale(onto, share))


def flatten(a: Iterable[Tensor]) -> Tensor:
    """One tensor of shape (n,): the tensors one after another, each row by row."""
    return torch.cat([x.reshape(-1) for x in a])


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> Vec:
    """The inverse of ``flatten``: views of ``flat`` with the shapes of ``like``."""
    pieces = torch.split(flat, [x.numel() for x in like])
    return [piece.view(x.shape) for piece, x in zip(pieces, like, strict=True)]


def slices(x: Tensor) -> tuple[Tensor, ...]:
    """Views along dim 0, each of about as many entries as are worked on in float64 at once: 2 MB."""
    x = x if x.dim() else x[None]
    return x.split(max(1, _AT_ONCE * len(x) // x.numel())) if x.numel() else ()


def length(x: Tensor) -> float:
    """Euclidean norm, summed in float64 without a copy of the tensor, also where squares leave float64's range."""
    found = math.sqrt(sum(float(torch.linalg.vector_norm(part.double())) ** 2 for part in slices(x)))
    if 1e-140 < found < 1e140:
        return found
    largest = max((float(part.abs().max()) for part in slices(x)), default=0.0)
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    parts = ((part.double() / largest) for part in slices(x))
    return largest * math.sqrt(sum(float(torch.linalg.vector_norm(part)) ** 2 for part in parts))


def mismatch(a: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> tuple[str, str] | None:
    """What of tensors (or arrays) got another shape than expected, and what was expected, in words; None if nothing."""
    got = [tuple(x.shape) for x in a]
    for found, wanted in zip(got, shapes, strict=False):
        if found != wanted:
            return f"shape {found}", f"{wanted}"
    return None if len(got) == len(shapes) else (f"{len(got)} tensors", f"{len(shapes)}")


def mix(*salt: int | str) -> int:
    """A 63-bit number that is a function of its arguments alone: the seed of everything random here."""
    parts = (f"str:{part}" if isinstance(part, str) else f"int:{operator.index(part)}" for part in salt)
    text = "\x1f".join(parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*salt: int | str) -> torch.Generator:
    """A private CPU generator seeded by ``mix``: the same numbers on every rank, device and rerun."""
    return torch.Generator().manual_seed(mix(*salt))


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _total(parts: Sequence[Tensor]) -> Tensor:
    if not parts:
        return torch.zeros((), device="cpu")
    stacked = torch.stack(list(parts))
    return stacked.sum() if stacked.device.type == "mps" else stacked.double().sum()
