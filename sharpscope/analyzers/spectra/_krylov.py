"""An orthonormal basis, the matrix projected on it, and what is left over: the state of a Lanczos iteration.

Every new product is orthogonalised against the whole basis twice, so that no eigenvalue is found more than once and the
projected matrix V^T A V is that of the basis at hand whatever it was started from.

A basis of m vectors takes the memory of m + 2 vectors, the operator's own product aside: m, the next vector, and the
product until it is copied; a restart mixes the basis in place, some columns at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sharpscope.core.vectors import length
from sharpscope.curvature.operators import Operator

__all__ = ["Krylov"]

_CHUNK = 1 << 18  # entries of a vector that are copied at once


class Krylov:
    """An orthonormal basis V, the projected matrix V^T A V, and one more unit vector (the tail) to multiply next."""

    def __init__(
        self,
        operator: Operator,
        limit: int,
        random: torch.Generator,
        start: Tensor | None = None,
        scale: float = 0.0,
        *,
        clear: Callable[[Tensor], object] = lambda vector: None,
        room: Tensor | None = None,
    ) -> None:
        """``clear`` takes a subspace out of a vector, in place, and so out of the matrix; ``room`` is memory to use."""
        self.operator, self.limit, self.random, self.scale, self.clear = operator, limit, random, scale, clear
        self.epsilon = float(torch.finfo(operator.dtype).eps)
        if room is None:
            room = torch.empty(limit + 1, operator.size, dtype=operator.dtype, device=operator.device)
        self.vectors = room
        self.projected = np.zeros((limit, limit))
        self.lost = np.zeros((0, limit))  # of each basis vector u, along every tail that was left: part of A u
        self.left: list[Tensor | None] = []  # those tails; None where one is forgotten or nothing is along it
        self.filled = self.restarts = self.spent = 0
        self.beta = self.largest = 0.0  # norm of the last remainder; largest magnitude of all Ritz values so far
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
            self.clear(rest)
            share = used @ rest
            rest.addmv_(used.T, share, alpha=-1.0)
            column += share.double().cpu().numpy()
        self._check_symmetry(column, size)
        self.projected[: self.filled + 1, self.filled] = self.projected[self.filled, : self.filled + 1] = column
        self.filled += 1
        self._clear_left()
        self.spent += 1
        self.since += 1
        self.beta = length(rest)
        self.coupling = np.append(np.zeros(self.filled - 1), self.beta)
        if self.filled < self.operator.size and self.beta > 10.0 * self.epsilon * max(
            size, float(np.abs(self.projected).max())
        ):
            rest /= self.beta
            return True
        self.branch()
        return False

    def branch(self, direction: Tensor | None = None) -> None:
        """Go on from ``direction``, or a random one, orthogonal to the basis; the tail is left for later."""
        given_up = np.zeros((1, self.limit))
        given_up[0, : self.filled] = self.coupling
        self.lost = np.vstack([self.lost, given_up])
        vain = self.beta <= 10.0 * self.epsilon * self.largest
        self.left.append(None if vain else self.tail.clone())
        self.beta, self.coupling = 0.0, np.zeros(self.filled)
        if self.filled == self.operator.size:
            self.tail.zero_()
            self.lost[:] = 0.0  # nothing is outside of the basis
            self.left = [None] * len(self.left)
        elif direction is None or not self._turn(direction):  # nothing of it is outside of the basis
            self._fresh()

    def _clear_left(self) -> None:
        """Take the newest basis vector out of the tails that were left: they stay orthogonal to the basis."""
        for place, vector in enumerate(self.left):
            if vector is None:
                continue
            used, total = self.vectors[self.filled - 1 : self.filled], 1.0
            for _ in range(2):
                vector.addmv_(used.T, used @ vector, alpha=-1.0)
                size = length(vector)
                total *= size
                if total < 100.0 * self.epsilon:
                    break
                vector /= size
                used = self.vectors[: self.filled] if size < 0.5 else used  # what remains may be rounding of the rest
            self.lost[place] *= total
            if total < 100.0 * self.epsilon:
                self.left[place] = None

    def resume(self, place: int) -> None:
        """Exchange the tail for one that was left: A V - V T is the same, told along other vectors."""
        tail, vector, row = self.tail.clone(), self.left[place], self.lost[place, : self.filled].copy()
        if vector is None:
            return
        along = float(tail.double() @ vector.double())
        if (size := self._turn(vector, tail)) > 0.0:
            self.left[place], self.lost[place, : self.filled] = tail, self.coupling + along * row
            self.coupling = size * row
        else:
            self.tail.copy_(tail)
            self.left[place], self.lost[place] = None, 0.0
            self.coupling = self.coupling + along * row
        self.beta = float(np.linalg.norm(self.coupling))

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
        self.largest = max(self.largest, float(np.abs(values).max()))
        return values[::-1], self.coupling @ mixing[:, ::-1], mixing[:, ::-1]

    def ends(self, count: int, low: int) -> np.ndarray:
        """Places of the wanted Ritz values: the first ``count``, and the last ``low`` from the end."""
        last = self.filled - 1 - np.arange(min(low, self.filled))
        return np.concatenate([np.arange(min(count, self.filled)), last]).astype(int)

    def settled(
        self, values: np.ndarray, bounds: np.ndarray, small: bool, fine: bool, level: float, starts: int
    ) -> bool:
        """Whether pairs with small residuals are what ``starts`` random directions in turn lead to.

        After the first, Lanczos goes on from a new random direction for as many products, each time with residuals
        (``fine``) that leave room for those to come, until ``starts`` of them brought nothing new one after another.
        Where all that a direction sees has converged (the tail is nothing beside ``level``), it need not go so far.
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
        if agreed >= starts:
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

    def spare(self, count: int, low: int) -> int:
        """How many Ritz vectors a restart keeps beside the wanted ones."""
        return min((self.limit - count - low) // 3, self.limit - 2 - count - low)

    def restart(self, count: int, low: int, values: np.ndarray, mixing: np.ndarray) -> None:
        """Condense the basis to the Ritz vectors at the wanted ends and some more; the tail stays."""
        spare = self.spare(count, low)
        more = spare * low // (count + low)
        ends = self.ends(count + spare - more, low + more if low else 0)
        self.coupling = self.coupling @ mixing[:, ends]
        lost, self.lost = self.lost[:, : self.filled] @ mixing[:, ends], np.zeros_like(self.lost)
        self.lost[:, : len(ends)] = lost
        self.mix(mixing[:, ends])
        self.projected[:] = 0.0
        self.projected[: len(ends), : len(ends)] = np.diag(values[ends])
        self.restarts += 1

    def _fresh(self) -> None:
        """A random unit vector orthogonal to the basis as tail."""
        for part in self._parts():
            part.copy_(torch.randn(len(part), generator=self.random, dtype=torch.float64, device="cpu"))
        self._turn(self.tail)

    def _turn(self, vector: Tensor, *others: Tensor) -> float:
        """Make the tail of a vector's part that is orthogonal to the basis and others; its length, 0 where it is none.

        Relative to the vector, that is.
        """
        used, new = self.vectors[: self.filled], self.tail
        new.copy_(vector)
        total = length(new)
        share = 1.0
        for _ in range(2):
            for other in others:
                new.sub_(other, alpha=float(other.double() @ new.double()))
            self.clear(new)
            if self.filled:
                new.addmv_(used.T, used @ new, alpha=-1.0)
            size = length(new) / total
            if size < 100.0 * self.epsilon:
                return 0.0
            new /= size * total
            share, total = share * size, 1.0
        return share

    def _parts(self) -> Iterator[Tensor]:
        yield from self.tail.split(_CHUNK)
