"""How much do masks agree: over time, between methods, layer by layer, and against chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sharpscope.analyzers.masks._popcounts import count_all
from sharpscope.coordinates.packed import MaskLike, PackedMask, as_packed
from sharpscope.core.progress import bar
from sharpscope.core.results import Dims, Result
from sharpscope.core.surroundings import undisturbed

__all__ = ["MaskOverlap", "mask_overlap"]

MEASURES = ("jaccard", "overlap", "kappa", "over_chance", "z")


@dataclass(frozen=True, eq=False, repr=False)
class MaskOverlap(Result):
    """Pairwise overlap of m masks of one model.  Only counts are kept; every figure is derived from them.

    Where the masks are those of one training in order, they also tell how long entries stay and what was ever selected.

    Every measure of a pair is there twice: over the whole model, and layer by layer as ``layer_...``.  Chance is a
    second mask of as many ones placed anywhere (in the layer, for a layer): the intersection is then hypergeometric
    with mean |A| |B| / d and variance |A| |B| (d - |A|) (d - |B|) / (d^2 (d - 1)).
    """

    dims: ClassVar[Dims] = {
        "intersections stayed": "layers labels other", "selected ever": "layers labels", "sizes": "layers"
    }  # fmt: skip

    labels: tuple[str, ...]  # (m,) name of each mask, e.g. "step 0"
    layers: tuple[str, ...]  # (L,) parameter names
    sizes: np.ndarray  # (L,) int64, entries per layer
    selected: np.ndarray  # (L, m) int64, ones per layer and mask
    intersections: np.ndarray  # (L, m, m) int64, ones that two masks share, per layer
    stayed: np.ndarray  # (L, m, m) int64, for j >= i: ones that came with mask i and were in all masks up to j
    ever: np.ndarray  # (L, m) int64, entries that were in any of the masks 0 ... i

    @property
    def intersection(self) -> np.ndarray:
        """(m, m) int64: ones shared over the whole model."""
        return np.asarray(self.intersections.sum(axis=0))

    @property
    def first_to_last(self) -> float:
        """Jaccard index of the first and the last mask."""
        return float(self.jaccard[0, -1])

    @property
    def density(self) -> np.ndarray:
        """(L, m): share of ones per layer and mask."""
        return _divide(self.selected, self.sizes[:, None])

    @property
    def jaccard(self) -> np.ndarray:
        """(m, m): |A & B| / |A | B|; nan for two empty masks."""
        return _jaccard(*self._whole)

    @property
    def layer_jaccard(self) -> np.ndarray:
        """(L, m, m): the same, layer by layer."""
        return _jaccard(*self._by_layer)

    @property
    def overlap(self) -> np.ndarray:
        """(m, m): overlap coefficient |A & B| / min(|A|, |B|); nan where one is empty."""
        return _overlap(*self._whole)

    @property
    def layer_overlap(self) -> np.ndarray:
        """(L, m, m): the same, layer by layer."""
        return _overlap(*self._by_layer)

    @property
    def kappa(self) -> np.ndarray:
        """(m, m): Cohen's kappa (1960), agreement over ones and zeros beyond chance.

        1 for equal masks, 0 at the level of chance, negative below; nan where both are empty or both are full.
        """
        return _kappa(*self._whole)

    @property
    def layer_kappa(self) -> np.ndarray:
        """(L, m, m): the same, layer by layer."""
        return _kappa(*self._by_layer)

    @property
    def over_chance(self) -> np.ndarray:
        """(m, m): intersection over its chance level; nan where one is empty."""
        return _divide(self.intersection, self.chance_intersection)

    @property
    def layer_over_chance(self) -> np.ndarray:
        """(L, m, m): the same, layer by layer."""
        return _divide(self.intersections, _chance(*self._by_layer))

    @property
    def z(self) -> np.ndarray:
        """(m, m): intersection minus its chance level, in hypergeometric standard deviations.

        nan where chance has no spread, because one mask is empty or full.
        """
        both, a, b, d = self._whole
        return _divide(both - _chance(both, a, b, d), np.sqrt(_variance(a, b, d)))

    @property
    def layer_z(self) -> np.ndarray:
        """(L, m, m): the same, layer by layer."""
        both, a, b, d = self._by_layer
        return _divide(both - _chance(both, a, b, d), np.sqrt(_variance(a, b, d)))

    @property
    def stratified_z(self) -> np.ndarray:
        """(m, m): the same where chance places as many ones in each layer as the masks have there.

        What is left of ``z`` once the layers' densities are accounted for: agreement on entries, not on layers.
        """
        both, a, b, d = self._by_layer
        excess = (both - _chance(both, a, b, d)).sum(axis=0)
        return _divide(excess, np.sqrt(_variance(a, b, d).sum(axis=0)))

    @property
    def chance_intersection(self) -> np.ndarray:
        """(m, m): |A| |B| / d, the expected intersection of independent masks (hypergeometric mean)."""
        return _chance(*self._whole)

    @property
    def chance_jaccard(self) -> np.ndarray:
        """(m, m): Jaccard index of an intersection at its chance level."""
        both, a, b, d = self._whole
        return _jaccard(_chance(both, a, b, d), a, b, d)

    @property
    def dropped(self) -> np.ndarray:
        """(L, m - 1) int64: ones of mask i that mask i + 1 has not."""
        return np.asarray(self.selected[:, :-1] - np.diagonal(self.intersections, 1, 1, 2))

    @property
    def grown(self) -> np.ndarray:
        """(L, m - 1) int64: ones of mask i + 1 that mask i has not."""
        return np.asarray(self.selected[:, 1:] - np.diagonal(self.intersections, 1, 1, 2))

    @property
    def turnover(self) -> np.ndarray:
        """(m - 1,): share of the ones of mask i + 1 that are new; nan where it is empty."""
        return _divide(self.grown.sum(axis=0), self.selected[:, 1:].sum(axis=0))

    @property
    def chance_turnover(self) -> np.ndarray:
        """(m - 1,): the same for a mask i + 1 placed at random: the share of zeros in mask i."""
        return 1.0 - _divide(self.selected[:, :-1].sum(axis=0), self.sizes.sum())

    @property
    def survival(self) -> np.ndarray:
        """(m,): chance that an entry is still selected k masks after it came, without a break; 1 at k = 0.

        Kaplan and Meier's estimate (1958): entries that are still there at the last mask count as long as they were
        watched.  Those of mask 0 count as coming with it.  nan from where none was watched so long.
        """
        stayed = self.stayed.sum(axis=0)
        rates = [1.0]
        for k in range(1, len(self.labels)):
            rates.append(float(_divide(np.trace(stayed, k), np.trace(stayed[:-1, :-1], k - 1))))
        return np.cumprod(rates)

    @property
    def always(self) -> np.ndarray:
        """(L, m) int64: entries that were in all of the masks 0 ... i."""
        return np.asarray(self.stayed[:, 0])

    @property
    def never(self) -> np.ndarray:
        """(L, m) int64: entries that were in none of the masks 0 ... i."""
        return np.asarray(self.sizes[:, None] - self.ever)

    @property
    def union_growth(self) -> np.ndarray:
        """(m,): share of all entries that were in any of the masks 0 ... i: how much a dynamic mask has explored."""
        return _divide(self.ever.sum(axis=0), self.sizes.sum())

    @property
    def chance_union_growth(self) -> np.ndarray:
        """(m,): the same for masks of these densities placed at random anew each time."""
        return 1.0 - np.cumprod(1.0 - _divide(self.selected.sum(axis=0), self.sizes.sum()))

    def tidy(self) -> dict[str, Any]:
        """One row per pair of masks, layer ("" for the whole model) and measure, and per mask and figure over time."""
        first, second = np.triu_indices(len(self.labels), 1)
        names, layers = np.array(self.labels, dtype=object), np.array(["", *self.layers], dtype=object)
        pieces = []
        for measure in MEASURES:
            whole, by_layer = getattr(self, measure)[None], getattr(self, f"layer_{measure}")
            values = np.concatenate([whole, by_layer])[:, first, second]
            pieces.append((names[first], names[second], measure, values))
        later = np.arange(1, len(self.labels))
        with np.errstate(divide="ignore", invalid="ignore"):
            turnover = self.grown / self.selected[:, 1:]
        pieces.append((names[later - 1], names[later], "turnover", np.concatenate([self.turnover[None], turnover])))
        for name, counts in (("density", self.selected), ("union", self.ever), ("always", self.always)):
            whole = _divide(counts.sum(axis=0, keepdims=True), self.sizes.sum())
            pieces.append((names, names, name, np.concatenate([whole, _divide(counts, self.sizes[:, None])])))
        rows = [values.size for *_, values in pieces]
        return {
            "first": np.concatenate([np.tile(one, len(layers)) for one, *_ in pieces]),
            "second": np.concatenate([np.tile(two, len(layers)) for _, two, *_ in pieces]),
            "layer": np.concatenate([np.repeat(layers, len(one)) for one, *_ in pieces]),
            "quantity": np.repeat([name for *_, name, _ in pieces], rows).astype(object),
            "value": np.concatenate([values.ravel() for *_, values in pieces]),
        }

    @property
    def _whole(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return _pairs(self.intersection, self.selected.sum(axis=0), self.sizes.sum())

    @property
    def _by_layer(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return _pairs(self.intersections, self.selected, self.sizes)


@undisturbed
def mask_overlap(
    masks: Mapping[str, MaskLike] | Sequence[MaskLike],
    labels: Sequence[str] | None = None,
    *,
    progress: bool | None = None,
) -> MaskOverlap:
    """How much masks of one model agree, pair by pair: over the whole model, layer by layer, and beside chance.

    Masks are held at one bit per entry and counted word by word, so hundreds of masks of a large model fit.

    Args:
        masks: ``{label: mask}`` or a list of masks; a mask is ``{parameter name: boolean tensor or array}`` as
            ``SharpnessAware.masks()`` and a run's ``masks(step)`` give it, or a ``PackedMask`` of it.
        labels: names of the masks; the keys of a mapping, or "0", "1", ... of a list, if None.
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for no mask, a mask without parameters, masks of different models (names or shapes differ; the
    order is free), entries that are not boolean, and labels that do not match.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
        >>> overlap = mask_overlap([{"w": a}, {"w": b}])
        >>> overlap.jaccard[0, 1].round(4), overlap.kappa[0, 1], overlap.turnover
        (np.float64(0.3333), np.float64(0.0), array([0.5]))
    """
    if not isinstance(masks, Sequence | Mapping) or isinstance(masks, str | PackedMask):
        raise TypeError(
            f"mask_overlap got a {type(masks).__name__}, expected a list of masks, or a mapping of labels to masks: "
            f"put them into a list"
        )
    if isinstance(masks, Mapping):
        labels, masks = list(masks) if labels is None else labels, list(masks.values())
    names = [str(label) for label in (range(len(masks)) if labels is None else labels)]
    if not masks or len(names) != len(masks):
        raise ValueError(
            f"mask_overlap got {len(masks)} masks and {len(names)} labels, expected at least one mask and as many "
            f"labels: give one label per mask"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"mask_overlap got the label {twice!r} twice, expected one per mask: rename one")
    packed: list[PackedMask] = []
    for mask, name in zip(masks, names, strict=True):
        one = as_packed(mask, name)
        if packed:
            wrong = f"mask {name!r} got other parameters than the first mask"
            one = one.arranged(packed[0].names, packed[0].shapes, wrong)
        packed.append(one)
    with bar(len(packed[0].words), f"overlaps of {len(packed)} masks", progress) as shown:
        counts = count_all(packed, shown.update)
    return MaskOverlap(
        labels=tuple(names),
        layers=packed[0].names,
        sizes=packed[0].sizes,
        selected=np.ascontiguousarray(np.diagonal(counts.shared, axis1=1, axis2=2)),
        intersections=counts.shared,
        stayed=counts.stayed,
        ever=counts.union,
    )


def _pairs(both: Any, ones: Any, sizes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """|A & B|, |A|, |B| and d, shaped so that they broadcast."""
    return both, ones[..., :, None], ones[..., None, :], np.asarray(sizes)[..., None, None]


def _divide(top: Any, bottom: Any) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(top, bottom))


def _chance(both: np.ndarray, a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.asarray(a.astype(np.float64) * b / np.maximum(d, 1))  # 0 in a layer without entries


def _variance(a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Of the hypergeometric intersection; 0 in a layer of one entry, which leaves nothing to chance."""
    share = np.where(d > 0, a / np.maximum(d, 1), 0.0)
    return np.asarray(share * (1.0 - share) * b * (d - b) / np.maximum(d - 1, 1))


def _jaccard(both: np.ndarray, a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    return _divide(both, a + b - both)


def _overlap(both: np.ndarray, a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    return _divide(both, np.minimum(a, b))


def _kappa(both: np.ndarray, a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return _divide(2.0 * (both * d - a * b), a * (d - b) + b * (d - a))
