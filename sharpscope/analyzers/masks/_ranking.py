"""Does a mask prefer large scores?  Ranks, the area under the ROC curve, and how much of the total the mask holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Captured", "Ranking", "captured", "rank_mask"]

GRID = np.linspace(0.0, 1.0, 101)  # false-positive rates at which a ROC curve is kept


@dataclass(frozen=True)
class Ranking:
    """A mask against one score; all of it is nan where the mask is empty or full."""

    correlation: float  # Spearman's, of the 0/1 mask and the score, ties at their mean rank; nan for equal scores
    auc: float  # area under the ROC curve: chance that a selected entry has the larger score, ties counting half
    deviation: float  # standard deviation of the area over random masks of as many ones (0.5 on average)
    curve: np.ndarray  # (101,) true-positive rate at the false-positive rates ``GRID``


def rank_mask(mask: np.ndarray, score: np.ndarray) -> Ranking:
    """Rank all entries by score: ``mask`` (n,) bool, ``score`` (n,) float64 without nan.

    The area is Mann and Whitney's U / (n1 n0), its deviation that of U with ties (Lehmann 1975, section 1.4).
    """
    size, ones = len(mask), int(mask.sum())
    zeros = size - ones
    if not ones or not zeros:
        return Ranking(float("nan"), float("nan"), float("nan"), np.full(len(GRID), np.nan))
    order = np.argsort(score)
    ordered, chosen = score[order], mask[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1  # where groups of equal scores end
    hits = np.cumsum(chosen)[ends - 1]  # ones up to there
    count = np.diff(ends, prepend=0).astype(np.float64)
    inside = np.diff(hits, prepend=0)
    outside = count - inside
    zeros_below = np.cumsum(outside) - outside
    auc = float((inside * (zeros_below + 0.5 * outside)).sum()) / (ones * zeros)
    middle = ends - 0.5 * (count - 1.0) - 0.5 * (size + 1.0)  # mean rank of each group, centred
    spread = float((count * middle**2).sum()) * ones * zeros / size
    correlation = float((inside * middle).sum()) / np.sqrt(spread) if spread > 0 else float("nan")
    ties = float((count**3 - count).sum()) / (size * (size - 1.0))
    deviation = float(np.sqrt(max(size + 1.0 - ties, 0.0) / (12.0 * ones * zeros)))
    false = np.append(0.0, np.cumsum(outside[::-1])) / zeros
    true = np.append(0.0, np.cumsum(inside[::-1])) / ones
    return Ranking(
        float(correlation), auc, deviation, np.interp(GRID, false, true)
    )  # where it rises upright: its upper end


@dataclass(frozen=True)
class Captured:
    """The share of a score's total that a mask holds.  nan where the total is 0."""

    share: float
    chance: float  # mean of the share over random masks of as many ones: the density
    deviation: float  # its standard deviation over those masks
    best: float  # the largest share that as many ones can hold; nan where some scores are negative


def captured(mask: np.ndarray, score: np.ndarray) -> Captured:
    """How much of the sum of ``score`` (n,) float64 the ``mask`` (n,) bool holds."""
    size, ones = len(mask), int(mask.sum())
    total = float(score.sum())
    if not size or total == 0.0:
        return Captured(float("nan"), ones / size if size else float("nan"), float("nan"), float("nan"))
    share = float(score[mask].sum()) / total
    density = ones / size
    variance = float(score.var(ddof=1)) * ones * (1.0 - density) if size > 1 else 0.0
    top = np.partition(score, size - ones)[size - ones :] if 0 < ones < size else score[:0] if not ones else score
    best = float(top.sum()) / total if float(score.min()) >= 0.0 else float("nan")
    return Captured(share, density, float(np.sqrt(variance)) / abs(total), best)
