"""What a few Lanczos steps from a random start say about the eigenvalues that nobody has found.

A spectrum has found m orthonormal Ritz vectors U of A, with values theta and residuals r.  Let B be A without them,
(I - U U^T) A (I - U U^T) on the complement of U, of dimension d.  Two facts make a certificate, one of chance:

1. Let v_0 be uniform on the unit sphere of the complement, v_0 ... v_s its Lanczos vectors and p_0 ... p_s the
   orthonormal polynomials of the recurrence, v_j = p_j(B) v_0.  If B has the eigenvalue x with the unit vector u, then
   u^T v_j = p_j(x) u^T v_0, and as the v_j are orthonormal

       (u^T v_0)^2 (p_0(x)^2 + ... + p_s(x)^2) <= 1.

   The square of u^T v_0 is Beta(1/2, (d - 1)/2) distributed whatever u is, so it exceeds the ``failure``-quantile q of
   that but for a probability ``failure``; then the sum at x is at most 1/q.  Beyond the outermost Ritz value the sum
   grows without bound, hence the largest eigenvalue of B lies below the x at which it reaches 1/q.  This is the
   argument of Kuczynski and Wozniakowski (1992), "Estimating the largest eigenvalue by the power and Lanczos algorithms
   with a random start", with the polynomials of the run itself in place of the worst case over all matrices, which says
   nothing after five steps in 1e5 dimensions.

2. If no eigenvalue of B is above x, at most m of A are (Courant and Fischer).  More: leave u_1 ... u_{j-1} out of A.
   What is left has no eigenvalue above mu > x, and so the j-th of A is none, where the Schur complement of mu - B in
   it is positive, for which it suffices that

       sum over i >= j of r_i^2 / (mu - theta_i) <= mu - x,

   while the j-th of A is at least theta_j (Cauchy).  With mu = theta_j + error_j both say that the j-th number is
   within its error of the j-th eigenvalue.
"""

from __future__ import annotations

import numpy as np

__all__ = ["certified", "indexed", "outer"]


def outer(diagonal: np.ndarray, beside: np.ndarray, size: int, failure: float) -> float:
    """Largest eigenvalue that B may have, but for a probability of ``failure``, over the draw of the start.

    Args:
        diagonal: (s,) float64, of the tridiagonal matrix after s steps.
        beside: (s,) float64, next to it: the norms of what was left after each step, the last one included.
        size: d, the dimension of the space that the start was drawn in.
        failure: in (0, 1).

    Never below the largest Ritz value.  For the smallest eigenvalue negate ``diagonal`` and what is returned.
    """
    steps = len(diagonal)
    ritz = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
    scale = float(max(np.abs(ritz).max(), beside.max()))
    if steps >= size or not beside[-1]:
        return float(ritz[-1])
    from scipy.special import betaincinv  # only here: importing it takes a tenth of a second

    most = 1.0 / float(betaincinv(0.5, (size - 1) / 2.0, failure))
    diagonal, beside, low = diagonal / scale, beside / scale, float(ritz[-1]) / scale
    reach = 1.0
    while _sum(low + reach, diagonal, beside, most) < most:
        reach *= 2.0
    high = low + reach
    while high - low > 1e-6:
        middle = (low + high) / 2.0
        low, high = (middle, high) if _sum(middle, diagonal, beside, most) < most else (low, middle)
    return high * scale


def _sum(x: float, diagonal: np.ndarray, beside: np.ndarray, most: float) -> float:
    """p_0(x)^2 + ... + p_s(x)^2, or anything from ``most`` on where it is more."""
    before, here, beta, total = 0.0, 1.0, 0.0, 1.0
    for alpha, after in zip(diagonal, beside, strict=True):
        above = (x - alpha) * here - beta * before
        if above * above >= most * after * after:
            return most
        before, here, beta = here, above / after, after
        total += here * here
    return total


def indexed(values: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """(m,) errors of values (m,), descending: each at least what the residuals of later ones reach above it.

    An interval of a residual holds some eigenvalue; where intervals overlap, the j-th need not hold the j-th.
    """
    reach = np.maximum.accumulate((values + residuals)[::-1])[::-1]
    return np.asarray(np.maximum(residuals, reach - values))


def certified(values: np.ndarray, residuals: np.ndarray, errors: np.ndarray, beyond: float) -> np.ndarray:
    """(m,) bool: whether the j-th of the values (descending) is within its error of the j-th eigenvalue.

    ``beyond`` bounds what was not found; residuals and errors are (m,).  Fact 2 above.
    """
    found = np.zeros(len(values), dtype=bool)
    for place, upper in enumerate(values + errors):
        room, apart = upper - beyond, upper - values[place:]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(residuals[place:] > 0.0, residuals[place:] * (residuals[place:] / apart), 0.0)
        found[place] = room >= 0.0 and float(share.sum()) <= room * (1.0 + 1e-12)
    return found
