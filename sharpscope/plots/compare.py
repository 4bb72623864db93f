"""Figures that compare methods: a mapping from method to result goes in, a matplotlib Figure comes out.

Whatever is compared shares its scale: one y axis, one colour scale, one set of bins.  Methods keep their order and
look the same in every figure.  The figures are unknown to pyplot unless the caller hands one in as ``figure``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries
from sharpscope.analyzers.spectra.spectrum import Spectrum
from sharpscope.analyzers.surfaces.surface import Line, Surface
from sharpscope.core.history import History
from sharpscope.plots.eigenvalues.spectrum import EIGENVALUE, ERROR_BAR
from sharpscope.plots.history import TEST_ERROR, finite, loss_axis, time_axis
from sharpscope.plots.landscapes._scale import add_colorbar, loss_scale
from sharpscope.plots.landscapes.surface import draw_line, draw_surface
from sharpscope.plots.ratio import COORDINATES, draw_histogram, histogram_limits, r_label
from sharpscope.plots.style import DOUBLE_COLUMN, INK, SINGLE_COLUMN, canvas, method_styles, plain, prepare, styled

__all__ = ["lines", "ratio_courses", "ratio_histograms", "spectra", "surfaces", "training_curves"]


@styled
def training_curves(
    histories: Mapping[str, History | Sequence[History]],
    *,
    x: str = "epochs",
    log_error: bool = False,
    figure: Figure | None = None,
) -> Figure:
    """Draw the training loss (logarithmic) and the test error in percent of several methods, side by side.

    A value is one history or a sequence of them (seeds): then the line is the mean and the band one standard
    deviation over the seeds, up to the last epoch that all have finished.  ``x`` is "epochs" or "passes";
    ``log_error=True`` gives a logarithmic error axis.  Returns the figure.  Raises ValueError for an empty mapping or
    another ``x``.

    >>> training_curves({"SGD": sgd, "SAM": [sam_0, sam_1, sam_2]}, x="passes")  # doctest: +SKIP
    """
    seeds = {label: [one] if isinstance(one, History) else list(one) for label, one in histories.items()}
    _some({label: runs for label, runs in seeds.items() if runs}, "training_curves")
    figure = canvas(DOUBLE_COLUMN, 2.7, figure)
    left, right = (prepare(ax) for ax in figure.subplots(1, 2))
    styles = method_styles(seeds)
    for place, (label, runs) in enumerate(seeds.items()):
        style = styles[label]
        length = min(len(run.train_loss) for run in runs)
        for ax, field, factor in ((left, "train_loss", 1.0), (right, "test_error", 100.0)):
            times = np.mean([steps[:length] for steps in time_axis(ax, runs, x)], axis=0)
            values = factor * np.stack([finite(getattr(run, field)[:length]) for run in runs])
            mean, every = values.mean(axis=0), max(1, length // 7)
            looks: dict[str, Any] = {"color": style.color, "linestyle": style.linestyle, "marker": style.marker}
            start = min(place * every // len(seeds), max(length - 1, 0))  # staggered: no marker hides another
            ax.plot(times, mean, markevery=(start, every), label=label, **looks)
            if len(runs) > 1:
                spread = values.std(axis=0, ddof=1)
                ax.fill_between(times, mean - spread, mean + spread, color=style.color, alpha=0.2, linewidth=0)
    loss_axis(left, [np.asarray(run.train_loss) for runs in seeds.values() for run in runs])
    right.set_ylabel(TEST_ERROR)
    if log_error:
        right.set_yscale("log", nonpositive="mask")
    else:
        right.set_ylim(bottom=0.0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(seeds), 6))
    return figure


@styled
def ratio_histograms(ratios: Mapping[str, GradientRatio], *, figure: Figure | None = None) -> Figure:
    """Draw one histogram of r per method below one another, on one r axis and one y scale, the share r < 0 in each.

    Returns the figure.  Raises ValueError for an empty mapping, or where bases or bin widths differ.

    >>> ratio_histograms({"SGD": ratio_sgd, "SAM": ratio_sam})  # doctest: +SKIP
    """
    first = _some(ratios, "ratio_histograms")
    for label, ratio in ratios.items():
        if ratio.base != first.base:
            got = f"{first.base!r} and {ratio.base!r} ({label})"
            raise ValueError(f"ratio_histograms got logarithms {got}; expected one base, compute with one base=")
        if not np.allclose(np.diff(ratio.edges), np.diff(first.edges)[0], rtol=1e-6):
            raise ValueError(f"ratio_histograms got another bin width for {label!r}; expected bins of one width")
    figure = canvas(DOUBLE_COLUMN * 0.75, max(0.7 + 1.0 * len(ratios), 2.2), figure)
    axes = figure.subplots(len(ratios), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    styles, limits = method_styles(ratios), histogram_limits(list(ratios.values()))
    heights = []
    for ax, (label, ratio) in zip(axes, ratios.items(), strict=True):
        options: dict[str, Any] = {"color": styles[label].color, "label": label, "limits": limits}
        draw_histogram(prepare(ax), ratio, xlabel=False, ylabel=False, **options)
        heights.append(ax.get_ylim()[1])
    axes[-1].set_ylim(0.0, max(heights))
    axes[-1].set_xlabel(r_label(first.base))
    figure.supylabel(COORDINATES, fontsize=8.5)
    return figure


@styled
def ratio_courses(courses: Mapping[str, RatioSeries], *, figure: Figure | None = None) -> Figure:
    """Draw the share of r < 0 and the median of r of several methods over radii or over training.

    Bands of the median hold 25 to 75 % of the coordinates.  Returns the figure.  Raises ValueError for an empty
    mapping, or where axes or logarithms differ.

    >>> ratio_courses({"SGD": sgd, "SAM": sam})  # doctest: +SKIP
    """
    first = _some(courses, "ratio_courses")
    for label, one in courses.items():
        if (one.axis, one.base) != (first.axis, first.base):
            got = f"{first.axis} in {first.base} and {one.axis} in {one.base} ({label})"
            raise ValueError(f"ratio_courses got {got}; expected one axis and one logarithm, compute them alike")
    figure = canvas(DOUBLE_COLUMN, 2.7, figure)
    left, right = (prepare(ax) for ax in figure.subplots(1, 2))
    for label, style in method_styles(courses).items():
        one, looks = courses[label], {"color": style.color, "linestyle": style.linestyle, "marker": style.marker}
        q = np.clip(one.quantiles, one.edges[0], one.edges[-1])
        options: dict[str, Any] = looks | {"markevery": max(1, len(one) // 8)}
        left.plot(one.places, 100 * one.share_below_zero, label=label, **options)
        right.plot(one.places, q[:, 3], **options)
        right.fill_between(one.places, q[:, 2], q[:, 4], color=style.color, alpha=0.15, linewidth=0)
    left.set_ylim(0.0, 100.0)
    left.set_ylabel("coordinates with r < 0 (%)")
    right.axhline(0.0, color=INK, linewidth=0.7, linestyle="--")
    right.set_ylabel("median of r, band 25 to 75 %")
    for ax in (left, right):
        ax.set_xlabel({"rho": r"radius $\rho$"}.get(first.axis, first.axis))
        if first.axis == "rho":
            ax.set_xscale("log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(courses), 6))
    return figure


@styled
def surfaces(
    surfaces: Mapping[str, Surface],
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    levels: int = 32,
    log: bool = True,
    view: str = "contour",
    points: bool | None = None,
    columns: int = 3,
    figure: Figure | None = None,
) -> Figure:
    """Draw loss surfaces side by side on one colour scale with one colour bar.

    Options are those of ``draw_surface``; at most ``columns`` panels stand in a row.  Returns the figure.  Raises
    ValueError for an empty mapping, a surface under 2 x 2 points or vmin >= vmax.

    >>> surfaces({"SGD": surface_sgd, "SAM": surface_sam}, vmax=10.0)  # doctest: +SKIP
    """
    _some(surfaces, "surfaces")
    scale = loss_scale(list(surfaces.values()), vmin=vmin, vmax=vmax, levels=levels, log=log)
    flat = view != "3d"
    tall = -(-len(surfaces) // max(1, columns))
    wide = -(-len(surfaces) // tall)
    ragged = len(surfaces) < wide * tall
    around = 1.1 + 0.27 * wide
    panel = min((DOUBLE_COLUMN - around) / wide, 2.5)
    figure = canvas(panel * wide + around, (panel + 0.28) * tall + 0.42 + 0.4 * ragged, figure)
    shared: dict[str, Any] = {"sharex": True, "sharey": True} if flat else {"subplot_kw": {"projection": "3d"}}
    grid = figure.subplots(tall, wide, squeeze=False, **shared)
    axes = list(grid.ravel())
    for ax, (label, surface) in zip(axes, surfaces.items(), strict=False):
        title = f"{label}  (centre {plain(surface.center)})"
        draw_surface(prepare(ax), surface, scale=scale, colorbar=False, title=title, view=view, points=points)
        if flat:
            ax.label_outer()
    for ax in axes[len(surfaces) :]:
        ax.set_axis_off()
    if ragged and flat:  # the panels above a gap need their own labels; give them to the whole row
        for ax in axes[-2 * wide : -wide]:
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(axes[len(surfaces) - 1].get_xlabel())
    if not scale.empty:
        add_colorbar(axes, scale)
    return figure


@styled
def lines(lines: Mapping[str, Line], *, log: bool = True, figure: Figure | None = None) -> Figure:
    """Draw the loss along one direction for several methods in one panel, with bands of one paired standard error.

    Returns the figure.  Raises ValueError for an empty mapping.

    >>> lines({"SGD": line_sgd, "SAM": line_sam})  # doctest: +SKIP
    """
    _some(lines, "lines")
    figure = canvas(SINGLE_COLUMN * 1.25, 3.0, figure)
    ax = prepare(figure.subplots())
    styles = method_styles(lines)
    for label, line in lines.items():
        style = styles[label]
        draw_line(ax, line, log=log, color=style.color, label=label, linestyle=style.linestyle)
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(len(lines), 3))
    return figure


@styled
def spectra(spectra: Mapping[str, Spectrum], *, log: bool = False, figure: Figure | None = None) -> Figure:
    """Draw lambda_1 ... lambda_k of several methods as grouped bars, and lambda_1 / lambda_k beside them.

    Error bars are the residuals and what they make of the ratio; it is written where the error is unbounded, and where
    not all eigenvalues are certified.  ``log=True`` gives a logarithmic eigenvalue axis.  Returns the figure.  Raises
    ValueError for an empty mapping.

    >>> spectra({"SGD": spectrum_sgd, "SAM": spectrum_sam})  # doctest: +SKIP
    """
    _some(spectra, "spectra")
    figure = canvas(DOUBLE_COLUMN, 2.8, figure)
    left, right = (prepare(ax) for ax in figure.subplots(1, 2, width_ratios=(2.2, 1.0)))
    styles, width = method_styles(spectra), 0.8 / len(spectra)
    longest = max(len(one.eigenvalues) for one in spectra.values())
    for place, (label, one) in enumerate(spectra.items()):
        looks: dict[str, Any] = {"color": styles[label].color, "hatch": styles[label].hatch, "edgecolor": "white"}
        looks |= {"linewidth": 0.0, "capsize": min(2.0, 12 * width), "error_kw": ERROR_BAR}
        where = np.arange(len(one.eigenvalues)) + (place - (len(spectra) - 1) / 2) * width
        left.bar(where, one.eigenvalues, width * 0.94, yerr=one.residuals, label=label, **looks)
        error = one.ratio_error
        right.bar([place], [one.ratio], 0.7, yerr=[error if np.isfinite(error) else 0.0], **looks)
        text = f"{one.ratio:.2f}" if np.isfinite(error) else f"{one.ratio:.2f}\nerror\nunbounded"
        text += "" if one.separated or not one.confidence else "\nnot\nseparated"
        high = one.ratio + error if np.isfinite(error) else one.ratio
        right.annotate(text, (place, high), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=7.5)
    left.set_xticks(range(longest), [rf"$\lambda_{{{index + 1}}}$" for index in range(longest)])
    left.set_ylabel(EIGENVALUE)
    if log:
        left.set_yscale("log", nonpositive="clip")
    for ax in (left, right):
        ax.axhline(0.0, color=INK, linewidth=0.6)
    last = {len(one.eigenvalues) for one in spectra.values()}
    right.set_ylabel(rf"$\lambda_1 / \lambda_{{{last.pop() if len(last) == 1 else 'k'}}}$")
    right.set_xticks(range(len(spectra)), list(spectra), rotation=30 if len(spectra) > 3 else 0)
    room = max(0.6, 2.0 - len(spectra) / 2)  # one or two bars stay slim
    right.set_xlim(-room, len(spectra) - 1 + room)
    right.margins(y=0.12)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(spectra), 6))
    return figure


def _some(results: Mapping[str, Any], verb: str) -> Any:
    if not results:
        raise ValueError(f"{verb} got nothing to compare; expected at least one result, as {{label: result}}")
    return next(iter(results.values()))
