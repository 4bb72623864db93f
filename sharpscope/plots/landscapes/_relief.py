"""A loss surface as a relief in three dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharpscope.analyzers.surfaces.surface import Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.plots.landscapes._scale import LossScale, tick_text
from sharpscope.plots.style import INK

__all__ = ["draw_relief", "way_heights"]

LINES = 60  # drawn along each axis at most; finer grids are thinned for the picture
LIFT = 0.02  # of the height, by which a trajectory floats


def draw_relief(ax: Any, surface: Surface, scale: LossScale, trajectory: Trajectory | None = None) -> None:
    """Draw into three-dimensional axes: height and colour are the loss on the scale, holes where it is not finite.

    Raises ValueError for flat axes.
    """
    if not hasattr(ax, "plot_surface"):
        raise ValueError("view='3d' got flat axes; expected fig.add_subplot(projection='3d'), or leave ax= out")
    alpha, beta, heights = surface.alpha, surface.beta, scale.heights(surface.loss)
    rows, columns = (slice(None, None, max(1, n // LINES)) for n in heights.shape)
    x, y = np.meshgrid(alpha[columns], beta[rows])
    z = heights[rows, columns]
    back = 10.0**z if scale.log else z
    colors = scale.colors(scale.norm(np.where(np.isfinite(back), back, scale.levels[0])))
    raw = surface.loss[rows, columns] + scale.offset
    colors[raw > scale.levels[-1] * (1 + 1e-12)] = scale.colors.get_over()
    colors[~np.isfinite(z)] = (0, 0, 0, 0)
    ax.plot_surface(
        x, y, z, facecolors=colors, rstride=1, cstride=1, linewidth=0.15, edgecolor=(0, 0, 0, 0.12), antialiased=True,
        shade=False,
    )  # fmt: skip
    low, high = (np.log10(scale.levels[[0, -1]]) if scale.log else scale.levels[[0, -1]]).tolist()
    ax.contour(
        alpha,
        beta,
        heights,
        zdir="z",
        offset=low,
        levels=_floor(scale),
        colors="grey",
        linewidths=0.5,
        linestyles="solid",
    )
    ax.set_zlim(low, high)
    ticks = scale.ticks
    ax.set_zticks(np.log10(ticks) if scale.log else ticks, [tick_text(tick) for tick in ticks])
    ax.set_box_aspect((1.0, 1.0, 0.65), zoom=0.86)
    ax.view_init(elev=32.0, azim=-58.0)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_alpha(0.0)
    ax.grid(False)
    if trajectory is not None:
        up = way_heights(surface, scale, trajectory) + LIFT * (high - low)
        ax.plot(*trajectory.coordinates.T, up, "-o", color=INK, markersize=2.0, linewidth=1.0, zorder=10)


def _floor(scale: LossScale) -> list[float]:
    """Heights of the contours on the floor, inside the scale."""
    ticks = np.asarray(scale.ticks)
    inner = ticks[(ticks > scale.levels[0]) & (ticks < scale.levels[-1])]
    return [float(height) for height in (np.log10(inner) if scale.log else inner)]


def way_heights(surface: Surface, scale: LossScale, way: Trajectory) -> np.ndarray:
    """Height of the surface below every point of a trajectory (its projection, not its own loss); nan outside.

    Bilinear between the points of the grid.
    """
    heights, (x, y) = scale.heights(surface.loss), way.coordinates.T
    inside = (x >= surface.alpha[0]) & (x <= surface.alpha[-1]) & (y >= surface.beta[0]) & (y <= surface.beta[-1])
    j = np.clip(np.searchsorted(surface.alpha, x) - 1, 0, len(surface.alpha) - 2)
    i = np.clip(np.searchsorted(surface.beta, y) - 1, 0, len(surface.beta) - 2)
    s = (x - surface.alpha[j]) / (surface.alpha[j + 1] - surface.alpha[j])
    t = (y - surface.beta[i]) / (surface.beta[i + 1] - surface.beta[i])
    low = (1 - s) * heights[i, j] + s * heights[i, j + 1]
    high = (1 - s) * heights[i + 1, j] + s * heights[i + 1, j + 1]
    return np.where(inside, (1 - t) * low + t * high, np.nan)
