"""Loss surfaces and lines.

A surface keeps its raw values; only the drawing clips.  Losses span many decades, so colours are spaced by the
logarithm unless asked otherwise: on a linear scale the basin would be one flat colour.  A loss that is not positive is
shifted by an offset that the colour bar states.  Four kinds of cells look different: coloured, clipped (beyond the ends
of the colour bar, dotted), not finite (grey, hatched) and missing (white).  Where some points are interpolated, small
dots mark those that were evaluated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from sharpscope.analyzers.surfaces.directions import unit_of
from sharpscope.analyzers.surfaces.surface import MISSING, Line, Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.plots.landscapes._relief import draw_relief
from sharpscope.plots.landscapes._scale import LossScale, add_colorbar, loss_scale
from sharpscope.plots.landscapes.trajectory import check_plane, draw_way, explained_texts
from sharpscope.plots.style import GREY, INK, PALETTE, plain, say, styled

__all__ = ["draw_line", "draw_surface"]


@styled
def draw_surface(
    ax: Axes,
    surface: Surface,
    *,
    view: str = "contour",
    scale: LossScale | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    levels: int = 32,
    log: bool = True,
    colorbar: bool = True,
    points: bool | None = None,
    trajectory: Trajectory | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a loss surface as filled contours, its centre marked with a cross, or as a relief (``view="3d"``).

    Args:
        ax: axes, three-dimensional ones for "3d".
        surface: what to draw.
        view: "contour" or "3d".
        scale: shares colours with other surfaces.
        vmin: the loss at the lower end of the colours; the smallest if None.
        vmax: the loss at their upper end; values beyond are clipped and dotted.
        levels: number of colours.
        log: colours (and heights) by the logarithm of the loss.
        colorbar: draw one.
        points: small dots where the model was evaluated; None draws them where other points are interpolated.
        trajectory: weights along training in the coordinates of this plane; the larger a marker, the farther from it.
        title: instead of the loss at the centre.

    Returns the axes.  Raises ValueError for fewer than 2 x 2 points, vmin >= vmax, another view, and a trajectory over
    other directions.

    >>> draw_surface(ax, surface(problem), vmax=20.0)  # doctest: +SKIP
    """
    if min(surface.loss.shape) < 2:
        shape = " x ".join(map(str, surface.loss.shape))
        raise ValueError(f"a surface drawing got {shape} points; expected at least 2 x 2, use resolution=2 or more")
    if view not in ("contour", "3d"):
        raise ValueError(f"view= got {view!r}; expected 'contour' or '3d'")
    if trajectory is not None:
        check_plane(trajectory, surface)
    scale = loss_scale([surface], vmin=vmin, vmax=vmax, levels=levels, log=log) if scale is None else scale
    if view == "3d":
        draw_relief(ax, surface, scale, trajectory)
    else:
        _draw_plane(ax, surface, scale, points, trajectory)
    texts = [unit_of(surface.directions)] * 2 if trajectory is None else explained_texts(trajectory)
    ax.set_xlabel(rf"$\alpha$ ({texts[0]})")
    ax.set_ylabel(rf"$\beta$ ({texts[1]})")
    head = f"centre loss {plain(surface.center)}" if title is None else title
    ax.set_title(f"{head}\n{errors}" if (errors := stated_errors(surface)) else head)
    if colorbar and not scale.empty:
        add_colorbar([ax], scale)
    return ax


def stated_errors(surface: Surface) -> str:
    """What a picture must say of points that are not exact; empty for a full plane in full precision."""
    said = []
    if (~surface.evaluated).any() and surface.tolerance is not None:
        said.append(f"{surface.points} of {surface.loss.size} points (dots)")
        said.append(f"error elsewhere {100 * surface.error:.2g} %")
    if surface.precision_error > 0:
        largest, most = 100 * surface.precision_error, 100 * surface.precision_error_95
        said.append(f"{surface.precision}: error {largest:.2g} % at most")
        said.append(f"(95 %: {most:.2g} %) on {surface.precision_points} points")
    return "\n".join(said)


