"""How much does the SAM gradient differ from the SGD gradient, coordinate by coordinate?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from sharpscope.ascent.perturbations import Ball, Perturbation
from sharpscope.ascent.probe import Probe
from sharpscope.pieces import check_piece, resolve
from sharpscope.problem import Problem
from sharpscope.results import Dims, Result
from sharpscope.vectors import add

__all__ = ["GradientRatio", "gradient_ratio"]

_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_EDGES = {"log10": (-8.0, 4.0, 121), "ln": (-18.0, 9.0, 136)}


@dataclass(frozen=True, eq=False, repr=False)
class GradientRatio(Result):
    """Distribution of r = log|(g_SAM - g_SGD) / g_SGD| over the coordinates (Sparse SAM, section 3.2, Fig. 1).

    Every coordinate is in exactly one place: a bin of ``counts``, ``below``, ``above``, ``zero_numerators``
    (r = -inf) or ``zero_denominators`` (r = +inf or undefined).
    """

    dims: ClassVar[Dims] = {
        "counts": "layers bin",
        "below above negative zero_numerators zero_denominators": "layers",
        "quantiles": "levels",
    }

    edges: np.ndarray  # (b + 1,) float64, bin edges of r, in units of the logarithm
    counts: np.ndarray  # (layers, b) int64, coordinates per bin
    below: np.ndarray  # (layers,) int64, finite r under the first edge
    above: np.ndarray  # (layers,) int64, finite r at or over the last edge
    negative: np.ndarray  # (layers,) int64, finite r < 0
    zero_numerators: np.ndarray  # (layers,) int64, g_SAM == g_SGD != 0
    zero_denominators: np.ndarray  # (layers,) int64, g_SGD == 0
    layers: tuple[str, ...]  # parameter names
    perturbation: str  # text of the perturbation
    base: str  # "log10" or "ln"
    levels: np.ndarray  # (q,) float64, probabilities of the quantiles
    quantiles: np.ndarray  # (q,) float64, of r over coordinates with g_SGD != 0 (-inf counts as smallest)
    problem: str  # loss, examples, BatchNorm mode, dtype in words

    @property
    def sizes(self) -> np.ndarray:
        """(layers,) int64: coordinates per layer."""
        outside = self.below + self.above + self.zero_numerators + self.zero_denominators
        return np.asarray(self.counts.sum(axis=1) + outside)

    @property
    def share_below_zero(self) -> float:
        """Share of r < 0 among the coordinates with g_SGD != 0 (r = -inf included)."""
        defined = int((self.sizes - self.zero_denominators).sum())
        return float((self.negative + self.zero_numerators).sum()) / defined if defined else float("nan")

    @property
    def layer_share_below_zero(self) -> np.ndarray:
        """(layers,) float64: the same share, layer by layer."""
        defined = self.sizes - self.zero_denominators
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.negative + self.zero_numerators) / defined)


def gradient_ratio(
    problem: Problem, perturbation: Perturbation | None = None, *, base: str = "log10", seed: int = 0
) -> GradientRatio:
    """Distribution of r = log|(g_SAM - g_SGD) / g_SGD| over all coordinates, globally and per layer.

    Sparse SAM (Mi et al. 2022), section 3.2 and Fig. 1; the paper does not state the base of its logarithm: 10 here,
    unless ``base="ln"`` (the sign of r is the same).  Both gradients are of the problem's whole data in eval mode, so
    BatchNorm and dropout are equal in both, and weight decay and momentum have no part.

    Args:
        problem: the function.
        perturbation: from w to where g_SAM is taken; ``Ball(0.1)`` by default, or ASAM's, or a masked one.
        base: "log10" or "ln".
        seed: of whatever is random in the perturbation.

    Raises TypeError for a perturbation that is none; ValueError for another base, a perturbation of radius 0, and
    gradients that are not finite.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> ratio = gradient_ratio(Problem(model, torch.nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1))))
        >>> bool(ratio.sizes.sum() == 3)
        True
    """
    perturbation = Ball(0.1) if perturbation is None else perturbation
    check_piece("gradient_ratio", "perturbation", perturbation, Perturbation)
    if base not in _EDGES:
        raise ValueError(f"gradient_ratio got base={base!r}, expected 'log10' or 'ln': change base")
    perturbation = resolve(perturbation, epoch=1, total=1)
    weights = [w.clone() for w in problem.weights]
    plain = problem.gradient(weights)
    known = dict(problem.model.named_parameters())  # a score may look a parameter up in the model
    probe = Probe([known[name] for name in problem.names], problem.names, seed=seed, problem=problem)
    eps = perturbation(plain, probe, {})
    if eps is None:
        raise ValueError(f"gradient_ratio got {perturbation!r}, whose radius is 0, expected a positive one: raise rho")
    ascended = problem.gradient(add(weights, eps.dense()))
    edges = np.linspace(*_EDGES[base])
    layers = [_layer(a, b, edges, base) for a, b in zip(ascended, plain, strict=True)]
    values = np.concatenate([layer.values for layer in layers])
    columns = {name: np.array([layer.tally[name] for layer in layers], dtype=np.int64) for name in layers[0].tally}
    levels = np.array(_LEVELS)
    return GradientRatio(
        edges=edges,
        counts=np.stack([layer.counts for layer in layers]),
        layers=problem.names,
        perturbation=repr(perturbation),
        base=base,
        levels=levels,
        quantiles=np.quantile(values, levels, method="lower") if len(values) else np.full(len(levels), np.nan),
        problem=problem.describe(),
        **columns,
    )


@dataclass(frozen=True)
class _Layer:
    counts: np.ndarray
    tally: dict[str, int]
    values: np.ndarray  # r where g_SGD != 0, -inf included


def _layer(ascended: Tensor, plain: Tensor, edges: np.ndarray, base: str) -> _Layer:
    a, b = (x.double().flatten().cpu().numpy() for x in (ascended, plain))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a gradient is not finite, expected finite numbers: check the loss at w and at w + eps")
    defined = b != 0.0
    logarithm = np.log10 if base == "log10" else np.log
    with np.errstate(divide="ignore"):
        # the difference of logarithms, because the ratio itself may overflow
        r = logarithm(np.abs(a - b)[defined]) - logarithm(np.abs(b)[defined])
    finite = r[np.isfinite(r)]
    counts = np.histogram(finite[finite < edges[-1]], bins=edges)[0]
    tally = {
        "below": int((finite < edges[0]).sum()),
        "above": int((finite >= edges[-1]).sum()),
        "negative": int((finite < 0.0).sum()),
        "zero_numerators": int(np.isneginf(r).sum()),
        "zero_denominators": int((~defined).sum()),
    }
    return _Layer(counts.astype(np.int64), tally, r)
