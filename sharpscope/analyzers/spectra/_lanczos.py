"""Thick-restart Lanczos with full reorthogonalisation, on the operator's device, projections in float64.

Wu and Simon (2000), "Thick-restart Lanczos method for large symmetric eigenvalue problems", and a probe of what is left
once that has converged (``_probe``), until a probe finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sharpscope.analyzers.spectra._krylov import Krylov
from sharpscope.analyzers.spectra._probe import LEAST, Probe, look
from sharpscope.core.vectors import generator
from sharpscope.curvature.operators import Operator

__all__ = ["Ritz", "quadrature", "thick_restart"]

_FLOOR = 1e-3  # of what a residual is relative to, in magnitudes of the largest eigenvalue
_NEAR_ZERO = 1e-6  # what a residual near 0 is held to at the lower end, where most lies close together, whatever tol
_SUSPECT = 20  # products of a probe once copies were missed
_VAIN = 1e-4  # of what a residual may be: a tail along which there is less is forgotten
_NULL = 0.1  # what residuals at a lower end of zeros are relative to, likewise


@dataclass(frozen=True)
class Ritz:
    """Converged Ritz pairs: those of the upper end, largest first, then those of the lower end, smallest first."""

    values: np.ndarray  # (k,) float64
    slopes: np.ndarray  # (k,) float64, residual of each pair along ``tail``, signed
    lost: np.ndarray  # (k,) float64, bound on the part of the residual that is not along ``tail``
    left: list[tuple[Tensor, np.ndarray]]  # other vectors (n,) that residuals lie along, and how far (k,)
    vectors: Tensor  # (k, n) unit rows
    tail: Tensor  # (n,) unit vector along which the residuals of the recurrence lie
    scales: np.ndarray  # (k,) float64, what each residual is relative to
    cover: np.ndarray  # (k,) float64, how far the eigenvalue may be for those of a lower end of zeros, else 0
    restarts: int
    above: float  # no other eigenvalue is above, with the confidence asked for
    below: float  # no other eigenvalue is below, likewise


def thick_restart(
    operator: Operator,
    count: int,
    tol: float,
    seed: int,
    basis: int,
    most: int,
    tick: Callable[[], object] = lambda: None,
    *,
    low: int = 0,
    start: Tensor | None = None,
    starts: int = 1,
    confidence: float = 0.99,
    probe: int = LEAST,
) -> Ritz:
    """The ``count`` largest and ``low`` smallest (algebraic) Ritz pairs, each with residual <= tol |value|.

    An eigenvalue near 0 has no relative residual: with M the largest magnitude of all, one below M / 1000 is held to
    tol M / 1000 instead, and at the lower end, where most of a spectrum lies close together and a pair that is found
    too early passes over what it cannot tell apart, to M / 1e6 where that is less.  A lower end of zeros, of a
    multiplicity that takes 1 / sqrt(residual) products to tell from what lies close to it, is taken as it is: where no
    Ritz value is negative and all wanted ones are below tol M / 10, the j-th eigenvalue lies between 0 and the j-th
    Ritz value (Cauchy), which ``cover`` says.
    ``basis`` bounds the vectors kept, ``most`` the products; ``tick`` is called after each product.  ``start`` is where
    to begin, a random vector if None; ``starts`` random directions must agree, the later ones drawn orthogonal to what
    the earlier ones found.  What has converged is probed from fresh random starts; the iteration goes on from what a
    probe of ``probe`` products finds, until one finds nothing.  ``confidence`` is that of ``above`` and ``below``, over
    all probes.
    Raises ArithmeticError when ``most`` does not suffice or a product is not finite.
    """
    krylov = Krylov(operator, min(basis, operator.size), generator("lanczos", seed), start)
    probes = 0
    while True:
        krylov.extend()
        tick()
        now = _State.of(krylov, count, low, tol)
        if krylov.filled >= min(count + low, operator.size) and now.settled(krylov, starts):
            if now.crowds(krylov, probe):
                krylov.restart(count, low, now.all_values, now.all_mixing)
                now = _State.of(krylov, count, low, tol)
            probes += 1
            failure = (1.0 - confidence) / (probes * (probes + 1))
            steps = probe if probes == 1 else max(probe, _SUSPECT)  # where copies were missed, more may be
            seen = now.probe(krylov, steps, most - krylov.spent, failure, tick)
            if seen.direction is None:
                return now.taken(krylov, seen)
            krylov.branch(seen.direction)
        else:
            now.turn(krylov)
        if krylov.spent >= most:
            raise ArithmeticError(
                f"the spectrum got {most} products without reaching tol={tol:g} for {count + low} pairs (largest "
                f"residual {np.abs(now.slopes).max():.3g}, lambda_1 {now.all_values[0]:.6g}), expected convergence: "
                f"raise tol, basis or max_products"
            )
        if krylov.filled == krylov.limit:
            krylov.restart(count, low, now.all_values, now.all_mixing)


@dataclass(frozen=True)
class _State:
    """The Ritz pairs at hand: all of them, and the wanted ones at both ends with their bounds and what these may be."""

    count: int
    low: int
    all_values: np.ndarray
    all_mixing: np.ndarray
    values: np.ndarray
    mixing: np.ndarray
    slopes: np.ndarray
    lost: np.ndarray
    scales: np.ndarray
    limits: np.ndarray
    cover: np.ndarray

    @classmethod
    def of(cls, krylov: Krylov, count: int, low: int, tol: float) -> _State:
        values, slopes, mixing = krylov.solve()
        ends = krylov.ends(count, low)
        lost = np.abs(krylov.lost[:, : krylov.filled] @ mixing).sum(axis=0)
        bounds, largest = np.abs(slopes[ends]) + lost[ends], krylov.largest
        scales = np.maximum(np.abs(values[ends]), _FLOOR * largest)
        limits, cover, below = tol * scales, np.zeros(len(ends)), slice(min(count, krylov.filled), None)
        limits[below] = np.minimum(limits, np.maximum(tol * np.abs(values[ends]), _NEAR_ZERO * largest))[below]
        within = (np.abs(values[ends]) + bounds)[below]
        if low and values[-1] >= -limits[below].min() and within.max() <= tol * _NULL * largest:
            scales[below], limits[below], cover[below] = _NULL * largest, tol * _NULL * largest, within
        return cls(
            count, low, values, mixing, values[ends].copy(), mixing[:, ends], slopes[ends].copy(), lost[ends],
            scales, limits, cover,
        )  # fmt: skip

    @property
    def bounds(self) -> np.ndarray:
        """(k,): of the residuals."""
        return np.asarray(np.abs(self.slopes) + self.lost)

    def turn(self, krylov: Krylov) -> None:
        """Go on from the remainder that keeps the wanted pairs most from converging; forget those that keep none."""
        limits = np.maximum(self.limits, np.finfo(float).tiny)
        rows = krylov.lost[:, : krylov.filled]
        along = np.abs(rows @ self.mixing / limits).max(axis=1, initial=0.0)
        for place in np.flatnonzero(np.abs(rows).max(axis=1, initial=0.0) < _VAIN * limits.min()):
            krylov.left[place] = None
        kept = [place for place, tail in enumerate(krylov.left) if tail is not None]
        most = max(kept, key=lambda place: float(along[place]), default=0)
        if kept and along[most] > float(np.abs(self.slopes / limits).max()):
            krylov.resume(most)

    def fits(self, share: float) -> bool:
        """Whether all residuals are within a share of what they may be."""
        return bool(np.all(self.bounds <= share * self.limits))

    def settled(self, krylov: Krylov, starts: int) -> bool:
        level = 0.1 * float(self.limits.min())
        return krylov.settled(self.values, self.bounds, self.fits(1.0), self.fits(0.2), level, starts)

    def crowds(self, krylov: Krylov, steps: int) -> bool:
        """Whether a probe has no room behind the basis and would have it after a restart."""
        spare = krylov.spare(self.count, self.low)
        free = krylov.limit - krylov.filled
        return free <= (krylov.spent if self.low else steps) and 0 <= spare < krylov.filled - self.count - self.low

    def probe(self, krylov: Krylov, steps: int, most: int, failure: float, tick: Callable[[], object]) -> Probe:
        """Look for more than the guards, the innermost wanted pair of each end."""
        if krylov.filled == krylov.operator.size:
            inside = self.all_values[self.count : krylov.filled - self.low]
            return Probe(None, float(inside.max(initial=-np.inf)), float(inside.min(initial=np.inf)))
        slack = np.maximum(self.bounds, self.cover) + 10.0 * krylov.epsilon * krylov.largest
        top, last = self.count - 1, len(self.values) - 1
        upper, lower = self.values - 2.0 * slack, self.values + 2.0 * slack  # below, above which all else shall be
        guards = (
            float(self.values[top] + slack[top]) if self.count else np.inf,
            float(self.values[last] - slack[last]) if self.low else -np.inf,
        )
        goals = (
            float(upper[max(top - 1, 0)]) if self.count else np.inf,
            float(lower[max(last - 1, self.count)]) if self.low else -np.inf,
        )
        longer = krylov.spent if self.low and not self.cover.any() else 0
        whole = 2 * len(self.values) + 10 if krylov.beta <= 0.1 * float(self.limits.min()) else 0
        return look(krylov, self.mixing, guards, goals, min(max(steps, longer, whole), most), failure, tick)

    def taken(self, krylov: Krylov, probe: Probe) -> Ritz:
        along = krylov.lost[:, : krylov.filled] @ self.mixing
        left = [(tail, row) for tail, row in zip(krylov.left, along, strict=True) if tail is not None]
        vectors, tail = krylov.taken(self.mixing)
        return Ritz(
            self.values, self.slopes, self.lost, left, vectors, tail, self.scales, self.cover, krylov.restarts,
            probe.above, probe.below,
        )  # fmt: skip


def quadrature(
    operator: Operator,
    start: Tensor,
    steps: int,
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
    *,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, each (steps,) float64, of the Gauss quadrature of start^T f(A) start / |start|^2.

    ``scale`` is what rounding is relative to where products cancel: the size of the matrix that A is a remainder of.

    Exact for polynomials f of degree below 2 ``steps`` (Golub and Meurant).  Where the vector spans an invariant
    subspace of fewer dimensions the last weights are 0 and their nodes NaN.
    """
    krylov = Krylov(operator, min(steps, operator.size), generator("quadrature", seed), start, scale)
    going = True
    while going and krylov.filled < krylov.limit:
        going = krylov.extend()
        tick()
    values, _, mixing = krylov.solve()
    nodes, weights = np.full(steps, np.nan), np.zeros(steps)
    nodes[: len(values)], weights[: len(values)] = values, mixing[0] ** 2
    return nodes, weights
