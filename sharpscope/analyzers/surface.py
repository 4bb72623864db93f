"""Loss along filter-normalised directions: lines and surfaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from sharpscope.analyzers.directions import filter_normalised, random_directions
from sharpscope.problem import Problem
from sharpscope.progress import bar
from sharpscope.results import Dims, Result
from sharpscope.vectors import Vec, add, dot, norm

__all__ = ["Line", "Surface", "line", "surface"]

Span = float | tuple[float, float]


@dataclass(frozen=True, eq=False, repr=False)
class Line(Result):
    """Loss along one direction: L(w + alpha d)."""

    dims: ClassVar[Dims] = {"loss stderr radius": "alpha"}

    alpha: np.ndarray  # (n,) float64, in units of the direction (1 = one filter norm for every filter)
    loss: np.ndarray  # (n,) float64, mean loss; nan or inf where the loss was not finite
    stderr: np.ndarray  # (n,) float64, paired standard error of L(w + alpha d) - L(w) over examples; nan if unknown
    radius: np.ndarray  # (n,) float64, |alpha d| / |w|
    center: float  # L(w)
    norm: float  # |d|
    directions: str  # how the direction was made
    seed: int
    precision: str
    examples: int  # examples behind every point
    problem: str  # loss, examples, BatchNorm mode, dtype in words


@dataclass(frozen=True, eq=False, repr=False)
class Surface(Result):
    """Loss over a plane: ``loss[i, j]`` is L(w + alpha[j] d1 + beta[i] d2)."""

    dims: ClassVar[Dims] = {"loss stderr radius": "beta alpha", "norms": "direction"}

    alpha: np.ndarray  # (nx,) float64, coordinate along d1 (1 = one filter norm for every filter)
    beta: np.ndarray  # (ny,) float64, coordinate along d2
    loss: np.ndarray  # (ny, nx) float64, mean loss; nan or inf where the loss was not finite
    stderr: np.ndarray  # (ny, nx) float64, paired standard error of L(w + d) - L(w) over examples; nan if unknown
    radius: np.ndarray  # (ny, nx) float64, |alpha d1 + beta d2| / |w|
    center: float  # L(w)
    norms: np.ndarray  # (2,) float64, |d1|, |d2|
    cosine: float  # of the angle between d1 and d2
    directions: str  # how the directions were made
    seed: int
    precision: str
    examples: int  # examples behind every point
    problem: str  # loss, examples, BatchNorm mode, dtype in words


def line(
    problem: Problem,
    resolution: int = 51,
    span: Span = 1.0,
    directions: str = "filter",
    seed: int = 0,
    precision: str = "float32",
    *,
    progress: bool | None = None,
) -> Line:
    """Loss along one random direction d, scaled filter by filter: L(w + alpha d) for alpha in ``span``.

    Arguments, errors and accuracy are those of ``surface``; d is its first direction.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> line(Problem(model, torch.nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1))), resolution=5).loss.shape
        (5,)
    """
    alpha = _grid("line", resolution, span)
    plane = _Plane("line", problem, directions, seed, precision, axes=("x",))
    with bar(len(alpha), "line", progress) as shown:
        points = [plane.point((a,), shown.update) for a in alpha]
    loss, stderr, radius = (np.array(column) for column in zip(*points, strict=True))
    return Line(alpha, loss, stderr, radius, plane.center, float(norm(plane.axes[0])), *plane.settings())


def surface(
    problem: Problem,
    resolution: int | tuple[int, int] = 51,
    span: Span | tuple[tuple[float, float], tuple[float, float]] = 1.0,
    directions: str = "filter",
    seed: int = 0,
    precision: str = "float32",
    *,
    progress: bool | None = None,
) -> Surface:
    """Loss over a random plane through the weights: ``loss[i, j]`` = L(w + alpha[j] d1 + beta[i] d2).

    The directions are scaled filter by filter to the weights.
    Li et al. 2018, "Visualizing the loss landscape of neural nets", section 4 (with their code's ``biasbn`` rule:
    tensors with one dim do not move).  Each point is formed from the centre, in the model's own dtype; buffers never
    move; sums are in float64.  The model is evaluated in eval mode and is never displaced.

    Args:
        problem: the function.
        resolution: points along each axis, or (along x, along y); odd numbers include the centre.
        span: half-width of the square, or (low, high) of both axes, or ((x low, x high), (y low, y high)).
        directions: "filter".
        seed: of the directions; they depend on (seed, parameter name) alone, so models of one architecture share them.
        precision: "float32", the model's own (float32 or wider).
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for a resolution below 2, an empty span, unknown directions or precision, a seed that is no whole
    number, weights whose filters are all zero (the plane is a point), and a loss that is not finite at the centre.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> surface(Problem(model, torch.nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1))), resolution=3).loss.shape
        (3, 3)
    """
    across, up = _per_axis(resolution)
    wide, high = _per_axis(span, nested=True)
    alpha, beta = _grid("surface", across, wide), _grid("surface", up, high)
    plane = _Plane("surface", problem, directions, seed, precision, axes=("x", "y"))
    with bar(len(alpha) * len(beta), "surface", progress) as shown:
        points = np.array([[plane.point((a, b), shown.update) for a in alpha] for b in beta])
    d1, d2 = plane.axes
    norms = np.array([float(norm(d1)), float(norm(d2))])
    cosine = float(dot(d1, d2)) / float(norms.prod())
    loss, stderr, radius = (np.ascontiguousarray(points[..., i]) for i in range(3))
    return Surface(alpha, beta, loss, stderr, radius, plane.center, norms, cosine, *plane.settings())


class _Plane:
    """The centre, the axes, and what is the same at every point."""

    def __init__(
        self, owner: str, problem: Problem, directions: str, seed: int, precision: str, axes: Sequence[str]
    ) -> None:
        if directions != "filter":
            raise ValueError(f"the {owner} got directions={directions!r}, expected 'filter': change directions")
        if precision != "float32":
            raise ValueError(f"the {owner} got precision={precision!r}, expected 'float32': change precision")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise ValueError(f"the {owner} got seed={seed!r}, expected a whole number: 0 is usual")
        self.problem, self.seed, self.directions = problem, int(seed), directions
        self.weights: Vec = [w.clone() for w in problem.weights]
        self.axes = [filter_normalised(random_directions(problem, self.seed, axis), self.weights) for axis in axes]
        if not any(bool(d.any()) for d in self.axes[0]):
            raise ValueError(
                f"the {owner} got no filter that can move, expected nonzero weights in a tensor with two or more dims: "
                f"initialise the model or reshape its parameters"
            )
        self.length = float(norm(self.weights))
        self.losses, self.denominator = problem.example_losses(self.weights)
        self.center = float(self.losses.sum() / self.denominator)
        if not np.isfinite(self.center):
            raise ValueError(
                f"the loss at the centre is {self.center}, expected a finite number: "
                f"check the weights and the data before drawing around them"
            )

    def point(self, at: Sequence[float], tick: Callable[[], object]) -> tuple[float, float, float]:
        """Loss, paired standard error of its difference to the centre, relative radius."""
        moved = self.weights
        for coordinate, axis in zip(at, self.axes, strict=True):
            moved = add(moved, axis, alpha=float(coordinate))
        radius = float(norm([m - w for m, w in zip(moved, self.weights, strict=True)])) / self.length
        losses, _ = self.problem.example_losses(moved)
        tick()
        return float(losses.sum() / self.denominator), self._stderr(losses - self.losses), radius

    def settings(self) -> tuple[str, int, str, int, str]:
        """The fields that every picture of a plane carries: directions, seed, precision, examples, problem."""
        precision = str(self.problem.dtype).removeprefix("torch.")
        return self.directions, self.seed, precision, self.problem.examples, self.problem.describe()

    def _stderr(self, difference: Tensor) -> float:
        count = len(difference)
        if count < 2:
            return float("nan")
        return float(difference.std()) * math.sqrt(count) / self.denominator


def _grid(owner: str, resolution: int, span: Span) -> np.ndarray:
    if isinstance(resolution, bool) or not isinstance(resolution, (int, np.integer)) or resolution < 2:
        raise ValueError(f"the {owner} got resolution={resolution!r}, expected a whole number >= 2: 51 is usual")
    low, high = _ends(span)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"the {owner} got span={span!r}, expected a positive number or (low, high): 1.0 is usual")
    grid = np.linspace(low, high, resolution)
    # rounding must not move the point in the middle away from the centre
    return (grid - grid[::-1]) / 2 if low == -high else grid


def _ends(span: Any) -> tuple[float, float]:
    """Low and high end of the grid; nan for what is no span."""
    ends = span if isinstance(span, tuple) else (span, span)
    if len(ends) != 2 or not all(isinstance(end, (int, float, np.integer, np.floating)) for end in ends):
        return math.nan, math.nan
    return (float(ends[0]) if isinstance(span, tuple) else -float(span)), float(ends[1])


def _per_axis(value: Any, nested: bool = False) -> tuple[Any, Any]:
    """What holds along x and along y: the parts of a pair (if ``nested``, of one that holds a pair), or ``value``."""
    pair = isinstance(value, tuple) and len(value) == 2
    pair = pair and (not nested or any(isinstance(part, tuple) for part in value))
    return value if pair else (value, value)