def _draw_plane(
    ax: Axes, surface: Surface, scale: LossScale, points: bool | None, trajectory: Trajectory | None
) -> None:
    alpha, beta = np.asarray(surface.alpha), np.asarray(surface.beta)
    values = np.ma.masked_invalid(np.asarray(surface.loss, dtype=np.float64) + scale.offset)
    if values.mask.any():
        box = (alpha[0], beta[0]), float(np.ptp(alpha)), float(np.ptp(beta))
        ax.add_patch(Rectangle(*box, facecolor="#e4e4e4", edgecolor=GREY, hatch="//////", linewidth=0, zorder=0.5))
        gone = np.zeros(values.shape, bool) if surface.status is None else surface.status == MISSING
        if gone.any():
            white = ListedColormap(["white"])
            ax.pcolormesh(alpha, beta, np.ma.masked_where(~gone, gone), cmap=white, shading="nearest", zorder=0.6)
    if values.count():
        lowest = np.finfo(float).tiny if scale.log else -np.inf
        _contours(ax, alpha, beta, np.ma.maximum(values, lowest), scale)
    else:
        say(ax, "no finite loss")
    if (~surface.evaluated).any() if points is None else points:
        i, j = np.nonzero(surface.evaluated)
        ax.plot(alpha[j], beta[i], ".", color="black", markersize=1.6, markeredgewidth=0, alpha=0.8, zorder=2.5)
    ax.plot([0.0], [0.0], marker="P", markersize=6, color="white", markeredgecolor="black", markeredgewidth=0.7)
    ax.set_xlim(alpha[0], alpha[-1])
    ax.set_ylim(beta[0], beta[-1])
    if 1 / 3 <= np.ptp(beta) / np.ptp(alpha) <= 3:
        ax.set_aspect("equal")
    if trajectory is not None:
        draw_way(ax, trajectory, light=True)


def _contours(ax: Axes, alpha: np.ndarray, beta: np.ndarray, values: np.ma.MaskedArray, scale: LossScale) -> None:
    options: dict[str, Any] = {"norm": scale.norm, "cmap": scale.colors, "extend": scale.extend}
    filled = ax.contourf(alpha, beta, values, levels=scale.levels, zorder=1, **options)
    filled.set_edgecolor("face")  # closes the hairlines that PDF viewers show between neighbouring colours
    filled.set_linewidth(0.2)
    for low, high in ((float(scale.levels[-1]), float(values.max())), (float(values.min()), float(scale.levels[0]))):
        if high - low > 1e-9 * abs(high):
            clipped = ax.contourf(alpha, beta, values, levels=[low, high], colors="none", hatches=["...."], zorder=1.5)
            clipped.set_edgecolor(GREY)
            clipped.set_linewidth(0.0)
    lines = [tick for tick in scale.ticks if values.min() < tick < values.max()]
    if lines:
        ax.contour(alpha, beta, values, levels=lines, colors="white", linewidths=0.5, alpha=0.75, zorder=2)


@styled
def draw_line(
    ax: Axes, line: Line, *, log: bool = False, color: str = PALETTE[0], label: str | None = None, linestyle: str = "-"
) -> Axes:
    """Draw the loss along one direction with a band of one paired standard error.

    Crosses at the foot mark losses that are not finite; ``log=True`` gives a logarithmic axis.  Returns the axes.

    >>> draw_line(ax, line(problem), log=True)  # doctest: +SKIP
    """
    alpha, loss = np.asarray(line.alpha), np.asarray(line.loss, dtype=np.float64)
    good = np.isfinite(loss)
    curve = np.where(good, loss, np.nan)
    spread = np.where(np.isfinite(line.stderr), line.stderr, 0.0)
    ax.plot(alpha, curve, color=color, linestyle=linestyle, label=label or r"$L(w + \alpha d)$")
    if (spread > 0).any():
        name = None if label else "± paired standard error"
        ax.fill_between(alpha, curve - spread, curve + spread, color=color, alpha=0.25, linewidth=0, label=name)
    ax.plot([0.0], [line.center], marker="P", color="white", markeredgecolor=INK, markersize=6, linestyle="none")
    if not good.all():
        foot = ax.get_xaxis_transform()
        name = "loss not finite"
        ax.plot(alpha[~good], np.full((~good).sum(), 0.02), "x", color=GREY, transform=foot, label=name)
    if log and (curve[good] > 0).any():
        ax.set_yscale("log", nonpositive="mask")
    ax.set_xlabel(rf"$\alpha$ ({unit_of(line.directions)})")
    ax.set_ylabel("loss")
    if label is None:
        ax.legend()
    return ax
