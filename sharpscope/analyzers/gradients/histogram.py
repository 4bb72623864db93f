"""Counting r = log|(a - b) / b| into fixed bins, a piece at a time, on the device of the gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["BASES", "Bins", "log_ratio", "quantile", "tally"]

_PIECE = 1 << 16  # coordinates at a time: what a cache holds in float64


@dataclass(frozen=True)
class Bins:
    """``(high - low) steps`` bins [i / steps, (i + 1) / steps).

    ``steps`` is a power of two, so that an edge is a float without rounding and the bin of r, floor(r steps), is exact.
    A tally has four places more: r = -inf, r below the bins; the bins; r above them, g_SGD = 0.
    """

    low: int
    high: int
    steps: int

    @property
    def edges(self) -> np.ndarray:
        """(b + 1,) float64."""
        return np.arange(self.low * self.steps, self.high * self.steps + 1) / self.steps

    @property
    def places(self) -> int:
        """b + 4."""
        return (self.high - self.low) * self.steps + 4


BASES = {"log10": Bins(-12, 6, 32), "ln": Bins(-28, 14, 16)}


def tally(ascended: Tensor, plain: Tensor, base: str, inside: Tensor | None = None) -> np.ndarray:
    """(parts, b + 4) int64: how many coordinates of one tensor have r where; see ``Bins``.

    One part, or outside and inside a mask (a flat bool tensor).  Raises ValueError for a gradient that is not finite.
    """
    bins, parts = BASES[base], 1 if inside is None else 2
    total = torch.zeros(parts * bins.places, dtype=torch.int64, device=plain.device)
    for start, r, same, zero in _pieces(ascended.reshape(-1), plain.reshape(-1), base):
        place = r.mul_(bins.steps).floor_().clamp_(bins.low * bins.steps - 1, bins.high * bins.steps).long()
        place += 2 - bins.low * bins.steps
        place.masked_fill_(same, 0).masked_fill_(zero, bins.places - 1)
        if inside is not None:
            place += inside[start : start + len(place)].to(place.device) * bins.places
        total += torch.bincount(place, minlength=len(total))
    return total.cpu().numpy().reshape(parts, bins.places)


def log_ratio(ascended: Tensor, plain: Tensor, base: str = "log10") -> Tensor:
    """r = log|(a - b) / b| of every coordinate, in float64: -inf where a == b != 0, nan where b == 0.

    Raises ValueError for a gradient that is not finite.
    """
    found = []
    for _, r, same, zero in _pieces(ascended.reshape(-1), plain.reshape(-1), base):
        found.append(r.masked_fill_(same, -torch.inf).masked_fill_(zero, torch.nan))
    return torch.cat(found).view(plain.shape) if found else plain.double()


def quantile(counts: np.ndarray, level: float, edges: np.ndarray) -> float:
    """The quantile of r over the coordinates of a tally (b + 4,) with g_SGD != 0, right to within its bin.

    Where it falls on r = -inf or below the bins it is -inf, above them the last edge; nan where no r is defined.
    """
    defined = counts[:-1]
    total = int(defined.sum())
    if not total:
        return float("nan")
    rank = int(level * (total - 1))
    reached = np.cumsum(defined)
    place = int(np.searchsorted(reached, rank, side="right"))
    if place < 2:
        return float("-inf")
    if place > len(edges):
        return float(edges[-1])
    before = int(reached[place - 1])
    share = (rank - before + 0.5) / int(defined[place])
    return float(edges[place - 2] + share * (edges[place - 1] - edges[place - 2]))


def _pieces(ascended: Tensor, plain: Tensor, base: str) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Start, r, a == b, b == 0 of some coordinates at a time; r says nothing where one of the two holds."""
    wide = torch.float32 if plain.device.type == "mps" else torch.float64
    logarithm = torch.Tensor.log10_ if base == "log10" else torch.Tensor.log_
    for start in range(0, len(plain), _PIECE):
        a, b = ascended[start : start + _PIECE].to(wide), plain[start : start + _PIECE].to(wide, copy=True)
        difference, size = (a - b).abs_(), b.abs_()
        if not torch.isfinite(difference.max()):
            raise ValueError("a gradient is not finite, expected finite numbers: check the loss at w and at w + eps")
        same, zero = difference == 0.0, size == 0.0
        r = logarithm(difference / size)
        if plain.dtype == torch.float64:  # the ratio of float32 numbers stays in range, that of float64 need not
            lost = torch.isinf(r) & ~same & ~zero
            if bool(lost.any()):
                r[lost] = logarithm(difference[lost]) - logarithm(size[lost])
        yield start, r, same, zero
