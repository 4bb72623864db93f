"""Top of the spectrum of a symmetric operator, certified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpscope.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    """The k largest (algebraic) eigenvalues of a symmetric operator, with the error of each.

    An interval ``eigenvalues[i] +- residuals[i]`` holds an eigenvalue of the operator (Weyl's bound for a unit Ritz vector).
    """

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
