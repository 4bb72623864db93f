"""Results as labelled arrays and tables: xarray and pandas, which are imported only when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame as DataFrame
    from xarray import Dataset as Dataset

__all__ = ["columns", "frame", "split", "to_frame", "to_xarray"]

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]


def to_xarray(kind: str, fields: dict[str, Any], dims: dict[str, str], units: dict[str, str]) -> Dataset:
    """Arrays as variables over named axes with their units, everything else as attributes; see ``Result.to_xarray``."""
    try:
        import xarray
    except ImportError as error:
        raise _missing("xarray") from error
    variables, rest = split(fields, dims)
    attributes = {"result": kind, **{name: value for name, value in rest.items() if value is not None}}
    dataset = xarray.Dataset(dict(variables), attrs=attributes)
    for name, unit in units.items():
        if name in dataset.variables:
            dataset[name].attrs["units"] = unit
    return dataset


def to_frame(kind: str, fields: dict[str, Any], dims: dict[str, str], of: str | None) -> DataFrame:
    """One row per entry of the field ``of``; see ``Result.to_frame``."""
    variables, rest = split(fields, dims)
    if of is None:
        declared = [name for names in dims for name in names.split() if name in variables]
        of = declared[0] if declared else max(variables, key=lambda name: len(variables[name][0]), default=None)
    if of is not None and of not in variables:
        raise ValueError(f"{kind}.to_frame got of={of!r}, expected an array among {', '.join(variables)}: choose one")
    axes, array = variables[of] if of is not None else ((), np.zeros(()))
    table: dict[str, Any] = {}
    index = dict(zip(axes, np.indices(array.shape).reshape(array.ndim, array.size), strict=True))
    for axis in axes:
        own = variables.get(axis)
        table[axis] = own[1][index[axis]] if own and own[0] == (axis,) else index[axis]
    for name, (along, values) in variables.items():
        if name not in table and along and set(along) <= set(axes):
            table[name] = values[tuple(index[axis] for axis in along)]
    if not axes:
        table = {name: [value] for name, value in rest.items()}
    made = frame(table)
    made.attrs.update({"result": kind, **rest})
    return made


def frame(table: Any) -> DataFrame:
    """``pandas.DataFrame(table)``, or a sentence that says how to install pandas."""
    try:
        import pandas
    except ImportError as error:
        raise _missing("pandas") from error
    return pandas.DataFrame(table)


def columns(fields: dict[str, Any], dims: dict[str, str], longest: int = 16) -> dict[str, Any]:
    """Numbers and texts by name, and the entries of short real arrays: ``{"tol": 0.001, "eigenvalues[0]": 2.5}``."""
    variables, rest = split(fields, dims)
    found = {name: value for name, value in rest.items() if isinstance(value, bool | int | float | str)}
    for name, (axes, array) in variables.items():
        if axes == (name,) or len(axes) != 1 or array.dtype.kind != "f" or array.size > longest:
            continue
        labels = variables[axes[0]][1] if axes[0] in variables else np.arange(array.size)
        found.update({f"{name}[{label}]": float(value) for label, value in zip(labels, array, strict=True)})
    return found


def split(fields: dict[str, Any], dims: dict[str, str]) -> tuple[Variables, dict[str, Any]]:
    """Array fields with the names of their axes, and the rest as plain numbers and texts."""
    named = {name: axes.split() for names, axes in dims.items() for name in names.split()}
    variables: Variables = {}
    rest: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            parts = {f"{name}.{key}": item for key, item in value.items()}
            inner, plain = split(parts, dict.fromkeys(parts, " ".join(named[name])) if name in named else {})
            variables, rest = variables | inner, rest | plain
        elif isinstance(value, np.ndarray) or (isinstance(value, tuple | list) and len(value)):
            array = np.asarray(value)
            axes = named.get(name) or ([name] if array.ndim == 1 else [f"{name}_{axis}" for axis in range(array.ndim)])
            variables[name] = (tuple(axes), array)
        else:
            rest[name] = value.item() if isinstance(value, np.generic) else value
    return variables, rest


def _missing(name: str) -> ImportError:
    return ImportError(f"got no package {name}, expected one for tables of results: pip install 'sharpscope[frames]'")
