"""Trajectories of training in the coordinates of a plane: how much of them it shows, and how far they are from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpscope.analyzers.surfaces.directions import unit_of
from sharpscope.analyzers.surfaces.surface import Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.plots.style import DOUBLE_COLUMN, INK, PALETTE, canvas, method_styles, plain, prepare, styled

__all__ = ["check_plane", "draw_trajectory", "draw_way", "explained_texts", "trajectories"]

SMALLEST, LARGEST = 2.2, 7.5  # points, markers in the plane and farthest from it


def explained_texts(way: Trajectory) -> list[str]:
    """For every axis the unit, where it is one of the field, and the share of the variance along it."""
    unit = unit_of(way.directions)
    head = "" if unit == "units of the direction" else f"{unit}, "
    return [f"{head}{100 * share:.3g} % of variance" if np.isfinite(share) else unit for share in way.explained]


def check_plane(way: Trajectory, surface: Surface) -> None:
    """Raise ValueError unless a trajectory is in the coordinates of a surface."""
    if way.coordinates.shape[1] != 2:
        raise ValueError(
            f"trajectory= got {way.coordinates.shape[1]} coordinates; expected those of a plane, project onto two "
            f"directions"
        )
    if way.digest and surface.digest and way.digest != surface.digest:
        raise ValueError(
            f"trajectory= got coordinates along other directions ({way.directions}); expected those of the surface "
            f"({surface.directions}), give both the same directions="
        )


def marker_sizes(way: Trajectory, farthest: float | None = None) -> np.ndarray:
    """Diameters in points that grow with the distance from the plane; the smallest where it is not known."""
    most = float(np.nanmax(way.residual, initial=0.0)) if farthest is None else farthest
    share = np.nan_to_num(way.residual) / most if most > 0 else np.zeros(len(way.residual))
    return SMALLEST + (LARGEST - SMALLEST) * share


def draw_way(ax: Axes, way: Trajectory, *, light: bool = False, color: str = PALETTE[0], legend: bool = True) -> None:
    """Draw the points in the order of training, the larger the farther from the plane; a square marks the first.

    ``light`` suits a ground of many colours.
    """
    x, y = way.coordinates[:, :2].T
    inner, edge = ("white", INK) if light else (color, "white")
    line = ax.plot(x, y, "-", color=INK if light else color, linewidth=1.8 if light else 1.0, zorder=3)[0]
    if light:
        ax.plot(x, y, "-", color="white", linewidth=1.0, zorder=3.1)
    sizes = marker_sizes(way)
    ax.scatter(x, y, s=sizes**2, c=inner, edgecolors=edge, linewidths=0.5, zorder=3.2)
    ax.plot(x[:1], y[:1], "s", markersize=4.5, color=inner, markeredgecolor=edge, markeredgewidth=0.6, zorder=3.3)
    line.set_label(f"step {way.step[0]} to {way.step[-1]}")
    if not legend or not np.isfinite(way.residual).any():
        return
    most, length = float(np.nanmax(way.residual)), float(np.nanmax(way.distance))
    looks: dict[str, Any] = {"color": "none", "markerfacecolor": inner, "markeredgecolor": edge, "markeredgewidth": 0.5}
    entries = [
        Line2D([], [], marker="o", markersize=SMALLEST, label="in the plane", **looks),
        Line2D([], [], marker="o", markersize=LARGEST, label=f"{plain(most, '.2g')} from the plane", **looks),
    ]
    drawn = ax.legend(
        handles=entries, loc="best", fontsize=6.5, frameon=True, framealpha=0.85, facecolor="#c8c8c8" if light
        else "white", edgecolor="none", borderpad=0.3, handletextpad=0.3, labelspacing=0.3,
        title=f"up to {plain(length, '.2g')} from the centre", title_fontsize=6.5,
    )  # fmt: skip
    drawn.set_zorder(4)


@styled
def draw_trajectory(ax: Axes, way: Trajectory, *, color: str = PALETTE[0], label: str | None = None) -> Axes:
    """Draw a trajectory in its first two coordinates, or its one coordinate over the steps.

    The larger a marker, the farther the weights are from the plane; a square marks the first ones, a cross the centre.
    Returns the axes.

    >>> draw_trajectory(ax, trajectory(problem, run.trajectory()))  # doctest: +SKIP
    """
    texts = explained_texts(way)
    if way.coordinates.shape[1] == 1:
        ax.plot(way.step, way.coordinates[:, 0], color=color, label=label, linewidth=1.0)
        ax.scatter(way.step, way.coordinates[:, 0], s=marker_sizes(way) ** 2, color=color)
        ax.set_xlabel("step")
        ax.set_ylabel(rf"$\alpha$ ({texts[0]})")
        return ax
    draw_way(ax, way, color=color, legend=label is None)
    ax.plot([0.0], [0.0], marker="P", color="white", markeredgecolor=INK, markersize=6, linestyle="none", zorder=4)
    ax.set_xlabel(rf"$\alpha$ ({texts[0]})")
    ax.set_ylabel(rf"$\beta$ ({texts[1]})")
    if label is None:
        ax.set_title(f"step {way.step[0]} to {way.step[-1]}")
    return ax


@styled
def trajectories(ways: Mapping[str, Trajectory], *, figure: Figure | None = None) -> Figure:
    """Draw trajectories side by side, each in its own plane.

    Returns the figure.  Raises ValueError for an empty mapping.

    >>> trajectories({"SGD": way_sgd, "SAM": way_sam})  # doctest: +SKIP
    """
    if not ways:
        raise ValueError("trajectories got an empty mapping; expected at least one result, as {label: result}")
    across = min(len(ways), 3)
    down = -(-len(ways) // across)
    figure = canvas(min(DOUBLE_COLUMN, 3.6 * across), 2.9 * down, figure)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    styles = method_styles(ways)
    for ax, (label, way) in zip(axes, ways.items(), strict=False):
        draw_trajectory(prepare(ax), way, color=styles[label].color)
        ax.set_title(label)
    for ax in axes[len(ways) :]:
        ax.set_axis_off()
    return figure
