"""How a forward pass is laid out: memory layout, examples at a time, BatchNorms folded; and which way is fastest.

The choice changes the last bits of a loss and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpscope.problem.examples import Examples, cut, on_tensors

__all__ = ["Way", "fastest", "images_of", "laid_out", "usual"]

_SIZES = (0.5, 2.0, 4.0)  # examples at a time that are tried, in shares of the usual number
_CACHED = 98304  # input numbers at a time (32 images of CIFAR) that keep what layers hand on in a processor's cache
_CLEARLY = 0.87  # what is faster by less keeps the usual choice, so that most processes choose alike


@dataclass(frozen=True)
class Way:
    """How outputs are computed; ``how`` is its text, ``Way.of(text)`` its inverse."""

    layout: str = "contiguous"  # or "channels-last"
    size: int = 0  # examples at a time; 0 leaves the batches as the problem has them
    folded: int = 0  # BatchNorms that are folded into the layer before them

    @property
    def how(self) -> str:
        """Such as "channels-last, 128 at a time, 21 BatchNorms folded"."""
        size = f"{self.size} at a time" if self.size else "batches as given"
        return f"{self.layout}, {size}, {self.folded} BatchNorms folded"

    @staticmethod
    def of(text: str) -> Way:
        """Raises ValueError for what is no text of a Way."""
        found = re.fullmatch(
            r"(contiguous|channels-last), (?:([1-9]\d*) at a time|batches as given), (\d+) BatchNorms folded", str(text)
        )
        if not found:
            raise ValueError(
                f"got how={text!r}, expected 'fastest', 'untimed' or the text of a former result: copy result.how"
            )
        return Way(found[1], int(found[2] or 0), int(found[3]))


def images_of(batches: Sequence[Examples]) -> list[Tensor]:
    """Inputs of four dimensions, whose memory layout is a choice."""
    inputs = [x for b in batches for x in (*b.args, *b.kwargs.values())]
    return [x for x in inputs if isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point()]


def usual(
    batches: Sequence[Examples], size: int, dtype: torch.dtype, half: bool, folded: int, lasts: bool = True
) -> Way:
    """The choice that needs no clock; ``size`` examples are what the problem takes at a time.

    ``lasts`` is whether the model takes images with the channels last.
    """
    images, examples = images_of(batches), sum(batch.examples for batch in batches)
    last = images and lasts and dtype != torch.float64
    size = size * (2 if half else 1)
    if images and images[0].device.type == "cpu":
        numbers = max(x[0].numel() for x in images)
        size = min(size, max(size // 4, _CACHED * (2 if half else 1) // numbers))
    size = size if len(batches) == 1 and size < examples else 0
    return Way("channels-last" if last else "contiguous", size, folded)


def fastest(usual: Way, batches: Sequence[Examples], seconds: Callable[[Way], float], lasts: bool = True) -> Way:
    """The fastest way as ``seconds`` tells, the usual one unless another is faster by a clear margin."""
    best = usual
    if images_of(batches):
        for layout in ("contiguous", *(["channels-last"] if lasts else [])):
            best = _faster(best, replace(best, layout=layout), seconds)
    if len(batches) == 1:
        usual, examples = best, batches[0].examples
        for share in _SIZES:
            size = max(1, int(share * (usual.size or examples)))
            if size < examples:
                best = _faster(best, replace(best, size=size), seconds)
    return best


def _faster(usual: Way, other: Way, seconds: Callable[[Way], float]) -> Way:
    if other == usual:
        return usual
    timed = [[seconds(way) for way in (usual, other)] for _ in range(3)]
    mine, theirs = (min(column) for column in zip(*timed, strict=True))
    return other if theirs < _CLEARLY * mine else usual


def laid_out(batches: Sequence[Examples], way: Way, half: bool) -> list[Examples]:
    """The batches cut and stored as the way says; in bfloat16 if ``half``."""

    def change(x: Tensor) -> Tensor:
        if half and x.is_floating_point():
            x = x.bfloat16()
        if x.dim() == 4 and x.is_floating_point():
            last = way.layout == "channels-last"
            x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        return x

    size = way.size or max(batch.examples for batch in batches)
    found = []
    for batch in batches:
        for start in range(0, batch.examples, size):
            piece = batch if batch.examples <= size else cut(batch, slice(start, start + size))
            args, kwargs = on_tensors((piece.args, piece.kwargs), change)
            found.append(replace(piece, args=args, kwargs=kwargs))
    return found
