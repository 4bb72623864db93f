"""Top eigenvalues along training: one spectrum per checkpoint, each begun where the one before ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from sharpscope.analyzers.spectra.spectrum import Spectrum, spectrum
from sharpscope.core.results import Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.curvature.operators import Operator, hessian
from sharpscope.problem.problem import Problem

__all__ = ["Track", "track"]


@dataclass(frozen=True, eq=False, repr=False)
class Track(Result):
    """The k largest eigenvalues at each of t steps of a training."""

    steps: np.ndarray  # (t,) int64, optimizer steps
    eigenvalues: np.ndarray  # (t, k) float64, each row descending
    residuals: np.ndarray  # (t, k) float64, theirs
    products: np.ndarray  # (t,) int64, operator products spent at each step
    tol: float  # requested residual, relative to each eigenvalue
    seed: int  # of the random starting vectors
    warm: bool  # whether each spectrum began at the vectors of the one before
    operator: str  # what was analysed at the last step, in words

    @property
    def ratios(self) -> np.ndarray:
        """(t,): lambda_1 / lambda_k at each step."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.eigenvalues[:, 0] / self.eigenvalues[:, -1])


@undisturbed
def track(
    problems: Mapping[int, Problem | Operator] | Iterable[tuple[int, Problem | Operator]],
    k: int = 1,
    tol: float = 1e-2,
    seed: int = 0,
    *,
    warm: bool = True,
    progress: bool | None = None,
) -> Track:
    """The k largest eigenvalues at every step of a training, each certified as by ``spectrum``.

    Args:
        problems: ``{step: problem}``, or pairs of them in order; of an iterator, one problem is held at a time.  How
            products are computed is chosen at the first step, for all.
        k: how many eigenvalues.
        tol: relative residual; at 1e-2 an eigenvalue is off by about 1e-4.
        seed: of the starting vectors.
        warm: begin at the Ritz vectors of the step before, and a share of a random direction for what they do not hold.
        progress: show progress bars; None shows them on a terminal only.

    Raises ValueError for no step, steps that do not ascend and bad arguments, TypeError for what is not steps and
    problems, ArithmeticError as ``spectrum`` does.

    Example:
        >>> import torch
        >>> ops = {step: Operator.of(torch.diag(torch.arange(9.0)) * (1 + step)) for step in range(3)}
        >>> track(ops).eigenvalues[:, 0].round(2)
        array([ 8., 16., 24.])
    """
    rows: list[tuple[int, np.ndarray, np.ndarray, int]] = []
    last: Spectrum | None = None
    for step, problem in _pairs(problems):
        if rows and step <= rows[-1][0]:
            raise ValueError(f"track got step {step} after {rows[-1][0]}, expected ascending steps: sort them")
        if isinstance(problem, Problem):  # one choice of how products are computed, for all steps
            problem = hessian(problem, mode=last.how if last else "auto")
        last = spectrum(problem, k, tol, seed, vectors=warm, start=last if warm else None, progress=progress)
        rows.append((step, last.eigenvalues, last.residuals, last.products))
    if last is None:
        raise ValueError("track got no step, expected at least one problem: keep checkpoints of the training")
    steps, eigenvalues, residuals, products = zip(*rows, strict=True)
    return Track(
        steps=np.array(steps, dtype=np.int64),
        eigenvalues=np.stack(eigenvalues),
        residuals=np.stack(residuals),
        products=np.array(products, dtype=np.int64),
        tol=tol,
        seed=seed,
        warm=warm,
        operator=last.operator,
    )


def _pairs(problems: Any) -> Iterator[tuple[int, Problem | Operator]]:
    """The steps and problems.  Raises TypeError for anything else."""
    expected = "expected whole steps and problems: track({step: problem})"
    if not isinstance(problems, Iterable):
        raise TypeError(f"track got a {type(problems).__name__}, {expected}")
    for pair in problems.items() if isinstance(problems, Mapping) else problems:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"track got a {type(pair).__name__}, {expected}")
        step, problem = pair
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise TypeError(f"track got the step {step!r}, {expected}")
        yield int(step), problem
