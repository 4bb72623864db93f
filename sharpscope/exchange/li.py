"""Files of the code of Li et al. 2018 (github.com/tomgoldstein/loss-landscape): directions, surfaces, trajectories.

Their HDF5 files have no attributes and no names of parameters.  What is stored (read off that code):

============  =========================================================================================================
file          content
============  =========================================================================================================
directions    groups ``xdirection``, ``ydirection`` with members "0", "1", ... in the order of ``model.parameters()``
              (``dir_type=weights``) or of ``model.state_dict()`` (``dir_type=states``); for principal directions also
              ``explained_variance_ratio_`` (2,)
surface       ``xcoordinates`` (nx,), ``ycoordinates`` (ny,) of a plane, ``train_loss``, ``train_acc`` (percent) and
              more of shape (nx,) or (nx, ny), ``dir_file``; -1 = not evaluated
trajectory    ``proj_xcoord``, ``proj_ycoord`` (n,)
============  =========================================================================================================

The arrays of a plane are declared (nx, ny) but addressed by the flat index of ``numpy.meshgrid(x, y)``, which is
row by row (ny, nx): the value at (x[j], y[i]) is ``data.ravel()[i * nx + j]``.  On square grids this looks like a
transposition; on others, taking the shape at its word scrambles the plane.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.surfaces.directions import Directions
from sharpscope.analyzers.surfaces.refine import EVALUATED, NONFINITE
from sharpscope.analyzers.surfaces.surface import MISSING, Line, Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.core.vectors import Vec
from sharpscope.problem.problem import Problem
from sharpscope.store import StoreError, read_arrays, write_arrays

__all__ = [
    "read_li_directions",
    "read_li_surface",
    "read_li_trajectory",
    "write_li_directions",
    "write_li_surface",
    "write_li_trajectory",
]

KINDS = ("weights", "states")
AXES = ("xdirection", "ydirection")
MINUS_ONE = -1.0  # their value of a point that was not evaluated
PathLike = str | os.PathLike[str]


def write_li_directions(
    directions: Directions, path: PathLike, problem: Problem, *, kind: str = "weights", replace: bool = False
) -> Path:
    """Write one or two directions as their code reads them.

    Args:
        directions: over the parameters of the problem.
        path: of the new file.
        problem: whose model fixes the order; frozen parameters and buffers get zeros.
        kind: "weights" (``--dir_type weights``, their default) or "states".
        replace: write over a file that is there.

    Raises ValueError for more than two directions, those of another model, or another kind; StoreError where the file
    cannot be written.
    """
    if len(directions.vectors) > len(AXES):
        raise ValueError(
            f"write_li_directions got {len(directions.vectors)} directions, expected one or two: their files hold no "
            f"more"
        )
    directions.check(problem, "write_li_directions")
    members = _members(problem, kind)
    arrays: dict[str, Any] = {}
    for axis, vector in zip(AXES, directions.vectors, strict=False):
        moving = dict(zip(directions.names, vector, strict=True))
        arrays[axis] = {str(place): _array(moving.get(name), like) for place, (name, like) in enumerate(members)}
    if directions.explained is not None:
        arrays["explained_variance_ratio_"] = np.array(directions.explained)
    return write_arrays(path, arrays, replace)


def read_li_directions(path: PathLike, problem: Problem) -> Directions:
    """The directions of a file of their code, over the parameters of ``problem``.

    The file names no parameters; their number tells "weights" from "states", their shapes are checked.  Raises
    StoreError for a damaged or foreign file, for tensors of another model, and for directions that move what is no
    trainable parameter here (buffers, frozen parameters): such a plane cannot be drawn by moving parameters alone.
    """
    arrays = read_arrays(path, "a direction file of loss-landscape")
    if "xdirection" not in arrays:
        raise StoreError(
            f"{path}: got no group xdirection but {_some(arrays)}, expected a direction file of loss-landscape: check "
            f"the path"
        )
    found: list[Vec] = []
    for axis in (axis for axis in AXES if axis in arrays):
        found.append(_vector(path, axis, arrays[axis], problem))
    ratio = arrays.get("explained_variance_ratio_")
    explained = tuple(map(float, ratio)) if isinstance(ratio, np.ndarray) and ratio.shape == (len(found),) else None
    return Directions(problem.names, tuple(found), f"of the file {Path(path).name}", explained=explained)


def _members(problem: Problem, kind: str) -> list[tuple[str, Tensor]]:
    """Names and tensors in the order of a file of this kind."""
    if kind not in KINDS:
        raise ValueError(f"a direction file got kind={kind!r}, expected one of {', '.join(KINDS)}: change kind")
    if kind == "weights":
        return [(name, p.detach()) for name, p in problem.model.named_parameters()]
    first: dict[int, str] = {}  # of the names of a tied parameter, which stands in the state under each of them
    tied = {name: first.setdefault(id(p), name) for name, p in problem.model.named_parameters(remove_duplicate=False)}
    return [(tied.get(name, name), x) for name, x in problem.model.state_dict().items()]


def _array(x: Tensor | None, like: Tensor) -> np.ndarray:
    found = torch.zeros_like(like) if x is None else x
    if found.dtype in (torch.bfloat16, torch.float16):
        found = found.float()
    return np.array(found.detach().cpu().numpy(), order="C")  # a 0-d array stays one


def _vector(path: PathLike, axis: str, given: Any, problem: Problem) -> Vec:
    if not isinstance(given, dict) or sorted(given) != sorted(map(str, range(len(given)))):
        raise StoreError(
            f"{path}: got {_some(given)} in {axis}, expected arrays named 0, 1, ...: it is no direction file of "
            f"loss-landscape"
        )
    moving: dict[str, Tensor] = {}
    like = problem.parameters
    for place, (name, _) in enumerate(_order(path, axis, given, problem)):
        array = given[str(place)]
        if name in moving and not torch.equal(moving[name], torch.from_numpy(array).to(moving[name])):
            raise StoreError(
                f"{path}: got two directions for {name}, which is tied, expected one in both places: make it with "
                f"dir_type=weights"
            )
        if name in like:
            # in the memory layout of the parameter, on which the last bits of a loss depend
            moving[name] = torch.empty_like(like[name].detach()).copy_(torch.from_numpy(array))
        elif array.any():
            raise StoreError(
                f"{path}: got a direction that moves {name}, expected zeros for what is no trainable parameter: make "
                f"it with --xignore biasbn --yignore biasbn, or unfreeze the parameter"
            )
    return [moving[name] for name in problem.names]


def _order(path: PathLike, axis: str, given: dict[str, np.ndarray], problem: Problem) -> list[tuple[str, Tensor]]:
    """Names and tensors in the order of this file; raises StoreError where neither kind fits."""
    orders = {kind: _members(problem, kind) for kind in KINDS}
    fitting = [order for order in orders.values() if len(order) == len(given)]
    if not fitting:
        raise StoreError(
            f"{path}: got {len(given)} tensors in {axis}, expected {len(orders['weights'])} (the parameters of "
            f"{type(problem.model).__name__}) or {len(orders['states'])} (its state): read it with the model that it "
            f"was made for"
        )
    wrong = []
    for order in fitting:
        of = [(place, given[str(place)], name, tuple(own.shape)) for place, (name, own) in enumerate(order)]
        wrong = [one for one in of if one[1].shape != one[3] or one[1].dtype.kind not in "iuf"]
        if not wrong:
            return order
    place, array, name, shape = wrong[0]
    raise StoreError(
        f"{path}: got shape {array.shape} for tensor {place} of {axis}, expected {shape} ({name}): read it with the "
        f"model that it was made for"
    )


def write_li_surface(
    result: Surface | Line, path: PathLike, *, directions_file: str = "", replace: bool = False
) -> Path:
    """Write a surface or line as their plotting code reads it; points that were not evaluated become -1.

    ``directions_file`` is kept as ``dir_file``.  The metric "accuracy" (or "error") becomes ``train_acc`` in percent,
    interpolated losses are written like others.  Standard errors, radii and how the surface was made have no place in
    their files; use ``save`` to keep everything.  Raises StoreError where the file cannot be written.
    """
    arrays: dict[str, Any] = {"dir_file": directions_file, "xcoordinates": np.asarray(result.alpha, np.float64)}
    if isinstance(result, Surface):
        arrays["ycoordinates"] = np.asarray(result.beta, np.float64)
    for name, values in _curves(result).items():
        kept = np.where(_missing(result), MINUS_ONE, np.asarray(values, np.float64))
        arrays[name] = _to_their_layout(kept)
    return write_arrays(path, arrays, replace)


def read_li_surface(path: PathLike) -> Surface | Line:
    """The surface (or line, where there are no ``ycoordinates``) in a file of their code.

    ``train_acc`` becomes the metric "accuracy", a share; other curves are metrics under their own names.  What the file
    does not say is nan: standard errors, radii, lengths of the directions.  The loss at the centre is
    that of the point (0, 0), nan where the grid has none.  Raises StoreError for a damaged or foreign file and for
    arrays whose size is not that of the grid.
    """
    arrays = read_arrays(path, "a surface file of loss-landscape", skip={"dir_file"})
    flat = {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}
    if "xcoordinates" not in flat or "train_loss" not in flat:
        raise StoreError(
            f"{path}: got {_some(arrays)}, expected xcoordinates and train_loss: it is no surface file of "
            f"loss-landscape, or no point was evaluated yet"
        )
    x, y = (_axis(path, name, flat.get(name)) for name in ("xcoordinates", "ycoordinates"))
    if x is None:
        raise StoreError(f"{path}: got no points, expected xcoordinates: it is no surface file of loss-landscape")
    sizes = (len(x),) if y is None else (len(y), len(x))
    values = {name: _from_their_layout(path, name, flat[name], sizes) for name in CURVES if name in flat}
    return _made(x, y, values, f"of the file {Path(path).name}")


def _to_their_layout(values: np.ndarray) -> np.ndarray:
    """(ny, nx) row by row, declared as (nx, ny)."""
    return np.ascontiguousarray(values).reshape(values.shape[::-1])


def _from_their_layout(path: PathLike, name: str, data: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """(nx, ny) as declared, (ny, nx) as meant."""
    if data.shape != sizes[::-1] or data.dtype.kind not in "iuf":
        raise StoreError(
            f"{path}: got {name} of shape {data.shape}, expected {sizes[::-1]}, the points of its coordinates: the "
            f"file is damaged or of another program"
        )
    return data.astype(np.float64).reshape(sizes)


def _axis(path: PathLike, name: str, values: np.ndarray | None) -> np.ndarray | None:
    if values is None:
        return None
    rising = values.ndim == 1 and values.dtype.kind in "iuf" and len(values) and (np.diff(values) > 0).all()
    if not rising or not np.isfinite(values).all():
        raise StoreError(f"{path}: got {name} that do not rise, expected a grid: the file is damaged")
    return values.astype(np.float64)


def write_li_trajectory(way: Trajectory, path: PathLike, *, replace: bool = False) -> Path:
    """Write coordinates as their ``_proj_lstsq.h5`` has them; steps and residuals have no place there.

    Raises ValueError unless there are two coordinates, StoreError where the file cannot be written.
    """
    if way.coordinates.shape[1] != 2:
        raise ValueError(
            f"write_li_trajectory got {way.coordinates.shape[1]} coordinates, expected two: project onto a plane"
        )
    x, y = np.ascontiguousarray(way.coordinates.T)
    return write_arrays(path, {"proj_xcoord": x, "proj_ycoord": y}, replace)


def read_li_trajectory(path: PathLike, directions: Directions | None = None) -> Trajectory:
    """The trajectory in a ``_proj_cos.h5`` or ``_proj_lstsq.h5`` of their code; its steps are 0, 1, ...

    ``cos`` files (told by their name) hold lengths along the directions and not coordinates; give the two
    ``directions`` to have them converted.  Residuals, distances and shares of the variance are nan.  Raises StoreError
    for a damaged or foreign file, ValueError for a ``cos`` file without its two directions.
    """
    arrays = read_arrays(path, "a trajectory file of loss-landscape")
    columns = [arrays.get(name) for name in ("proj_xcoord", "proj_ycoord")]
    good = [c for c in columns if isinstance(c, np.ndarray) and c.ndim == 1 and c.dtype.kind in "iuf"]
    if len(good) != 2 or len(good[0]) != len(good[1]):
        raise StoreError(
            f"{path}: got {_some(arrays)}, expected proj_xcoord and proj_ycoord of one length: it is no trajectory "
            f"file of loss-landscape"
        )
    coordinates = np.stack(good, axis=1).astype(np.float64)
    if "proj_cos" in Path(path).name:
        coordinates = _from_cos(path, coordinates, directions)
    n, nan = len(coordinates), float("nan")
    text = directions.text if directions is not None else f"of the file {Path(path).name}"
    return Trajectory(
        np.arange(n), coordinates, np.full(n, nan), np.full(n, nan), np.full(2, nan), text,
        "" if directions is None else directions.digest, nan,
    )  # fmt: skip


def _from_cos(path: PathLike, lengths: np.ndarray, directions: Directions | None) -> np.ndarray:
    """Least-squares coordinates from the scalar products with the directions, each divided by the length of its own."""
    if directions is None or len(directions.vectors) != 2:
        raise ValueError(
            f"{path}: got lengths along two directions (a proj_cos file) without these directions, expected them: "
            f"pass directions=read_li_directions(...)"
        )
    a, b = directions.norms
    gram = np.array([[a * a, a * b * directions.cosine], [a * b * directions.cosine, b * b]])
    return np.linalg.solve(gram, (lengths * [a, b]).T).T


CURVES = ("train_loss", "train_acc", "test_loss", "test_acc", "min_eig", "max_eig")


def _curves(result: Surface | Line) -> dict[str, np.ndarray]:
    """What their files have a name for."""
    metrics, found = result.metrics, {"train_loss": result.loss}
    if "accuracy" in metrics or "error" in metrics:
        share = metrics["accuracy"] if "accuracy" in metrics else 1 - metrics["error"]
        found["train_acc"] = 100 * share
    return found | {name: metrics[name] for name in CURVES[2:] if name in metrics}


def _missing(result: Surface | Line) -> np.ndarray:
    """Points without any value."""
    status = result.status if isinstance(result, Surface) else None
    return np.zeros(result.loss.shape, dtype=bool) if status is None else np.asarray(status == MISSING)


def _made(x: np.ndarray, y: np.ndarray | None, values: dict[str, np.ndarray], text: str) -> Surface | Line:
    gone = values["train_loss"] == MINUS_ONE
    loss = np.where(gone, np.nan, values.pop("train_loss"))
    metrics = {name: np.where(gone, np.nan, curve) for name, curve in values.items()}
    if "train_acc" in metrics:
        metrics = {"accuracy": metrics.pop("train_acc") / 100, **metrics}
    unknown, nan = np.full(loss.shape, np.nan), float("nan")
    axes = (x,) if y is None else (y, x)
    at = tuple(int(np.argmin(np.abs(axis))) for axis in axes)
    zero = all(abs(axis[place]) < 1e-12 for axis, place in zip(axes, at, strict=True))
    center = float(loss[at]) if zero else nan
    if y is None:
        return Line(x, loss, unknown, unknown.copy(), center, nan, text, None, "float32", 0, text, metrics)
    status = np.where(gone, MISSING, np.where(np.isfinite(loss), EVALUATED, NONFINITE)).astype(np.uint8)
    return Surface(
        x,
        y,
        loss,
        unknown,
        unknown.copy(),
        center,
        np.full(2, nan),
        nan,
        text,
        None,
        "float32",
        0,
        text,
        metrics,
        status,
    )


def _some(arrays: Any) -> str:
    names: Sequence[str] = list(arrays) if isinstance(arrays, dict) else [type(arrays).__name__]
    return ", ".join(names)[:120] or "nothing"
