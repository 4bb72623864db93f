"""VTK structured grids, which ParaView, VisIt and PyVista open; through pyevtk, an extra."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from sharpscope.analyzers.surfaces.surface import Surface
from sharpscope.core.frames import split
from sharpscope.store import write_bytes

__all__ = ["write_vtk"]

HEIGHTS = ("log", "linear", "flat")


def write_vtk(surface: Surface, path: str | os.PathLike[str], *, height: str = "log", replace: bool = False) -> Path:
    """Write a surface as a structured grid (``.vts``) of nx x ny points and return the path.

    Args:
        surface: any surface.
        path: of the new file; ParaView wants the ending ``.vts``.
        height: z of a point: "log" (log10 of the loss), "linear" (the loss) or "flat" (0).  Where the loss is not
            finite (or, for "log", not positive) z is that of the highest point (the lowest).
        replace: write over a file that is there.

    Every array over the plane is point data under its own name; ``finite`` is 1 where the loss is.  Raises ValueError
    for another height, ImportError where pyevtk is not installed, StoreError where the file cannot be written.
    """
    if height not in HEIGHTS:
        raise ValueError(f"write_vtk got height={height!r}, expected one of {', '.join(HEIGHTS)}: change height")
    try:
        from pyevtk.hl import gridToVTK
    except ImportError as error:
        raise ImportError(
            "got no package pyevtk, expected one to write VTK files: pip install 'sharpscope[vtk]'"
        ) from error
    loss = np.asarray(surface.loss, np.float64)
    x, y = np.meshgrid(surface.alpha, surface.beta)  # (ny, nx), as the loss
    arrays, _ = split(surface.fields(), surface.dims)
    over = {name: values for name, (axes, values) in arrays.items() if axes == ("beta", "alpha")}
    over["finite"] = np.isfinite(loss)
    data = {name.replace(".", "_"): _laid(values) for name, values in over.items()}
    with tempfile.TemporaryDirectory() as folder:
        made = gridToVTK(
            str(Path(folder) / "surface"), _laid(x), _laid(y), _laid(_height(loss, height)), pointData=data
        )
        written = Path(made).read_bytes()
    path = Path(path)
    write_bytes(path, written, replace)
    return path


def _height(loss: np.ndarray, height: str) -> np.ndarray:
    if height == "flat":
        return np.zeros_like(loss)
    good = np.isfinite(loss) & (loss > 0 if height == "log" else True)
    z = np.zeros_like(loss)
    z[good] = np.log10(loss[good]) if height == "log" else loss[good]
    low, high = (float(z[good].min()), float(z[good].max())) if good.any() else (0.0, 0.0)
    return np.where(good, z, np.where(np.isfinite(loss), low, high))


def _laid(values: np.ndarray) -> np.ndarray:
    """(ny, nx) as (nx, ny, 1) with the first index running fastest, which is the order of VTK."""
    plain = values.astype(np.uint8) if values.dtype == bool else values
    return np.asfortranarray(plain.T[:, :, None])
