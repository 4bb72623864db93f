"""A mask of a whole model at one bit per entry, and counts over many such masks at the speed of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpscope.coordinates.bits import pack

__all__ = ["MaskLike", "PackedMask", "as_packed", "ones_of"]

_WORD = 64


class PackedMask:
    """A 0/1 mask over the parameters of a model, as bits: 64 entries a word, every parameter from a word of its own.

    ``names`` are the parameters, ``shapes`` theirs, ``sizes`` (L,) their entries, ``words`` (W,) uint64 the bits, which
    from ``starts[i]`` to ``starts[i + 1]`` are those of parameter i; unused bits are 0.  ``~``, ``|`` and ``&`` combine
    masks of one model.

    Example:
        >>> mask = PackedMask.of({"w": torch.tensor([[True, False], [True, True]]), "b": torch.tensor([False])})
        >>> mask.selected.tolist(), mask.density, (~mask).selected.tolist()
        ([3, 0], 0.6, [1, 1])
    """

    def __init__(self, names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], words: np.ndarray) -> None:
        self.names, self.shapes, self.words = names, shapes, words
        self.sizes = np.array([math.prod(shape) for shape in shapes], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(-(-self.sizes // _WORD))])

    @staticmethod
    def of(mask: Mapping[str, Any], label: str = "mask") -> PackedMask:
        """Pack ``{parameter name: boolean tensor or array}``.

        Raises ValueError, with ``label`` in it, for anything else, for no parameter, and for entries that are not
        boolean.
        """
        if not isinstance(mask, Mapping):
            raise ValueError(
                f"mask {label!r} got a {type(mask).__name__}, expected {{parameter name: boolean tensor}}: "
                f"give a list of such masks or {{label: mask}}"
            )
        if not mask:
            raise ValueError(
                f"mask {label!r} got no parameter, expected at least one: leave out rules that have no mask"
            )
        parts = {name: value if isinstance(value, Tensor) else np.asarray(value) for name, value in mask.items()}
        for name, part in parts.items():
            if part.dtype not in (np.bool_, torch.bool):
                kind = str(part.dtype).removeprefix("torch.")
                raise ValueError(f"mask {label!r} got {kind} for {name}, expected booleans: convert with mask.bool()")
        shapes = tuple(tuple(part.shape) for part in parts.values())
        packed = PackedMask(tuple(parts), shapes, np.empty(0, dtype=np.uint64))
        packed.words = np.zeros(int(packed.starts[-1]), dtype=np.uint64)
        raw = packed.words.view(np.uint8)
        for start, part in zip(packed.starts.tolist(), parts.values(), strict=False):
            bits = _bits(part)
            raw[8 * start : 8 * start + len(bits)] = bits
        return packed

    def unpack(self) -> dict[str, Tensor]:
        """``{parameter name: bool tensor}``, the inverse of ``of``."""
        raw = self.words.view(np.uint8)
        found = {}
        rows = zip(self.names, self.shapes, self.starts.tolist(), self.sizes.tolist(), strict=False)
        for name, shape, start, size in rows:
            bits = np.unpackbits(raw[8 * start : 8 * start + -(-size // 8)], count=size)
            found[name] = torch.from_numpy(bits.view(np.bool_)).view(shape)
        return found

    @property
    def selected(self) -> np.ndarray:
        """(L,) int64: ones per parameter."""
        pairs = zip(self.starts[:-1], self.starts[1:], strict=True)
        return np.array([ones_of(self.words[a:b]) for a, b in pairs], dtype=np.int64)

    @property
    def density(self) -> float:
        """Share of ones over all entries; nan where there is none."""
        total = int(self.sizes.sum())
        return int(self.selected.sum()) / total if total else float("nan")

    def arranged(self, names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], label: str) -> PackedMask:
        """The same mask with its parameters in another order.

        Raises ValueError, with ``label`` in it, unless they are the same and of the same shapes.
        """
        if (self.names, self.shapes) == (names, shapes):
            return self
        if odd := [
            name for name in dict.fromkeys((*names, *self.names)) if name not in names or name not in self.names
        ]:
            shown = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
            raise ValueError(f"{label} ({shown} in one of them only), expected the same: compare masks of one model")
        place = {name: index for index, name in enumerate(self.names)}
        order = [place[name] for name in names]
        for name, index, shape in zip(names, order, shapes, strict=True):
            if self.shapes[index] != shape:
                head = label.partition(" got ")[0]
                raise ValueError(
                    f"{head} got shape {self.shapes[index]} for {name}, expected {shape}: compare masks of one model"
                )
        pieces = [self.words[self.starts[index] : self.starts[index + 1]] for index in order]
        return PackedMask(names, shapes, np.concatenate(pieces))

    def __invert__(self) -> PackedMask:
        flipped = PackedMask(self.names, self.shapes, ~self.words)
        for end, size in zip(self.starts[1:].tolist(), self.sizes.tolist(), strict=True):
            if size % _WORD:  # the bits behind the last entry stay 0
                tail = np.zeros(_WORD, dtype=np.uint8)
                tail[: size % _WORD] = 1
                flipped.words[end - 1] &= np.packbits(tail).view(np.uint64)[0]
        return flipped

    def __or__(self, other: PackedMask) -> PackedMask:
        return PackedMask(self.names, self.shapes, self.words | self._like(other).words)

    def __and__(self, other: PackedMask) -> PackedMask:
        return PackedMask(self.names, self.shapes, self.words & self._like(other).words)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedMask) or (self.names, self.shapes) != (other.names, other.shapes):
            return False
        return bool(np.array_equal(self.words, other.words))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedMask({len(self.names)} parameters, {int(self.sizes.sum())} entries, density={self.density:.6g})"

    def _like(self, other: PackedMask) -> PackedMask:
        return other.arranged(self.names, self.shapes, "a mask got other parameters than the first mask")


MaskLike = PackedMask | Mapping[str, "Tensor | np.ndarray"]


def as_packed(mask: MaskLike, label: str) -> PackedMask:
    """The mask as bits; raises ValueError as ``PackedMask.of`` does."""
    return mask if isinstance(mask, PackedMask) else PackedMask.of(mask, label)


def ones_of(words: np.ndarray) -> int:
    """Number of ones in words."""
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def _bits(part: Tensor | np.ndarray) -> np.ndarray:
    """(ceil(n / 8),) uint8, the first entry in the highest bit."""
    if isinstance(part, Tensor):
        part = part.detach()
        if part.device.type != "cpu":
            return pack([part]).cpu().numpy()  # packed where it is: an eighth of the bytes to move
        part = part.contiguous().numpy()
    return np.packbits(part.reshape(-1))
