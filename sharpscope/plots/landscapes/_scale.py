"""One colour scale for one or many loss surfaces, and its colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sharpscope.analyzers.surfaces.surface import Surface
from sharpscope.plots.style import axes_figure, prepare

__all__ = ["LossScale", "add_colorbar", "loss_scale", "tick_text"]


@dataclass(frozen=True, eq=False)
class LossScale:
    """One colour scale for one or many surfaces; ``norm`` and ``levels`` apply to loss + ``offset``."""

    norm: Normalize  # a LogNorm where ``log``
    levels: np.ndarray  # (n,) float64, ascending, ends at the ends of the norm
    offset: float  # added to the loss before the logarithm, 0 where every loss is positive
    extend: str  # "neither", "min", "max" or "both": the side on which finite values are clipped
    empty: bool  # True where no value is finite
    log: bool = True

    @property
    def label(self) -> str:
        """Text of the colour bar."""
        if not self.log:
            return "loss"
        return f"loss + {self.offset:.3g} (log scale)" if self.offset else "loss (log scale)"

    @property
    def colors(self) -> Colormap:
        """Viridis, with ends of their own for clipped values."""
        return colormaps["viridis"].with_extremes(over="#fffbd0", under="#16001f", bad=(0, 0, 0, 0))

    @property
    def ticks(self) -> np.ndarray:
        """Round values inside the scale: decades, 1-2-5 steps or equal steps, whichever gives a handful."""
        low, high = float(self.levels[0]), float(self.levels[-1])
        even = np.asarray(MaxNLocator(5).tick_values(low, high))
        even = even[(even >= low) & (even <= high)]
        if not self.log:
            return even
        powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        for steps in ([1.0], [1.0, 3.0], [1.0, 2.0, 5.0]):
            ticks = np.sort(np.outer(steps, 10.0**powers).ravel())
            ticks = ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]
            if len(ticks) >= 4:
                return np.asarray(ticks[:: -(-len(ticks) // 8)])
        return even

    def heights(self, loss: np.ndarray) -> np.ndarray:
        """Where losses stand on the scale: log10 of loss + offset or the loss, cut off at its ends; nan stays."""
        cut = np.clip(np.where(np.isfinite(loss), loss, np.nan) + self.offset, self.levels[0], self.levels[-1])
        return np.log10(cut) if self.log else cut


def loss_scale(
    surfaces: Sequence[Surface],
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    levels: int = 32,
    log: bool = True,
) -> LossScale:
    """The colour scale over all finite values of these surfaces, or from ``vmin`` to ``vmax`` (loss) where given.

    Colours are spaced by the logarithm unless ``log`` is false.

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
    offset = 0.0 if low > 0 or not log else -low + (1e-3 * (high - low) or 1.0)
    bottom, top = low + offset, high + offset
    if top - bottom <= 1e-9 * abs(bottom):
        bottom, top = (bottom / 1.05, top * 1.05) if log else (bottom - 0.05, top + 0.05)
    clipped = (least < low, most > high)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[clipped]
    norm, spaced = (LogNorm, np.geomspace) if log else (Normalize, np.linspace)
    return LossScale(norm(bottom, top), spaced(bottom, top, levels), offset, extend, empty, log)


def add_colorbar(axes: Sequence[Axes], scale: LossScale) -> Colorbar:
    """Add one colour bar for all these axes: round ticks, pointed ends where values are clipped."""
    mappable = ScalarMappable(norm=scale.norm, cmap=scale.colors)
    bar = axes_figure(axes[0]).colorbar(
        mappable,
        ax=list(axes),
        extend=scale.extend,
        ticks=FixedLocator(list(scale.ticks)),
        format=FuncFormatter(tick_text),
        pad=0.09 if hasattr(axes[0], "plot_surface") else 0.02,
        fraction=0.05,
        aspect=22.0 if len(axes) <= 3 else 40.0,
    )
    bar.set_label(scale.label)
    bar.minorlocator = NullLocator()
    prepare(bar.ax)
    bar.outline.set_linewidth(0.6)
    return bar


def tick_text(value: float, _: int | None = None) -> str:
    """A number of a logarithmic axis, as a power of ten where that is shorter."""
    if 1e-3 <= value < 1e4 or value <= 0:
        return f"{value:.6g}"
    power = int(np.floor(np.log10(value) + 1e-9))
    front = value / 10.0**power
    return rf"$10^{{{power}}}$" if abs(front - 1) < 1e-6 else rf"${front:.3g}\cdot 10^{{{power}}}$"
