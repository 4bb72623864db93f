"""One verb to write a result for another program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sharpscope.analyzers.surfaces.directions import Directions
from sharpscope.analyzers.surfaces.surface import Line, Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.core.results import Result
from sharpscope.exchange.li import write_li_directions, write_li_surface, write_li_trajectory
from sharpscope.exchange.table import write_csv
from sharpscope.exchange.vtk import write_vtk
from sharpscope.plots.landscapes.interactive import interactive
from sharpscope.store import write_bytes

__all__ = ["FORMATS", "export"]

FORMATS = {"li": ".h5", "csv": ".csv", "vtk": ".vts", "netcdf": ".nc", "html": ".html"}


def export(
    result: Result | Directions,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    replace: bool = False,
    **options: Any,
) -> Path:
    """Write a result for another program and return the path.

    Args:
        result: a Surface, Line or Trajectory; any Result for "netcdf"; Directions for "li".
        path: of the new file.
        format: "li" (files of Li et al.'s loss-landscape), "csv", "vtk" (structured grid for ParaView), "netcdf"
            (xarray, MATLAB, ...) or "html" (an interactive picture); told by the ending of the path if None.
        replace: write over a file that is there.
        options: of the format: ``problem=`` and ``kind=`` for Directions, ``height=`` for "vtk".

    Raises ValueError for another format, TypeError for a result that the format does not take, StoreError if the file
    exists or cannot be written, ImportError where an extra is missing.

    >>> export(surface(problem), "surface.vts")  # doctest: +SKIP
    """
    chosen = format or next((name for name, ending in FORMATS.items() if str(path).endswith(ending)), None)
    if chosen not in FORMATS:
        raise ValueError(
            f"export got format={chosen!r} for {str(path)!r}, expected one of {', '.join(FORMATS)}: say format="
        )
    if chosen == "li":
        return _li(result, path, replace, options)
    if chosen == "csv" and isinstance(result, Result):
        return write_csv(result, path, replace, **options)
    if chosen == "vtk" and isinstance(result, Surface):
        return write_vtk(result, path, replace=replace, **options)
    if chosen == "netcdf" and isinstance(result, Result):
        return _netcdf(result, Path(path), replace)
    if chosen == "html" and isinstance(result, Surface):
        return _html(result, Path(path), replace, options)
    raise TypeError(
        f"export got a {type(result).__name__} for the format {chosen!r}, expected a Surface: choose another format"
    )


def _li(result: Result | Directions, path: Any, replace: bool, options: dict[str, Any]) -> Path:
    if isinstance(result, Directions):
        if "problem" not in options:
            raise TypeError("export got directions without problem=, expected it for the order of the parameters")
        return write_li_directions(result, path, replace=replace, **options)
    if isinstance(result, Surface | Line):
        return write_li_surface(result, path, replace=replace, **options)
    if isinstance(result, Trajectory):
        return write_li_trajectory(result, path, replace=replace, **options)
    raise TypeError(
        f"export got a {type(result).__name__} for the format 'li', expected a Surface, Line, Trajectory or "
        f"Directions: choose another format"
    )


def _netcdf(result: Result, path: Path, replace: bool) -> Path:
    dataset = result.to_xarray()
    for variable in dataset.variables.values():  # netCDF 3 has no unsigned and no boolean numbers
        if variable.dtype.kind in "bu":
            variable.data = variable.data.astype("int8" if variable.dtype.itemsize == 1 else "int32")
    written = dataset.to_netcdf(engine="scipy")  # netCDF 3, which scipy writes and everyone reads
    write_bytes(path, bytes(written), replace)
    return path


def _html(result: Surface, path: Path, replace: bool, options: dict[str, Any]) -> Path:
    write_bytes(path, interactive(result, **options).encode(), replace)
    return path
