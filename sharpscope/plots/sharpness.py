"""How far the loss rises near the weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sharpscope.analyzers.measures.sharpness import Sharpness
from sharpscope.plots.eigenvalues.spectrum import ERROR_BAR
from sharpscope.plots.style import DOUBLE_COLUMN, PALETTE, SMALL, canvas, method_styles, prepare, styled, with_error

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
    """Draw the worst rise found (left) and the mean rise under noise (right) per method, with their standard errors.

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
    figure = canvas(DOUBLE_COLUMN, 2.7, figure)
    styles = method_styles(sharpnesses)
    for ax, name in zip(map(prepare, figure.subplots(1, 2)), ("worst", "average"), strict=True):
        for place, (label, one) in enumerate(sharpnesses.items()):
            value, error = getattr(one, name), float(np.nan_to_num(getattr(one, f"{name}_stderr")))
            if not np.isfinite(value):
                continue
            look = styles[label]
            ax.bar(
                place, value, 0.6, yerr=error or None, color=look.color, hatch=look.hatch, edgecolor="white",
                capsize=2.0, error_kw=ERROR_BAR,
            )  # fmt: skip
            ax.annotate(
                with_error(value, error), (place, value + error), (0, 4), textcoords="offset points", ha="center",
                fontsize=SMALL,
            )  # fmt: skip
        ax.set_xticks(range(len(sharpnesses)), list(sharpnesses))
        ax.margins(y=0.12)
        ax.set_ylabel("largest rise found in the ball (loss)" if name == "worst" else "mean rise under noise (loss)")
    figure.suptitle(f"Rise of the loss: {_definition(next(iter(sharpnesses.values())))}", fontsize=9.0)
    return figure


def _definition(one: Sharpness) -> str:
    scaling = "" if one.scaling == "none" else ", adaptive"
    return rf"$\rho$ = {one.rho:g}{scaling}, {'the whole loss' if one.m is None else f'm = {one.m}'}"
