"""CSV: one row per point of a surface, line or trajectory; what is not a column stands in the first line.

The first line is ``# `` and one JSON object, so that the file read back is the same result; readers that know comments
(``pandas.read_csv(path, comment="#")``, R, gnuplot) see a plain table.  Numbers are written so that they are read back
bit for bit.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from sharpscope.analyzers.surfaces.surface import Line, Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.core.frames import split
from sharpscope.core.results import Result
from sharpscope.store import StoreError, write_bytes
from sharpscope.store.results import revive

__all__ = ["read_csv", "write_csv"]

KINDS: dict[str, type[Result]] = {kind.__name__: kind for kind in (Surface, Line, Trajectory)}
LIMIT = 1 << 30  # bytes of a file


def write_csv(result: Result, path: str | os.PathLike[str], replace: bool = False) -> Path:
    """Write a Surface, Line or Trajectory as a table and return the path.

    Raises TypeError for another result, StoreError if the file exists and ``replace`` is false, or cannot be written.
    """
    if type(result).__name__ not in KINDS:
        raise TypeError(
            f"write_csv got a {type(result).__name__}, expected one of {', '.join(KINDS)}: use result.to_frame()"
        )
    arrays, plain = split(result.fields(), result.dims)
    axes, shape = _axes(result)
    places = dict(zip(axes, np.indices(shape).reshape(len(shape), -1), strict=True))
    columns = {
        name: array[places[name]] for name, (along, array) in arrays.items() if along == (name,) and name in axes
    }
    rest: dict[str, Any] = {}
    for name, (along, array) in arrays.items():
        if set(along) <= set(axes) and name not in columns:
            columns[name] = array[tuple(places[axis] for axis in along)]
        elif along[:1] == axes and array.ndim == 2:  # one column per coordinate
            columns |= {f"{name}[{place}]": array[:, place] for place in range(array.shape[1])}
        elif name not in columns:
            rest[name] = {"dtype": array.dtype.str, "shape": array.shape, "data": array.ravel().tolist()}
    head = {"result": type(result).__name__, "shape": shape, "plain": plain, "arrays": rest}
    head["dtypes"] = {name: column.dtype.str for name, column in columns.items()}
    text = io.StringIO(newline="")
    text.write(f"# {json.dumps(head)}\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    path = Path(path)
    write_bytes(path, text.getvalue().encode(), replace)
    return path


def read_csv(path: str | os.PathLike[str]) -> Result:
    """The result in a file that ``write_csv`` wrote.

    Raises StoreError for a missing, damaged or foreign file.
    """
    path = Path(path)
    head, names, rows = _parsed(path)
    kind = KINDS.get(str(head.get("result")))
    try:
        if kind is None:
            raise KeyError(head.get("result"))
        tree = _tree(head, names, rows)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StoreError(
            f"{path}: got a table that does not fit its first line ({type(error).__name__}: {error}), expected what "
            f"write_csv wrote: use another copy"
        ) from error
    return revive(tree, {"result": kind.__name__}, str(path))


def _parsed(path: Path) -> tuple[dict[str, Any], list[str], list[list[str]]]:
    expected = "expected a table that sharpscope wrote: check the path"
    try:
        if path.stat().st_size > LIMIT:
            raise StoreError(f"{path}: got more than {LIMIT} bytes, expected a table: check the path")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(f"{path}: got no such file, {expected}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: got a file that is no text ({type(error).__name__}), {expected}") from error
    first, _, rest = text.partition("\n")
    try:
        head = json.loads(first.removeprefix("# "))
    except json.JSONDecodeError:
        head = None
    if not isinstance(head, dict) or not first.startswith("# "):
        raise StoreError(f"{path}: got a first line that does not describe a result, {expected}")
    table = list(csv.reader(io.StringIO(rest)))
    if not table or not text.endswith("\n") or any(len(row) != len(table[0]) for row in table):
        raise StoreError(f"{path}: got rows of several lengths or an end in the middle, expected a whole table")
    return head, table[0], table[1:]


def _tree(head: dict[str, Any], names: list[str], rows: list[list[str]]) -> dict[str, Any]:
    """The fields of the result; raises whatever a wrong table leads to."""
    dtypes, shape = {name: np.dtype(head["dtypes"][name]) for name in names}, tuple(head["shape"])
    if any(dtype.kind not in "fiub" for dtype in dtypes.values()) or len(rows) != int(np.prod(shape)):
        raise ValueError(f"{len(rows)} rows for {shape} points")
    columns = {
        name: np.array([_number(text, dtypes[name]) for text in column], dtypes[name])
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    found: dict[str, Any] = dict(head["plain"])
    for name, about in head["arrays"].items():
        found[name] = np.array(about["data"], np.dtype(about["dtype"])).reshape(about["shape"])
    axes = _axis_names(KINDS[head["result"]])
    for name, column in columns.items():
        if name in axes:
            place = axes.index(name)
            found[name] = np.moveaxis(column.reshape(shape), place, 0).reshape(shape[place], -1)[:, 0].copy()
        elif "[" not in name:
            found[name] = column.reshape(shape)
    for name in {name.partition("[")[0] for name in columns if "[" in name}:
        count = sum(column.startswith(f"{name}[") for column in columns)
        found[name] = np.stack([columns[f"{name}[{place}]"] for place in range(count)], axis=1)
    return _nested(found, KINDS[head["result"]])


def _nested(found: dict[str, Any], kind: type[Result]) -> dict[str, Any]:
    """Fields that are dictionaries, which ``split`` takes apart by a dot."""
    declared = {field.name for field in dataclasses.fields(kind)}
    tree: dict[str, Any] = {}
    for name, value in found.items():
        head, dot, key = name.partition(".")
        if dot and head in declared:
            tree.setdefault(head, {})[key] = value
        else:
            tree[name] = value
    return tree


def _number(text: str, dtype: np.dtype[Any]) -> Any:
    return text == "True" if dtype.kind == "b" else float(text) if dtype.kind == "f" else int(text)


def _axis_names(kind: type[Result]) -> tuple[str, ...]:
    """The axes of the first array of ``dims``, without those that are no points but coordinates."""
    return tuple(axis for axis in next(iter(kind.dims.values())).split() if axis != "direction")


def _axes(result: Result) -> tuple[tuple[str, ...], tuple[int, ...]]:
    axes = _axis_names(type(result))
    return axes, tuple(len(getattr(result, axis)) for axis in axes)
