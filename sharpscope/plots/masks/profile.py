"""Where a mask lives: enrichment of layers, ROC curves and captured shares of scores, a map of layers and channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.plots._layers import layer_blocks, name_layers
from sharpscope.plots.style import GREY, INK, PALETTE, SMALL, axes_figure, prepare, say, styled

__all__ = ["draw_capture", "draw_enrichment", "draw_map", "draw_profile", "draw_roc"]

_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def draw_profile(ax: Axes, profile: MaskProfile, *, view: str = "capture", **options: Any) -> Axes:
    """Draw one view of a mask profile: "capture", "roc", "layers", "kinds", "depths" or "map".

    Returns the axes.  Raises ValueError for an unknown view.

    >>> draw_profile(ax, mask_profile(mask, problem), view="roc")  # doctest: +SKIP
    """
    if view not in _VIEWS:
        raise ValueError(f"view= got {view!r}; expected one of {', '.join(map(repr, _VIEWS))}")
    return _VIEWS[view](ax, profile, **options)


@styled
def draw_capture(ax: Axes, profile: MaskProfile, *, color: str = PALETTE[0]) -> Axes:
    """Draw the share of every score's total that the mask holds as a bar, with a mark at the most it could hold.

    The dashed line is a random mask, its band two standard deviations; the error bar of trace(H) is that of its probes.
    Returns the axes.
    """
    rows: list[tuple[str, float, float, float, float]] = []  # text, share, error, deviation of chance, best
    for i, name in enumerate(profile.scores):
        if np.isfinite(profile.captured[i]):
            of_trace = name == "Hessian diagonal"
            error = profile.trace_share_error if of_trace else 0.0
            text = "trace(H)" if of_trace else name
            rows.append((text, profile.captured[i], error, profile.captured_deviation[i], profile.captured_best[i]))
    if np.isfinite(profile.top_share):
        rows.append((r"$\lambda_1$ of the block", profile.top_share, 0.0, 0.0, np.nan))
    if not rows:
        return say(ax, "no score to compare with")
    texts = [text for text, *_ in rows]
    share, errors, deviation, best = (np.array(column) for column in list(zip(*rows, strict=True))[1:])
    places = np.arange(len(rows))
    chance = 100 * profile.density
    ax.barh(places, 100 * share, 0.62, color=color, xerr=_only(errors), error_kw={"linewidth": 0.9})
    ax.plot(100 * best, places, "|", color=INK, markersize=9, markeredgewidth=1.1, label="best possible")
    spread = 200 * deviation
    ax.barh(places, 2 * spread, 0.8, left=chance - spread, color=GREY, alpha=0.45, zorder=2)
    ax.axvline(chance, color=INK, linewidth=0.8, linestyle="--", label="random mask")
    if profile.random_tops.size and np.isfinite(profile.top_share):
        marks = 100 * profile.random_tops / profile.top
        ax.plot(
            marks, np.full(len(marks), places[-1]), "o", color="white", markeredgecolor=INK, markersize=3.5, zorder=3
        )
    ax.set_yticks(places, texts)
    ax.invert_yaxis()
    ax.set_xlim(0.0, max(104.0, 1.04 * 100 * float(np.max(share))))
    ax.set_xlabel("held by the mask (%)")
    ax.set_title("dashed: random mask,  |: most possible", loc="right", fontsize=SMALL)
    return ax


@styled
def draw_roc(ax: Axes, profile: MaskProfile) -> Axes:
    """Draw the ROC curve of every score that predicts the mask; the diagonal is chance.  Returns the axes."""
    rates = np.linspace(0.0, 1.0, profile.curves.shape[1])
    order = np.argsort(-np.nan_to_num(profile.auc))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for place, i in enumerate(order.tolist()):
        if np.isfinite(profile.auc[i]):
            looks: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "linestyle": _LINES[place % len(_LINES)]}
            ax.plot(rates, profile.curves[i], label=f"{profile.scores[i]}: {profile.auc[i]:.3f}", **looks)
    if not np.isfinite(profile.auc).any():
        return say(ax, "the mask is empty or full: no curve")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    ax.set_xlabel("share of the zeros")
    ax.set_ylabel("share of the ones")
    ax.legend(title="area under the curve", title_fontsize=SMALL, fontsize=SMALL, loc="lower right")
    return ax


@styled
def draw_enrichment(
    ax: Axes,
    profile: MaskProfile,
    *,
    by: str = "layer",
    names: bool = True,
    width: float | None = None,
    color: str = PALETTE[0],
) -> Axes:
    """Draw the density of every layer, kind or depth over the mask's density, with Wilson's 95 % interval.

    The grey band is where 95 % of random masks would lie.  Returns the axes.
    """
    found = profile.enrichment(by)
    places, middle = np.arange(len(found["name"])), found["enrichment"]
    if not np.isfinite(middle).any():
        return say(ax, "the mask is empty")
    ax.bar(places, found["chance_high"] - found["chance_low"], 0.9, bottom=found["chance_low"], color=GREY, alpha=0.45)
    ends = np.abs(np.stack([middle - found["low"], found["high"] - middle]))
    line = max(0.6, min(1.2, 30.0 / len(places)))
    ax.errorbar(places, middle, ends, fmt="o", color=color, markersize=3.0, linewidth=line)
    ax.axhline(1.0, color=INK, linewidth=0.7, linestyle="--")
    most = 1.0 / profile.density if profile.density else 1.0
    ax.set_ylim(0.0, min(1.06 * most, 1.2 * float(np.nanmax(found["high"]))))
    ax.set_xlim(-0.7, len(places) - 0.3)
    ax.set_ylabel("enrichment")
    if by == "layer":
        name_layers(ax, profile.layers, show=names, width=width)
    else:
        ax.set_xticks(places, found["name"])
        ax.set_xlabel("place of the module in the model" if by == "depth" else "")
    ax.set_title("grey: 95 % of random masks", loc="right", fontsize=SMALL)
    return ax


@styled
def draw_map(ax: Axes, profile: MaskProfile, *, columns: int = 128, colorbar: bool = True) -> Axes:
    """Draw where the mask is: a row per layer, its output channels from left to right, the share selected as colour.

    Every layer is as wide as the picture: channels are widened, or averaged where there are more than ``columns``.
    Returns the axes.
    """
    table = profile.enrichment("channel")["density"]
    ends = np.cumsum(profile.channels)
    image = np.full((len(profile.layers), columns), np.nan)
    for row, (start, end) in enumerate(zip(ends - profile.channels, ends, strict=True)):
        own = table[start:end]
        if len(own):
            cells = np.minimum((np.arange(columns) * len(own)) // columns, len(own) - 1)
            image[row] = own[cells] if len(own) <= columns else [part.mean() for part in np.array_split(own, columns)]
    colors = colormaps["viridis"].with_extremes(bad="#e4e4e4")
    shown = ax.imshow(100 * image, cmap=colors, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    ax.set_xticks([])
    ax.set_xlabel("output channels of the layer, from the first to the last")
    gap = max(1.0, len(profile.layers) / 24)
    blocks = layer_blocks(profile.layers, gap)
    ax.set_yticks([start + (size - 1) / 2 for start, size, _ in blocks], [text for _, _, text in blocks], fontsize=6.5)
    if colorbar:
        bar = axes_figure(ax).colorbar(shown, ax=ax, fraction=0.05, pad=0.02)
        bar.set_label("selected (%)")
        bar.outline.set_linewidth(0.6)
        prepare(bar.ax)
    return ax


def _only(errors: Any) -> np.ndarray | None:
    """Error bars, or None where there is none."""
    values = 100 * np.nan_to_num(np.array(errors, dtype=np.float64), posinf=0.0)
    return values if values.any() else None


_VIEWS: dict[str, Callable[..., Axes]] = {
    "capture": draw_capture,
    "roc": draw_roc,
    "layers": draw_enrichment,
    "kinds": lambda ax, profile, **options: draw_enrichment(ax, profile, by="kind", **options),
    "depths": lambda ax, profile, **options: draw_enrichment(ax, profile, by="depth", **options),
    "map": draw_map,
}
