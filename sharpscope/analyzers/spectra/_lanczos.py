"""Thick-restart Lanczos with full reorthogonalisation, on the operator's device, projections in float64.

Wu and Simon (2000), "Thick-restart Lanczos method for large symmetric eigenvalue problems", with every new product
orthogonalised against the whole basis twice, so that no eigenvalue is found more than once and the projected matrix V^T
A V is that of the basis at hand whatever it was started from.

A basis of m vectors takes the memory of m + 2 vectors, the operator's own product aside: m, the next vector, and the
product until it is copied; a restart mixes the basis in place, some columns at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpscope.core.vectors import generator, length
from sharpscope.curvature.operators import Operator

__all__ = ["Ritz", "quadrature", "thick_restart"]

_CHUNK = 1 << 18  # entries of a vector that are copied at once
_FLOOR = 1e-3  # of what a residual is relative to, in magnitudes of the largest eigenvalue
_NEAR_ZERO = 1e-6  # what a residual near 0 is held to at the lower end, where most lies close together, whatever tol
_NULL = 0.1  # what residuals at a lower end of zeros are relative to, likewise


@dataclass(frozen=True)
class Ritz:
    """Converged Ritz pairs: those of the upper end, largest first, then those of the lower end, smallest first."""

    values: np.ndarray  # (k,) float64
    slopes: np.ndarray  # (k,) float64, residual of each pair along ``tail``, signed
    lost: np.ndarray  # (k,) float64, bound on the part of the residual that is not along ``tail``
    vectors: Tensor  # (k, n) unit rows
    tail: Tensor  # (n,) unit vector along which the residuals of the recurrence lie
    scales: np.ndarray  # (k,) float64, what each residual is relative to
    cover: np.ndarray  # (k,) float64, how far the eigenvalue may be for those of a lower end of zeros, else 0
    restarts: int


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
    the earlier ones found.  Raises ArithmeticError when ``most`` does not suffice or a product is not finite.
    """
    krylov = _Krylov(operator, min(basis, operator.size), generator("lanczos", seed), start)
    least = min(count + low, operator.size)
    while True:
        krylov.extend()
        tick()
        values, slopes, mixing = krylov.solve()
        ends = krylov.ends(count, low)
        lost = np.abs(krylov.lost[:, : krylov.filled] @ mixing).sum(axis=0)
        bounds, largest = np.abs(slopes[ends]) + lost[ends], float(np.abs(values).max())
        scales = np.maximum(np.abs(values[ends]), _FLOOR * largest)
        limits, cover, below = tol * scales, np.zeros(len(ends)), slice(min(count, krylov.filled), None)
        limits[below] = np.minimum(limits, np.maximum(tol * np.abs(values[ends]), _NEAR_ZERO * largest))[below]
        within = (np.abs(values[ends]) + bounds)[below]
        if low and values[-1] >= -limits[below].min() and within.max() <= tol * _NULL * largest:
            scales[below], limits[below], cover[below] = _NULL * largest, tol * _NULL * largest, within
        small, level, fine = bounds <= limits, 0.1 * float(limits.min()), bool(np.all(bounds <= 0.2 * limits))
        if krylov.filled >= least and krylov.settled(values[ends], bounds, bool(np.all(small)), fine, level, starts):
            vectors, tail = krylov.taken(mixing[:, ends])
            found, rest = values[ends].copy(), slopes[ends].copy()
            return Ritz(found, rest, lost[ends], vectors, tail, scales, cover, krylov.restarts)
        if krylov.spent >= most:
            raise ArithmeticError(
                f"the spectrum got {most} products without reaching tol={tol:g} for {count + low} pairs (largest "
                f"residual {np.abs(slopes[ends]).max():.3g}, lambda_1 {values[0]:.6g}), expected convergence: "
                f"raise tol, basis or max_products"
            )
        if krylov.filled == krylov.limit:
            krylov.restart(count, low, values, mixing)


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
    krylov = _Krylov(operator, min(steps, operator.size), generator("quadrature", seed), start, scale)
    going = True
    while going and krylov.filled < krylov.limit:
        going = krylov.extend()
        tick()
    values, _, mixing = krylov.solve()
    nodes, weights = np.full(steps, np.nan), np.zeros(steps)
    nodes[: len(values)], weights[: len(values)] = values, mixing[0] ** 2
    return nodes, weights


