"""How masks move: agreement beyond chance over time and layer by layer, turnover, survival, what was ever selected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from sharpscope.analyzers.masks.overlap import MaskOverlap
from sharpscope.plots._layers import name_layers
from sharpscope.plots.style import GREY, INK, PALETTE, SMALL, axes_figure, prepare, say, styled

__all__ = ["draw_density", "draw_heatmap", "draw_layers", "draw_masks", "draw_time"]

FIRST, PREVIOUS = PALETTE[0], PALETTE[1]
MEASURES: dict[str, tuple[str, str, float, float]] = {  # text, colours, ends of the scale
    "kappa": ("Cohen's κ (0: chance)", "RdBu_r", -1.0, 1.0),
    "jaccard": ("Jaccard index", "viridis", 0.0, 1.0),
    "overlap": ("overlap coefficient", "viridis", 0.0, 1.0),
}
_ENDING = re.compile(r"^(.*?)\s*(-?\d+(?:\.\d+)?)$")
CHANCE_MARK: dict[str, Any] = {"linestyle": "none", "marker": "_", "color": INK, "markeredgewidth": 1.1}


def draw_masks(ax: Axes, overlap: MaskOverlap, *, view: str = "heatmap", **options: Any) -> Axes:
    """Draw one view of a mask overlap.

    "heatmap", "time", "turnover", "survival", "union", "layers" or "density".  Returns the axes.  Raises ValueError for
    an unknown view.

    >>> draw_masks(ax, mask_overlap(masks), view="time")  # doctest: +SKIP
    """
    if view not in _VIEWS:
        raise ValueError(f"view= got {view!r}; expected one of {', '.join(map(repr, _VIEWS))}")
    return _VIEWS[view](ax, overlap, **options)


@styled
def draw_heatmap(
    ax: Axes, overlap: MaskOverlap, *, measure: str = "kappa", colorbar: bool = True, title: str | None = None
) -> Axes:
    """Draw a measure of every pair of masks; mask 0 is in the upper left corner.

    ``measure`` is "kappa", on a scale that is white at the level of chance, or "jaccard" or "overlap", from 0 to 1.
    Returns the axes.  Raises ValueError for another measure.
    """
    image = heatmap_image(ax, overlap, measure=measure)
    if title is not None:
        ax.set_title(title)
    if colorbar:
        bar = axes_figure(ax).colorbar(image, ax=ax, fraction=0.05, pad=0.03)
        prepare(bar.ax)
        bar.outline.set_linewidth(0.6)
        bar.set_label(MEASURES[measure][0])
    return ax


def heatmap_image(ax: Axes, overlap: MaskOverlap, ticks: int = 5, measure: str = "kappa") -> AxesImage:
    """Draw the matrix of a measure with labelled axes, at most ``ticks`` labels on each; returns the image."""
    if measure not in MEASURES:
        raise ValueError(f"measure= got {measure!r}; expected one of {', '.join(map(repr, MEASURES))}")
    _, name, low, high = MEASURES[measure]
    colors = colormaps[name].with_extremes(bad="#b8b8b8")
    values = getattr(overlap, measure)
    image = ax.imshow(values, cmap=colors, vmin=low, vmax=high, interpolation="nearest", origin="upper")
    places, axis = mask_axis(overlap.labels)
    shown = np.unique(np.linspace(0, len(places) - 1, min(len(places), ticks)).round().astype(int))
    texts = [f"{places[index]:g}" for index in shown] if axis else [overlap.labels[index] for index in shown]
    long = not axis and max(map(len, texts)) > 6
    ax.set_xticks(shown, texts, rotation=90 if long else 0)
    ax.set_yticks(shown, texts)
    ax.set_xlabel(_axis_text(axis))
    ax.set_ylabel(_axis_text(axis))
    ax.spines[["top", "right"]].set_visible(True)
    return image


@styled
def draw_time(ax: Axes, overlap: MaskOverlap, *, legend: bool = True) -> Axes:
    """Draw Cohen's kappa of each mask with the first and with the previous one; 0 is the level of chance.

    Returns the axes; with fewer than two masks they only say so.
    """
    places, _ = mask_axis(overlap.labels)
    if len(places) < 2:
        return say(ax, "one mask only: nothing to compare")
    kappa, later = overlap.kappa, np.arange(1, len(places))
    every = max(1, len(later) // 8)
    ax.axhline(0.0, color=GREY, linewidth=0.7, linestyle="--")
    ax.plot(places[1:], kappa[later - 1, later], "-.s", color=PREVIOUS, markevery=every, label="with the previous mask")
    ax.plot(places[1:], kappa[0, 1:], "-o", color=FIRST, markevery=every, label="with the first mask")
    _time_axis(ax, overlap, 1)
    ax.set_ylim(min(-0.08, 1.1 * float(np.nanmin(kappa, initial=0.0))), 1.04)
    ax.set_ylabel("Cohen's κ (0: chance)")
    if legend:
        ax.legend(fontsize=SMALL, loc="best")
    return ax


@styled
def draw_turnover(ax: Axes, overlap: MaskOverlap) -> Axes:
    """Draw the share of new ones at each update, and that of an update to a random mask.  Returns the axes."""
    if len(overlap.labels) < 2:
        return say(ax, "one mask only: nothing to compare")
    places, _ = mask_axis(overlap.labels)
    every = max(1, len(places) // 10)
    ax.plot(places[1:], 100 * overlap.turnover, "-o", color=FIRST, markevery=every, label="turnover")
    ax.plot(places[1:], 100 * overlap.chance_turnover, "--", color=GREY, label="a random mask")
    _time_axis(ax, overlap, 1)
    ax.set_ylim(0.0, 102.0)
    ax.set_ylabel("new ones per update (%)")
    ax.legend(fontsize=SMALL, loc="best")
    return ax


@styled
def draw_survival(ax: Axes, overlap: MaskOverlap) -> Axes:
    """Draw how many of the entries that came are still selected k masks later, without a break.  Returns the axes."""
    if len(overlap.labels) < 2:
        return say(ax, "one mask only: nothing to compare")
    ages = np.arange(len(overlap.labels))
    ax.plot(ages, 100 * overlap.survival, drawstyle="steps-post", color=FIRST, label="still selected")
    density = float(overlap.selected.sum() / max(1, overlap.sizes.sum() * len(ages)))
    ax.plot(ages, 100 * density**ages, drawstyle="steps-post", color=GREY, linestyle="--", label="random masks")
    ax.set_ylim(0.0, 102.0)
    ax.set_xlim(0, max(1, len(ages) - 1))
    ax.set_xlabel("masks since the entry came")
    ax.set_ylabel("still selected (%)")
    ax.legend(fontsize=SMALL, loc="best")
    return ax


@styled
def draw_union(ax: Axes, overlap: MaskOverlap) -> Axes:
    """Draw the share of all entries that were selected in any mask so far, and in every mask.  Returns the axes."""
    places, _ = mask_axis(overlap.labels)
    total = max(1, int(overlap.sizes.sum()))
    every = max(1, len(places) // 10)
    ax.plot(places, 100 * overlap.union_growth, "-o", color=FIRST, markevery=every, label="in any mask so far")
    ax.plot(places, 100 * overlap.chance_union_growth, "--", color=GREY, label="of random masks")
    always = 100 * overlap.always.sum(axis=0) / total
    ax.plot(places, always, "-.s", color=PREVIOUS, markevery=every, label="in every mask so far")
    _time_axis(ax, overlap, 0)
    ax.set_ylim(0.0, 102.0)
    ax.set_ylabel("entries (%)")
    ax.legend(fontsize=SMALL, loc="best")
    return ax


@styled
def draw_layers(ax: Axes, overlap: MaskOverlap, *, names: bool = True, width: float | None = None) -> Axes:
    """Draw per layer Cohen's kappa of the first and the last mask as a bar; 0 is the layer's level of chance.

    A cross marks layers that are wholly in or out of both masks, where kappa is not defined.  ``width`` (inches) tells
    how much room the layer names have; by default that of the axes.  Returns the axes; with fewer than two masks they
    only say so.
    """
    if len(overlap.labels) < 2:
        return say(ax, "one mask only: nothing to compare")
    places, kappa = np.arange(len(overlap.layers)), overlap.layer_kappa[:, 0, -1]
    ax.bar(places, kappa, width=0.7, color=FIRST)
    gone = np.isnan(kappa)
    ax.plot(places[gone], np.zeros(gone.sum()), "x", color=GREY, markersize=3.5)
    ax.axhline(0.0, color=INK, linewidth=0.6)
    ax.set_ylim(min(-0.08, 1.1 * float(np.nanmin(kappa, initial=0.0))), 1.04)
    ax.set_ylabel("Cohen's κ (0: chance)")
    ax.set_xlim(-0.7, len(places) - 0.3)
    name_layers(ax, overlap.layers, show=names, width=width)
    if names:
        note = "first against last mask" + ("  (×: all or none selected)" if gone.any() else "")
        ax.set_title(note, loc="right", fontsize=SMALL)
    return ax


@styled
def draw_density(ax: Axes, overlap: MaskOverlap, *, names: bool = True, width: float | None = None) -> Axes:
    """Draw per layer the share of selected parameters, bar for the last mask and mark for the first.

    The dashed line is the density of the whole last mask.  Returns the axes.
    """
    density = 100.0 * overlap.density
    places = np.arange(len(overlap.layers))
    ax.bar(places, density[:, -1], width=0.7, color=PALETTE[2], label="last mask")
    if len(overlap.labels) > 1:
        size = max(2.0, min(9.0, 150.0 / len(places)))
        ax.plot(places, density[:, 0], markersize=size, label="first mask", **CHANCE_MARK)
    whole = 100.0 * float(overlap.selected[:, -1].sum()) / max(int(overlap.sizes.sum()), 1)
    ax.axhline(whole, color=GREY, linestyle="--", label="whole model")
    ax.set_ylim(0.0, 102.0)
    ax.set_ylabel("selected parameters (%)")
    ax.set_xlim(-0.7, len(places) - 0.3)
    name_layers(ax, overlap.layers, show=names, width=width)
    axes_figure(ax).legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return ax


def mask_axis(labels: tuple[str, ...]) -> tuple[np.ndarray, str | None]:
    """Positions of masks on a time axis and its name; labels such as "step 10", "step 20" give 10, 20 and "step".

    Other labels give 0, 1, 2, ... and None.
    """
    found = [_ENDING.match(label) for label in labels]
    if all(found):
        words = {match.group(1) for match in found if match}
        places = np.array([float(match.group(2)) for match in found if match])
        if len(words) == 1 and (np.diff(places) > 0).all():
            return places, words.pop() or "mask"
    return np.arange(len(labels), dtype=np.float64), None


def _time_axis(ax: Axes, overlap: MaskOverlap, start: int) -> None:
    """Name the x axis, from mask ``start`` on, and its ticks where the labels are no numbers."""
    places, name = mask_axis(overlap.labels)
    if name is None:
        shown = np.unique(np.linspace(start, len(places) - 1, min(len(places) - start, 6)).round().astype(int))
        ax.set_xticks(shown, [overlap.labels[index] for index in shown])
    ax.set_xlabel(_axis_text(name))


def _axis_text(name: str | None) -> str:
    return "mask" if name in (None, "mask") else f"mask at {name}"


_VIEWS: dict[str, Callable[..., Axes]] = {
    "heatmap": draw_heatmap,
    "time": draw_time,
    "turnover": draw_turnover,
    "survival": draw_survival,
    "union": draw_union,
    "layers": draw_layers,
    "density": draw_density,
}
