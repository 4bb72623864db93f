"""How far the loss rises near the weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sharpscope.analyzers.sharpness import Sharpness
from sharpscope.plots.spectrum import ERROR_BAR
from sharpscope.plots.style import PALETTE, SINGLE_COLUMN, SMALL, canvas, method_styles, prepare, styled, with_error

__all__ = ["draw_sharpness", "sharpnesses"]


@styled
def draw_sharpness(ax: Axes, sharpness: Sharpness, *, color: str = PALETTE[0]) -> Axes:
    """Draw the largest rise found after each ascent step, with a band of one standard error over shards.

    A dashed line and a band give the mean rise under Gaussian noise and its standard error.  Returns the axes.

    >>> draw_sharpness(ax, sharpness(problem, rho=0.1))  # doctest: +SKIP
    """
    one = sharpness
    steps, shards = np.arange(len(one.course)), one.course.shape[1]
    mean = one.course.mean(axis=1)
    ax.plot(steps, mean, "-o", color=color, label="worst found in the ball (a lower bound)")
    if shards > 1:
        error = one.course.std(axis=1, ddof=1) / np.sqrt(shards)
        ax.fill_between(steps, mean - error, mean + error, color=color, alpha=0.25, linewidth=0)
    if len(one.draws):
        ax.axhline(one.average, color=PALETTE[1], linestyle="--", label="mean under Gaussian noise")
        error_of_mean = np.nan_to_num(one.average_stderr)
        ax.axhspan(one.average - error_of_mean, one.average + error_of_mean, color=PALETTE[1], alpha=0.25, linewidth=0)
    ax.set_xlabel("ascent step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("rise of the loss")
    ax.set_title(_definition(one))
    ax.legend(fontsize=SMALL)
    return ax


@styled
def sharpnesses(sharpnesses: Mapping[str, Sharpness], *, figure: Figure | None = None) -> Figure:
    """Draw bars of the worst rise found (solid) and the mean rise under noise (hatched) per method, with their errors.

    Returns the figure.  Raises ValueError for an empty mapping and for results of different rho, scaling, m or number
    of steps, which cannot be compared.

    >>> sharpnesses({"SGD": sharpness_sgd, "SAM": sharpness_sam})  # doctest: +SKIP
    """
    if not sharpnesses:
        raise ValueError("sharpnesses got nothing to compare; expected at least one result, as {label: sharpness}")
    if len({(one.rho, one.scaling, one.eta, one.m, len(one.course)) for one in sharpnesses.values()}) > 1:
        raise ValueError(
            "sharpnesses got results of different rho, scaling, m or steps; expected the same, measure them alike"
        )
    figure = canvas(max(SINGLE_COLUMN, 0.9 * len(sharpnesses) + 1.0), 2.7, figure)
    ax = prepare(figure.subplots())
    styles = method_styles(sharpnesses)
    for place, (label, one) in enumerate(sharpnesses.items()):
        color, first = styles[label].color, place == 0
        ax.bar(
            place - 0.2, one.worst, 0.38, yerr=np.nan_to_num(one.worst_stderr), color=color, capsize=2.0,
            error_kw=ERROR_BAR, label="worst found" if first else None,
        )  # fmt: skip
        ax.bar(
            place + 0.2, one.average, 0.38, yerr=np.nan_to_num(one.average_stderr), color="white", edgecolor=color,
            hatch="////", capsize=2.0, error_kw=ERROR_BAR, label="mean under noise" if first else None,
        )  # fmt: skip
        ax.annotate(
            with_error(one.worst, one.worst_stderr), (place - 0.2, one.worst), (0, 4), textcoords="offset points",
            ha="center", fontsize=6.0,
        )  # fmt: skip
    ax.set_xticks(range(len(sharpnesses)), list(sharpnesses))
    ax.set_ylabel("rise of the loss")
    ax.set_title(_definition(next(iter(sharpnesses.values()))))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _definition(one: Sharpness) -> str:
    scaling = "" if one.scaling == "none" else ", adaptive"
    return rf"$\rho$ = {one.rho:g}{scaling}, {'all data' if one.m is None else f'm = {one.m}'}"
