"""Density of the whole spectrum by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.spectra._lanczos import quadrature
from sharpscope.analyzers.spectra.spectrum import Spectrum, operator_of, spectrum
from sharpscope.core.expressions import check_count, check_range, check_seed
from sharpscope.core.progress import bar
from sharpscope.core.results import Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import generator, length
from sharpscope.curvature.operators import Operator
from sharpscope.problem.problem import Problem

__all__ = ["Density", "density"]


@dataclass(frozen=True, eq=False, repr=False)
class Density(Result):
    """Eigenvalue density: exact top eigenvalues, and quadrature nodes of every probe for all the others.

    The nodes are kept, so that ``curve`` and ``mass`` cost no product, whatever the width.
    """

    eigenvalues: np.ndarray  # (k,) float64, descending; they were taken out of the probes, mass 1/n each
    residuals: np.ndarray  # (k,) float64, theirs
    nodes: np.ndarray  # (probes, steps) float64, eigenvalue estimates; nan where a probe ended early
    weights: np.ndarray  # (probes, steps) float64, each row adds up to (n - k) / n
    size: int  # n, the number of eigenvalues
    products: int  # operator products spent, those for the top eigenvalues included
    seed: int  # of the probes
    operator: str  # what was analysed, in words

    @property
    def extent(self) -> tuple[float, float]:
        """Smallest and largest eigenvalue seen."""
        seen = np.concatenate([self.nodes[np.isfinite(self.nodes)], self.eigenvalues])
        return float(seen.min()), float(seen.max())

    @property
    def width(self) -> float:
        """Default standard deviation of the Gaussians: 2 (extent of the nodes) / steps, what the steps resolve.

        Where the nodes are one value but for rounding, or there are none, a thousandth of the largest eigenvalue.
        """
        largest, seen = max(abs(end) for end in self.extent), self.nodes[np.isfinite(self.nodes)]
        spread = float(np.ptp(seen)) if len(seen) else 0.0
        return 2.0 * spread / self.nodes.shape[1] if spread > 1e-12 * largest else 1e-3 * largest or 1.0

    @property
    def trace(self) -> float:
        """n times the mean eigenvalue."""
        return float(self.size * np.nansum(self.nodes * self.weights, axis=1).mean() + self.eigenvalues.sum())

    @property
    def trace_stderr(self) -> float:
        """Its standard error over the probes; nan for a single probe."""
        return float(_stderr(self.size * np.nansum(self.nodes * self.weights, axis=1)))

    def mass(self, low: float, high: float) -> tuple[float, float]:
        """Share of the eigenvalues in [low, high], unsmoothed, and its standard error over the probes."""
        inside = np.where((self.nodes >= low) & (self.nodes <= high), self.weights, 0.0).sum(axis=1)
        exact = np.count_nonzero((self.eigenvalues >= low) & (self.eigenvalues <= high)) / self.size
        return float(inside.mean() + exact), float(_stderr(inside))

    def curve(
        self, width: float | None = None, edges: np.ndarray | None = None, *, top: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """The density smoothed by Gaussians, averaged over bins by differences of their distribution function.

        Args:
            width: standard deviation; ``self.width`` if None.
            edges: (b + 1,) ascending edges of the bins; if None, 2000 bins that reach 5 widths beyond the extent.
            top: include the exact eigenvalues.

        Returns the centres (b,), the mean density (b,) per unit of eigenvalue, its standard error over the probes (b,)
        (nan for one probe), and the mass that lies outside of the edges.  Nothing is renormalised.
        """
        width = self.width if width is None else width
        check_range("a density curve", "width", width, np.finfo(float).tiny)
        low, high = self.extent
        edges = np.linspace(low - 5 * width, high + 5 * width, 2001) if edges is None else np.asarray(edges, float)
        if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
            raise ValueError(f"a density curve got edges of shape {edges.shape}, expected 2 or more, ascending")
        nodes = np.nan_to_num(self.nodes)
        masses = np.stack([_bins(edges, node, weight, width) for node, weight in zip(nodes, self.weights, strict=True)])
        exact = np.full(len(self.eigenvalues), 1.0 / self.size) if top else np.zeros(len(self.eigenvalues))
        mean = masses.mean(axis=0) + _bins(edges, self.eigenvalues, exact, width)
        lost = float(self.weights.sum(axis=1).mean() + exact.sum() - mean.sum())
        step = np.diff(edges)
        return (edges[1:] + edges[:-1]) / 2, mean / step, _stderr(masses) / step, max(lost, 0.0)


@undisturbed
def density(
    problem: Problem | Operator,
    probes: int = 10,
    steps: int = 80,
    seed: int = 0,
    *,
    top: Spectrum | int = 5,
    more: Density | None = None,
    progress: bool | None = None,
) -> Density:
    """Density of the Hessian's eigenvalues (or of any Operator's) by stochastic Lanczos quadrature.

    Ubaru, Chen and Saad (2017), "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature".  The top pairs are
    computed exactly and projected out of operator and probes: a probe would give each the mass 1/n with a relative
    standard deviation of sqrt(2).  What remains of every Gaussian probe runs ``steps`` fully reorthogonalised Lanczos
    steps, in the memory of steps + k + 3 vectors.  Products: probes x steps, and those of the top pairs.

    Args:
        problem: a Problem (its Hessian at the model's current weights) or an Operator.
        probes: random vectors; the spread between them is the error band.
        steps: Lanczos steps, nodes of each probe.
        seed: of the probes; probe i is a function of (seed, i).
        top: how many top eigenvalues to take out (0 for none), or a Spectrum with ``vectors`` that has them.
        more: an earlier result of the same operator, seed and steps, whose probes are kept and not computed again.
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for arguments out of range, ArithmeticError when a product is not finite.

    Example:
        >>> found = density(Operator.of(torch.diag(torch.arange(100.0))), probes=4, steps=30, top=2)
        >>> found.eigenvalues.round(3), round(found.weights.sum() / 4, 6)
        (array([99., 98.]), np.float64(0.98))
    """
    operator = operator_of(problem, "density")
    check_count("density", "probes", probes)
    check_count("density", "steps", steps)
    check_seed("density", seed)
    before, steps = operator.products, min(steps, operator.size)
    values, bounds, vectors = _top(operator, top, seed, progress)
    basis = torch.as_tensor(vectors, dtype=operator.dtype, device=operator.device)
    rest = without(operator, basis) if len(basis) else operator
    nodes, weights = np.full((probes, steps), np.nan), np.zeros((probes, steps))
    done = _kept(more, operator, values, seed, nodes, weights)
    share, size = (operator.size - len(basis)) / operator.size, float(np.abs(values).max(initial=0.0))
    with torch.no_grad(), bar(probes * steps, "density", progress) as shown:
        shown.update(done * steps)
        for probe in range(done, probes if share else 0):
            start = _probe(operator, basis, seed, probe)
            nodes[probe], weight = quadrature(rest, start, steps, seed, lambda: shown.update(1), scale=size)
            weights[probe] = share * weight
    spent = operator.products - before + (more.products if more else 0)
    return Density(
        values, bounds, nodes, weights, operator.size, spent, seed, operator.text,
    )  # fmt: skip


def without(operator: Operator, rows: Tensor) -> Operator:
    """(I - U U^T) A (I - U U^T) for orthonormal rows U^T of shape (k, n), for vectors that are orthogonal to U."""

    def product(vector: Tensor) -> Tensor:
        found = operator @ vector
        return found - rows.T @ (rows @ found)

    text = f"{operator.text} without {len(rows)} pairs"
    return Operator(product, operator.size, dtype=operator.dtype, device=operator.device, text=text)


def _top(
    operator: Operator, top: Spectrum | int, seed: int, progress: bool | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (k,), residuals (k,) and vectors (k, n) to take out."""
    if top == 0 and not isinstance(top, bool):
        return np.zeros(0), np.zeros(0), np.zeros((0, operator.size))
    if not isinstance(top, Spectrum):
        check_count("density", "top", top)
        top = spectrum(operator, min(top, operator.size), seed=seed, vectors=True, progress=progress)
    if top.vectors is None or top.vectors.shape[1] != operator.size:
        raise ValueError(
            f"density got top= without vectors of {operator.size} entries, expected a Spectrum that has them: "
            f"make it with spectrum(..., vectors=True)"
        )
    return top.eigenvalues, top.residuals, top.vectors


def _probe(operator: Operator, basis: Tensor, seed: int, probe: int) -> Tensor:
    random = generator("density probe", seed, probe)
    start = torch.randn(operator.size, generator=random, dtype=torch.float64, device="cpu").to(
        operator.device, operator.dtype
    )
    for _ in range(2):
        start.addmv_(basis.T, basis @ start, alpha=-1.0)
    return start.div_(length(start))


def _kept(
    more: Density | None, operator: Operator, exact: np.ndarray, seed: int, nodes: np.ndarray, weights: np.ndarray
) -> int:
    """Copy the probes of an earlier result; how many."""
    if more is None:
        return 0
    if not isinstance(more, Density):
        raise TypeError(f"density got more= of {type(more).__name__}, expected a Density: leave more= out")
    for name, got, expected in (
        ("operator", more.operator, operator.text), ("seed", more.seed, seed),
        ("steps", more.nodes.shape[1], nodes.shape[1]),
        ("top", more.eigenvalues.tolist(), exact.tolist()),
    ):  # fmt: skip
        if got != expected:
            raise ValueError(f"density got more= of {name} {got!r}, expected {expected!r}: leave more= out")
    done = min(len(more.nodes), len(nodes))
    nodes[:done], weights[:done] = more.nodes[:done], more.weights[:done]
    return done


def _bins(edges: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    """(b,) mass of the Gaussians in every bin."""
    from scipy.special import ndtr  # only here: importing it takes a tenth of a second

    return np.asarray(np.diff(ndtr((edges[:, None] - nodes) / width) @ weights))


def _stderr(samples: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the first axis; nan for a single sample."""
    if len(samples) < 2:
        return np.full(samples.shape[1:], np.nan)[()]
    return np.asarray(samples.std(axis=0, ddof=1) / math.sqrt(len(samples)))[()]