class _Krylov:
    """An orthonormal basis V, the projected matrix V^T A V, and one more unit vector (the tail) to multiply next."""

    def __init__(
        self, operator: Operator, limit: int, random: torch.Generator, start: Tensor | None = None, scale: float = 0.0
    ) -> None:
        self.operator, self.limit, self.random, self.scale = operator, limit, random, scale
        self.epsilon = float(torch.finfo(operator.dtype).eps)
        self.vectors = torch.empty(limit + 1, operator.size, dtype=operator.dtype, device=operator.device)
        self.projected = np.zeros((limit, limit))
        self.lost = np.zeros((0, limit))  # of each basis vector u, along every tail that was given up: part of A u
        self.filled = self.restarts = self.spent = 0
        self.beta = 0.0
        self.coupling = np.zeros(0)  # u^T A tail of every basis vector u, as A u told
        self.found: np.ndarray | None = None  # what the former starting directions led to, and the bounds of it
        self.agreed = self.since = self.needed = 0  # starts that led to it; products of this one; those it must make
        if start is None:
            self._fresh()
        else:
            self.vectors[0].copy_(start)
            self.vectors[0] /= length(start)

    @property
    def tail(self) -> Tensor:
        return self.vectors[self.filled]

    def extend(self) -> bool:
        """Multiply the tail, append the new column, and make a new tail from what is orthogonal to the basis.

        Returns False where nothing is: then the basis spans an invariant subspace, and the tail is a random direction
        outside it.
        """
        product = self.operator @ self.tail
        size = max(length(product), self.scale)
        used, rest = self.vectors[: self.filled + 1], self.vectors[self.filled + 1]
        rest.copy_(product)
        del product
        column = np.zeros(self.filled + 1)
        for _ in range(2):
            share = used @ rest
            rest.addmv_(used.T, share, alpha=-1.0)
            column += share.double().cpu().numpy()
        self._check_symmetry(column, size)
        self.projected[: self.filled + 1, self.filled] = self.projected[self.filled, : self.filled + 1] = column
        self.filled += 1
        self.spent += 1
        self.since += 1
        self.beta = length(rest)
        self.coupling = np.append(np.zeros(self.filled - 1), self.beta)
        if self.beta > 10.0 * self.epsilon * max(size, float(np.abs(self.projected).max())):
            rest /= self.beta
            return True
        self.branch()
        return False

    def branch(self) -> None:
        """Go on from a random direction orthogonal to the basis; what the tail stood for is booked as lost."""
        given_up = np.zeros((1, self.limit))
        given_up[0, self.filled - 1] = self.beta
        self.lost = np.vstack([self.lost, given_up])
        self.beta, self.coupling[-1] = 0.0, 0.0
        if self.filled < self.operator.size:
            self._fresh()
        else:
            self.tail.zero_()

    def _check_symmetry(self, column: np.ndarray, size: float) -> None:
        """The products so far foretell u^T A tail for all u of the basis; other values are not of one matrix."""
        unknown = np.abs(self.lost[:, : self.filled]).sum(axis=0)
        error = float(np.maximum(np.abs(column[:-1] - self.coupling) - unknown, 0.0).max(initial=0.0))
        if error > max(1e-2, 1e3 * self.epsilon) * max(size, float(np.abs(self.projected).max())):
            raise ArithmeticError(
                f"the products of the {self.operator.text} are not those of one symmetric matrix (u^T A v and v^T A u "
                f"differ by {error:.3g}), expected a deterministic loss: look for dropout, shuffling or autocast"
            )

    def solve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values (descending), their residuals along the tail, and the mixing matrix (columns)."""
        values, mixing = np.linalg.eigh(self.projected[: self.filled, : self.filled])
        return values[::-1], self.beta * mixing[-1, ::-1], mixing[:, ::-1]

    def ends(self, count: int, low: int) -> np.ndarray:
        """Places of the wanted Ritz values: the first ``count``, and the last ``low`` from the end."""
        last = self.filled - 1 - np.arange(min(low, self.filled))
        return np.concatenate([np.arange(min(count, self.filled)), last]).astype(int)

    def settled(
        self, values: np.ndarray, bounds: np.ndarray, small: bool, fine: bool, level: float, starts: int
    ) -> bool:
        """Whether pairs with small residuals are also the outermost ones, as far as the starting vectors can tell.

        One starting vector sees one vector of every eigenspace.  Where all that it sees has converged (the tail is
        nothing beside ``level``), the residuals say nothing of further copies of a multiple eigenvalue.  Then Lanczos
        goes on from a new random direction, until that ends without a new value too; so it does ``starts`` times in
        any case, each time with residuals (``fine``) that leave room for those to come.
        """
        if self.filled == self.operator.size:
            return True
        whole = self.beta <= level
        if not small or (not whole and self.since < self.needed):
            return False
        least = max(math.sqrt(self.epsilon) * float(np.abs(values).max(initial=0.0)), level)
        former = self.found if self.found is not None and self.found.shape[1] == len(values) else None
        same = former is not None and np.all(np.abs(former[0] - values) <= np.maximum(former[1] + bounds, least))
        agreed = self.agreed + 1 if same else 1
        if agreed >= max(starts, 2 if whole or self.found is not None else 1):
            return True
        if not whole and not fine:
            return False
        self.agreed = agreed
        self.needed = self.spent if self.found is None and not whole else 2 * len(values) + 10
        self.found, self.since = np.stack([values, bounds]), 0
        if self.beta:
            self.branch()
        return False

    def mix(self, mixing: np.ndarray) -> None:
        """Replace the basis by (columns of ``mixing``) combinations of its vectors, in place; the tail follows them."""
        weights = torch.as_tensor(mixing.T.copy(), dtype=self.operator.dtype, device=self.operator.device)
        kept, width = mixing.shape[1], max(1, _CHUNK // len(mixing))
        for begin in range(0, self.operator.size, width):
            part = self.vectors[:, begin : begin + width]
            mixed, tail = weights @ part[: self.filled], part[self.filled].clone()
            part[:kept] = mixed
            part[kept] = tail
        self.filled = kept

    def taken(self, mixing: np.ndarray) -> tuple[Tensor, Tensor]:
        """Combinations of the basis and the tail, in the memory of the basis where they have room there.

        They have none where both ends of a small matrix are wanted and overlap.
        """
        kept = mixing.shape[1]
        if kept > self.filled:
            weights = torch.as_tensor(mixing.T.copy(), dtype=self.operator.dtype, device=self.operator.device)
            return weights @ self.vectors[: self.filled], self.tail
        self.mix(mixing)
        return self.vectors[:kept], self.tail

    def restart(self, count: int, low: int, values: np.ndarray, mixing: np.ndarray) -> None:
        """Condense the basis to the Ritz vectors at the wanted ends and some more; the tail stays."""
        spare = min((self.limit - count - low) // 3, self.limit - 2 - count - low)
        more = spare * low // (count + low)
        ends = self.ends(count + spare - more, low + more if low else 0)
        self.coupling = self.beta * mixing[-1, ends]
        lost, self.lost = self.lost[:, : self.filled] @ mixing[:, ends], np.zeros_like(self.lost)
        self.lost[:, : len(ends)] = lost
        self.mix(mixing[:, ends])
        self.projected[:] = 0.0
        self.projected[: len(ends), : len(ends)] = np.diag(values[ends])
        self.restarts += 1

    def _fresh(self) -> None:
        """A random unit vector orthogonal to the basis as tail."""
        for part in self._parts():
            part.copy_(torch.randn(len(part), generator=self.random, dtype=torch.float64))
        used, new = self.vectors[: self.filled], self.tail
        for _ in range(2):
            if self.filled:
                new.addmv_(used.T, used @ new, alpha=-1.0)
            new /= length(new)

    def _parts(self) -> Iterator[Tensor]:
        yield from self.tail.split(_CHUNK)
