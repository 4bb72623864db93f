"""Loss surfaces and lines.

A surface keeps its raw values; only the drawing clips.  Losses span many decades, so colours are spaced by the
logarithm: on a linear scale the basin would be one flat colour.  A loss that is not positive is shifted by an offset
that the colour bar states.  Three kinds of cells look different: coloured, clipped (beyond the ends of the colour
bar) and not finite (grey, hatched).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sharpscope.analyzers.directions import unit_of
from sharpscope.analyzers.surface import Line, Surface
from sharpscope.plots.style import GREY, INK, PALETTE, axes_figure, plain, prepare, say, styled

__all__ = ["LossScale", "add_colorbar", "draw_line", "draw_surface", "loss_scale"]


@dataclass(frozen=True, eq=False)
class LossScale:
    """One logarithmic colour scale for one or many surfaces; ``norm`` and ``levels`` apply to loss + ``offset``."""

    norm: LogNorm
    levels: np.ndarray  # (n,) float64, ascending, ends at the ends of the norm
    offset: float  # added to the loss before the logarithm, 0 where every loss is positive
    extend: str  # "neither", "min", "max" or "both": the side on which finite values are clipped
    empty: bool  # True where no value is finite

    @property
    def label(self) -> str:
        """Text of the colour bar."""
        return f"loss + {self.offset:.3g} (log scale)" if self.offset else "loss (log scale)"

    @property
    def colors(self) -> Colormap:
        """Viridis, with ends of their own for clipped values."""
        return colormaps["viridis"].with_extremes(over="#fffbd0", under="#16001f", bad=(0, 0, 0, 0))

    @property
    def ticks(self) -> np.ndarray:
        """Round values inside the scale: decades, 1-2-5 steps or equal steps, whichever gives a handful."""
        low, high = float(self.levels[0]), float(self.levels[-1])
        powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        for steps in ([1.0], [1.0, 3.0], [1.0, 2.0, 5.0]):
            ticks = np.sort(np.outer(steps, 10.0**powers).ravel())
            ticks = ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]
            if len(ticks) >= 4:
                return np.asarray(ticks[:: -(-len(ticks) // 8)])
        even = np.asarray(MaxNLocator(5).tick_values(low, high))
        return even[(even >= low) & (even <= high)]


def loss_scale(
    surfaces: Sequence[Surface], *, vmin: float | None = None, vmax: float | None = None, levels: int = 32
) -> LossScale:
    """The colour scale over all finite values of these surfaces, or from ``vmin`` to ``vmax`` (loss) where given.

    Raises ValueError where ``vmin`` is not below ``vmax``.

    >>> scale = loss_scale([sgd, sam], vmax=10.0)  # doctest: +SKIP
    """
    parts = [np.asarray(surface.loss, dtype=np.float64) for surface in surfaces]
    finite = np.concatenate([part[np.isfinite(part)] for part in parts] or [np.empty(0)])
    empty = not finite.size
    least, most = (1.0, 10.0) if empty else (float(finite.min()), float(finite.max()))
    low, high = least if vmin is None else float(vmin), most if vmax is None else float(vmax)
    if not low <= high or (vmin is not None and vmax is not None and low == high):
        raise ValueError(f"the colour scale got vmin={low:g} and vmax={high:g}; expected vmin < vmax")
    offset = 0.0 if low > 0 else -low + (1e-3 * (high - low) or 1.0)
    bottom, top = low + offset, high + offset
    if top <= bottom * (1 + 1e-9):
        bottom, top = bottom / 1.05, top * 1.05
    clipped = (least < low, most > high)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[clipped]
    return LossScale(LogNorm(bottom, top), np.geomspace(bottom, top, levels), offset, extend, empty)


@styled
def draw_surface(
    ax: Axes,
    surface: Surface,
    *,
    scale: LossScale | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    levels: int = 32,
    colorbar: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw a loss surface as filled contours on a logarithmic scale, its centre marked with a cross.

    ``scale`` shares colours with other surfaces; otherwise ``vmin``/``vmax`` (loss) clip the colours and ``levels``
    sets their number.  Returns the axes.  Raises ValueError for fewer than 2 x 2 points or vmin >= vmax.

    >>> draw_surface(ax, surface(problem), vmax=20.0)  # doctest: +SKIP
    """
    if min(surface.loss.shape) < 2:
        shape = " x ".join(map(str, surface.loss.shape))
        raise ValueError(f"a surface drawing got {shape} points; expected at least 2 x 2, use resolution=2 or more")
    scale = loss_scale([surface], vmin=vmin, vmax=vmax, levels=levels) if scale is None else scale
    alpha, beta = np.asarray(surface.alpha), np.asarray(surface.beta)
    values = np.ma.masked_invalid(np.asarray(surface.loss, dtype=np.float64) + scale.offset)
    if values.mask.any():
        box = (alpha[0], beta[0]), float(np.ptp(alpha)), float(np.ptp(beta))
        ax.add_patch(Rectangle(*box, facecolor="#e4e4e4", edgecolor=GREY, hatch="//////", linewidth=0, zorder=0.5))
    if values.count():
        _contours(ax, alpha, beta, np.ma.maximum(values, np.finfo(float).tiny), scale)
    else:
        say(ax, "no finite loss")
    ax.plot([0.0], [0.0], marker="P", markersize=6, color="white", markeredgecolor="black", markeredgewidth=0.7)
    unit = unit_of(surface.directions)
    ax.set_xlabel(rf"$\alpha$ ({unit})")
    ax.set_ylabel(rf"$\beta$ ({unit})")
    ax.set_xlim(alpha[0], alpha[-1])
    ax.set_ylim(beta[0], beta[-1])
    if 1 / 3 <= np.ptp(beta) / np.ptp(alpha) <= 3:
        ax.set_aspect("equal")
    ax.set_title(f"centre loss {plain(surface.center)}" if title is None else title)
    if colorbar and not scale.empty:
        add_colorbar([ax], scale)
    return ax


