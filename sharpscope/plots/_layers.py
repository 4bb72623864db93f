"""Readable names on an axis of layers: every name where there is room, else the blocks they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from sharpscope.plots.style import PALE, axes_figure

_POINTS = 6.5  # size of the names where they are many
_PITCH = 1.05  # line spacing


def name_layers(ax: Axes, layers: Sequence[str], *, show: bool = True, width: float | None = None) -> None:
    """Label places 0, 1, ... of the x axis with the names of layers.

    Where ``width`` inches (default: of the axes) are too narrow for all names, consecutive layers that share the
    beginning of their names up to a dot get one label, and thin lines between the blocks.
    """
    if width is None:
        figure = axes_figure(ax)
        if figure.get_layout_engine() is not None:
            figure.draw_without_rendering()  # the layout decides how wide the axes are
        width = ax.get_position().width * figure.get_figwidth()
    gap = _POINTS * _PITCH / 72.0 * max(len(layers), 1) / width  # least distance of two labels, in layers
    blocks = layer_blocks(layers, gap)
    starts = np.array([start for start, _, _ in blocks])
    sizes = np.array([size for _, size, _ in blocks])
    if len(blocks) < len(layers):
        for start in starts[1:]:
            ax.axvline(start - 0.5, color=PALE, linewidth=0.4, zorder=0)
    centers = starts + (sizes - 1) / 2.0
    kept = _thin(centers, sizes, gap)
    ax.set_xticks(centers[kept], [blocks[index][2] if show else "" for index in kept], rotation=90)
    ax.tick_params(axis="x", labelsize=_POINTS, length=2.0 if show else 0.0)


def layer_blocks(layers: Sequence[str], gap: float, depth: int = 0, start: int = 0) -> list[tuple[int, int, str]]:
    """Blocks (first place, size, text) of consecutive layers with a common beginning, each ``gap`` layers wide or more.

    A block falls apart where all of its parts are wide enough; the first level always does.
    """
    if len(layers) == 1:
        return [(start, 1, layers[0])]
    heads = [".".join(name.split(".")[: depth + 1]) for name in layers]
    cuts = [index for index in range(len(heads)) if index == 0 or heads[index] != heads[index - 1]]
    sizes = np.diff([*cuts, len(layers)])
    if depth and (sizes.min() < gap or all(name.count(".") < depth for name in layers)):
        return [(start, len(layers), ".".join(layers[0].split(".")[:depth]))]
    parts = [(cut, layers[cut : cut + size]) for cut, size in zip(cuts, sizes.tolist(), strict=True)]
    return [block for cut, part in parts for block in layer_blocks(part, gap, depth + 1, start + cut)]


def label_height(layers: Sequence[str], width: float) -> float:
    """Inches that the upright labels of these layers need under axes of this width."""
    gap = _POINTS * _PITCH / 72.0 * max(len(layers), 1) / width
    longest = max((len(text) for _, _, text in layer_blocks(layers, gap)), default=0)
    return max(0.45, 0.56 * _POINTS / 72.0 * longest + 0.1)


def _thin(centers: np.ndarray, sizes: np.ndarray, gap: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(centers)), key=lambda place: (-sizes[place], place)):
        if all(abs(centers[index] - centers[other]) >= 0.98 * gap for other in kept):
            kept.append(index)
    return sorted(kept)
