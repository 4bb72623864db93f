"""A trace: what every probe made of it, and their mean with its standard error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpscope.analyzers.spectra.trace import Trace
from sharpscope.plots.eigenvalues.spectrum import ERROR_BAR
from sharpscope.plots.style import INK, PALETTE, SINGLE_COLUMN, canvas, method_styles, prepare, styled, with_error

__all__ = ["draw_trace", "traces"]

TRACE = "trace (loss / weight²)"


@styled
def draw_trace(ax: Axes, trace: Trace, *, color: str = PALETTE[0]) -> Axes:
    """Draw the estimate of every probe as a dot, the trace as a line and a band of one standard error around it.

    An exact trace, and one of a file that has no estimates, is the line alone.  Returns the axes.

    >>> draw_trace(ax, trace(problem))  # doctest: +SKIP
    """
    samples = np.zeros(0) if trace.samples is None else trace.samples
    ax.plot(np.arange(1, len(samples) + 1), samples, "o", color=color, markersize=3.0, alpha=0.7)
    ax.axhline(trace.value, color=INK, linewidth=1.0)
    if np.isfinite(trace.stderr) and trace.stderr > 0.0:
        ax.axhspan(trace.value - trace.stderr, trace.value + trace.stderr, color=color, alpha=0.25, linewidth=0)
    ax.set_xlim(0.5, max(len(samples), 1) + 0.5)
    if not len(samples):
        ax.set_xticks([])
    ax.set_xlabel(f"probe ({trace.method}, {trace.products} products)")
    ax.set_ylabel(TRACE)
    ax.set_title(f"trace = {with_error(trace.value, trace.stderr)}")
    return ax


@styled
def traces(traces: Mapping[str, Trace], *, figure: Figure | None = None) -> Figure:
    """Draw the traces of several methods as bars with their standard errors.

    Returns the figure.  Raises ValueError for an empty mapping.

    >>> traces({"SGD": trace_sgd, "SAM": trace_sam})  # doctest: +SKIP
    """
    if not traces:
        raise ValueError("traces got nothing to compare; expected at least one result, as {label: trace}")
    figure = canvas(SINGLE_COLUMN, 2.7, figure)
    ax = prepare(figure.subplots())
    styles = method_styles(traces)
    for place, (label, one) in enumerate(traces.items()):
        error = one.stderr if np.isfinite(one.stderr) else 0.0
        ax.bar(
            [place], [one.value], 0.65, yerr=[error], color=styles[label].color, hatch=styles[label].hatch,
            edgecolor="white", linewidth=0.0, capsize=2.5, error_kw=ERROR_BAR,
        )  # fmt: skip
    ax.axhline(0.0, color=INK, linewidth=0.6)
    ax.set_xticks(range(len(traces)), list(traces), rotation=30 if len(traces) > 3 else 0)
    ax.set_xlim(-0.8, len(traces) - 0.2)
    ax.set_ylabel(TRACE)
    return figure