def _contours(ax: Axes, alpha: np.ndarray, beta: np.ndarray, values: np.ma.MaskedArray, scale: LossScale) -> None:
    options: dict[str, Any] = {"norm": scale.norm, "cmap": scale.colors, "extend": scale.extend}
    filled = ax.contourf(alpha, beta, values, levels=scale.levels, zorder=1, **options)
    filled.set_edgecolor("face")  # closes the hairlines that PDF viewers show between neighbouring colours
    filled.set_linewidth(0.2)
    lines = [tick for tick in scale.ticks if values.min() < tick < values.max()]
    if lines:
        ax.contour(alpha, beta, values, levels=lines, colors="white", linewidths=0.5, alpha=0.75, zorder=2)


def add_colorbar(axes: Sequence[Axes], scale: LossScale) -> Colorbar:
    """Add one colour bar for all these axes: round ticks, pointed ends where values are clipped."""
    mappable = ScalarMappable(norm=scale.norm, cmap=scale.colors)
    bar = axes_figure(axes[0]).colorbar(
        mappable,
        ax=list(axes),
        extend=scale.extend,
        ticks=FixedLocator(list(scale.ticks)),
        format=FuncFormatter(_tick_text),
        pad=0.02,
        fraction=0.05,
        aspect=22.0 if len(axes) <= 3 else 40.0,
    )
    bar.set_label(scale.label)
    bar.minorlocator = NullLocator()
    prepare(bar.ax)
    bar.outline.set_linewidth(0.6)
    return bar


def _tick_text(value: float, _: int | None = None) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:.6g}"
    power = int(np.floor(np.log10(value) + 1e-9))
    front = value / 10.0**power
    return rf"$10^{{{power}}}$" if abs(front - 1) < 1e-6 else rf"${front:.3g}\cdot 10^{{{power}}}$"


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
