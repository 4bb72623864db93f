"""A measured rate of convergence under its bound."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpscope.core.convergence import Convergence
from sharpscope.plots.style import DOUBLE_COLUMN, INK, PALETTE, SMALL, canvas, plain, prepare, styled, with_error

__all__ = ["convergences", "draw_convergence"]


@styled
def draw_convergence(ax: Axes, convergence: Convergence, *, color: str = PALETTE[0], legend: bool = True) -> Axes:
    """Draw the mean over seeds with a band from the least to the largest seed, the bounds, and the fitted rate.

    Solid: measured.  Dashed: the bound with its slips mended.  Dotted: as published, where its conditions hold.
    Dash-dotted: the bound that is not in the papers.  The thin dark line is the fit, drawn where it was fitted.  The y
    axis is logarithmic, the x axis too where the rate is a power of T.  Returns the axes.

    >>> draw_convergence(ax, run_theorem("ssam-1", quadratic(), sgd()))  # doctest: +SKIP
    """
    one = convergence
    ax.set_yscale("log", nonpositive="mask")
    if one.power:
        ax.set_xscale("log")
    floor = np.finfo(np.float64).eps * float(one.bound[0])  # below is rounding
    low, high = (np.maximum(f(one.measured, axis=0), floor) for f in (np.min, np.max))
    ax.fill_between(one.steps, low, high, color=color, alpha=0.25, linewidth=0, label="range over seeds")
    ax.plot(one.steps, np.maximum(one.mean, floor), color=color, label="measured, mean")
    ax.plot(one.steps, one.bound, "--", color=PALETTE[1], label="bound, corrected")
    if np.isfinite(one.published).any():
        ax.plot(one.steps, np.maximum(one.published, floor), ":", color=INK, label="bound, as published")
    if one.direct is not None:
        ax.plot(one.steps, one.direct, "-.", color=PALETTE[2], label="bound, direct")
    _fit(ax, one)
    ax.set_xlabel("steps $T$")
    ax.set_ylabel(one.quantity)
    if legend:
        ax.set_title(f"{one.theorem}: {one.problem}")
        ax.legend(fontsize=SMALL)
    return ax


def _fit(ax: Axes, one: Convergence) -> None:
    """The fitted rate as a line below the measurement, and its number."""
    inside = (one.steps >= one.window[0]) & (one.steps <= one.window[1]) & (one.mean > 0)
    if inside.sum() < 2:
        return
    x = one.steps[inside].astype(np.float64)
    place = np.log(x) if one.power else x
    height = np.log(one.mean[inside]).mean() + one.slope * (place - place.mean())
    ax.plot(x, 0.5 * np.exp(height), color=INK, linewidth=0.8, label="fitted rate")
    name = "exponent" if one.power else "per step"
    error = one.slope_stderr if one.slope_stderr > 1e-12 * abs(one.slope) else 0.0  # rounding
    text = f"fit {with_error(one.slope, error)}\nbound {plain(one.bound_slope, '.2g')}\n({name})"
    note = ax.text(0.03, 0.02, text.replace("-", "−"), transform=ax.transAxes, fontsize=6.0, va="bottom")
    note.set_in_layout(False)
    low, high = np.log(ax.get_ylim())
    ax.set_ylim(bottom=float(np.exp(low - 0.25 * (high - low))))  # room for the note


@styled
def convergences(convergences: Mapping[str, Convergence], *, figure: Figure | None = None) -> Figure:
    """Draw results of one theorem as a grid of panels on shared axes: a row per problem, a column per method.

    The keys are "METHOD on PROBLEM", such as "SAM on quadratic"; the method is the title of its column.  Returns the
    figure.  Raises ValueError for an empty mapping and for quantities that differ.

    >>> convergences({"SAM on quadratic": sam, "SSAM-F on quadratic": ssam})  # doctest: +SKIP
    """
    if not convergences:
        raise ValueError("convergences got nothing to compare; expected at least one result, as {label: convergence}")
    if len({(one.quantity, one.power) for one in convergences.values()}) > 1:
        raise ValueError("convergences got results of several quantities; expected one, compare one theorem at a time")
    rows = list(dict.fromkeys(one.problem for one in convergences.values()))
    columns = list(dict.fromkeys(label.partition(" on ")[0] for label in convergences))
    width = max(DOUBLE_COLUMN, 1.75 * len(columns))
    figure = canvas(width, 0.9 + 1.6 * len(rows), figure)
    panels = figure.subplots(len(rows), len(columns), sharex=True, squeeze=False)
    used = set()
    for label, one in convergences.items():
        place = rows.index(one.problem), columns.index(label.partition(" on ")[0])
        used.add(place)
        draw_convergence(prepare(panels[place]), one, legend=False)
    for (row, column), ax in np.ndenumerate(panels):
        ax.set_xlabel("steps $T$" if row == len(rows) - 1 else "")
        ax.set_ylabel("")
        ax.set_visible((row, column) in used)
        if row == 0:
            ax.set_title(columns[column])
    for row, problem in enumerate(rows):
        limits = np.array([ax.get_ylim() for ax in panels[row] if ax.get_visible()])
        for column, ax in enumerate(panels[row]):
            ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
            ax.tick_params(labelleft=column == 0)
        panels[row, 0].set_ylabel(problem.replace(", ", ",\n"), fontsize=SMALL)
    first = next(iter(convergences.values()))
    figure.supylabel(first.quantity, fontsize=9.0)
    handles = {name: line for ax in panels.flat for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, title=_title(convergences))
    return figure


def _title(convergences: Mapping[str, Convergence]) -> str:
    theorems = " and ".join(dict.fromkeys(one.theorem for one in convergences.values()))
    return f"{theorems}, {' to '.join(map(str, sorted({one.seeds for one in convergences.values()})))} seeds"
