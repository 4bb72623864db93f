"""Thick-restart Lanczos with full reorthogonalisation, on the operator's device, projections in float64.

Wu and Simon (2000), "Thick-restart Lanczos method for large symmetric eigenvalue problems", with every new product
orthogonalised against the whole basis twice, so that no eigenvalue is found more than once and the projected matrix V^T
A V is that of the basis at hand whatever it was started from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpscope.operators import Operator
from sharpscope.vectors import generator

__all__ = ["Ritz", "thick_restart"]


@dataclass(frozen=True)
class Ritz:
    """Converged Ritz pairs, largest first."""

    values: np.ndarray  # (k,) float64
    slopes: np.ndarray  # (k,) float64, residual of each pair along ``tail``, signed
    vectors: Tensor  # (k, n) unit rows
    tail: Tensor  # (n,) unit vector along which all residuals of the recurrence lie
    restarts: int


def thick_restart(
    operator: Operator,
    count: int,
    tol: float,
    seed: int,
    basis: int,
    most: int,
    tick: Callable[[], object] = lambda: None,
) -> Ritz:
    """The ``count`` largest (algebraic) Ritz pairs, each with residual <= tol |value|.

    A value that is tiny beside the largest, below sqrt(machine epsilon) of it, is held to tol times that bound instead.
    ``basis`` bounds the vectors kept, ``most`` the products; ``tick`` is called after each product.  Raises
    ArithmeticError when ``most`` does not suffice or a product is not finite.
    """
    krylov = _Krylov(operator, min(basis, operator.size), seed)
    while True:
        krylov.extend()
        tick()
        values, slopes, mixing = krylov.solve()
        floor = np.sqrt(krylov.epsilon) * np.abs(values).max()
        small = np.abs(slopes[:count]) <= tol * np.maximum(np.abs(values[:count]), floor)
        if krylov.filled >= count and krylov.complete(values[:count], bool(np.all(small))):
            rows = krylov.rows(mixing[:, :count])
            return Ritz(values[:count].copy(), slopes[:count].copy(), rows, krylov.tail.clone(), krylov.restarts)
        if krylov.spent >= most:
            raise ArithmeticError(
                f"the spectrum got {most} products without reaching tol={tol:g} for {count} pairs (largest residual "
                f"{np.abs(slopes[:count]).max():.3g}, lambda_1 {values[0]:.6g}), expected convergence: "
                f"raise tol or max_products"
            )
        if krylov.filled == krylov.limit:
            krylov.restart(min(count + (krylov.limit - count) // 3, krylov.limit - 2), values, mixing)


class _Krylov:
    """An orthonormal basis V, the projected matrix V^T A V, and one more unit vector (the tail) to multiply next."""

    def __init__(self, operator: Operator, limit: int, seed: int) -> None:
        self.operator, self.limit = operator, limit
        self.random = generator("lanczos", seed)
        self.epsilon = float(torch.finfo(operator.dtype).eps)
        self.vectors = torch.zeros(limit + 1, operator.size, dtype=operator.dtype, device=operator.device)
        self.projected = np.zeros((limit, limit))
        self.filled = self.restarts = self.spent = 0
        self.beta = 0.0
        self.coupling = np.zeros(0)  # u^T A tail of every basis vector u, as A u told
        self.closed: np.ndarray | None = None  # top values when the basis last was an invariant subspace
        self.since = 0  # products since then
        self.vectors[0] = self._fresh()

    @property
    def tail(self) -> Tensor:
        return self.vectors[self.filled]

    def extend(self) -> None:
        """Multiply the tail, append the new column, and make a new tail from what is orthogonal to the basis."""
        product = self.operator @ self.tail
        length = float(torch.linalg.vector_norm(product.double()))
        if not np.isfinite(length):
            raise ArithmeticError(
                f"a product of the {self.operator.text} is not finite, expected finite numbers: "
                f"check the loss at these weights"
            )
        used = self.vectors[: self.filled + 1]
        column = np.zeros(self.filled + 1)
        for _ in range(2):
            share = used @ product
            product = product - share @ used
            column += share.double().cpu().numpy()
        self._check_symmetry(column, length)
        self.projected[: self.filled + 1, self.filled] = self.projected[self.filled, : self.filled + 1] = column
        self.filled += 1
        self.spent += 1
        self.since += 1
        self.beta = float(torch.linalg.vector_norm(product.double()))
        self.coupling = np.append(np.zeros(self.filled - 1), self.beta)
        scale = max(length, float(np.abs(self.projected).max()))
        if self.beta > 10.0 * self.epsilon * scale:
            self.vectors[self.filled] = product / self.beta
        else:  # the basis spans an invariant subspace: go on from a random direction outside it
            self.beta, self.coupling[-1] = 0.0, 0.0
            self.vectors[self.filled] = self._fresh() if self.filled < self.operator.size else 0.0

    def _check_symmetry(self, column: np.ndarray, length: float) -> None:
        """The products so far foretell u^T A tail for all u of the basis; other values are not of one matrix."""
        error = float(np.abs(column[:-1] - self.coupling).max(initial=0.0))
        if error > max(1e-2, 1e3 * self.epsilon) * max(length, float(np.abs(self.projected).max())):
            raise ArithmeticError(
                f"the products of the {self.operator.text} are not those of one symmetric matrix (u^T A v and v^T A u "
                f"differ by {error:.3g}), expected a deterministic loss: look for dropout, shuffling or autocast"
            )

    def solve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values (descending), their residuals along the tail, and the mixing matrix (columns)."""
        values, mixing = np.linalg.eigh(self.projected[: self.filled, : self.filled])
        return values[::-1], self.beta * mixing[-1, ::-1], mixing[:, ::-1]

    def complete(self, values: np.ndarray, small: bool) -> bool:
        """Whether pairs with small residuals are also the top ones, as far as one starting vector can tell.

        In an invariant subspace every residual is zero and says nothing of further copies of a multiple eigenvalue.  So
        when the basis closes, Lanczos goes on from a new random direction, until that closes too without a new value or
        has gone as far as the first start would have needed.
        """
        if self.filled == self.operator.size:
            return True
        if self.beta == 0.0:
            stable = self.closed is not None and len(self.closed) == len(values)
            scale = np.sqrt(self.epsilon) * np.abs(values).max(initial=0.0)
            finished = stable and bool(np.all(np.abs(self.closed - values) <= scale))
            self.closed, self.since = values.copy(), 0
            return finished
        return small and (self.closed is None or self.since >= 2 * len(values) + 10)

    def rows(self, mixing: np.ndarray) -> Tensor:
        """(columns, n) combinations of the basis vectors."""
        weights = torch.as_tensor(mixing.T.copy(), dtype=self.operator.dtype, device=self.operator.device)
        return weights @ self.vectors[: self.filled]

    def restart(self, keep: int, values: np.ndarray, mixing: np.ndarray) -> None:
        """Condense the basis to its ``keep`` top Ritz vectors; the tail stays."""
        tail, slopes = self.tail.clone(), self.beta * mixing[-1, :keep]
        self.vectors[:keep] = self.rows(mixing[:, :keep])
        self.vectors[keep] = tail
        self.projected[:] = 0.0
        self.projected[:keep, :keep] = np.diag(values[:keep])
        self.filled, self.coupling = keep, slopes
        self.restarts += 1

    def _fresh(self) -> Tensor:
        draw = torch.randn(self.operator.size, generator=self.random, dtype=torch.float64)
        new = draw.to(self.operator.device, self.operator.dtype)
        used = self.vectors[: self.filled]
        for _ in range(2):
            new = new - (used @ new) @ used
            new = new / torch.linalg.vector_norm(new)
        return new
