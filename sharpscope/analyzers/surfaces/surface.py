"""Loss along directions through the weights: lines and surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from sharpscope.analyzers.surfaces._points import Points, points_of
from sharpscope.analyzers.surfaces._precision import Rounding
from sharpscope.analyzers.surfaces.directions import Directions, unit_of
from sharpscope.analyzers.surfaces.keeping import Resume
from sharpscope.analyzers.surfaces.refine import EVALUATED, INTERPOLATED, NONFINITE, Refined, refine
from sharpscope.analyzers.surfaces.request import Metrics, Request
from sharpscope.core.progress import bar
from sharpscope.core.results import Dims, Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.problem.problem import Problem

__all__ = ["MISSING", "Line", "Span", "Surface", "grids", "line", "surface"]

Span = float | tuple[float, float]

MISSING = 3  # the status of a point without a value, which only files of other programs have


@dataclass(frozen=True, eq=False, repr=False)
class Line(Result):
    """Loss along one direction: L(w + alpha d)."""

    dims: ClassVar[Dims] = {"loss stderr radius metrics": "alpha"}

    alpha: np.ndarray  # (n,) float64, in units of the direction (1 = one filter norm for every filter)
    loss: np.ndarray  # (n,) float64, mean loss; nan or inf where the loss was not finite
    stderr: np.ndarray  # (n,) float64, paired standard error of L(w + alpha d) - L(w) over examples; nan if unknown
    radius: np.ndarray  # (n,) float64, |alpha d| / |w|
    center: float  # L(w)
    norm: float  # |d|
    directions: str  # how the direction was made
    seed: int | None  # of a random direction
    precision: str
    examples: int  # examples behind every point
    problem: str  # loss, examples, BatchNorm mode, dtype in words
    metrics: dict[str, np.ndarray] = field(default_factory=dict)  # by name, (n,) float64
    how: str = ""  # how outputs were computed; line(..., how=how) repeats the bits
    digest: str = ""  # fingerprint of the direction
    precision_error: float = 0.0  # largest relative error of the loss against float32 on precision_points; 0 is exact
    precision_error_95: float = 0.0  # 95th percentile of the same; other points may be off by more than either
    precision_points: int = 0  # points that were evaluated in float32 too

    def units(self) -> dict[str, str]:
        """The unit of every array."""
        return _units(self.directions, "alpha")


@dataclass(frozen=True, eq=False, repr=False)
class Surface(Result):
    """Loss over a plane: ``loss[i, j]`` is L(w + alpha[j] d1 + beta[i] d2)."""

    dims: ClassVar[Dims] = {"loss stderr radius metrics status": "beta alpha", "norms": "direction"}

    alpha: np.ndarray  # (nx,) float64, coordinate along d1 (1 = one filter norm for every filter)
    beta: np.ndarray  # (ny,) float64, coordinate along d2
    loss: np.ndarray  # (ny, nx) float64, mean loss; nan or inf where the loss was not finite
    stderr: np.ndarray  # (ny, nx) float64, paired standard error of L(w + d) - L(w) over examples; nan if unknown
    radius: np.ndarray  # (ny, nx) float64, |alpha d1 + beta d2| / |w|
    center: float  # L(w)
    norms: np.ndarray  # (2,) float64, |d1|, |d2|
    cosine: float  # of the angle between d1 and d2
    directions: str  # how the directions were made
    seed: int | None  # of random directions
    precision: str
    examples: int  # examples behind every point
    problem: str  # loss, examples, BatchNorm mode, dtype in words
    metrics: dict[str, np.ndarray] = field(default_factory=dict)  # by name, (ny, nx) float64; nan where interpolated
    status: np.ndarray | None = None  # (ny, nx) uint8: 0 interpolated, 1 evaluated, 2 not finite, 3 missing
    tolerance: float | None = None  # that was asked for, relative; None for a full plane
    error: float = 0.0  # estimated largest relative error of interpolated losses (see refine), from held-out points
    how: str = ""  # how outputs were computed; surface(..., how=how) repeats the bits
    digest: str = ""  # fingerprint of the directions
    precision_error: float = 0.0  # largest relative error of the loss against float32 on precision_points; 0 is exact
    precision_error_95: float = 0.0  # 95th percentile of the same; other points may be off by more than either
    precision_points: int = 0  # points that were evaluated in float32 too

    @property
    def evaluated(self) -> np.ndarray:
        """(ny, nx) bool: where the model was evaluated rather than the loss interpolated (or missing)."""
        if self.status is None:
            return np.ones(self.loss.shape, dtype=bool)
        return np.asarray((self.status == EVALUATED) | (self.status == NONFINITE))

    @property
    def points(self) -> int:
        """How many were evaluated."""
        return int(self.evaluated.sum())

    def units(self) -> dict[str, str]:
        """The unit of every array."""
        return _units(self.directions, "alpha", "beta")


def _units(directions: str, *axes: str) -> dict[str, str]:
    return {
        **dict.fromkeys(axes, unit_of(directions)),
        "loss": "mean loss per example",
        "stderr": "mean loss per example",
        "radius": "norm of the weights",
    }


@undisturbed
def line(
    problem: Problem,
    resolution: int = 51,
    span: Span = 1.0,
    directions: str | Directions = "filter",
    seed: int = 0,
    precision: str = "float32",
    *,
    metrics: Metrics | None = None,
    examples: int | None = None,
    batchnorm: str = "eval",
    statistics: int | None = None,
    bound: float = 0.02,
    how: str = "fastest",
    resume: Resume = None,
    progress: bool | None = None,
) -> Line:
    """Loss along one direction d: L(w + alpha d) for alpha in ``span``.

    Arguments, errors and accuracy are those of ``surface``; d is its first direction.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> line(Problem(model, torch.nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1))), resolution=5).loss.shape
        (5,)
    """
    alpha = _grid("line", resolution, span)
    request = Request(
        "line", (alpha,), directions, seed, precision, metrics, examples, batchnorm, statistics, bound, how, resume
    )  # fmt: skip
    points = points_of(problem, request)
    rounding, evaluator, made = Rounding(points), points.evaluator, points.directions
    with bar(len(alpha), "line", progress) as shown:
        rounding.measured()
        rows = points.evaluate(range(len(alpha)), shown.update)
        errors = rounding.measured()
    loss, stderr = _columns(rows)
    return Line(
        alpha, loss, stderr, points.radii(), float(points.center[0]), float(made.norms[0]), made.text,
        made.seed, points.precision, evaluator.examples, points.described(), _metrics(points, rows, alpha.shape),
        evaluator.how, made.digest, *errors,
    )  # fmt: skip


@undisturbed
def surface(
    problem: Problem,
    resolution: int | tuple[int, int] = 51,
    span: Span | tuple[tuple[float, float], tuple[float, float]] = 1.0,
    directions: str | Directions = "filter",
    seed: int = 0,
    precision: str = "float32",
    *,
    metrics: Metrics | None = None,
    examples: int | None = None,
    batchnorm: str = "eval",
    statistics: int | None = None,
    bound: float = 0.02,
    tolerance: float | None = None,
    how: str = "fastest",
    resume: Resume = None,
    show: Callable[[Surface], object] | None = None,
    progress: bool | None = None,
) -> Surface:
    """Loss over a plane through the weights: ``loss[i, j]`` = L(w + alpha[j] d1 + beta[i] d2).

    By default d1 and d2 are random and scaled filter by filter to the weights: Li et al. 2018, "Visualizing the loss
    landscape of neural nets", section 4 (with their code's ``biasbn`` rule: tensors with one dim do not move).  Every
    point is formed from the centre, as (w + alpha d1) + beta d2, in float32 (float64 for a float64 model); buffers do
    not move; sums are in float64.  A copy of the model that shares its weights is evaluated; the model itself is never
    displaced.

    Args:
        problem: the function.
        resolution: points along each axis, or (along x, along y); odd numbers include the centre.
        span: half-width of the square, or (low, high) of both axes, or ((x low, x high), (y low, y high)).
        directions: "filter", "layer", "weight" or "none" (see ``random_directions``), or Directions: eigenvectors, the
            gradient, other weights, a trajectory, a mask's subspace.
        seed: of random directions, which depend on (seed, parameter name) alone, so models of one architecture share
            them; and of what is drawn at random below.
        precision: "float32", the model's own (float32 or wider), is exact.  "bfloat16" casts weights and inputs; the
            relative error of the loss is measured on some points, stored, and compared with ``bound``: on 5 % of the
            points evaluated, at least 32 of them; half are where the loss is lowest, the others corners, edges, the
            centre, and random.  The largest on those is no bound of the others.
        metrics: measured beside the loss: "accuracy", "error", a list of those, or {name: function(outputs, targets)},
            a function that returns a value per example or the mean over its examples.
        examples: evaluate on so many, drawn by ``seed`` once for all points; None for all.
        batchnorm: "eval" keeps the running statistics of the model; "recompute" re-estimates them at every point.
        statistics: on so many examples, drawn by ``seed``; None for all.  Averages over batches of about 128.
        bound: a relative error in bfloat16 above it, on the points where it is measured, is refused: after the first 16
            of them, or at the end.
        tolerance: evaluate only as many points as this relative error of the loss needs and interpolate the others (see
            ``refine``, which says what the estimated ``error`` of the result is worth); None evaluates all.
        how: "fastest" measures once per model and process in which layout and how many examples at a time; "untimed"
            takes the usual; the ``how`` of a former result repeats its bits.
        resume: a path; finished points are kept in this file, on the disk within seconds, and the same call goes on
            where it was killed.  Delete the file when the result is saved.
        show: called with the surface so far after every level of a refinement, the coarse one within seconds.
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for a resolution below 2, an empty span, unknown options, a seed that is no whole number, weights
    whose filters are all zero (the plane is a point), directions of another model, a loss that is not finite at the
    centre, a metric that fails, too large an error in bfloat16, and a tolerance that is not positive; StoreError where
    ``resume`` is the file of another plane, or no file of one.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> surface(Problem(model, torch.nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1))), resolution=3).loss.shape
        (3, 3)
    """
    alpha, beta = grids("surface", resolution, span)
    request = Request(
        "surface", (alpha, beta), directions, seed, precision, metrics, examples, batchnorm, statistics, bound, how,
        resume,
    )  # fmt: skip
    if tolerance is not None and not (_is_number(tolerance) and 0 < tolerance < math.inf):
        raise ValueError(f"the surface got tolerance={tolerance!r}, expected a positive number or None: 0.01 is usual")
    points = points_of(problem, request)
    rounding, count = Rounding(points), len(alpha) * len(beta)
    with bar(count if tolerance is None else None, "surface", progress) as shown:
        errors = rounding.measured()
        if tolerance is None:
            points.evaluate(range(count), shown.update)
            return _surface(points, rounding.measured(), None)

        def evaluate(at: np.ndarray) -> np.ndarray:
            return points.evaluate(np.ravel_multi_index((at[:, 0], at[:, 1]), points.shape), shown.update)[:, 0]

        def tell(level: Refined) -> None:
            shown.set_description_str(f"surface, error {level.error:.2g}")
            if show is not None:
                show(_surface(points, errors, level, tolerance))

        found = refine(evaluate, alpha, beta, tolerance, int(seed), errors[0], tell)
        final = rounding.measured()
    error = found.error + 2 * (final[0] - errors[0]) if found.error else 0.0  # as ``refine`` adds the noise
    return _surface(points, final, replace(found, error=error), tolerance)


def _surface(
    points: Points, errors: tuple[float, float, int], level: Refined | None, tolerance: float | None = None
) -> Surface:
    """What is known of a plane: evaluated points, and between them what a refinement tells."""
    shape, made, evaluator = points.shape, points.directions, points.evaluator
    rows = np.full((math.prod(shape), 2 + len(evaluator.metrics)), math.nan)
    known = np.array([index for index in points.known if index >= 0])
    rows[known] = [points.known[index] for index in known]
    loss, stderr = (column.reshape(shape) for column in _columns(rows))
    status = np.full(shape, INTERPOLATED, dtype=np.uint8)
    status.flat[known] = np.where(np.isfinite(rows[known, 0]), EVALUATED, NONFINITE)
    if level is not None:
        loss = np.where(status == INTERPOLATED, level.loss, loss)
    alpha, beta = points.request.axes
    return Surface(
        alpha, beta, loss, stderr, points.radii(), float(points.center[0]), made.norms[:2], made.cosine, made.text,
        made.seed, points.precision, evaluator.examples, points.described(), _metrics(points, rows, shape), status,
        tolerance, level.error if level else 0.0, evaluator.how, made.digest, *errors,
    )  # fmt: skip


def _columns(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1])


def _metrics(points: Points, rows: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    names = points.evaluator.metrics
    return {name: np.ascontiguousarray(rows[:, 2 + place]).reshape(shape) for place, name in enumerate(names)}


def grids(owner: str, resolution: Any, span: Any) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates along both axes; raises ValueError for what is no grid."""
    across, up = _per_axis(resolution)
    wide, high = _per_axis(span, nested=True)
    return _grid(owner, across, wide), _grid(owner, up, high)


