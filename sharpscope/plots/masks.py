"""How masks move: their Jaccard index over time and layer by layer, always beside the level of chance."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from sharpscope.analyzers.masks import MaskOverlap
from sharpscope.plots.layers import name_layers
from sharpscope.plots.style import GREY, INK, PALETTE, SMALL, axes_figure, prepare, say, styled

__all__ = ["draw_density", "draw_heatmap", "draw_layers", "draw_masks", "draw_time"]

FIRST, PREVIOUS = PALETTE[0], PALETTE[1]
_ENDING = re.compile(r"^(.*?)\s*(-?\d+(?:\.\d+)?)$")
CHANCE_MARK: dict[str, Any] = {"linestyle": "none", "marker": "_", "color": INK, "markeredgewidth": 1.1}


def draw_masks(ax: Axes, overlap: MaskOverlap, *, view: str = "heatmap", **options: Any) -> Axes:
    """Draw one view of a mask overlap: "heatmap", "time", "layers" or "density".

    Returns the axes.  Raises ValueError for an unknown view.

    >>> draw_masks(ax, mask_overlap(masks), view="time")  # doctest: +SKIP
    """
    if view not in _VIEWS:
        raise ValueError(f"view= got {view!r}; expected one of {', '.join(map(repr, _VIEWS))}")
    return _VIEWS[view](ax, overlap, **options)


@styled
def draw_heatmap(ax: Axes, overlap: MaskOverlap, *, colorbar: bool = True, title: str | None = None) -> Axes:
    """Draw the Jaccard index of every pair of masks on the colour scale 0 to 1; mask 0 is in the upper left corner.

    The level of chance (mean over pairs) is the dashed line in the colour bar.  Returns the axes.
    """
    image = heatmap_image(ax, overlap)
    if title is not None:
        ax.set_title(title)
    if colorbar:
        bar = axes_figure(ax).colorbar(image, ax=ax, fraction=0.05, pad=0.03)
        prepare(bar.ax)
        bar.outline.set_linewidth(0.6)
        chance = mean_chance(overlap)
        bar.set_label("Jaccard index" + (f" (dashed: chance, {chance:.2f})" if np.isfinite(chance) else ""))
        if np.isfinite(chance):
            bar.ax.axhline(chance, color="white", linewidth=1.4)
            bar.ax.axhline(chance, color="black", linewidth=1.4, linestyle=(0, (2, 1)))
    return ax


def heatmap_image(ax: Axes, overlap: MaskOverlap, ticks: int = 5) -> AxesImage:
    """Draw the matrix of Jaccard indices with labelled axes, at most ``ticks`` labels on each; returns the image."""
    colors = colormaps["viridis"].with_extremes(bad="#e4e4e4")
    image = ax.imshow(overlap.jaccard, cmap=colors, vmin=0.0, vmax=1.0, interpolation="nearest", origin="upper")
    places, name = mask_axis(overlap.labels)
    shown = np.unique(np.linspace(0, len(places) - 1, min(len(places), ticks)).round().astype(int))
    texts = [f"{places[index]:g}" for index in shown] if name else [overlap.labels[index] for index in shown]
    ax.set_xticks(shown, texts)
    ax.set_yticks(shown, texts)
    ax.set_xlabel(_axis_text(name))
    ax.set_ylabel(_axis_text(name))
    ax.spines[["top", "right"]].set_visible(True)
    return image


@styled
def draw_time(ax: Axes, overlap: MaskOverlap, *, legend: bool = True) -> Axes:
    """Draw the Jaccard index of each mask with the first and with the previous one, and the level of chance dashed.

    Returns the axes; with fewer than two masks they only say so.
    """
    places, name = mask_axis(overlap.labels)
    if len(places) < 2:
        return say(ax, "one mask only: nothing to compare")
    jaccard, chance = overlap.jaccard, overlap.chance_jaccard
    later = np.arange(1, len(places))
    every = max(1, len(later) // 10)
    ax.plot(places[1:], jaccard[0, 1:], "-o", color=FIRST, markevery=every, label="with the first mask")
    with_previous = jaccard[later - 1, later]
    ax.plot(places[1:], with_previous, "-.s", color=PREVIOUS, markevery=every, label="with the previous mask")
    ax.plot(places[1:], chance[0, 1:], "--", color=GREY, label="chance")
    if np.nanmax(np.abs(chance[0, 1:] - chance[later - 1, later]), initial=0.0) > 5e-3:
        ax.plot(places[1:], chance[later - 1, later], ":", color=GREY, label="chance, previous mask")
    if name is None:
        shown = np.unique(np.linspace(1, len(places) - 1, min(len(places) - 1, 6)).round().astype(int))
        ax.set_xticks(shown, [overlap.labels[index] for index in shown])
    ax.set_ylim(0.0, 1.02)
    ax.set_xlabel(_axis_text(name))
    ax.set_ylabel("Jaccard index")
    if legend:
        axes_figure(ax).legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return ax


@styled
def draw_layers(ax: Axes, overlap: MaskOverlap, *, names: bool = True, width: float | None = None) -> Axes:
    """Draw per layer the Jaccard index of the first and the last mask as a bar, and the layer's chance as a mark.

    ``width`` (inches) tells how much room the layer names have; by default that of the axes.  Returns the axes; with
    fewer than two masks they only say so.
    """
    if len(overlap.labels) < 2:
        return say(ax, "one mask only: nothing to compare")
    places = np.arange(len(overlap.layers))
    ax.bar(places, overlap.layer_jaccard[:, 0, -1], width=0.7, color=FIRST, label="first and last mask")
    size = max(2.0, min(9.0, 150.0 / len(places)))
    ax.plot(places, layer_chance(overlap), markersize=size, label="chance of the layer", **CHANCE_MARK)
    ax.set_ylim(0.0, 1.02)
    ax.set_ylabel("Jaccard index")
    ax.set_xlim(-0.7, len(places) - 0.3)
    name_layers(ax, overlap.layers, show=names, width=width)
    if names:
        ax.set_title("bars: first against last mask,  marks: chance of the layer", loc="right", fontsize=SMALL)
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


def layer_chance(overlap: MaskOverlap) -> np.ndarray:
    """(layers,): Jaccard index of the first and last mask of each layer, were they independent."""
    first, last = overlap.selected[:, 0].astype(np.float64), overlap.selected[:, -1].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = first * last / overlap.sizes
        return np.asarray(both / (first + last - both))


def mean_chance(overlap: MaskOverlap) -> float:
    """Chance level of the Jaccard index, mean over pairs of different masks; nan where there is none."""
    chance = overlap.chance_jaccard
    values = chance[~np.eye(len(chance), dtype=bool)] if len(chance) > 1 else chance.ravel()
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


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


def _axis_text(name: str | None) -> str:
    return "mask" if name in (None, "mask") else f"mask at {name}"


_VIEWS: dict[str, Callable[..., Axes]] = {
    "heatmap": draw_heatmap,
    "time": draw_time,
    "layers": draw_layers,
    "density": draw_density,
}
