"""The ends of the Hessian's spectrum over a plane: where a loss is convex, and where its picture only looks so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sharpscope.analyzers.spectra.spectrum import spectrum
from sharpscope.analyzers.surfaces.directions import Directions, random_directions, unit_of
from sharpscope.analyzers.surfaces.request import check_reach
from sharpscope.analyzers.surfaces.surface import Span, grids
from sharpscope.core.progress import bar
from sharpscope.core.results import Dims, Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import Vec, add
from sharpscope.curvature.operators import Operator, hessian
from sharpscope.problem.problem import Problem, check_problem

__all__ = ["CurvatureMap", "curvature_map"]


@dataclass(frozen=True, eq=False, repr=False)
class CurvatureMap(Result):
    """Smallest and largest Hessian eigenvalue at w + alpha[j] d1 + beta[i] d2."""

    dims: ClassVar[Dims] = {"highest lowest highest_error lowest_error loss": "beta alpha"}

    alpha: np.ndarray  # (nx,) float64, coordinate along d1
    beta: np.ndarray  # (ny,) float64, coordinate along d2
    highest: (
        np.ndarray
    )  # (ny, nx) float64, lambda_max; loss per squared unit of weight; nan where the loss is not finite
    lowest: np.ndarray  # (ny, nx) float64, lambda_min, same unit; nan likewise
    highest_error: np.ndarray  # (ny, nx) float64, residual of the eigenpair: a bound of the error
    lowest_error: np.ndarray  # (ny, nx) float64, residual of the eigenpair
    loss: np.ndarray  # (ny, nx) float64, mean loss
    directions: str  # how the directions were made
    digest: str  # of the directions
    seed: int | None  # of random directions
    tol: float  # requested residual, relative to each eigenvalue
    products: int  # Hessian products spent on all points
    problem: str  # loss, examples, BatchNorm mode, dtype in words

    @property
    def ratio(self) -> np.ndarray:
        """(ny, nx) float64, |lambda_min / lambda_max|: 0 where convex or nearly so (Li et al. 2018, section 6)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.abs(np.minimum(self.lowest, 0.0) / self.highest))

    def units(self) -> dict[str, str]:
        """The unit of every array."""
        curvature = "mean loss per example and squared unit of weight"
        names = ("highest", "lowest", "highest_error", "lowest_error")
        return {
            **dict.fromkeys(("alpha", "beta"), unit_of(self.directions)),
            **dict.fromkeys(names, curvature),
            "loss": "mean loss per example",
        }


@undisturbed
def curvature_map(
    problem: Problem,
    resolution: int | tuple[int, int] = 7,
    span: Span | tuple[tuple[float, float], tuple[float, float]] = 1.0,
    directions: str | Directions = "filter",
    seed: int = 0,
    tol: float = 0.01,
    *,
    max_products: int = 1000,
    progress: bool | None = None,
) -> CurvatureMap:
    """Both ends of the Hessian's spectrum at every point of a coarse grid over a plane.

    A plane that looks convex need not be: its curvature averages that of all directions.  Where -lambda_min is small
    beside lambda_max the loss is nearly convex (Li et al. 2018, section 6 and figure 7).  In ``ratio`` a positive
    lambda_min counts as 0.  A point costs some dozens of Hessian products, each about three times a gradient.

    Args:
        problem: the function.
        resolution: points along each axis, or (along x, along y).
        span: as in ``surface``.
        directions: as in ``surface``; give both the same to lay one over the other.
        seed: of random directions and of starting vectors.
        tol: residual of an eigenvalue, relative to it.
        max_products: at one point; beyond, ArithmeticError.
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for a resolution below 2, an empty span, directions of another model or of length 0,
    ArithmeticError where the eigenvalues of a point do not settle.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> found = curvature_map(Problem(model, torch.nn.MSELoss(), (torch.eye(4), torch.ones(4, 1))), resolution=2)
        >>> found.highest.round(3).tolist()  # of (|w - 1|^2) / 4, everywhere
        [[0.5, 0.5], [0.5, 0.5]]
    """
    check_problem("curvature_map", problem)
    alpha, beta = grids("curvature map", resolution, span)
    directions = _pair(problem, directions, seed)
    check_reach("curvature map", (alpha, beta), problem.dtype)
    center: Vec = [w.clone() for w in problem.weights]
    plan = hessian(problem).plan
    how = "auto" if plan is None else plan.how  # measured once, the same everywhere
    shape = (len(beta), len(alpha))
    found = np.full((5, *shape), np.nan)
    products = 0
    with bar(found[0].size, "curvature map", progress) as shown:
        for i, j in np.ndindex(*shape):
            at = add(add(center, directions.vectors[0], float(alpha[j])), directions.vectors[1], float(beta[i]))
            found[4, i, j] = problem.loss(at)
            if np.isfinite(found[4, i, j]):
                found[:4, i, j], spent = _ends(hessian(problem, at=at, mode=how), tol, seed, max_products)
                products += spent
            shown.update(1)
    highest, lowest, highest_error, lowest_error, loss = found
    return CurvatureMap(
        alpha, beta, highest, lowest, highest_error, lowest_error, loss, directions.text, directions.digest,
        directions.seed, tol, products, problem.describe(),
    )  # fmt: skip


def _pair(problem: Problem, directions: str | Directions, seed: int) -> Directions:
    """Two directions of the problem's parameters, of which neither is 0."""
    if not isinstance(directions, Directions):
        directions = random_directions(problem, directions, seed)
    directions.check(problem, "the curvature map")
    if len(directions.vectors) < 2:
        raise ValueError("the curvature map got one direction, expected two: use first.beside(second)")
    directions.check_lengths(2, "the curvature map")
    return directions


def _ends(operator: Operator, tol: float, seed: int, max_products: int) -> tuple[list[float], int]:
    """Largest and smallest eigenvalue, their errors, and the products spent."""
    ends = spectrum(operator, 1, tol, seed, which="both", max_products=max_products, progress=False)
    assert ends.lowest is not None and ends.lowest_residuals is not None
    values = ends.eigenvalues, ends.lowest, ends.residuals, ends.lowest_residuals
    return [float(value[0]) for value in values], ends.products
