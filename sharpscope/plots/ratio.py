"""The distribution of r, coordinate by coordinate: how far the SAM gradient is from the SGD gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries
from sharpscope.plots._layers import name_layers
from sharpscope.plots.style import GREY, INK, PALE, PALETTE, SMALL, plain, styled

COORDINATES = "coordinates per bin (%)"
KIND_COLORS = dict(
    zip(("conv", "linear", "norm", "bias", "embedding", "attention", "recurrent", "other"), PALETTE, strict=True)
)
_WIDTH = {"log10": 0.125, "ln": 0.25}  # of a bar
_SIDES = {"inside": (PALETTE[0], "-"), "outside": (PALETTE[1], "--")}


def draw_ratio(ax: Axes, ratio: GradientRatio, *, view: str = "histogram", **options: Any) -> Axes:
    """Draw one view of r: "histogram", "layers", "kinds" (quantiles of each), or "sides" (in and outside a mask).

    Returns the axes.  Raises ValueError for an unknown view, and for "sides" of a ratio without a mask.

    >>> draw_ratio(ax, gradient_ratio(problem), view="layers")  # doctest: +SKIP
    """
    if view not in _VIEWS:
        raise ValueError(f"view= got {view!r}; expected one of {', '.join(map(repr, _VIEWS))}")
    return _VIEWS[view](ax, ratio, **options)


@styled
def draw_histogram(
    ax: Axes,
    ratio: GradientRatio,
    *,
    color: str = PALETTE[0],
    label: str | None = None,
    xlabel: bool = True,
    ylabel: bool = True,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """Draw the histogram of r over all layers, the part r < 0 filled and its share printed.

    Bars count coordinates with g_SGD != 0; the axis spans ``limits``, by default where the bars are; what is not drawn
    (r = -inf, g_SGD = 0, r beyond the axis) is noted in small text.  Returns the axes.
    """
    edges, heights = bin_shares(ratio)
    limits = histogram_limits([ratio]) if limits is None else limits
    split = int(np.searchsorted(edges, 0.0))
    if split:
        ax.stairs(heights[:split], edges[: split + 1], fill=True, color=color, label="r < 0")
    if split < len(heights):
        ax.stairs(heights[split:], edges[split:], fill=True, color=PALE, label="r ≥ 0")
    ax.stairs(heights, edges, color=INK, linewidth=0.5)
    ax.axvline(0.0, color=INK, linewidth=0.7, linestyle="--")
    ax.set_xlim(*limits)
    ax.set_ylim(0.0, 1.3 * float(heights.max()) or 1.0)
    share = ratio.share_below_zero
    text = f"r < 0: {100 * share:.1f} %" if np.isfinite(share) else "every SGD gradient is zero"
    if label is not None:
        ax.text(0.015, 0.97, label, transform=ax.transAxes, ha="left", va="top", color=INK, fontweight="bold")
        text = "\n" + text
    ax.text(0.015, 0.97, text, transform=ax.transAxes, ha="left", va="top", color=INK)
    ax.set_title(left_out(ratio, limits), loc="right", fontsize=SMALL)
    if xlabel:
        ax.set_xlabel(r_label(ratio.base))
    if ylabel:
        ax.set_ylabel(COORDINATES)
    return ax


@styled
def draw_sides(ax: Axes, ratio: GradientRatio) -> Axes:
    """Draw the histograms of r inside and outside the mask, in percent of each side's coordinates; returns the axes."""
    top = 0.0
    for name, counts in ratio.groups("side").items():
        edges, heights = _shares(ratio, counts)
        color, line = _SIDES[name]
        share = ratio.share(counts)
        text = f"{name} the mask" + (f" (r < 0: {100 * share:.1f} %)" if np.isfinite(share) else " (no r defined)")
        ax.stairs(heights, edges, color=color, linestyle=line, linewidth=1.2, label=text)
        top = max(top, float(heights.max(initial=0.0)))
    ax.axvline(0.0, color=INK, linewidth=0.7, linestyle="--")
    ax.set_xlim(*histogram_limits([ratio]))
    ax.set_ylim(0.0, 1.35 * top or 1.0)
    ax.set_xlabel(r_label(ratio.base))
    ax.set_ylabel(COORDINATES)
    ax.legend(loc="upper left", fontsize=SMALL, frameon=True, framealpha=1.0, edgecolor="white")
    return ax


@styled
def draw_groups(ax: Axes, ratio: GradientRatio, *, by: str = "layer", width: float | None = None) -> Axes:
    """Draw quantiles of r of every layer or kind: the median, 25 to 75 % thick, 5 to 95 % thin, coloured by kind.

    ``width`` (inches) tells how much room the names have.  Returns the axes.
    """
    groups = ratio.groups(by)
    kinds = ratio.kinds if by == "layer" else tuple(groups)
    low, high = float(ratio.edges[0]), float(ratio.edges[-1])
    for place, (kind, counts) in enumerate(zip(kinds, groups.values(), strict=True)):
        if not counts[:-1].sum():
            continue  # no r is defined
        q = np.clip(ratio.quantiles_of(counts, (0.05, 0.25, 0.5, 0.75, 0.95)), low, high)
        color = KIND_COLORS.get(kind, GREY)
        known = kind in [text.get_label() for text in ax.collections]
        ax.vlines(place, q[0], q[4], color=color, linewidth=0.7)
        ax.vlines(place, q[1], q[3], color=color, linewidth=3.0, label="_" if known else kind)
        ax.plot([place], [q[2]], "o", color="white", markeredgecolor=color, markersize=2.6, zorder=3)
    ax.axhline(0.0, color=INK, linewidth=0.7, linestyle="--", zorder=0)
    ax.set_xlim(-0.7, len(groups) - 0.3)
    ax.set_ylabel(r_label(ratio.base))
    ax.set_title("median, 25 to 75 %, 5 to 95 % of the coordinates", loc="right", fontsize=SMALL)
    if by == "layer":
        name_layers(ax, tuple(groups), width=width)
        ax.legend(fontsize=SMALL, ncols=6, loc="lower left", handlelength=0.8, columnspacing=1.0)
    else:
        ax.set_xticks(range(len(groups)), list(groups))
    return ax


