"""A second look with other eyes: a few Lanczos steps from a fresh random start on what the Ritz vectors leave over.

One starting vector sees one vector of every eigenspace: however small the residuals, further copies of a multiple
eigenvalue never show.  A start that is drawn afresh, at right angles to what was found, sees another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.spectra._certificate import outer
from sharpscope.analyzers.spectra._krylov import Krylov
from sharpscope.core.vectors import length

__all__ = ["LEAST", "Probe", "look"]

LEAST = 5  # products of a probe; three of them missed 2 of 43 wrong spectra, five none


@dataclass(frozen=True)
class Probe:
    """What a probe saw beyond the guards, and what it makes unlikely."""

    direction: Tensor | None  # (n,) unit vector that holds eigenvalues beyond the guards, None where none was seen
    above: float  # no eigenvalue but those found is above, with the probability asked for
    below: float  # likewise below


def look(
    krylov: Krylov,
    mixing: np.ndarray,
    guards: tuple[float, float],
    goals: tuple[float, float],
    steps: int,
    failure: float,
    tick: Callable[[], object],
) -> Probe:
    """Probe the operator without the Ritz vectors that the columns of ``mixing`` make of the basis.

    Whatever is seen above or below the two ``guards`` (infinite at an end that is not wanted) was missed.  The probe
    ends there, or after ``steps``, or when ``LEAST`` of them are made and all but ``goals`` is excluded but for a
    probability of ``failure``, which the wanted ends share.  The basis and its tail are left as they are; the memory is
    what is free behind them, where that is enough.
    """
    wanted = np.isfinite(guards)
    size = krylov.operator.size - mixing.shape[1]
    steps = min(steps, size)
    if steps < 1:
        return Probe(None, math.inf, -math.inf)
    probe = _deflated(krylov, mixing, steps)
    while True:
        going = probe.extend()
        tick()
        last = not going or probe.filled == probe.limit
        if probe.filled < LEAST and not last:
            continue
        values, _, turned = probe.solve()
        seen = (values > guards[0]) & wanted[0] | (values < guards[1]) & wanted[1]
        above, below = _bounds(probe, size, failure / max(1, int(wanted.sum())), wanted)
        reached = (above <= goals[0] or not wanted[0]) and (below >= goals[1] or not wanted[1])
        if seen.any() or last or reached:
            krylov.spent += probe.spent
            return Probe(_mixed(probe, turned[:, seen].sum(axis=1)) if seen.any() else None, above, below)


def _deflated(krylov: Krylov, mixing: np.ndarray, steps: int) -> Krylov:
    """A new iteration from a random start, of the operator without the Ritz vectors."""
    operator = krylov.operator
    weights = torch.as_tensor(mixing.copy(), dtype=operator.dtype, device=operator.device)

    def clear(vector: Tensor) -> None:
        used = krylov.vectors[: krylov.filled]
        vector.addmv_(used.T, weights @ (weights.T @ (used @ vector)), alpha=-1.0)

    room: Tensor | None = krylov.vectors[krylov.filled + 1 :]
    limit = min(steps, krylov.limit - krylov.filled - 1)
    if limit < min(steps, LEAST):
        limit, room = min(steps, LEAST), None
    return Krylov(operator, limit, krylov.random, scale=krylov.largest, clear=clear, room=room)


def _bounds(probe: Krylov, size: int, failure: float, wanted: np.ndarray) -> tuple[float, float]:
    """What lies above and below no other eigenvalue; infinite at an end that is not wanted."""
    matrix = probe.projected[: probe.filled, : probe.filled]
    left = probe.beta or float(probe.lost.max(initial=0.0))  # what rounding left of the last product is booked as lost
    diagonal, beside = matrix.diagonal(), np.append(matrix.diagonal(-1), left)
    above = outer(diagonal, beside, size, failure) if wanted[0] else math.inf
    return above, -outer(-diagonal, beside, size, failure) if wanted[1] else -math.inf


def _mixed(probe: Krylov, weights: np.ndarray) -> Tensor:
    """A unit vector: the combination of the basis."""
    sent = torch.as_tensor(weights, dtype=probe.operator.dtype, device=probe.operator.device)
    vector = probe.vectors[: probe.filled].T @ sent
    return vector / length(vector)
