"""Drawings of results, and the only home of matplotlib.

Enters: results. Leaves: axes and figures: ``plot`` draws any result, the functions of several results compare
methods, ``save_figure`` writes files that are the same bytes every time. Drawing never shows a window, never changes
``rcParams`` and never touches the result. Never imports a problem: a picture needs the result alone.

Public: plot, interactive.
"""

from sharpscope.plots.compare import lines, ratio_courses, ratio_histograms, spectra, surfaces, training_curves
from sharpscope.plots.eigenvalues.curvature import curvatures, draw_curvature, draw_track, tracks
from sharpscope.plots.eigenvalues.density import densities, draw_spectral_density
from sharpscope.plots.eigenvalues.spectrum import draw_spectrum
from sharpscope.plots.eigenvalues.trace import draw_trace, traces
from sharpscope.plots.files import save_figure
from sharpscope.plots.history import draw_history
from sharpscope.plots.landscapes.curvature_map import curvature_maps, draw_curvature_map
from sharpscope.plots.landscapes.interactive import interactive
from sharpscope.plots.landscapes.surface import draw_line, draw_surface
from sharpscope.plots.landscapes.trajectory import draw_trajectory, trajectories
from sharpscope.plots.masks.compare import mask_overlaps, mask_profiles
from sharpscope.plots.masks.overlap import draw_masks
from sharpscope.plots.masks.profile import draw_profile
from sharpscope.plots.plot import plot
from sharpscope.plots.ratio import draw_ratio, draw_series
from sharpscope.plots.sharpness import draw_sharpness, sharpnesses
from sharpscope.plots.style import STYLE, method_styles
from sharpscope.plots.theory import convergences, draw_convergence

__all__ = [
    "STYLE",
    "convergences",
    "curvature_maps",
    "curvatures",
    "densities",
    "draw_convergence",
    "draw_curvature",
    "draw_curvature_map",
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
    "draw_trace",
    "draw_track",
    "draw_trajectory",
    "interactive",
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
    "traces",
    "tracks",
    "trajectories",
    "training_curves",
]
