"""Where curvature sits, part by part, and how it moves along training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from sharpscope.analyzers.spectra.curvature import Curvature
from sharpscope.analyzers.spectra.track import Track
from sharpscope.plots._layers import label_height, name_layers
from sharpscope.plots.eigenvalues.spectrum import EIGENVALUE, ERROR_BAR
from sharpscope.plots.style import DOUBLE_COLUMN, INK, PALETTE, axes_figure, canvas, method_styles, prepare, styled

__all__ = ["curvatures", "draw_curvature", "draw_track", "tracks"]


@styled
def draw_curvature(ax: Axes, curvature: Curvature, *, view: str = "shares", color: str = PALETTE[0]) -> Axes:
    """Draw a heat map of shares by part ("shares"), or lambda_1 of each part with its residual ("eigenvalues").

    The rows of the heat map are each part's share of the coordinates, of the trace, and of every top eigenvector, on
    one colour scale from 0 to 1.  Returns the axes.  Raises ValueError for another view.

    >>> draw_curvature(ax, curvature(problem), view="eigenvalues")  # doctest: +SKIP
    """
    if view == "shares":
        names = ["parameters", "trace", *(rf"$u_{{{place + 1}}}$" for place in range(len(curvature.top)))]
        rows = np.vstack([curvature.size_share, curvature.trace_share, curvature.captured])
        image = _heatmap(ax, rows, names, curvature.parts)
        _colorbar(ax, image, "share")
        return ax
    if view != "eigenvalues":
        raise ValueError(f"view= got {view!r}; expected 'shares' or 'eigenvalues'")
    places = np.arange(len(curvature.parts))
    ax.bar(places, curvature.eigenvalues, 0.7, yerr=curvature.residuals, color=color, capsize=2.0, error_kw=ERROR_BAR)
    ax.axhline(0.0, color=INK, linewidth=0.6)
    top = float(curvature.top[0])
    ax.axhline(top, color=PALETTE[1], linestyle="--")
    ax.annotate(
        "whole model", (len(places) - 0.3, top), (0, 2), textcoords="offset points", ha="right", fontsize=7.5,
        color=PALETTE[1],
    )  # fmt: skip
    ax.set_xlim(-0.7, len(places) - 0.3)
    ax.set_ylabel(rf"$\lambda_1$ of the block {EIGENVALUE.partition(' ')[2]}")
    name_layers(ax, curvature.parts)
    return ax


@styled
def curvatures(curvatures: Mapping[str, Curvature], *, figure: Figure | None = None) -> Figure:
    """Draw lambda_1 of every part as a heat map with one row per method, on one logarithmic colour scale.

    Cells without a positive value are grey.  Returns the figure.  Raises ValueError for an empty mapping and for
    results of different parts.

    >>> curvatures({"SGD": curvature_sgd, "SAM": curvature_sam})  # doctest: +SKIP
    """
    if not curvatures:
        raise ValueError("curvatures got nothing to compare; expected at least one result, as {label: curvature}")
    parts = next(iter(curvatures.values())).parts
    if any(one.parts != parts for one in curvatures.values()):
        raise ValueError(
            "curvatures got results of different parts; expected the same parts, compare one kind of network"
        )
    foot = label_height(parts, 0.75 * DOUBLE_COLUMN)
    figure = canvas(DOUBLE_COLUMN, 0.9 + 0.32 * len(curvatures) + foot, figure)
    ax = prepare(figure.subplots())
    rows = np.vstack([one.eigenvalues for one in curvatures.values()])
    good = rows[rows > 0]
    norm = LogNorm(good.min(), good.max()) if len(good) and good.min() < good.max() else None
    image = _heatmap(ax, np.where(rows > 0, rows, np.nan), list(curvatures), parts, norm)
    _colorbar(ax, image, rf"$\lambda_1$ of the block {EIGENVALUE.partition(' ')[2]}")
    return figure


@styled
def draw_track(
    ax: Axes,
    track: Track,
    *,
    color: str = PALETTE[0],
    linestyle: str = "-",
    marker: str = "o",
    label: str | None = None,
) -> Axes:
    """Draw lambda_1 along training with its residuals as error bars; further eigenvalues as thin lines.

    Returns the axes.

    >>> draw_track(ax, track(problems))  # doctest: +SKIP
    """
    top = track.eigenvalues[:, 0]
    ax.plot(track.steps, top, color=color, linestyle=linestyle, marker=marker, label=label or r"$\lambda_1$")
    ax.errorbar(track.steps, top, track.residuals[:, 0], fmt="none", ecolor=color, capsize=2.0, elinewidth=0.8)
    for place in range(1, track.eigenvalues.shape[1]):
        name = None if label else rf"$\lambda_{{{place + 1}}}$"
        fade = 0.75 - 0.45 * place / track.eigenvalues.shape[1]
        looks: dict[str, Any] = {"color": color, "linestyle": linestyle, "alpha": fade, "linewidth": 0.8}
        ax.plot(track.steps, track.eigenvalues[:, place], label=name, **looks)
    if not (track.eigenvalues < 0).any():
        ax.set_ylim(bottom=0.0)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel(EIGENVALUE)
    if label is None and track.eigenvalues.shape[1] > 1:
        axes_figure(ax).legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return ax


@styled
def tracks(tracks: Mapping[str, Track], *, figure: Figure | None = None) -> Figure:
    """Draw lambda_1 along training for several methods in one panel.

    Returns the figure.  Raises ValueError for an empty mapping.

    >>> tracks({"SGD": track_sgd, "SAM": track_sam})  # doctest: +SKIP
    """
    if not tracks:
        raise ValueError("tracks got nothing to compare; expected at least one result, as {label: track}")
    figure = canvas(0.6 * DOUBLE_COLUMN, 2.8, figure)
    ax = prepare(figure.subplots())
    styles = method_styles(tracks)
    for label, one in tracks.items():
        style = styles[label]
        draw_track(ax, one, color=style.color, linestyle=style.linestyle, marker=style.marker, label=label)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(tracks), 5))
    return figure


def _heatmap(
    ax: Axes, rows: np.ndarray, names: list[str], parts: tuple[str, ...], norm: LogNorm | None = None
) -> AxesImage:
    colors = colormaps["viridis"].with_extremes(bad="#e4e4e4")
    limits: dict[str, Any] = {"vmin": 0.0, "vmax": max(1.0, float(np.nanmax(rows, initial=0.0)))}
    if norm is not None:
        limits = {"norm": norm}
    image = ax.imshow(rows, cmap=colors, interpolation="nearest", aspect="auto", **limits)
    ax.set_yticks(range(len(names)), names)
    name_layers(ax, parts)
    ax.tick_params(length=0.0)
    ax.spines[["top", "right"]].set_visible(True)
    return image


def _colorbar(ax: Axes, image: AxesImage, text: str) -> None:
    bar = axes_figure(ax).colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    prepare(bar.ax)
    bar.outline.set_linewidth(0.6)
    bar.set_label(text)
