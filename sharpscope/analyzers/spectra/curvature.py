"""Curvature by parts of the parameters: layer by layer, or under a mask and its complement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.spectra.spectrum import Spectrum, operator_of, spectrum
from sharpscope.analyzers.spectra.trace import part_traces
from sharpscope.core.expressions import check_count, check_seed
from sharpscope.core.results import Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.curvature.operators import Operator
from sharpscope.problem.problem import Problem

__all__ = ["Curvature", "curvature"]


@dataclass(frozen=True, eq=False, repr=False)
class Curvature(Result):
    """Of every part P: the largest eigenvalue and the trace of P H P, and what it holds of the top eigenvectors."""

    parts: tuple[str, ...]  # (p,) names of the parts
    sizes: np.ndarray  # (p,) int64, coordinates of each
    eigenvalues: np.ndarray  # (p,) float64, largest eigenvalue of P H P on the part's own coordinates
    residuals: np.ndarray  # (p,) float64, theirs
    traces: np.ndarray  # (p,) float64, estimates of tr P H P
    trace_stderr: np.ndarray  # (p,) float64, their standard errors
    total: float  # trace of the whole operator, from the same products
    total_stderr: float  # its standard error
    top: np.ndarray  # (k,) float64, the largest eigenvalues of the whole operator
    top_residuals: np.ndarray  # (k,) float64, theirs
    captured: np.ndarray  # (k, p) float64, |P u|^2 of each top eigenvector u
    size: int  # n
    products: int  # operator products spent
    seed: int  # of starting vectors and random signs
    operator: str  # what was analysed, in words

    @property
    def trace_share(self) -> np.ndarray:
        """(p,): trace of each part over the whole trace."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.traces / self.total)

    @property
    def size_share(self) -> np.ndarray:
        """(p,): coordinates of each part over all; what the others would be if curvature were everywhere alike."""
        return np.asarray(self.sizes / self.size)


@undisturbed
def curvature(
    problem: Problem | Operator,
    parts: Mapping[str, Any] | None = None,
    k: int = 5,
    tol: float = 1e-3,
    seed: int = 0,
    *,
    top: Spectrum | None = None,
    trace_products: int = 40,
    progress: bool | None = None,
) -> Curvature:
    """Where the curvature sits: lambda_1, trace and share of the top eigenvectors, for every part of the parameters.

    Args:
        problem: a Problem (its Hessian at the model's current weights) or an Operator.
        parts: ``{name: where}``, with all that ``Operator.restrict`` takes: a mask, a name pattern, a layer.  None
            takes the layers: parameters with the same name up to the last dot.  ``{"mask": m, "rest": complement(m)}``
            compares a mask with what it leaves out.
        k: how many top eigenvectors of the whole operator.
        tol: relative residual of the eigenvalues.
        seed: of starting vectors and random signs.
        top: the top of the whole spectrum with ``vectors``, where it is known already.
        trace_products: products with random signs; they give the traces of all parts at once.
        progress: show progress bars; None shows them on a terminal only.

    Raises ValueError for no part, an empty part or bad arguments, ArithmeticError when a product is not finite.

    Example:
        >>> op = Operator.of(torch.diag(torch.tensor([5.0, 1.0, 3.0, 2.0])))
        >>> first = torch.tensor([True, True, False, False])
        >>> found = curvature(op, {"first": first, "rest": ~first}, k=1)
        >>> found.eigenvalues.round(4), found.captured.round(4)
        (array([5., 3.]), array([[1., 0.]]))
    """
    operator = operator_of(problem, "curvature")
    check_count("curvature", "k", k)
    check_seed("curvature", seed)
    if isinstance(trace_products, bool) or not isinstance(trace_products, int) or trace_products < 2:
        raise ValueError(f"curvature got trace_products={trace_products!r}, expected 2 or more, for an error: raise it")
    if not isinstance(parts, Mapping | None):
        raise TypeError(f"curvature got parts= of {type(parts).__name__}, expected a dictionary: parts={{name: mask}}")
    before, chosen = operator.products, _layers(operator) if parts is None else parts
    masks = {name: _mask(operator, name, where) for name, where in chosen.items()}
    if not masks:
        raise ValueError("curvature got no part, expected at least one: leave parts= out for the layers")
    if top is None:
        top = spectrum(operator, min(k, operator.size), tol, seed, vectors=True, progress=progress)
    captured = _captured(top, masks, operator)
    traces, stderr = part_traces(operator, list(masks.values()), trace_products, seed, progress)
    ones = [spectrum(operator.block(mask), 1, tol, seed, progress=progress) for mask in masks.values()]
    sizes = np.array([int(mask.sum()) for mask in masks.values()], dtype=np.int64)
    values, residuals = (np.array([getattr(one, name)[0] for one in ones]) for name in ("eigenvalues", "residuals"))
    return Curvature(
        tuple(masks), sizes, values, residuals, traces[:-1], stderr[:-1], float(traces[-1]), float(stderr[-1]),
        top.eigenvalues, top.residuals, captured, operator.size, operator.products - before, seed, operator.text,
    )  # fmt: skip


def _captured(top: Spectrum, masks: Mapping[str, Tensor], operator: Operator) -> np.ndarray:
    """(k, p): |P u|^2."""
    if not isinstance(top, Spectrum) or top.vectors is None or top.vectors.shape[1] != operator.size:
        raise ValueError(
            f"curvature got top= without vectors of {operator.size} entries, expected a Spectrum that has them: "
            f"make it with spectrum(..., vectors=True)"
        )
    squares = top.vectors.astype(np.float64) ** 2
    return np.stack([squares[:, mask.cpu().numpy()].sum(axis=1) for mask in masks.values()], axis=1)


def _mask(operator: Operator, name: str, where: Any) -> Tensor:
    """(n,) bool: the coordinates that ``restrict`` keeps."""
    one = Operator(
        torch.clone, operator.size, dtype=operator.dtype, device=operator.device, text=f"part {name!r}",
        layout=operator.layout,
    )  # fmt: skip
    mask = one.restrict(where) @ torch.ones(operator.size, dtype=operator.dtype, device=operator.device) > 0
    if not bool(mask.any()):
        raise ValueError(f"curvature got an empty part {name!r}, expected at least one coordinate: leave it out")
    return mask


def _layers(operator: Operator) -> dict[str, Any]:
    """Masks of the parameters that share their names up to the last dot."""
    if not operator.layout:
        raise ValueError(
            f"curvature got the {operator.text} without parameter names, expected parts= or a Problem: give "
            f"parts={{name: mask}}"
        )
    names = list(operator.layout)
    layers = [name.rpartition(".")[0] or name for name in names]
    found: dict[str, Any] = {}
    for layer in dict.fromkeys(layers):
        found[layer] = {
            name: torch.ones(tensor.shape, dtype=torch.bool, device="cpu")
            for name, tensor, own in zip(names, operator.layout.values(), layers, strict=True) if own == layer
        }  # fmt: skip
    return found
