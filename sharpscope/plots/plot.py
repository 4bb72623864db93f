"""Drawing any result: the table of drawings by kind.  A new kind of result needs one line in it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries
from sharpscope.analyzers.masks.overlap import MaskOverlap
from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.analyzers.measures.sharpness import Sharpness
from sharpscope.analyzers.spectra.curvature import Curvature
from sharpscope.analyzers.spectra.density import Density
from sharpscope.analyzers.spectra.spectrum import Spectrum
from sharpscope.analyzers.spectra.trace import Trace
from sharpscope.analyzers.spectra.track import Track
from sharpscope.analyzers.surfaces.curvature_map import CurvatureMap
from sharpscope.analyzers.surfaces.surface import Line, Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.core.convergence import Convergence
from sharpscope.core.history import History
from sharpscope.core.results import Result
from sharpscope.plots.compare import lines, ratio_courses, ratio_histograms, spectra, surfaces, training_curves
from sharpscope.plots.eigenvalues.curvature import curvatures, draw_curvature, draw_track, tracks
from sharpscope.plots.eigenvalues.density import densities, draw_spectral_density
from sharpscope.plots.eigenvalues.spectrum import draw_spectrum
from sharpscope.plots.eigenvalues.trace import draw_trace, traces
from sharpscope.plots.history import draw_history
from sharpscope.plots.landscapes.curvature_map import curvature_maps, draw_curvature_map
from sharpscope.plots.landscapes.surface import draw_line, draw_surface
from sharpscope.plots.landscapes.trajectory import draw_trajectory, trajectories
from sharpscope.plots.masks.compare import mask_overlaps, mask_profiles
from sharpscope.plots.masks.overlap import draw_masks
from sharpscope.plots.masks.profile import draw_profile
from sharpscope.plots.ratio import draw_ratio, draw_series
from sharpscope.plots.sharpness import draw_sharpness, sharpnesses
from sharpscope.plots.style import STYLE, prepare
from sharpscope.plots.theory import convergences, draw_convergence

__all__ = ["plot", "thumbnail"]

# (drawing of one, drawing of several, size of the first in inches).
_DRAWINGS: dict[type[Result], tuple[Callable[..., Axes], Callable[..., Figure], tuple[float, float]]] = {
    Spectrum: (draw_spectrum, spectra, (3.6, 2.7)),
    Surface: (draw_surface, surfaces, (4.0, 3.2)),
    Density: (draw_spectral_density, densities, (4.4, 2.8)),
    Curvature: (draw_curvature, curvatures, (7.0, 2.8)),
    Track: (draw_track, tracks, (3.8, 2.7)),
    Trace: (draw_trace, traces, (3.8, 2.7)),
    CurvatureMap: (draw_curvature_map, curvature_maps, (3.8, 3.1)),
    Line: (draw_line, lines, (3.8, 2.7)),
    Trajectory: (draw_trajectory, trajectories, (3.8, 3.1)),
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
        kind = {"projection": "3d"} if options.get("view") == "3d" else {}
        return draw(prepare(figure.add_subplot(**kind)), result, **options)


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
