"""Maps of the Hessian's extreme eigenvalues over a plane."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sharpscope.analyzers.surfaces.curvature_map import CurvatureMap
from sharpscope.analyzers.surfaces.directions import unit_of
from sharpscope.plots.eigenvalues.spectrum import EIGENVALUE
from sharpscope.plots.style import DOUBLE_COLUMN, GREY, axes_figure, canvas, plain, prepare, say, styled

__all__ = ["curvature_maps", "draw_curvature_map"]

OF = {
    "ratio": r"$|\min(\lambda_{\mathrm{min}}, 0)\,/\,\lambda_{\mathrm{max}}|$  (0: convex)",
    "highest": r"$\lambda_{\mathrm{max}}$: " + EIGENVALUE,
    "lowest": r"$\lambda_{\mathrm{min}}$: " + EIGENVALUE,
}


@styled
def draw_curvature_map(
    ax: Axes,
    found: CurvatureMap,
    *,
    of: str = "ratio",
    norm: Normalize | None = None,
    colorbar: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw one value per point of the grid: ``of`` "ratio" (|lambda_min / lambda_max|), "highest" or "lowest".

    Cells where the loss is not finite are hatched.  ``norm`` shares colours.  Returns the axes.  Raises ValueError for
    another ``of``.

    >>> draw_curvature_map(ax, curvature_map(problem), of="highest")  # doctest: +SKIP
    """
    values = _values(found, of)
    ax.set_facecolor("#e4e4e4")
    ax.patch.set_hatch("//////")
    ax.patch.set_edgecolor(GREY)
    if np.isfinite(values).any():
        colors = "RdBu_r" if of == "lowest" else "cividis" if of == "ratio" else "viridis"
        norm = _norm([found], of) if norm is None else norm
        kept = np.ma.masked_invalid(values)
        mesh = ax.pcolormesh(found.alpha, found.beta, kept, cmap=colormaps[colors], norm=norm, shading="nearest")
        if values.size <= 100:
            for (i, j), value in np.ndenumerate(values):
                if np.isfinite(value):
                    bright = np.dot(mesh.cmap(mesh.norm(value))[:3], (0.3, 0.6, 0.1)) > 0.5
                    ink = "black" if bright else "white"
                    x, y = float(found.alpha[j]), float(found.beta[i])
                    ax.text(x, y, plain(value, ".3g"), ha="center", va="center", fontsize=5.5, color=ink)
        if colorbar:
            bar = axes_figure(ax).colorbar(mesh, ax=ax, fraction=0.05, pad=0.03)
            bar.set_label(OF[of])
            prepare(bar.ax)
            bar.outline.set_linewidth(0.6)
    else:
        say(ax, "no finite loss")
    unit = unit_of(found.directions)
    ax.set_xlabel(rf"$\alpha$ ({unit})")
    ax.set_ylabel(rf"$\beta$ ({unit})")
    ax.set_aspect("equal" if 1 / 3 <= np.ptp(found.beta) / np.ptp(found.alpha) <= 3 else "auto")
    if title is not None:
        ax.set_title(title)
    return ax


@styled
def curvature_maps(maps: Mapping[str, CurvatureMap], *, of: str = "ratio", figure: Figure | None = None) -> Figure:
    """Draw maps side by side on one colour scale.  Returns the figure.  Raises ValueError as ``draw_curvature_map``.

    >>> curvature_maps({"SGD": map_sgd, "SAM": map_sam}, of="highest")  # doctest: +SKIP
    """
    if not maps:
        raise ValueError("curvature_maps got an empty mapping; expected at least one result, as {label: result}")
    norm = _norm(list(maps.values()), of)
    figure = canvas(min(DOUBLE_COLUMN, 2.8 * len(maps) + 0.8), 2.7, figure)
    axes = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for ax, (label, found) in zip(axes, maps.items(), strict=True):
        draw_curvature_map(prepare(ax), found, of=of, norm=norm, colorbar=ax is axes[-1], title=label)
        ax.label_outer()
    return figure


def _values(found: CurvatureMap, of: str) -> np.ndarray:
    if of not in OF:
        raise ValueError(f"of= got {of!r}; expected one of {', '.join(map(repr, OF))}")
    return np.asarray(getattr(found, of), dtype=np.float64)


def _norm(maps: list[CurvatureMap], of: str) -> Normalize:
    every = np.concatenate([_values(found, of).ravel() for found in maps])
    finite = every[np.isfinite(every)]
    most = float(np.abs(finite).max()) if finite.size else 1.0
    return Normalize(-most, most) if of == "lowest" else Normalize(0.0, most or 1.0)
