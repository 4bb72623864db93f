"""Where to look: a displacement of the weights, and the way back, at the speed and size of memory.

A displacement is kept as a vector and a factor, so that SAM's eps = (rho / |g|) g is never formed: the gradient itself
is added to the weights.  The way back is a copy and not a subtraction, so the weights are bit for bit what they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from sharpscope.coordinates.bits import unpack
from sharpscope.core.vectors import Vec, scale

__all__ = ["Shift", "Way", "as_shift"]


@dataclasses.dataclass
class Shift:
    """eps = factor * vector, on the entries of a mask (packed bits) or on all; what a perturbation returns.

    Args:
        vector: a tensor per parameter, shaped like it.
        factor: a number, or a 0-dim tensor, which costs no wait for the device.
        bits: packed mask, as ``Mask.bits`` has it.

    Example:
        >>> Shift([torch.ones(2)], 0.5).dense()
        [tensor([0.5000, 0.5000])]
    """

    vector: Vec
    factor: Tensor | float = 1.0
    bits: Tensor | None = None

    def dense(self) -> Vec:
        """eps, as one tensor per parameter."""
        eps = scale(self.vector, self.factor)
        if self.bits is None:
            return eps
        return [torch.where(m, e, torch.zeros_like(e)) for m, e in zip(unpack(self.bits, eps), eps, strict=True)]


def as_shift(found: Shift | Sequence[Tensor]) -> Shift:
    """What a perturbation returned, which may be eps itself."""
    return found if isinstance(found, Shift) else Shift(list(found))


class Way:
    """To w + eps and back.

    Holds one copy of the weights, kept between steps, or under a mask the entries that it selects, only while away.
    """

    def __init__(self) -> None:
        self._copy: Vec = []
        self._entries: Vec = []
        self._bits: Tensor | None = None
        self._away = False

    def go(self, params: Sequence[Tensor], shift: Shift) -> None:
        """Add eps to ``params`` in place.

        The shift is used up: its vector is let go, because the gradients at w + eps need its memory.
        """
        vector, shift.vector = shift.vector, []
        self._away = False
        self._bits = shift.bits
        if shift.bits is None:
            self._go_whole(params, vector, shift.factor)
        else:
            self._go_masked(params, vector, float(shift.factor), shift.bits)

    def back(self, params: Sequence[Tensor]) -> None:
        """Put the weights back, as far as ``go`` came; once they are back, nothing."""
        if self._bits is None:
            if self._away:  # else the copy is that of an earlier step
                torch._foreach_copy_(list(params), self._copy)
            self._away = False
            return
        masks = unpack(self._bits, params) if self._entries else []
        for p, mask, entries in zip(params, masks, self._entries, strict=False):
            p.masked_scatter_(mask, entries)
        self._entries = []

    def _go_whole(self, params: Sequence[Tensor], vector: Vec, factor: Tensor | float) -> None:
        if [(c.shape, c.dtype, c.device) for c in self._copy] != [(p.shape, p.dtype, p.device) for p in params]:
            self._copy = [torch.empty_like(p) for p in params]
        torch._foreach_copy_(self._copy, list(params))
        self._away = True
        if isinstance(factor, Tensor) and factor.device.type != "cpu":
            torch._foreach_add_(list(params), scale(vector, factor))  # no wait for the device
        else:
            torch._foreach_add_(list(params), vector, alpha=float(factor))

    def _go_masked(self, params: Sequence[Tensor], vector: Vec, factor: float, bits: Tensor) -> None:
        self._copy, self._entries = [], []
        for p, v, mask in zip(params, vector, unpack(bits, params), strict=True):
            places = mask.reshape(-1).nonzero().view(-1)  # much faster than indexing by the mask itself
            entries = p.reshape(-1)[places]
            self._entries.append(entries)
            p.masked_scatter_(mask, torch.add(entries, v.reshape(-1)[places], alpha=factor))
