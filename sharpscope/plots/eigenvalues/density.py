"""Eigenvalue densities on a logarithmic axis, with the band of their error and the exact top values as ticks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpscope.analyzers.spectra.density import Density
from sharpscope.plots.style import DOUBLE_COLUMN, PALETTE, axes_figure, canvas, method_styles, prepare, styled

__all__ = ["densities", "draw_spectral_density"]

EIGENVALUE = "eigenvalue (loss / weight²)"
DENSITY = "density (weight² / loss)"


@styled
def draw_spectral_density(
    ax: Axes,
    density: Density,
    *,
    width: float | None = None,
    color: str = PALETTE[0],
    linestyle: str = "-",
    label: str | None = None,
    row: int = 0,
) -> Axes:
    """Draw the smoothed density with a band of one standard error over the probes, exact top values as ticks below.

    ``width`` is the standard deviation of the Gaussians.  The axis ends where the density falls below a hundredth of
    the mass of one eigenvalue per width.  ``row`` is the row of ticks, for several methods.  Returns the axes.

    >>> draw_spectral_density(ax, density(problem))  # doctest: +SKIP
    """
    width = density.width if width is None else width
    x, mean, stderr, _ = density.curve(width)
    floor = 1e-2 / (density.size * width)
    seen = np.where(mean > floor, mean, np.nan)
    ax.plot(x, seen, color=color, linestyle=linestyle, label=label)
    if np.isfinite(stderr).any():
        low, high = np.maximum(mean - stderr, floor), np.maximum(mean + stderr, floor)
        ax.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0)
    if len(density.eigenvalues):
        foot = ax.get_xaxis_transform()
        heights = np.full(len(density.eigenvalues), 0.03 + 0.045 * row)
        looks: dict[str, Any] = {"color": color, "transform": foot, "markersize": 7, "markeredgewidth": 1.1}
        ax.plot(density.eigenvalues, heights, "|", **looks)
    ax.set_yscale("log")
    low, high = ax.get_ylim() if row else (floor, 0.0)
    ax.set_ylim(min(0.5 * floor, low), max(2.0 * float(np.nanmax(seen)), high))
    ax.set_xlabel(EIGENVALUE)
    ax.set_ylabel(DENSITY)
    if label is None:
        probes, steps = density.nodes.shape
        ax.set_title(f"{probes} probes × {steps} steps, width {width:.2g}, ticks: exact top {len(density.eigenvalues)}")
    return ax


@styled
def densities(densities: Mapping[str, Density], *, width: float | None = None, figure: Figure | None = None) -> Figure:
    """Draw the densities of several methods over one another, smoothed by the same width (the largest of theirs).

    Returns the figure.  Raises ValueError for an empty mapping.

    >>> densities({"SGD": density_sgd, "SAM": density_sam})  # doctest: +SKIP
    """
    if not densities:
        raise ValueError("densities got nothing to compare; expected at least one result, as {label: density}")
    width = max(one.width for one in densities.values()) if width is None else width
    figure = canvas(0.75 * DOUBLE_COLUMN, 3.0, figure)
    ax = prepare(figure.subplots())
    styles = method_styles(densities)
    for row, (label, one) in enumerate(densities.items()):
        style = styles[label]
        draw_spectral_density(ax, one, width=width, color=style.color, linestyle=style.linestyle, label=label, row=row)
    axes_figure(ax).legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(densities), 6))
    return figure
