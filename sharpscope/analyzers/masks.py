"""How much do masks agree: over time, between methods, layer by layer, and against chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from sharpscope.results import Dims, Result

__all__ = ["MaskOverlap", "Masks", "mask_overlap"]

Masks = Mapping[str, "Tensor | np.ndarray"]


@dataclass(frozen=True, eq=False, repr=False)
class MaskOverlap(Result):
    """Pairwise overlap of m masks of one model.  Only counts are kept; every figure is derived from them."""

    dims: ClassVar[Dims] = {"intersections": "layers labels other", "selected": "layers labels", "sizes": "layers"}

    labels: tuple[str, ...]  # (m,) name of each mask, e.g. "step 0"
    layers: tuple[str, ...]  # (L,) parameter names
    sizes: np.ndarray  # (L,) int64, entries per layer
    selected: np.ndarray  # (L, m) int64, ones per layer and mask
    intersections: np.ndarray  # (L, m, m) int64, ones that two masks share, per layer

    @property
    def intersection(self) -> np.ndarray:
        """(m, m) int64: ones shared over the whole model."""
        return np.asarray(self.intersections.sum(axis=0))

    @property
    def jaccard(self) -> np.ndarray:
        """(m, m): |A & B| / |A | B|; nan for two empty masks."""
        return _jaccard(self.intersection, self.selected.sum(axis=0))

    @property
    def first_to_last(self) -> float:
        """Jaccard index of the first and the last mask."""
        return float(self.jaccard[0, -1])

    @property
    def layer_jaccard(self) -> np.ndarray:
        """(L, m, m): the same, layer by layer."""
        return np.stack([_jaccard(both, ones) for both, ones in zip(self.intersections, self.selected, strict=True)])

    @property
    def overlap(self) -> np.ndarray:
        """(m, m): overlap coefficient |A & B| / min(|A|, |B|); nan where one is empty."""
        ones = self.selected.sum(axis=0)
        return _divide(self.intersection, np.minimum.outer(ones, ones))

    @property
    def chance_intersection(self) -> np.ndarray:
        """(m, m): |A| |B| / d, the expected intersection of independent masks (hypergeometric mean)."""
        ones = self.selected.sum(axis=0).astype(np.float64)
        return _divide(np.multiply.outer(ones, ones), self.sizes.sum())

    @property
    def chance_jaccard(self) -> np.ndarray:
        """(m, m): Jaccard index of an intersection at its chance level."""
        return _jaccard(self.chance_intersection, self.selected.sum(axis=0))

    @property
    def density(self) -> np.ndarray:
        """(L, m): share of ones per layer and mask."""
        return _divide(self.selected, self.sizes[:, None])


def mask_overlap(masks: Mapping[str, Masks] | Sequence[Masks], labels: Sequence[str] | None = None) -> MaskOverlap:
    """How much masks of one model agree, pair by pair: over the whole model, layer by layer, and beside chance.

    Args:
        masks: ``{label: mask}`` or a list of masks; a mask is ``{parameter name: boolean tensor or array}`` as
            ``SharpnessAware.masks()`` and a run's ``masks(step)`` give it.
        labels: names of the masks; the keys of a mapping, or "0", "1", ... of a list, if None.

    Raises ValueError for no mask, a mask without parameters, masks of different models (names or shapes differ; the
    order is free), entries that are not boolean, and labels that do not match.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
        >>> mask_overlap([{"w": a}, {"w": b}]).jaccard[0, 1].round(4)
        np.float64(0.3333)
    """
    if isinstance(masks, Mapping):
        labels, masks = list(masks) if labels is None else labels, list(masks.values())
    names = [str(label) for label in (range(len(masks)) if labels is None else labels)]
    if not masks or len(names) != len(masks):
        raise ValueError(
            f"mask_overlap got {len(masks)} masks and {len(names)} labels, expected at least one mask and as many "
            f"labels: give one label per mask"
        )
    arrays = [_arrays(mask, name) for mask, name in zip(masks, names, strict=True)]
    for found, name in zip(arrays, names, strict=True):
        _check_same(found, name, arrays[0])
    layers = tuple(arrays[0])
    flat = [[found[layer].reshape(-1) for layer in layers] for found in arrays]
    packed = [[np.packbits(part) for part in mask] for mask in flat]
    counts = np.zeros((len(layers), len(masks), len(masks)), dtype=np.int64)
    for layer in range(len(layers)):
        for i in range(len(masks)):
            for j in range(i + 1):
                shared = int(np.bitwise_count(packed[i][layer] & packed[j][layer]).sum())
                counts[layer, i, j] = counts[layer, j, i] = shared
    return MaskOverlap(
        labels=tuple(names),
        layers=layers,
        sizes=np.array([part.size for part in flat[0]], dtype=np.int64),
        selected=np.ascontiguousarray(np.diagonal(counts, axis1=1, axis2=2)),
        intersections=counts,
    )


def _arrays(mask: Masks, name: str) -> dict[str, np.ndarray]:
    if not isinstance(mask, Mapping):
        raise ValueError(
            f"mask {name!r} got a {type(mask).__name__}, expected {{parameter name: boolean tensor}}: "
            f"give a list of such masks or {{label: mask}}"
        )
    if not mask:
        raise ValueError(f"mask {name!r} got no parameter, expected at least one: leave out rules that have no mask")
    arrays = {}
    for layer, value in mask.items():
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype != np.bool_:
            raise ValueError(
                f"mask {name!r} got {array.dtype} for {layer}, expected booleans: convert with mask.bool()"
            )
        arrays[layer] = array
    return arrays


def _check_same(mask: dict[str, np.ndarray], name: str, first: dict[str, np.ndarray]) -> None:
    if odd := [layer for layer in {**first, **mask} if layer not in first or layer not in mask]:
        shown = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
        raise ValueError(
            f"mask {name!r} got other parameters than the first mask ({shown} in one of them only), expected the same: "
            f"compare masks of one model"
        )
    for layer, array in mask.items():
        if array.shape != first[layer].shape:
            raise ValueError(
                f"mask {name!r} got shape {array.shape} for {layer}, expected {first[layer].shape}: "
                f"compare masks of one model"
            )


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(top, bottom))


def _jaccard(both: np.ndarray, ones: np.ndarray) -> np.ndarray:
    return _divide(both, np.add.outer(ones, ones) - both)
