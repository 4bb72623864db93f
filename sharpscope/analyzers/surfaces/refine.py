"""A surface from a small part of its points: refined where it needs to be, with the error that is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sharpscope.analyzers.surfaces._rbf import predict

__all__ = ["EVALUATED", "INTERPOLATED", "NONFINITE", "Refined", "refine"]

INTERPOLATED, EVALUATED, NONFINITE = 0, 1, 2  # a non-finite point was evaluated

_COARSE = (9, 7)  # points along each axis of the coarse level: of a line, of a plane
_GROWTH = 0.15  # points of a level per point so far
_LEAST = 8  # points of a level at least
_RANDOM = 0.1  # of a level: points drawn at random, not where in doubt
_ORDER = 2.0  # the doubt grows with this power of the distance to the next evaluated point
_AROUND = 6  # evaluated points whose own errors speak for the points between them
_HELD_OUT = np.array([0.4, 0.6, 1.0])  # what the largest errors of the last levels weigh in the estimate
_SAFETY, _FEW = 1.4, 180  # factor of the estimate, and the points where it is twice that; see ``refine``


@dataclass(frozen=True, eq=False)
class Refined:
    """Values on a grid of which some points were evaluated and the others interpolated."""

    loss: np.ndarray  # (ny, nx) float64; nan or inf where the evaluation was
    status: np.ndarray  # (ny, nx) uint8: INTERPOLATED, EVALUATED or NONFINITE (evaluated, and not finite)
    error: float  # estimate of the largest relative error of an interpolated point; inf at first, 0 when there is none
    floor: float  # relative errors are |interpolated - true| / max(|true|, floor)
    evaluated: int  # points
    converged: bool  # error <= tolerance + 2 noise
    history: np.ndarray  # (levels, 2) float64: points evaluated so far, error


class _Grid:
    """What is known of the grid, flat, and who is next to whom."""

    def __init__(self, evaluate: Callable[[np.ndarray], np.ndarray], alpha: np.ndarray, beta: np.ndarray) -> None:
        self.evaluate, self.shape = evaluate, (len(beta), len(alpha))
        # a square whose sides are the axes, in steps of the longer one
        axes = [max(self.shape) * (axis - axis[0]) / ((axis[-1] - axis[0]) or 1.0) for axis in (beta, alpha)]
        self.places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        self.values = np.full(len(self.places), math.nan)
        self.known = np.zeros(len(self.places), dtype=bool)

    @property
    def finite(self) -> np.ndarray:
        """(n,) bool: evaluated, and a finite number."""
        return np.asarray(self.known & np.isfinite(self.values))

    def ask(self, points: np.ndarray) -> bool:
        """Evaluate points, and the neighbours of all that are not finite; whether all were finite."""
        clean = True
        while len(points):
            values = np.asarray(self.evaluate(np.stack(np.unravel_index(points, self.shape), axis=1)))
            if values.shape != points.shape or values.dtype != np.float64:
                raise ValueError(
                    f"refine got {values.dtype} values of shape {values.shape} from evaluate, expected float64 of "
                    f"shape {points.shape}: return one loss for every row of indices"
                )
            self.values[points], self.known[points] = values, True
            broken = points[~np.isfinite(values)]
            clean = clean and not len(broken)
            points = self._unknown_beside(broken)
        return clean

    def _unknown_beside(self, points: np.ndarray) -> np.ndarray:
        rows, columns = np.unravel_index(points, self.shape)
        steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
        at = np.stack([rows, columns], axis=1)[:, None] + steps
        at = at[((at >= 0) & (at < self.shape)).all(axis=-1)]
        flat = np.unique(np.ravel_multi_index((at[:, 0], at[:, 1]), self.shape))
        return np.asarray(flat[~self.known[flat]])


def refine(
    evaluate: Callable[[np.ndarray], np.ndarray],
    alpha: np.ndarray,
    beta: np.ndarray,
    tolerance: float = 0.01,
    seed: int = 0,
    noise: float = 0.0,
    show: Callable[[Refined], object] = lambda refined: None,
) -> Refined:
    """Values on the grid ``beta`` x ``alpha``, of which ``evaluate`` computes only as many as ``tolerance`` needs.

    A coarse lattice comes first, then levels of 15 % more points each.  Between the evaluated points stands a cubic
    radial-basis interpolant (in one dimension the natural cubic spline) of asinh(loss / 2 floor), which is
    log(loss / floor) but for losses around the floor or below it; floor = 0.001 x the median |loss| of the coarse
    level, or 0.1 x where some are negative.  Distances are those of a square: both axes count alike, whatever their
    span.  Most points of a level go where the interpolant is most in doubt: where evaluated points are predicted
    worst from the others (leave-one-out errors, Rippa 1999), weighted with the squared distance to the next of them;
    the rest are drawn at random.  Points next to a non-finite one are always evaluated, so every region of non-finite
    points that a level meets is outlined exactly, and interpolation never looks into it.

    **The error.**  Every level is held out: its points are predicted before they are evaluated, and only then join.
    The estimate is the largest relative error of those predictions, or 0.6 and 0.4 times those of the two levels
    before where that is more, times a safety factor.  The interpolant that is returned knows these points and is better
    than that; what the levels did not meet may be worse, the more so the fewer they met.  The factor that balances
    both, 1.4 (1 + 180 / points), was calibrated on planes of trained networks; ``benchmarks/refine.py`` measures it on
    others.  It is no bound: a kink between evaluated points can be missed.  A level that met a new region of non-finite
    points has no estimate (inf).

    **Noise.**  Evaluations in low precision scatter, and no interpolant gets closer to them than that.  ``noise`` is
    the largest relative error of an evaluation, as found by comparing some with exact ones.  A prediction is off by
    the noise of the point and about as much of the points around it: twice the noise is taken off the errors of the
    predictions and added to the estimate, and refinement stops at ``tolerance + 2 noise``.

    The points that are asked for are a function of the values so far and of the arguments alone, so that replaying
    stored values in ``evaluate`` resumes an interrupted refinement.

    Args:
        evaluate: losses, float64 of shape (m,), at grid points given as (m, 2) int64 rows (i, j); may be nan or inf.
            The loss at (i, j) belongs to beta[i], alpha[j], and must not depend on what else is asked.
        alpha: (nx,) float64, coordinates along x, increasing; one of the axes may have a single point.
        beta: (ny,) float64, coordinates along y, increasing.
        tolerance: stop when the estimated largest relative error is not above it (plus twice the noise).
        seed: of the points that are drawn at random.
        noise: largest relative error of an evaluation.
        show: called after every level with what is known so far, the coarse one first.

    Raises ValueError for a tolerance that is not positive, a negative noise, axes that do not increase, and values of
    ``evaluate`` in another shape or dtype.

    Example:
        >>> x = np.linspace(-1.0, 1.0, 51)
        >>> found = refine(lambda at: np.exp(x[at[:, 1]] ** 2 + 2 * x[at[:, 0]] ** 2), x, x)
        >>> found.evaluated < 0.2 * found.loss.size, found.error <= 0.01
        (True, True)
    """
    alpha, beta = _axis("alpha", alpha), _axis("beta", beta)
    if not 0 < tolerance < math.inf:
        raise ValueError(f"refine got tolerance={tolerance!r}, expected a number > 0: 0.01 is usual")
    if not 0 <= noise < math.inf:
        raise ValueError(f"refine got noise={noise!r}, expected a number >= 0: 0 for exact evaluations")
    random = np.random.default_rng(seed)
    grid = _Grid(evaluate, alpha, beta)
    grid.ask(_coarse(grid.shape))
    floor = _floor(grid.values[grid.finite])
    worst = [math.inf] * len(_HELD_OUT)  # the largest error of every level's predictions
    history: list[tuple[float, float]] = []
    clean = True  # the last level met no point that is not finite
    while True:
        guess = _guess(grid, floor)
        points = int(grid.known.sum())
        safety = _SAFETY * (1 + _FEW / points)
        error = safety * float((_HELD_OUT * worst[-3:]).max()) + 2 * noise if clean else math.inf
        error = error if points < len(guess) else 0.0
        history.append((points, error))
        found = _refined(grid, guess, floor, error, tolerance + 2 * noise, history)
        show(found)
        if found.converged:
            return found
        level = _level(grid, guess, floor, noise, random)
        clean = grid.ask(level)
        level = level[grid.finite[level]]
        missed = np.abs(guess[level] - grid.values[level]) / np.maximum(np.abs(grid.values[level]), floor)
        worst.append(max(float(missed.max(initial=0.0)) - 2 * noise, 0.0))


def _refined(
    grid: _Grid, guess: np.ndarray, floor: float, error: float, reach: float, history: list[tuple[float, float]]
) -> Refined:
    loss = np.where(grid.known, grid.values, guess)
    status = np.where(grid.finite, EVALUATED, np.where(grid.known, NONFINITE, INTERPOLATED)).astype(np.uint8)
    return Refined(
        loss.reshape(grid.shape), status.reshape(grid.shape), error, floor, int(grid.known.sum()), error <= reach,
        np.array(history),
    )  # fmt: skip


def _coarse(shape: tuple[int, int]) -> np.ndarray:
    """Flat indices of a lattice of the grid with its ends and, of odd axes, its middle."""
    along = _COARSE[0 if 1 in shape else 1]
    rows, columns = (np.unique(np.rint(np.linspace(0, n - 1, along)).astype(np.int64)) for n in shape)
    return np.add.outer(rows * shape[1], columns).ravel()


def _floor(losses: np.ndarray) -> float:
    """A thousandth of the typical size, a tenth where there are negative values; of 1 where all are zero."""
    sizes = np.abs(losses[losses != 0])
    typical = float(np.median(np.abs(losses))) if len(sizes) else 1.0
    return (1e-3 if (losses >= 0).all() else 0.1) * (typical or float(sizes.max()))


def _bend(losses: np.ndarray, floor: float) -> np.ndarray:
    return np.asarray(np.arcsinh(np.clip(losses, -1e300 * floor, 1e300 * floor) / (2 * floor)))


def _guess(grid: _Grid, floor: float) -> np.ndarray:
    """(n,) loss of every point as the others tell; nan where not finite, or if too little is known to tell."""
    finite = np.flatnonzero(grid.finite)
    guess = np.full(len(grid.values), math.nan)
    if len(finite):
        bent = _bend(grid.values[finite], floor)
        beyond = 0.5 * float(np.ptp(bent))
        where = np.flatnonzero(~grid.known | grid.finite)
        told = predict(grid.places, finite, bent, where)
        guess[where] = 2 * floor * np.sinh(np.clip(told, bent.min() - beyond, bent.max() + beyond))
    return guess


def _level(grid: _Grid, guess: np.ndarray, floor: float, noise: float, random: np.random.Generator) -> np.ndarray:
    """Flat indices of the points to evaluate next."""
    unknown, finite = np.flatnonzero(~grid.known), np.flatnonzero(grid.finite)
    size = min(len(unknown), max(_LEAST, math.ceil(_GROWTH * grid.known.sum())))
    drawn = random.choice(len(unknown), min(size, math.ceil(_RANDOM * size)), replace=False)
    places, chosen = grid.places[unknown], list(drawn)
    scale, near = np.ones(len(unknown)), np.full(len(unknown), math.inf)
    if len(finite) > 1:
        from scipy.spatial import cKDTree  # only here: importing it takes a tenth of a second

        tree = cKDTree(grid.places[finite])
        own = np.abs(_bend(guess[finite], floor) - _bend(grid.values[finite], floor))
        spacing = np.asarray(tree.query(grid.places[finite], k=2)[0])[:, 1]
        sharp = np.maximum(own - 2 * noise, 1e-12) / spacing**_ORDER
        distances, around = map(np.asarray, tree.query(places, k=min(_AROUND, len(finite))))
        scale, near = sharp[around].mean(axis=1), distances[:, 0]
    for point in drawn:
        near = np.minimum(near, np.linalg.norm(places - places[point], axis=1))
    while len(chosen) < size:
        chosen.append(int(np.argmax(scale * near**_ORDER)))
        near = np.minimum(near, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return np.asarray(unknown[chosen])


def _axis(name: str, values: np.ndarray) -> np.ndarray:
    axis = np.asarray(values, dtype=np.float64)
    if axis.ndim != 1 or not len(axis) or not np.isfinite(axis).all() or not (np.diff(axis) > 0).all():
        raise ValueError(f"refine got {name} of shape {axis.shape}, expected increasing finite coordinates: sort them")
    return axis
