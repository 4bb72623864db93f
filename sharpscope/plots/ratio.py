"""The distribution of r, coordinate by coordinate: how far the SAM gradient is from the SGD gradient."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from sharpscope.analyzers.ratio import GradientRatio
from sharpscope.plots.style import INK, PALE, PALETTE, SMALL, plain, styled

COORDINATES = "coordinates per bin (%)"


@styled
def draw_ratio(
    ax: Axes,
    ratio: GradientRatio,
    *,
    color: str = PALETTE[0],
    label: str | None = None,
    xlabel: bool = True,
    ylabel: bool = True,
) -> Axes:
    """Draw the histogram of r over all layers, the part r < 0 filled and its share printed.

    Bars count coordinates with g_SGD != 0; what no bar can show (r = -inf, g_SGD = 0, r beyond the edges) is noted
    in small text.  Returns the axes.

    >>> draw_ratio(ax, gradient_ratio(problem))  # doctest: +SKIP
    """
    edges, heights = bin_shares(ratio)
    split = int(np.searchsorted(edges, 0.0))
    if 0 < split < len(edges) and edges[split] != 0.0:  # a bin across zero is drawn in two colours
        edges, heights = np.insert(edges, split, 0.0), np.insert(heights, split, heights[split - 1])
    if split:
        ax.stairs(heights[:split], edges[: split + 1], fill=True, color=color, label="r < 0")
    if split < len(heights):
        ax.stairs(heights[split:], edges[split:], fill=True, color=PALE, label="r ≥ 0")
    ax.stairs(heights, edges, color=INK, linewidth=0.5)
    ax.axvline(0.0, color=INK, linewidth=0.7, linestyle="--")
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0.0, 1.3 * float(heights.max()) or 1.0)
    share = ratio.share_below_zero
    text = f"r < 0: {100 * share:.1f} %" if np.isfinite(share) else "every SGD gradient is zero"
    if label is not None:
        ax.text(0.015, 0.97, label, transform=ax.transAxes, ha="left", va="top", color=INK, fontweight="bold")
        text = "\n" + text
    ax.text(0.015, 0.97, text, transform=ax.transAxes, ha="left", va="top", color=INK)
    ax.set_title(left_out(ratio), loc="right", fontsize=SMALL)
    if xlabel:
        ax.set_xlabel(r_label(ratio.base))
    if ylabel:
        ax.set_ylabel(COORDINATES)
    return ax


def bin_shares(ratio: GradientRatio) -> tuple[np.ndarray, np.ndarray]:
    """Edges (b + 1,) and the percentage of coordinates with g_SGD != 0 in each bin (b,)."""
    defined = int((ratio.sizes - ratio.zero_denominators).sum())
    return np.asarray(ratio.edges), 100.0 * ratio.counts.sum(axis=0) / max(defined, 1)


def r_label(base: str) -> str:
    """Label of the r axis, with the base of the logarithm."""
    logarithm = r"\log_{10}" if base == "log10" else r"\ln"
    return rf"$r = {logarithm}\, |(g_\mathrm{{SAM}} - g_\mathrm{{SGD}}) \,/\, g_\mathrm{{SGD}}|$"


def left_out(ratio: GradientRatio) -> str:
    """What the histogram does not show, with its share of all coordinates; empty where it shows everything."""
    total = max(int(ratio.sizes.sum()), 1)
    cases = (
        (ratio.zero_numerators, r"$g_\mathrm{SAM} = g_\mathrm{SGD}$"),
        (ratio.zero_denominators, r"$g_\mathrm{SGD} = 0$"),
        (ratio.below, f"r < {plain(ratio.edges[0])}"),
        (ratio.above, f"r ≥ {plain(ratio.edges[-1])}"),
    )
    parts = [f"{text}: {_count(int(count.sum()), total)}" for count, text in cases if count.sum()]
    return "not drawn  " + ",  ".join(parts) if parts else ""


def _count(count: int, total: int) -> str:
    share = 100.0 * count / total
    return f"{count} ({share:.2g} %)" if share >= 0.1 else str(count)
