"""Loss surfaces that can be turned, in one HTML file that needs nothing else; through plotly, an extra."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpscope.analyzers.surfaces.directions import unit_of
from sharpscope.analyzers.surfaces.surface import Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.plots.landscapes._relief import way_heights
from sharpscope.plots.landscapes._scale import LossScale, loss_scale, tick_text
from sharpscope.plots.landscapes.trajectory import check_plane, explained_texts, marker_sizes
from sharpscope.plots.style import plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["interactive"]


def interactive(
    surfaces: Surface | Mapping[str, Surface],
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    log: bool = True,
    trajectory: Trajectory | None = None,
    title: str = "Loss surface",
    standalone: bool = True,
) -> str:
    """The text of an HTML page with a surface to turn, zoom and read values from.

    Several surfaces, {label: surface}, share heights, colours and the camera; a menu shows one of them or all.
    Points that are clipped lie flat at the end of the scale and keep their loss in the label under the pointer;
    where the loss is not finite there is a hole.

    Args:
        surfaces: what to show.
        vmin: the loss at the lower end of the scale; the smallest if None.
        vmax: the loss at its upper end.
        log: heights and colours by the logarithm of the loss.
        trajectory: weights along training in the coordinates of the plane, drawn on the first surface.
        title: of the page.
        standalone: with plotly's program inside (about 5 MB), to be opened offline; otherwise a part of a page that has
            it already.

    Raises ImportError where plotly is not installed, ValueError for an empty mapping and as ``draw_surface`` does.

    >>> pathlib.Path("surface.html").write_text(interactive({"SGD": sgd, "SAM": sam}))  # doctest: +SKIP
    """
    given = {"": surfaces} if isinstance(surfaces, Surface) else surfaces
    if not isinstance(given, Mapping) or not all(isinstance(surface, Surface) for surface in given.values()):
        raise TypeError(
            f"interactive got a {type(surfaces).__name__}, expected a Surface or {{label: Surface}}: make it with "
            f"surface()"
        )
    named = dict(given)
    if not named:
        raise ValueError("interactive got an empty mapping; expected at least one surface, as {label: surface}")
    figure = _figure(named, loss_scale(list(named.values()), vmin=vmin, vmax=vmax, log=log), trajectory, title)
    text: str = figure.to_html(
        include_plotlyjs=standalone, full_html=standalone, div_id="sharpscope-surface", default_height="96vh",
        config={"displaylogo": False, "responsive": True},
    )  # fmt: skip
    return text.replace("<head>", f"<head><title>{html.escape(title)}</title>", 1)


def _figure(named: dict[str, Surface], scale: LossScale, way: Trajectory | None, title: str) -> Figure:
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ImportError(
            "got no package plotly, expected one for interactive pictures: pip install 'sharpscope[interactive]'"
        ) from error
    first = next(iter(named.values()))
    traces: list[Any] = [
        _relief(graph_objects, label, surface, scale, bar=not place)
        for place, (label, surface) in enumerate(named.items())
    ]
    if way is not None:
        check_plane(way, first)
        traces.append(_way(graph_objects, first, scale, way))
    figure = graph_objects.Figure(traces)
    texts = [unit_of(first.directions)] * 2 if way is None else explained_texts(way)
    ticks = scale.ticks
    figure.update_layout(
        title=html.escape(title),
        template="plotly_white",
        margin={"l": 0, "r": 0, "t": 50, "b": 0},
        scene={
            "xaxis": {"title": f"α ({texts[0]})"},
            "yaxis": {"title": f"β ({texts[1]})"},
            "zaxis": {
                "title": scale.label,
                "range": [float(end) for end in _ends(scale)],
                "tickvals": (np.log10(ticks) if scale.log else ticks).tolist(),
                "ticktext": [_text(tick) for tick in ticks],
            },
            "aspectmode": "manual",
            "aspectratio": {"x": 1, "y": 1, "z": 0.7},
            "camera": {"eye": {"x": 1.3, "y": -1.6, "z": 1.0}},
        },
    )
    if len(named) > 1:
        figure.update_layout(updatemenus=[_menu(list(named), len(traces))])
    return figure


def _relief(plotly: Any, label: str, surface: Surface, scale: LossScale, bar: bool) -> Any:
    low, high = _ends(scale)
    ticks = scale.ticks
    where = np.array(["interpolated", "evaluated", "not finite", "missing"])
    status = np.where(np.isfinite(surface.loss), 1, 2) if surface.status is None else surface.status
    text = np.array([plain(value, ".6g") for value in surface.loss.ravel()]).reshape(surface.loss.shape)
    shown = np.char.add(np.char.add(text, ", "), where[np.clip(status, 0, 3)])
    return plotly.Surface(
        x=surface.alpha, y=surface.beta, z=scale.heights(surface.loss), text=shown, name=html.escape(label),
        hovertemplate="α %{x:.4g}, β %{y:.4g}<br>loss %{text}<extra>" + html.escape(label) + "</extra>",
        cmin=low, cmax=high, colorscale="Viridis", showscale=bar, opacity=1.0,
        colorbar={
            "title": {"text": scale.label, "side": "right"},
            "tickvals": (np.log10(ticks) if scale.log else ticks).tolist(),
            "ticktext": [_text(tick) for tick in ticks],
        },
        contours={"z": {"show": True, "usecolormap": False, "color": "rgba(255,255,255,0.4)", "width": 1}},
    )  # fmt: skip


def _way(plotly: Any, surface: Surface, scale: LossScale, way: Trajectory) -> Any:
    low, high = _ends(scale)
    text = [f"step {step}, {plain(off, '.3g')} off the plane" for step, off in zip(way.step, way.residual, strict=True)]
    return plotly.Scatter3d(
        x=way.coordinates[:, 0], y=way.coordinates[:, 1], z=way_heights(surface, scale, way) + 0.01 * (high - low),
        mode="lines+markers", name="training", text=text, hovertemplate="%{text}<extra></extra>",
        line={"color": "#D55E00", "width": 4}, marker={"color": "#D55E00", "size": marker_sizes(way)},
    )  # fmt: skip


def _menu(labels: Sequence[str], traces: int) -> dict[str, Any]:
    """Buttons that show one surface or all; what follows them (the trajectory) stays."""
    rest = [True] * (traces - len(labels))
    buttons = [
        {
            "label": html.escape(label),
            "method": "update",
            "args": [{"visible": [other == label for other in labels] + rest}],
        }
        for label in labels
    ]
    every = {"label": "all", "method": "update", "args": [{"visible": [True] * traces}]}
    return {
        "type": "buttons",
        "direction": "right",
        "x": 0.02,
        "y": 1.0,
        "xanchor": "left",
        "buttons": [every, *buttons],
    }


def _ends(scale: LossScale) -> np.ndarray:
    ends = scale.levels[[0, -1]]
    return np.log10(ends) if scale.log else ends


def _text(tick: float) -> str:
    """Numbers on an axis; matplotlib's notation of powers becomes HTML's."""
    text = tick_text(tick)
    return text.replace(r"\cdot", "·").replace("^{", "<sup>").replace("}", "</sup>").replace("$", "")