@styled
def draw_series(ax: Axes, series: RatioSeries, *, color: str = PALETTE[0], label: str | None = None) -> Axes:
    """Draw the median of r over radii or steps, with bands of 25 to 75 % and 5 to 95 % of the coordinates.

    The share of r < 0 is dashed, on an axis of its own at the right.  Returns the axes.
    """
    places = series.places
    q = np.clip(series.quantiles, series.edges[0], series.edges[-1])
    ax.fill_between(places, q[:, 1], q[:, 5], color=color, alpha=0.15, linewidth=0, label="5 to 95 %")
    ax.fill_between(places, q[:, 2], q[:, 4], color=color, alpha=0.3, linewidth=0, label="25 to 75 %")
    ax.plot(places, q[:, 3], "-o", color=color, markevery=max(1, len(places) // 10), label=label or "median of r")
    ax.axhline(0.0, color=INK, linewidth=0.7)
    ax.set_ylabel(r_label(series.base))
    twin = ax.twinx()
    twin.spines["right"].set_visible(True)
    twin.plot(places, 100 * series.share_below_zero, "--", color=INK, label="share of r < 0")
    twin.set_ylim(0.0, 100.0)
    twin.set_ylabel("coordinates with r < 0 (%)")
    if series.axis == "rho" and (places > 0).all() and len(places) > 1:
        ax.set_xscale("log")
    if series.axis == "perturbation":
        ax.set_xticks(places, series.perturbations, rotation=20, ha="right")
    else:
        ax.set_xlabel({"rho": r"radius $\rho$"}.get(series.axis, series.axis))
    handles, names = (
        a + b for a, b in zip(ax.get_legend_handles_labels(), twin.get_legend_handles_labels(), strict=True)
    )
    ax.legend(handles, names, fontsize=SMALL, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def bin_shares(ratio: GradientRatio) -> tuple[np.ndarray, np.ndarray]:
    """Edges (k + 1,) of bars and the percentage of coordinates with g_SGD != 0 in each (k,)."""
    return _shares(ratio, ratio.tally.sum(axis=0))


def _shares(ratio: GradientRatio, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bins of the result put together to bars, counted from the edge at 0."""
    per_bar = max(1, round(_WIDTH[ratio.base] / float(ratio.edges[1] - ratio.edges[0])))
    bars = counts[2:-2]
    if per_bar > 1 and len(bars) % per_bar == 0:
        bars = bars.reshape(-1, per_bar).sum(axis=1)
    else:
        per_bar = 1
    return np.asarray(ratio.edges[::per_bar]), 100.0 * bars / max(int(counts[:-1].sum()), 1)


def histogram_limits(ratios: Sequence[GradientRatio], least: float = 2.0) -> tuple[float, float]:
    """Ends of the r axis: where the bars of all ratios are, but for a two-thousandth at either end of each."""
    low, high = -least, least
    for ratio in ratios:
        edges, heights = bin_shares(ratio)
        seen = np.cumsum(heights)
        if seen[-1] > 0:
            low = min(low, float(edges[np.searchsorted(seen, 5e-4 * seen[-1])]))
            high = max(high, float(edges[np.searchsorted(seen, (1 - 5e-4) * seen[-1]) + 1]))
    return float(np.floor(low)), float(np.ceil(high))


def r_label(base: str) -> str:
    """Label of the r axis, with the base of the logarithm."""
    logarithm = r"\log_{10}" if base == "log10" else r"\ln"
    return rf"$r = {logarithm}\, |(g_\mathrm{{SAM}} - g_\mathrm{{SGD}}) \,/\, g_\mathrm{{SGD}}|$"


def left_out(ratio: GradientRatio, limits: tuple[float, float] | None = None) -> str:
    """What the histogram does not show, with its share of all coordinates; empty where it shows everything."""
    low, high = (float(ratio.edges[0]), float(ratio.edges[-1])) if limits is None else limits
    total = max(int(ratio.sizes.sum()), 1)
    bins = ratio.counts.sum(axis=0)
    cases = (
        (ratio.zero_numerators.sum(), r"$g_\mathrm{SAM} = g_\mathrm{SGD}$"),
        (ratio.zero_denominators.sum(), r"$g_\mathrm{SGD} = 0$"),
        (ratio.below.sum() + bins[ratio.edges[:-1] < low].sum(), f"r < {plain(low)}"),
        (ratio.above.sum() + bins[ratio.edges[:-1] >= high].sum(), f"r ≥ {plain(high)}"),
    )
    parts = [f"{text}: {_count(int(count), total)}" for count, text in cases if count]
    return "not drawn  " + ",  ".join(parts) if parts else ""


def _count(count: int, total: int) -> str:
    share = 100.0 * count / total
    return f"{count} ({share:.2g} %)" if share >= 0.1 else str(count)


_VIEWS: dict[str, Callable[..., Axes]] = {
    "histogram": draw_histogram,
    "layers": draw_groups,
    "kinds": lambda ax, ratio, **options: draw_groups(ax, ratio, by="kind", **options),
    "sides": draw_sides,
}
