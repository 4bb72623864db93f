"""Drawings of results.  Nothing outside this package imports matplotlib.

``plot`` draws any result; the functions of several results compare methods; ``save_figure`` writes files that are the
same bytes every time.  Drawing never shows a window, never changes ``rcParams`` and never touches the result.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sharpscope.analyzers.curvature import Curvature
from sharpscope.analyzers.density import Density
from sharpscope.analyzers.masks import MaskOverlap
from sharpscope.analyzers.profile import MaskProfile
from sharpscope.analyzers.ratio import GradientRatio, RatioSeries
from sharpscope.analyzers.sharpness import Sharpness
from sharpscope.analyzers.spectrum import Spectrum
from sharpscope.analyzers.surface import Line, Surface
from sharpscope.analyzers.track import Track
from sharpscope.convergence import Convergence
from sharpscope.history import History
from sharpscope.plots.compare import lines, ratio_courses, ratio_histograms, spectra, surfaces, training_curves
from sharpscope.plots.compare_masks import mask_overlaps, mask_profiles
from sharpscope.plots.curvature import curvatures, draw_curvature, draw_track, tracks
from sharpscope.plots.density import densities, draw_spectral_density
from sharpscope.plots.files import save_figure
from sharpscope.plots.history import draw_history
from sharpscope.plots.masks import draw_masks
from sharpscope.plots.profile import draw_profile
from sharpscope.plots.ratio import draw_ratio, draw_series
from sharpscope.plots.sharpness import draw_sharpness, sharpnesses
from sharpscope.plots.spectrum import draw_spectrum
from sharpscope.plots.style import STYLE, method_styles, prepare
from sharpscope.plots.surface import draw_line, draw_surface
from sharpscope.plots.theory import convergences, draw_convergence
from sharpscope.results import Result, draw_with

__all__ = [
    "STYLE",
    "convergences",
    "curvatures",
    "densities",
    "draw_convergence",
    "draw_curvature",
    "draw_history",
    "draw_line",
    "draw_masks",
    "draw_profile",
    "draw_ratio",
    "draw_series",
    "draw_sharpness",
    "draw_spectral_density",
    "draw_spectrum",
    "draw_surface",
    "draw_track",
    "lines",
    "mask_overlaps",
    "mask_profiles",
    "method_styles",
    "plot",
    "ratio_courses",
    "ratio_histograms",
    "save_figure",
    "sharpnesses",
    "spectra",
    "surfaces",
    "tracks",
    "training_curves",
]

# A new kind of result needs one line here: (drawing of one, drawing of several, size of the first in inches).
_DRAWINGS: dict[type[Result], tuple[Callable[..., Axes], Callable[..., Figure], tuple[float, float]]] = {
    Spectrum: (draw_spectrum, spectra, (3.6, 2.7)),
    Surface: (draw_surface, surfaces, (4.0, 3.2)),
    Density: (draw_spectral_density, densities, (4.4, 2.8)),
    Curvature: (draw_curvature, curvatures, (7.0, 2.8)),
    Track: (draw_track, tracks, (3.8, 2.7)),
    Line: (draw_line, lines, (3.8, 2.7)),
    GradientRatio: (draw_ratio, ratio_histograms, (4.8, 2.8)),
    RatioSeries: (draw_series, ratio_courses, (4.8, 2.8)),
    MaskOverlap: (draw_masks, mask_overlaps, (3.8, 3.1)),
    MaskProfile: (draw_profile, mask_profiles, (4.6, 2.6)),
    History: (draw_history, training_curves, (4.0, 2.7)),
    Sharpness: (draw_sharpness, sharpnesses, (3.8, 2.7)),
    Convergence: (draw_convergence, convergences, (4.0, 3.0)),
}
_SIZES = {"layers": (7.0, 3.4), "density": (7.0, 3.4), "map": (6.0, 3.6), "roc": (3.8, 3.6)}  # of a view


def plot(result: Result | Mapping[str, Result], ax: Axes | None = None, **options: Any) -> Axes:
    """Draw a result, or compare several results of one kind given as {label: result}.

    Without ``ax`` a new pyplot figure is made, which a notebook shows below the cell.  ``options`` go to the drawing
    function of the kind (``orientation`` of a spectrum, ``vmax`` of a surface, ``view`` of masks, ``x`` of a history).
    Returns the axes, the first ones of a comparison; ``.figure`` of them is the figure.  Raises TypeError for anything
    that has no drawing or for mixed kinds, ValueError for an empty mapping or ``ax`` with a comparison.

    >>> plot(spectrum(problem))  # doctest: +SKIP
    >>> plot({"SGD": spectrum_sgd, "SAM": spectrum_sam}).figure  # doctest: +SKIP
    """
    if isinstance(result, Mapping):
        return _compare(result, ax, options)
    draw, _, size = _drawing(result, "plot")
    if ax is not None:
        return draw(ax, result, **options)
    with _new_figure(_SIZES.get(options.get("view", ""), size)) as figure:
        return draw(prepare(figure.subplots()), result, **options)


def _compare(results: Mapping[str, Result], ax: Axes | None, options: dict[str, Any]) -> Axes:
    if ax is not None:
        raise ValueError("plot got ax= with several results; a comparison fills a figure of its own, leave ax= out")
    if not results:
        raise ValueError("plot got an empty mapping; expected at least one result, as {label: result}")
    kinds = {type(one) for one in results.values()}
    for label, one in results.items():
        _drawing(one, f"plot ({label!r})")
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"plot got results of several kinds ({names}); expected one kind, plot each kind for itself")
    _, compare, size = _DRAWINGS[kinds.pop()]
    with _new_figure(size) as figure:
        return compare(results, figure=figure, **options).axes[0]


def _drawing(result: Any, verb: str) -> tuple[Callable[..., Axes], Callable[..., Figure], tuple[float, float]]:
    for kind in type(result).__mro__:
        if kind in _DRAWINGS:
            return _DRAWINGS[kind]
    known = ", ".join(kind.__name__ for kind in _DRAWINGS)
    raise TypeError(f"{verb} got {type(result).__name__}; expected one of {known}, or a mapping from labels to them")


@contextmanager
def _new_figure(size: tuple[float, float]) -> Iterator[Figure]:
    from matplotlib import pyplot  # only here: pyplot chooses a backend and keeps every figure alive

    pyplot.draw_if_interactive()  # type: ignore[no-untyped-call]  # loads the backend, which may set rcParams (a notebook's does): not in our context
    with matplotlib.rc_context(STYLE):
        figure = pyplot.figure(figsize=size, layout="compressed")
        try:
            yield figure
        except BaseException:
            pyplot.close(figure)  # a notebook would show the half-drawn figure
            raise


def thumbnail(result: Result) -> bytes | None:
    """A small PNG of a result, for a notebook; None for a kind without a drawing."""
    kind = next((kind for kind in type(result).__mro__ if kind in _DRAWINGS), None)
    if kind is None:
        return None
    draw, _, size = _DRAWINGS[kind]
    figure = Figure(figsize=size, layout="compressed")
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(STYLE):
        draw(prepare(figure.subplots()), result)
        written = io.BytesIO()
        figure.savefig(written, format="png", dpi=70)
    return written.getvalue()


draw_with(plot, thumbnail)
