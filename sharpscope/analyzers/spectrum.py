"""Top of the spectrum of a symmetric operator, certified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from sharpscope.analyzers.lanczos import Ritz, thick_restart
from sharpscope.operators import Operator, hessian
from sharpscope.pieces import check_count
from sharpscope.problem import Problem
from sharpscope.progress import bar
from sharpscope.results import Dims, Result
from sharpscope.vectors import generator

__all__ = ["Spectrum", "spectrum"]


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    """The k largest (algebraic) eigenvalues of a symmetric operator, with the error of each.

    An interval ``eigenvalues[i] +- residuals[i]`` holds an eigenvalue of the operator (Weyl's bound for a unit Ritz
    vector).
    """

    dims: ClassVar[Dims] = {"eigenvalues residuals": "index", "vectors": "index coordinate"}

    eigenvalues: np.ndarray  # (k,) float64, descending; loss per squared unit of weight
    residuals: np.ndarray  # (k,) float64, |H u - lambda u| of the unit Ritz vector u, same unit
    guard: float  # the next Ritz value below, converged too (nan where k is the whole spectrum)
    guard_residual: float  # its residual (nan likewise)
    noise: float  # what a fresh product of the Ritz vectors added to the residuals: rounding of the product
    products: int  # operator products spent, the confirming one included
    restarts: int  # how often the Krylov basis was condensed
    size: int  # n, the number of coordinates
    tol: float  # requested residual, relative to each eigenvalue
    seed: int  # of the random starting vector
    operator: str  # what was analysed, in words: operator, loss, examples, BatchNorm mode, dtype
    vectors: np.ndarray | None = None  # (k, n) Ritz vectors as rows, or None

    @property
    def ratio(self) -> float:
        """lambda_1 / lambda_k: how far the sharpest direction stands out (papers quote k = 5)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.divide(self.eigenvalues[0], self.eigenvalues[-1]))

    @property
    def ratio_error(self) -> float:
        """Largest distance of the ratio from the true one that the residuals allow; inf where lambda_k may be 0."""
        top, last = float(self.eigenvalues[0]), float(self.eigenvalues[-1])
        dtop, dlast = float(self.residuals[0]), float(self.residuals[-1])
        if abs(last) <= dlast:
            return float("inf")
        if len(self.eigenvalues) == 1:
            return 0.0
        ends = [(top + a) / (last + b) for a in (-dtop, dtop) for b in (-dlast, dlast)]
        return max(abs(end - self.ratio) for end in ends)


def spectrum(
    problem: Problem | Operator,
    k: int = 5,
    tol: float = 1e-3,
    seed: int = 0,
    *,
    vectors: bool = False,
    basis: int | None = None,
    max_products: int = 1000,
    progress: bool | None = None,
) -> Spectrum:
    """The k largest algebraic eigenvalues of the Hessian of a problem (or of any Operator), with certified residuals.

    Lanczos runs until k + 1 pairs have a residual <= ``tol`` times their eigenvalue: the guard pair beyond the k-th
    keeps a late eigenvalue from being missed.  Then one fresh product with a random combination (signs +-1) of all k
    Ritz vectors is compared with what the recurrence predicts; the discrepancy, ``noise``, is added to every residual.
    So ``|A u_i - lambda_i u_i| <= residuals[i]`` up to the chance that +-1 signs cancel independent roundings.

    Args:
        problem: a Problem (its Hessian at the model's current weights) or an Operator.
        k: how many, 1 <= k <= n.
        tol: relative residual; an eigenvalue itself is then off by about tol^2 where its neighbours are not close.
        seed: of the starting vector.
        vectors: keep the Ritz vectors, (k, n).
        basis: most Krylov vectors held at once (memory: basis + 3 vectors); at least k + 4, by default 2 k + 20.
        max_products: gives up beyond, in words.
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for k, tol or basis out of range, ArithmeticError when a product is not finite or ``max_products``
    does not suffice.

    Example:
        >>> float(spectrum(Operator.of(torch.diag(torch.arange(1.0, 41.0))), k=2).ratio.__round__(4))
        1.0256
    """
    operator = hessian(problem) if isinstance(problem, Problem) else problem
    if not isinstance(operator, Operator):
        raise TypeError(
            f"spectrum got a {type(problem).__name__}, expected a Problem or an Operator: Problem(model, loss, data)"
        )
    _check(operator.size, k, tol, basis, max_products)
    pairs = min(k + 1, operator.size)
    before = operator.products
    with torch.no_grad(), bar(None, f"spectrum, {k} eigenvalues", progress) as shown:
        ritz = thick_restart(operator, pairs, tol, seed, basis or 2 * k + 20, max_products, lambda: shown.update(1))
        noise = _confirm(operator, ritz, seed)
    residuals = np.abs(ritz.slopes) + noise
    guarded = pairs > k
    return Spectrum(
        eigenvalues=ritz.values[:k],
        residuals=residuals[:k],
        guard=float(ritz.values[k]) if guarded else float("nan"),
        guard_residual=float(residuals[k]) if guarded else float("nan"),
        noise=noise,
        products=operator.products - before,
        restarts=ritz.restarts,
        size=operator.size,
        tol=tol,
        seed=seed,
        operator=operator.text,
        vectors=ritz.vectors[:k].cpu().numpy() if vectors else None,
    )


def _confirm(operator: Operator, ritz: Ritz, seed: int) -> float:
    """Norm of A x - (what the recurrence says A x is), x the sum of the Ritz vectors with random signs."""
    signs = torch.randint(0, 2, (len(ritz.values),), generator=generator("confirm", seed)).double() * 2 - 1
    signs = signs.to(operator.device)
    values = torch.as_tensor(ritz.values, device=operator.device)
    slopes = torch.as_tensor(ritz.slopes, device=operator.device)
    dtype = operator.dtype
    product = operator @ (signs.to(dtype) @ ritz.vectors)
    predicted = (signs * values).to(dtype) @ ritz.vectors + ritz.tail * (signs @ slopes).to(dtype)
    return float(torch.linalg.vector_norm((product - predicted).double()))


def _check(size: int, k: int, tol: float, basis: int | None, max_products: int) -> None:
    check_count("spectrum", "k", k)
    check_count("spectrum", "max_products", max_products)
    if basis is not None:
        check_count("spectrum", "basis", basis)
    if k > size:
        raise ValueError(f"spectrum got k={k}, expected at most the {size} coordinates of the operator: lower k")
    if not isinstance(tol, (int, float)) or not 0.0 < tol < 1.0:
        raise ValueError(f"spectrum got tol={tol!r}, expected a number in (0, 1): 1e-3 gives eigenvalues to about 1e-6")
    if basis is not None and basis < min(k + 4, size):
        raise ValueError(f"spectrum got basis={basis}, expected at least k + 4 = {k + 4}: raise basis")
