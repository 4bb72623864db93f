"""Trace, Frobenius norm and diagonal of a symmetric operator from products with random signs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.spectra.spectrum import operator_of
from sharpscope.core.expressions import check_count, check_seed
from sharpscope.core.progress import bar
from sharpscope.core.results import Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import generator, length
from sharpscope.curvature.operators import Operator
from sharpscope.problem.problem import Problem

__all__ = ["Trace", "part_traces", "trace"]

Method = Literal["auto", "hutchinson", "xtrace"]


@dataclass(frozen=True, eq=False, repr=False)
class Trace(Result):
    """The sum of the eigenvalues and the root of the sum of their squares, each with its standard error."""

    value: float  # tr A
    stderr: float  # its standard error; 0 where it is exact, nan for a single sample
    frobenius: float  # |A|_F, the root of the mean |A w|^2
    frobenius_stderr: float  # its standard error
    method: str  # "hutchinson", "xtrace" or "exact": the one that was used
    products: int  # operator products spent
    size: int  # n, the number of coordinates
    seed: int  # of the random signs
    operator: str  # what was analysed, in words
    diagonal: np.ndarray | None = None  # (n,) float64, unbiased estimate of diag A, or None
    diagonal_stderr: np.ndarray | None = None  # (n,) float64, its standard error
    samples: np.ndarray | None = (
        None  # (m,) float64, what each probe made of tr A (those of XTrace are not independent)
    )

    @property
    def mean_eigenvalue(self) -> float:
        """tr A / n."""
        return self.value / self.size


@undisturbed
def trace(
    problem: Problem | Operator,
    products: int = 40,
    seed: int = 0,
    *,
    method: Method = "auto",
    diagonal: bool = False,
    progress: bool | None = None,
) -> Trace:
    """The trace of the Hessian of a problem (or of any Operator), with its standard error.

    "hutchinson": the mean of w^T A w over random signs w; its variance is 2 (|A|_F^2 - sum A_ii^2) per product.
    "xtrace": Epperly, Tropp and Webber (2024), "XTrace: making the most of every sample in stochastic trace
    estimation": half of the products find a subspace, the other half give the trace inside it, and every sample serves
    for both; in the memory of ``products`` / 2 + 3 vectors.  "auto" makes the first half, estimates by leaving samples
    out how much of |A|_F lies outside of the subspace, and goes on with the method whose error will be smaller.

    The samples of XTrace share their subspace and are not independent, so the spread between them is too small an
    error.  Its standard error here is (2 / m mean |(I - Q_i Q_i^T) A w_i|^2)^(1/2), Q_i the subspace without sample i
    of m: Hutchinson's variance for what the subspace leaves out.  The true value was within two of them in 90 to 99 %
    of trials at 40 products: too large an error for steep decay; too small for a semi-definite matrix with 60 products
    in 100 coordinates (86 %), and for less than 20 products beside eigenvalues that stand far out (83 %).

    Args:
        problem: a Problem (its Hessian at the model's current weights) or an Operator.
        products: how many to spend, at least 2 (4 for "xtrace"); with n or more, n unit vectors give everything exactly
            (unless "hutchinson" is asked for).
        seed: of the random signs.
        method: "auto", "hutchinson" or "xtrace".
        diagonal: keep the estimate of the diagonal, mean of w * A w, with its standard error (2 vectors more).
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for arguments out of range, ArithmeticError when a product is not finite.

    Example:
        >>> found = trace(Operator.of(torch.diag(torch.arange(5.0))))
        >>> round(found.value, 5), found.stderr
        (10.0, 0.0)
    """
    operator = operator_of(problem, "trace")
    check_count("trace", "products", products)
    check_seed("trace", seed)
    if products < 2:
        raise ValueError(f"trace got products={products}, expected at least 2, for an error: raise products")
    if method not in ("auto", "hutchinson", "xtrace"):
        raise ValueError(f"trace got method={method!r}, expected one of auto, hutchinson, xtrace: choose one")
    if method == "xtrace" and products < min(4, operator.size):
        raise ValueError(f"trace got products={products}, expected at least 4 for XTrace's error: raise products")
    before, count = operator.products, min(products, operator.size)
    with torch.no_grad(), bar(products if method == "hutchinson" else count, "trace", progress) as shown:
        samples = _Samples(operator, seed, diagonal, lambda: shown.update(1))
        if method != "hutchinson" and products >= operator.size:
            return _exact(samples, before)
        method, each, stderr = _estimate(samples, products, method)
    squared, squared_stderr = _mean(np.array(samples.squared))
    frobenius, scale = math.sqrt(squared), samples.scale
    frobenius_stderr = squared_stderr / (2.0 * frobenius) if frobenius else 0.0
    return Trace(
        float(each.mean()) * scale, stderr * scale, frobenius * scale, frobenius_stderr * scale, method,
        operator.products - before, operator.size, seed, operator.text, *samples.diagonal(), each * scale,
    )  # fmt: skip


def _exact(samples: _Samples, before: int) -> Trace:
    """Everything from the products with the unit vectors."""
    operator, columns = samples.operator, []
    found = np.zeros(operator.size)
    for place in range(operator.size):
        unit = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
        unit[place] = 1.0
        column = samples.product(unit)
        found[place] = float(column[place])
        columns.append(length(column))
    kept = (found, np.zeros_like(found)) if samples.first is not None else (None, None)
    return Trace(
        float(found.sum()), 0.0, math.hypot(*columns), 0.0, "exact",
        operator.products - before, operator.size, samples.seed, operator.text, *kept,
    )  # fmt: skip


def _estimate(samples: _Samples, products: int, method: Method) -> tuple[Method, np.ndarray, float]:
    """The method that was used, what each of its probes says, and the standard error of their mean."""
    half = 0 if method == "hutchinson" else products // 2
    space = _Space(samples.operator, half)
    while len(samples.squared) < half and not space.exhausted:
        if not space.take(samples.one(), len(samples.squared) - 1):
            space.exhausted = not space.take(samples.normal(), None)
    if method == "xtrace" or (half and space.leaves() < 0.5):
        return "xtrace", _xtrace(samples, space), space.stderr()
    del space
    while len(samples.squared) < products:
        samples.one()
    return "hutchinson", np.array(samples.quadratic), _mean(np.array(samples.quadratic))[1]


def part_traces(
    operator: Operator, masks: Sequence[Tensor], products: int, seed: int, progress: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Traces (p + 1,) of P A P for masks (n,) bool, and of A itself, from the same products; their standard errors."""
    with torch.no_grad(), bar(products, "traces", progress) as shown:
        samples = _Samples(operator, seed, False, lambda: shown.update(1))
        rows = np.zeros((products, len(masks) + 1))
        for sample in range(products):
            each = samples.signs(sample) * samples.one()
            rows[sample] = [*(float(each[mask].double().sum()) for mask in masks), samples.quadratic[-1]]
    return rows.mean(axis=0) * samples.scale, rows.std(axis=0, ddof=1) / math.sqrt(products) * samples.scale


class _Samples:
    """Products with random signs, and the sums over them, all of A / ``scale``.

    ``scale`` is 1 or, where squares would leave float64's range, a power of two as large as the first product.
    """

    def __init__(self, operator: Operator, seed: int, diagonal: bool, tick: Callable[[], object]) -> None:
        self.operator, self.seed, self.tick, self.scale = operator, seed, tick, 1.0
        self.quadratic: list[float] = []  # w^T A w
        self.squared: list[float] = []  # |A w|^2
        self.first = np.zeros(operator.size) if diagonal else None
        self.second = np.zeros(operator.size) if diagonal else None

    def signs(self, sample: int) -> Tensor:
        """The test vector w of a sample, made anew each time."""
        random = generator("trace", self.seed, sample)
        signs = torch.randint(0, 2, (self.operator.size,), generator=random, dtype=torch.int8, device="cpu")
        return signs.to(self.operator.device, self.operator.dtype).mul_(2).sub_(1)

    def one(self) -> Tensor:
        """One more product A w."""
        w = self.signs(len(self.squared))
        product = self.product(w)
        size = length(product)
        if size and not any(self.squared) and not 1e-100 < size < 1e100:
            self.scale = 2.0 ** round(math.log2(size))
            product = product / self.scale
        self.squared.append(length(product) ** 2)
        self.quadratic.append(dot(w, product))
        if self.first is not None and self.second is not None:
            sample = (w * product).double().cpu().numpy()
            self.first += sample
            self.second += sample**2
        return product

    def normal(self) -> Tensor:
        """A times a vector of normal numbers: in a subspace with certainty only where the range of A is."""
        random = generator("trace, normal", self.seed, len(self.squared))
        draw = torch.randn(self.operator.size, generator=random, dtype=torch.float64, device="cpu")
        return self.product(draw.to(self.operator.device, self.operator.dtype))

    def product(self, vector: Tensor) -> Tensor:
        product = self.operator @ vector
        self.tick()
        return product if self.scale == 1.0 else product / self.scale

    def diagonal(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Mean of w * A w and its standard error, each (n,), or None."""
        if self.first is None or self.second is None:
            return None, None
        count = len(self.squared)
        mean = self.first / count
        spread = np.maximum(self.second / count - mean**2, 0.0) / max(count - 1, 1)
        stderr = np.sqrt(spread) if count > 1 else np.full_like(mean, np.nan)
        return mean * self.scale, stderr * self.scale


class _Space:
    """An orthonormal basis Q of products y_1 ... y_m, as rows, with y_i = Q R_i."""

    def __init__(self, operator: Operator, most: int) -> None:
        self.epsilon = float(torch.finfo(operator.dtype).eps)
        self.rows = torch.empty(most, operator.size, dtype=operator.dtype, device=operator.device)
        self.r = np.zeros((most, most))
        self.filled = 0
        self.samples: list[int] = []  # whose products they are
        self.exhausted = False  # a product with a normal vector brought nothing new: the basis spans the range

    def take(self, product: Tensor, sample: int | None) -> bool:
        """Add the product of a sample; False where it lies in the span of those before.  Of None it only looks."""
        used, new, size = self.rows[: self.filled], self.rows[self.filled], length(product)
        self.r[:, self.filled] = 0.0
        new.copy_(product)
        for _ in range(2):
            share = used @ new
            new.addmv_(used.T, share, alpha=-1.0)
            self.r[: self.filled, self.filled] += share.double().cpu().numpy()
        self.r[self.filled, self.filled] = rest = length(new)
        fresh = rest > 100.0 * self.epsilon * size
        if fresh and sample is not None:
            new /= rest
            self.filled += 1
            self.samples.append(sample)
        return fresh

    def directions(self) -> np.ndarray:
        """(m, m): column i is R^-T e_i, at right angles to every product but the i-th."""
        return np.linalg.inv(self.r[: self.filled, : self.filled]).T

    def left(self) -> np.ndarray:
        """(m,): |(I - Q_i Q_i^T) A w_i|^2 = 1 / |R^-T e_i|^2, Q_i the subspace without sample i."""
        return np.asarray(1.0 / (self.directions() ** 2).sum(axis=0))

    def leaves(self) -> float:
        """Share of |A|_F^2 that a subspace of all samples but one leaves out, the mean over that one.

        XTrace's squared error is about 2 |(I - Q Q^T) A|_F^2 / m, that of Hutchinson with 2 m products |A|_F^2 / m: at
        1/2 they are equal.
        """
        if self.exhausted or not self.filled:
            return 0.0
        return float(self.left().sum() / (self.r[:, : self.filled] ** 2).sum())

    def stderr(self) -> float:
        """XTrace's standard error."""
        return 0.0 if self.exhausted else math.sqrt(2.0 * float(self.left().mean()) / self.filled)


def _xtrace(samples: _Samples, space: _Space) -> np.ndarray:
    """(m,) exchangeable estimates: each leaves its test vector out of the subspace and uses it for the rest.

    Epperly, Tropp and Webber (2024), section 2.  With H = Q^T A Q, s_i the unit vector along R^-T e_i and x_i = (I -
    s_i s_i^T) Q^T w_i, the estimate is tr H - s_i^T H s_i + w_i^T A w_i - 2 x_i^T R_i + x_i^T H x_i.
    """
    rows, count = space.rows[: space.filled], space.filled
    inside, tests = np.zeros((count, count)), np.zeros((count, count))
    for column in range(count):
        inside[:, column] = (rows @ samples.product(rows[column])).double().cpu().numpy()
        tests[:, column] = (rows @ samples.signs(space.samples[column])).double().cpu().numpy()
    inside = (inside + inside.T) / 2
    if space.exhausted:
        return np.full(2, np.trace(inside))
    s = space.directions()
    s = s / np.linalg.norm(s, axis=0)
    x = tests - s * (s * tests).sum(axis=0)
    quadratic = np.array(samples.quadratic)[space.samples]
    outside = quadratic - 2.0 * (x * space.r[:count, :count]).sum(axis=0) + (x * (inside @ x)).sum(axis=0)
    return np.asarray(np.trace(inside) - (s * (inside @ s)).sum(axis=0) + outside)


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product, summed in float64 without a copy of the vectors."""
    return sum(float(x.double() @ y.double()) for x, y in zip(a.split(1 << 18), b.split(1 << 18), strict=True))


def _mean(samples: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error; nan for one sample."""
    spread = float(samples.std(ddof=1) / math.sqrt(len(samples))) if len(samples) > 1 else math.nan
    return float(samples.mean()), spread