def _grid(owner: str, resolution: int, span: Span) -> np.ndarray:
    if isinstance(resolution, bool) or not isinstance(resolution, (int, np.integer)) or resolution < 2:
        raise ValueError(f"the {owner} got resolution={resolution!r}, expected a whole number >= 2: 51 is usual")
    low, high = _ends(span)
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"the {owner} got span={span!r}, expected a positive number or (low, high): 1.0 is usual")
    grid = np.linspace(low, high, resolution)
    # rounding must not move the point in the middle away from the centre
    return (grid - grid[::-1]) / 2 if low == -high else grid


def _ends(span: Any) -> tuple[float, float]:
    """Low and high end of the grid; nan for what is no span."""
    ends = span if isinstance(span, tuple) else (span, span)
    if len(ends) != 2 or not all(map(_is_number, ends)):
        return math.nan, math.nan
    return (float(ends[0]) if isinstance(span, tuple) else -float(span)), float(ends[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _per_axis(value: Any, nested: bool = False) -> tuple[Any, Any]:
    """What holds along x and along y: the parts of a pair (if ``nested``, of one that holds a pair), or ``value``."""
    pair = isinstance(value, tuple) and len(value) == 2
    pair = pair and (not nested or any(isinstance(part, tuple) for part in value))
    return value if pair else (value, value)
