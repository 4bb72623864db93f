"""The curvature inside a mask: diagonal and trace of the Hessian, and the top eigenvalue of the masked block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.spectra.spectrum import Spectrum, spectrum
from sharpscope.core.progress import bar
from sharpscope.core.vectors import generator
from sharpscope.curvature.operators import Operator

__all__ = ["Diagonal", "diagonal", "top_of_block"]


@dataclass(frozen=True)
class Diagonal:
    """The diagonal of an operator and what it says of a mask."""

    mean: np.ndarray  # (n,) float64
    trace: float
    trace_error: float  # standard error over the probes, 0 where the diagonal is exact
    inside: float  # trace of the masked block
    share: float  # inside / trace
    share_error: float  # standard error of the share


def diagonal(operator: Operator, mask: Tensor, probes: int, seed: int, progress: bool | None = None) -> Diagonal:
    """Diagonal by Hutchinson's estimator (Bekas, Kokiopoulou and Saad 2007): the mean of v * (A v) over signs v.

    Exact, from unit vectors, where the operator has no more coordinates than ``probes``.  ``mask`` is (n,) bool.
    """
    exact = operator.size <= probes
    count = operator.size if exact else probes
    mean = torch.zeros(operator.size, dtype=torch.float64, device=operator.device)
    sums = np.zeros((count, 2))
    with torch.no_grad(), bar(count, "diagonal of the Hessian", progress) as shown:
        for index in range(count):
            v = _probe(operator, index, exact, seed)
            found = (v * (operator @ v)).double()
            mean += found if exact else found / count
            sums[index] = float(found.sum()), float(found[mask].sum())
            shown.update(1)
    if not bool(torch.isfinite(mean).all()):
        raise ArithmeticError(
            f"the diagonal of the {operator.text} is not finite, expected finite numbers: "
            f"check the loss at these weights"
        )
    trace, inside = sums.sum(axis=0) if exact else sums.mean(axis=0)
    share = inside / trace if trace else float("nan")
    error, share_error = 0.0, 0.0
    if not exact:
        error = float(sums[:, 0].std(ddof=1) / np.sqrt(count)) if count > 1 else float("inf")
        rest = sums[:, 1] - share * sums[:, 0]  # the delta method for a ratio of two means
        share_error = float(rest.std(ddof=1) / np.sqrt(count) / abs(trace)) if count > 1 and trace else float("inf")
    return Diagonal(mean.cpu().numpy(), float(trace), error, float(inside), float(share), share_error)


def top_of_block(
    operator: Operator, mask: Tensor, tol: float, seed: int, progress: bool | None = None
) -> tuple[float, float]:
    """Largest algebraic eigenvalue of the masked block and its residual; nan for an empty mask."""
    block = operator.block(mask)
    if not block.size:
        return float("nan"), float("nan")
    found: Spectrum = spectrum(block, 1, tol, seed, progress=progress)
    return float(found.eigenvalues[0]), float(found.residuals[0])


def _probe(operator: Operator, index: int, exact: bool, seed: int) -> Tensor:
    if exact:
        v = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
        v[index] = 1.0
        return v
    signs = torch.randint(
        0, 2, (operator.size,), generator=generator("diagonal", seed, index), dtype=torch.int8, device="cpu"
    )
    return (2 * signs - 1).to(dtype=operator.dtype, device=operator.device)
