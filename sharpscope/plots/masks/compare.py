"""Masks of several methods: how they move over time, where they end up, whether they select sharp parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from sharpscope.analyzers.masks.overlap import MaskOverlap
from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.plots._layers import label_height
from sharpscope.plots.masks.overlap import MEASURES, draw_layers, draw_time, heatmap_image
from sharpscope.plots.masks.profile import draw_capture, draw_enrichment
from sharpscope.plots.style import DOUBLE_COLUMN, SMALL, canvas, method_styles, prepare, styled

__all__ = ["mask_overlaps", "mask_profiles"]


_LAYERS_WIDTH = 0.42 * DOUBLE_COLUMN  # inches that the layer panel gets


@styled
def mask_overlaps(overlaps: Mapping[str, MaskOverlap], *, figure: Figure | None = None) -> Figure:
    """Draw one row per method: Cohen's kappa of all pairs of masks, its course over time, and first against last mask.

    The heat maps share one colour scale that is white at the level of chance; in all panels 0 is chance.  Returns the
    figure.  Raises ValueError for an empty mapping.

    >>> mask_overlaps({"SSAM-F": overlap_f, "SSAM-D": overlap_d})  # doctest: +SKIP
    """
    if not overlaps:
        raise ValueError("mask_overlaps got nothing to compare; expected at least one result, as {label: overlap}")
    rows = len(overlaps)
    same_masks = len({one.labels for one in overlaps.values()}) == 1
    same_layers = len({one.layers for one in overlaps.values()}) == 1
    feet = [label_height(one.layers, _LAYERS_WIDTH) for one in overlaps.values()]
    figure = canvas(
        DOUBLE_COLUMN, 1.45 * rows + 0.25 + (max(feet) if same_layers else sum(feet)), figure, "constrained"
    )
    grid = figure.subplots(rows, 3, squeeze=False, width_ratios=(1.0, 1.25, 2.2))
    crossed = any(np.isnan(one.layer_kappa[:, 0, -1]).any() for one in overlaps.values())
    note = "first against last mask" + (",  ×: all or none selected" if crossed else "")
    for row, (label, one) in enumerate(overlaps.items()):
        square, time, layers = (prepare(ax) for ax in grid[row])
        image = heatmap_image(square, one, ticks=3)
        square.set_title(label, loc="left", fontsize=8.5, fontweight="bold")
        draw_time(time, one, legend=False)
        last = row == rows - 1
        draw_layers(layers, one, names=last or not same_layers, width=_LAYERS_WIDTH)
        layers.set_title(note if row == 0 else "", loc="right", fontsize=SMALL)
        for ax in (time, layers):
            ax.set_ylabel("Cohen's κ")
        if not last and same_masks:
            for ax in (square, time):
                ax.tick_params(labelbottom=False)
                ax.set_xlabel("")
    for column in (1, 2):  # one scale for all methods
        low = min(ax.get_ylim()[0] for ax in grid[:, column])
        for ax in grid[:, column]:
            ax.set_ylim(low, 1.04)
    handles = grid[0, 1].get_legend_handles_labels()
    if handles[0]:
        grid[0, 1].legend(*handles, fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.1)
    foot = grid[-1, 0].inset_axes((0.0, -0.62, 1.0, 0.07))  # in the room beside the layers' names
    bar = figure.colorbar(image, cax=foot, orientation="horizontal", ticks=[-1.0, 0.0, 1.0])
    bar.set_label(MEASURES["kappa"][0])
    bar.outline.set_linewidth(0.6)
    prepare(bar.ax)
    return figure


@styled
def mask_profiles(profiles: Mapping[str, MaskProfile], *, figure: Figure | None = None) -> Figure:
    """Draw one row per method: how much of each score the mask holds beside chance, and its enrichment per layer.

    Returns the figure.  Raises ValueError for an empty mapping.

    >>> mask_profiles({"SSAM-F": profile_f, "SSAM-D": profile_d})  # doctest: +SKIP
    """
    if not profiles:
        raise ValueError("mask_profiles got nothing to compare; expected at least one result, as {label: profile}")
    rows = len(profiles)
    same_layers = len({one.layers for one in profiles.values()}) == 1
    feet = [label_height(one.layers, _LAYERS_WIDTH) for one in profiles.values()]
    height = 1.75 * rows + 0.2 + (max(feet) if same_layers else sum(feet))
    figure = canvas(DOUBLE_COLUMN, height, figure, "constrained")
    grid = figure.subplots(rows, 2, squeeze=False, width_ratios=(1.0, 1.3))
    styles = method_styles(profiles)
    for row, (label, one) in enumerate(profiles.items()):
        left, right = (prepare(ax) for ax in grid[row])
        draw_capture(left, one, color=styles[label].color)
        left.set_title(label, loc="left", fontsize=8.5, fontweight="bold")
        left.set_title("", loc="right")
        left.set_xlabel("held by the mask (%)\ndashed: random mask,  |: most possible")
        last = row == rows - 1
        draw_enrichment(right, one, names=last or not same_layers, width=_LAYERS_WIDTH, color=styles[label].color)
        if row:
            right.set_title("", loc="right")
        if not last:
            left.set_xlabel("")
            left.tick_params(labelbottom=False)
    top = max(ax.get_ylim()[1] for ax in grid[:, 1])
    for ax in grid[:, 1]:
        ax.set_ylim(0.0, top)
    edge = np.max([ax.get_xlim()[1] for ax in grid[:, 0]])
    for ax in grid[:, 0]:
        ax.set_xlim(0.0, edge)
    return figure
