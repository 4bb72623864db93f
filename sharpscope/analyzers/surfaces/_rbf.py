"""Interpolation of scattered points of a grid by cubic radial basis functions, and how well it predicts each point."""

from __future__ import annotations

import numpy as np

__all__ = ["predict"]

_AT_ONCE = 1500  # points of one system of equations: 150 MB and a second at most


def predict(places: np.ndarray, known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """What the known points tell about the wanted ones, each of which is left out where it is known itself.

    The interpolant is sum_j c_j |x - x_j|^3 plus a linear polynomial, and leaving a point out costs no other system of
    equations (Rippa 1999, "An algorithm for selecting a good value for the parameter c in radial basis function
    interpolation", eq. 17: the error is c_j / (A^-1)_jj).  Many points are split into parts, each solved with the
    points around it as well.

    Args:
        places: (n, 2) float64, coordinates of all points.
        known: (k,) int64, those whose values are known.
        values: (k,) float64.
        wanted: (m,) int64, points to tell about.

    Returns:
        (m,) float64.

    Example:
        >>> places = np.stack([np.arange(5.0), np.zeros(5)], axis=1)
        >>> predict(places, np.array([0, 1, 3, 4]), np.array([0.0, 2.0, 6.0, 8.0]), np.array([2, 3])).round(9)
        array([4., 6.])
    """
    if len(known) <= _AT_ONCE or not len(wanted):
        return _solve(places, known, values, wanted)
    axis = int(np.argmax(np.ptp(places[wanted], axis=0)))
    along = places[wanted, axis]
    middle = float(np.median(along))
    told = np.empty(len(wanted))
    for side in (along <= middle, along > middle):
        if not side.any():
            return _solve(places, known, values, wanted)
        low, high = along[side].min(), along[side].max()
        reach = 0.5 * (high - low) + 1
        inside = (places[known, axis] >= low - reach) & (places[known, axis] <= high + reach)
        told[side] = predict(places, known[inside], values[inside], wanted[side])
    return told


def _solve(places: np.ndarray, known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    middle = places[known].mean(axis=0)
    size = max(float(np.ptp(places[known], axis=0).max()), 1.0)
    points = (places[known] - middle) / size
    _, sizes, axes = np.linalg.svd(points, full_matrices=False)
    span = axes[sizes > 1e-9 * len(points)]  # one axis where all points are on a line, none for a single point

    def linear(at: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(at), 1)), at @ span.T], axis=1)

    count, terms = len(points), 1 + len(span)
    system = np.zeros((count + terms, count + terms))
    system[:count, :count] = _cubes(points, points)
    system[:count, count:] = linear(points)
    system[count:, :count] = system[:count, count:].T
    inverse = np.linalg.inv(system)
    weights = inverse[:, :count] @ values
    others = np.isin(wanted, known, invert=True)
    told = np.empty(len(wanted))
    at = (places[wanted[others]] - middle) / size
    told[others] = _cubes(at, points) @ weights[:count] + linear(at) @ weights[count:]
    if not others.all():
        order = np.argsort(known)
        own = order[np.searchsorted(known, wanted[~others], sorter=order)]
        alone = np.diag(inverse)[own]
        # a point without which the polynomial is not determined has no error of its own
        left = np.divide(weights[own], alone, out=np.zeros(len(own)), where=np.abs(alone) > 1e-12 * np.abs(alone).max())
        told[~others] = values[own] - left
    return told


def _cubes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(len(a), len(b)) cubes of all distances."""
    squares = (a[:, None, 0] - b[None, :, 0]) ** 2 + (a[:, None, 1] - b[None, :, 1]) ** 2
    return np.asarray(squares * np.sqrt(squares))
