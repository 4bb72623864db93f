"""How much do masks agree: over time, between methods, layer by layer, and against chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpscope.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class MaskOverlap(Result):
    """Pairwise overlap of m masks of one model.  Only counts are kept; every figure is derived from them."""

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
        """(m, m): |A| |B| / d, the expected intersection of independent masks of the same sizes (hypergeometric mean)."""
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


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(top, bottom))


def _jaccard(both: np.ndarray, ones: np.ndarray) -> np.ndarray:
    return _divide(both, np.add.outer(ones, ones) - both)
