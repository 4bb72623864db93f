"""Masks of several methods: how they move over time and where they end up, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sharpscope.analyzers.masks import MaskOverlap
from sharpscope.plots.layers import label_height
from sharpscope.plots.masks import CHANCE_MARK, FIRST, PREVIOUS, draw_layers, draw_time, heatmap_image, mean_chance
from sharpscope.plots.style import DOUBLE_COLUMN, GREY, canvas, prepare, styled

__all__ = ["mask_overlaps"]


_LAYERS_WIDTH = 0.42 * DOUBLE_COLUMN  # inches that the layer panel gets


@styled
def mask_overlaps(overlaps: Mapping[str, MaskOverlap], *, figure: Figure | None = None) -> Figure:
    """Draw one row per method: Jaccard index of all pairs of masks, its course over time, and first against last mask.

    The heat maps share one colour scale from 0 to 1 and name their level of chance; chance is dashed over time and a
    mark per layer.  Returns the figure.  Raises ValueError for an empty mapping.

    >>> mask_overlaps({"SSAM-F": overlap_f, "SSAM-D": overlap_d})  # doctest: +SKIP
    """
    if not overlaps:
        raise ValueError("mask_overlaps got nothing to compare; expected at least one result, as {label: overlap}")
    rows = len(overlaps)
    same_masks = len({one.labels for one in overlaps.values()}) == 1
    same_layers = len({one.layers for one in overlaps.values()}) == 1
    feet = [label_height(one.layers, _LAYERS_WIDTH) for one in overlaps.values()]
    figure = canvas(DOUBLE_COLUMN, 1.4 * rows + 0.55 + (max(feet) if same_layers else sum(feet)), figure, "constrained")
    grid = figure.subplots(rows, 3, squeeze=False, width_ratios=(1.0, 1.2, 2.2))
    for row, (label, one) in enumerate(overlaps.items()):
        square, time, layers = (prepare(ax) for ax in grid[row])
        image = heatmap_image(square, one, ticks=3)
        chance = mean_chance(one)
        square.set_title(label + (f"\nchance {chance:.2f}" if np.isfinite(chance) else ""), fontsize=8.0)
        draw_time(time, one, legend=False)
        last = row == rows - 1
        draw_layers(layers, one, names=last or not same_layers, width=_LAYERS_WIDTH)
        layers.set_title("", loc="right")
        layers.set_ylabel("Jaccard index")
        if not last and same_masks:
            for ax in (square, time):
                ax.tick_params(labelbottom=False)
                ax.set_xlabel("")
    bar = figure.colorbar(image, ax=list(grid[:, 0]), fraction=0.08, pad=0.03, aspect=16.0 * rows)
    bar.ax.set_title("Jaccard", fontsize=8.0)
    bar.outline.set_linewidth(0.6)
    prepare(bar.ax)
    handles = [
        Line2D([], [], color=FIRST, marker="o", label="with the first mask"),
        Line2D([], [], color=PREVIOUS, marker="s", linestyle="-.", label="with the previous mask"),
        Line2D([], [], color=GREY, linestyle="--", label="chance"),
        Patch(color=FIRST, label="first against last mask"),
        Line2D([], [], markersize=7, label="chance of the layer", **CHANCE_MARK),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
