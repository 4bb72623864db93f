"""Pictures of many runs: a measure over what was varied, with the spread over seeds wherever there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sharpscope.plots.history import loss_axis
from sharpscope.plots.style import DOUBLE_COLUMN, GREY, SINGLE_COLUMN, canvas, method_styles, prepare, styled

__all__ = ["Series", "bars", "courses", "image", "schedules", "sweep"]


@dataclass(frozen=True)
class Series:
    """Points with their spread: x, mean and standard deviation, all of one length; NaN where there is no spread."""

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


@styled
def sweep(
    series: Mapping[str, Series],
    x_label: str,
    y_label: str,
    *,
    levels: Mapping[str, tuple[float, float]] | None = None,
    log: bool = False,
    scatter: bool = False,
    slots: bool = False,
    diagonal: bool = False,
    figure: Figure | None = None,
) -> Figure:
    """One line per series with error bars of one standard deviation over seeds.

    Args:
        series: by label.
        x_label: with unit.
        y_label: with unit.
        levels: (mean, deviation) of methods that do not vary, drawn across as a line and a band.
        log: logarithmic x.
        scatter: points without lines.
        slots: points without lines over the values of x one after the other, those of one value side by side.
        diagonal: draw y = x.
        figure: to draw into.
    """
    figure = canvas(DOUBLE_COLUMN if slots else SINGLE_COLUMN + 1.2, 2.9, figure)
    ax = prepare(figure.subplots())
    if slots:
        series = _in_slots(series, ax)
    styles = method_styles([*(levels or {}), *series])
    for name, (mean, deviation) in (levels or {}).items():
        style = styles[name]
        ax.axhline(mean, color=style.color, linestyle=style.linestyle, linewidth=0.9, label=name)
        if np.isfinite(deviation):
            ax.axhspan(mean - deviation, mean + deviation, color=style.color, alpha=0.12, linewidth=0)
    for name, one in series.items():
        style = styles[name]
        order = np.argsort(one.x, kind="stable")
        ax.errorbar(
            one.x[order], one.mean[order], np.nan_to_num(one.deviation[order]), color=style.color, marker=style.marker,
            linestyle="" if scatter or slots else style.linestyle, elinewidth=0.7, capsize=1.8, markersize=3.5,
            label=name,
        )  # fmt: skip
    if diagonal:
        ax.axline((0.0, 0.0), slope=1.0, color=GREY, linewidth=0.8, linestyle="--", label="y = x")
    if log:
        ax.set_xscale("log")
        ticks = sorted({float(value) for one in series.values() for value in one.x})
        ax.set_xticks(ticks)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, labels, loc="outside right upper")
    return figure


def _in_slots(series: Mapping[str, Series], ax: Axes) -> dict[str, Series]:
    """Series over their places: one slot per value of x, as wide as it has points, by series; sets the ticks."""
    values = np.concatenate([one.x for one in series.values()]).round(9)
    slot_of, count = np.unique(values, return_inverse=True)[1], len(np.unique(values))
    order = np.argsort(slot_of, kind="stable")
    places = np.empty(len(values))
    places[order] = np.arange(len(values)) + slot_of[order]  # an empty place between two slots
    ends = [(places[slot_of == slot].min(), places[slot_of == slot].max()) for slot in range(count)]
    ax.set_xticks([(low + high) / 2 for low, high in ends], [f"{value:g}" for value in np.unique(values)])
    ax.tick_params(axis="x", length=0)
    for _, high in ends[:-1]:
        ax.axvline(high + 1.0, color=GREY, linewidth=0.5, alpha=0.5)
    ax.set_xlim(-1.0, places.max() + 1.0)
    parts = np.split(places, np.cumsum([len(one.x) for one in series.values()])[:-1])
    return {
        name: Series(place, one.mean, one.deviation) for (name, one), place in zip(series.items(), parts, strict=True)
    }


@styled
def bars(values: Mapping[str, tuple[float, float]], x_label: str, *, figure: Figure | None = None) -> Figure:
    """One point per method with a bar of one standard deviation over seeds, methods from top to bottom.

    Args:
        values: (mean, deviation) by label.
        x_label: with unit.
        figure: to draw into.
    """
    figure = canvas(SINGLE_COLUMN + 0.6, 0.7 + 0.22 * len(values), figure)
    ax = prepare(figure.subplots())
    styles = method_styles(values)
    for place, (name, (mean, deviation)) in enumerate(values.items()):
        style = styles[name]
        ax.errorbar(
            mean, place, xerr=np.nan_to_num(deviation), color=style.color, marker=style.marker, capsize=2.2,
            elinewidth=0.9, markersize=4.5,
        )  # fmt: skip
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_xlabel(x_label)
    ax.grid(axis="x", linewidth=0.4, color=GREY, alpha=0.3)
    return figure


@styled
def courses(
    panels: Mapping[str, Mapping[str, Series]], x_label: str, *, log: bool = False, figure: Figure | None = None
) -> Figure:
    """Curves over training with bands of one standard deviation over seeds, one panel per quantity.

    Args:
        panels: {label of the quantity: {method: its curve}}.
        x_label: with unit.
        log: logarithmic first panel, where its values differ by more than a factor of 3.
        figure: to draw into.
    """
    figure = canvas(DOUBLE_COLUMN, 2.6, figure)
    for place, (ax, (label, curves)) in enumerate(
        zip(figure.subplots(1, len(panels)).flat, panels.items(), strict=True)
    ):
        prepare(ax)
        styles = method_styles(curves)
        for name, one in curves.items():
            style = styles[name]
            ax.plot(one.x, one.mean, color=style.color, linestyle=style.linestyle, label=name)
            spread = np.nan_to_num(one.deviation)
            ax.fill_between(one.x, one.mean - spread, one.mean + spread, color=style.color, alpha=0.15, linewidth=0)
        ax.set_xlabel(x_label)
        ax.set_ylabel(label)
        if log and place == 0:
            loss_axis(ax, [one.mean for one in curves.values()])
            ax.set_ylabel(label)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
    return figure


@styled
def image(
    x: Sequence[float],
    y: Sequence[float],
    values: np.ndarray,
    labels: tuple[str, str, str],
    *,
    figure: Figure | None = None,
) -> Figure:
    """A measure over two varied numbers as coloured cells, each with its number.

    Args:
        x: values along the horizontal axis.
        y: values along the vertical axis.
        values: (len(y), len(x)) float64; NaN where nothing was measured.
        labels: of x, of y and of the measure.
        figure: to draw into.
    """
    figure = canvas(1.6 + 0.45 * len(x), 1.2 + 0.35 * len(y), figure)
    ax = prepare(figure.subplots())
    shown = ax.imshow(values, origin="lower", aspect="auto", cmap="cividis")
    middle = float(np.nanmean([np.nanmin(values), np.nanmax(values)])) if np.isfinite(values).any() else 0.0
    for row, column in np.ndindex(*values.shape):
        if np.isfinite(values[row, column]):
            color = "white" if values[row, column] < middle else "black"
            ax.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=color, fontsize=6.5)
    ax.set_xticks(range(len(x)), [f"{value:g}" for value in x])
    ax.set_yticks(range(len(y)), [f"{value:g}" for value in y])
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.spines[:].set_visible(False)
    figure.colorbar(shown, ax=ax, label=labels[2])
    return figure


@styled
def schedules(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, columns: int = 5, figure: Figure | None = None
) -> Figure:
    """Probabilities over training, and the coin of every step as a dot at 0 or 1.

    Args:
        curves: {label: (p of every step, X of every step as 0 or 1)}.
        columns: panels side by side.
        figure: to draw into.
    """
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    figure = canvas(DOUBLE_COLUMN, 0.5 + 1.15 * rows, figure)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in panels.flat[len(curves) :]:
        ax.set_visible(False)
    for ax, (name, (p, coins)) in zip(panels.flat, curves.items(), strict=False):
        prepare(ax)
        t = (np.arange(len(p)) + 0.5) / len(p)
        ax.plot(t, coins, ".", color="#0072B2", markersize=1.5, alpha=0.6)
        ax.plot(t, p, color="#D55E00")
        ax.set_title(name, fontsize=7)
        ax.set_xlim(0.0, 1.0)
        ax.set_ylim(-0.1, 1.1)
    figure.supxlabel("training t / T", fontsize=8.5)
    figure.supylabel("probability p and coin X", fontsize=8.5)
    return figure
