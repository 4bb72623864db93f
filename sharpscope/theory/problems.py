"""Losses whose smoothness, gradient bound, noise and minimum are known, for the theorems.

Constants come from singular values of the data, not from samples of the weights.  ``noise`` is the bound on
E|g_i - grad f|^2 for one example i drawn uniformly; a batch of m examples drawn with replacement has noise / m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpscope.core.expressions import check_count, check_range
from sharpscope.problem.problem import Problem

__all__ = ["Known", "least_squares", "logistic", "quadratic", "waves"]


@dataclass(frozen=True)
class Known:
    """A model, a loss and data, with the constants of the function that they make."""

    name: str
    make: Callable[[], nn.Module]  # the model at the start; float64, one tensor of weights
    loss: Callable[[Tensor, Tensor], Tensor]  # mean over examples
    inputs: Tensor  # (n, ...)
    targets: Tensor  # (n, ...)
    smoothness: float  # L or beta: Lipschitz constant of grad f (loss / weight^2)
    sample_smoothness: float  # Lipschitz constant of every example's gradient, >= smoothness
    gradient: float  # G: |grad f(w)| <= G for |w - center| <= radius (loss / weight)
    noise: float  # sigma^2 of one example: E|g_i(w) - grad f(w)|^2 <= noise for all such w (loss^2 / weight^2)
    pl: float | None  # |grad f|^2 / 2 >= pl (f - minimum) everywhere, or None
    minimum: float  # min f
    center: Tensor  # a point of the weights' shape, and
    radius: float = math.inf  # the distance from it within which gradient and noise hold

    def problem(self, model: nn.Module | None = None) -> Problem:
        """The function as a Problem, around ``model`` or a new one."""
        return Problem(self.make() if model is None else model, self.loss, (self.inputs, self.targets))

    def value(self, model: nn.Module) -> Tensor:
        """f at the model's weights, 0-dim, differentiable."""
        return self.loss(model(self.inputs), self.targets)


class _Energy(nn.Module):
    """w^T A w / 2 - b^T w for every row b."""

    def __init__(self, matrix: Tensor, start: Tensor) -> None:
        super().__init__()
        self.matrix: Tensor
        self.register_buffer("matrix", matrix)
        self.weight = nn.Parameter(start.clone())

    def forward(self, rows: Tensor) -> Tensor:
        return 0.5 * self.weight @ self.matrix @ self.weight - rows @ self.weight


class _Waves(nn.Module):
    """sum_j x_j^2 + 3 sin^2 x_j at x = w - row, for every row."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone())

    def forward(self, rows: Tensor) -> Tensor:
        x = self.weight - rows
        return (x.square() + 3.0 * x.sin().square()).sum(-1)


class _Linear(nn.Module):
    """One output without bias, from given weights."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone())

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weight


def _mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64, device="cpu")


def quadratic(
    size: int = 20,
    examples: int = 200,
    condition: float = 10.0,
    spread: float = 1.0,
    region: float = 3.0,
    seed: int = 0,
) -> Known:
    """f(w) = mean_i w^T A w / 2 - b_i^T w: eigenvalues of A from 1 / condition to 1, noise in the linear terms only.

    The noise b_i - mean b is the same at every w, so sigma^2 = mean |b_i - mean b|^2 exactly and examples are as smooth
    as their mean.  The start is at distance 1 from the minimum; |grad f| <= lambda_1 region within ``region`` of it.

    Raises ValueError for numbers out of range.

    Example:
        >>> known = quadratic(condition=10.0)
        >>> known.smoothness, round(known.pl, 6), known.gradient
        (1.0, 0.1, 3.0)
    """
    check_count("quadratic", "size", size)
    check_count("quadratic", "examples", examples)
    check_range("quadratic", "condition", condition, 1)
    check_range("quadratic", "spread", spread, 0)
    check_range("quadratic", "region", region, 1)
    rng = _generator(seed)
    basis = torch.linalg.qr(_normal(rng, size, size)).Q
    values = torch.logspace(0.0, -math.log10(condition), size, dtype=torch.float64, device="cpu")
    matrix = (basis * values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    rows = spread * _normal(rng, examples, size) / math.sqrt(size)
    mean = rows.mean(dim=0)
    center = torch.linalg.solve(matrix, mean)
    away = _normal(rng, size)
    start = center + away / away.norm()
    return Known(
        f"quadratic, {size} weights, condition number {condition:g}", lambda: _Energy(matrix, start), _mean, rows,
        torch.zeros(examples, dtype=torch.float64, device="cpu"), 1.0, 1.0, float(region),
        float((rows - mean).square().sum(dim=1).mean()), float(values[-1]), float(-0.5 * mean @ center), center, region,
    )  # fmt: skip


def logistic(size: int = 10, examples: int = 200, seed: int = 0) -> Known:
    """Logistic regression on labels that a logistic model drew, from w = 0.

    The second derivative of an example's loss is at most 1/4: L = lambda_1(X^T X) / 4n, and max |x_i|^2 / 4 for every
    example.  A residual is at most 1: |grad f| <= sigma_1(X) / sqrt(n) and E|g_i - grad f|^2 <= mean |x_i|^2,
    everywhere.  The minimum is found by Newton's method, to a gradient of 1e-12.

    Raises ValueError for numbers out of range, ArithmeticError where no minimum exists (separable labels).

    Example:
        >>> known = logistic()
        >>> known.smoothness < known.sample_smoothness, known.pl
        (True, None)
    """
    check_count("logistic", "size", size)
    check_count("logistic", "examples", examples)
    rng = _generator(seed)
    x = _normal(rng, examples, size)
    chance = torch.sigmoid(2.0 * x @ _normal(rng, size) / math.sqrt(size))
    y = (torch.rand(examples, generator=rng, dtype=torch.float64, device="cpu") < chance).double()
    best = _newton(x, y)
    loss = nn.BCEWithLogitsLoss()
    top = float(torch.linalg.matrix_norm(x, 2))
    lengths = x.square().sum(dim=1)
    return Known(
        f"logistic regression, {size} weights, {examples} examples",
        lambda: _Linear(torch.zeros(size, dtype=torch.float64, device="cpu")), loss, x, y, top**2 / (4 * examples),
        float(lengths.max()) / 4, min(top / math.sqrt(examples), float(lengths.sqrt().mean())), float(lengths.mean()),
        None, float(loss(x @ best, y)), best,
    )  # fmt: skip


def _newton(x: Tensor, y: Tensor) -> Tensor:
    w = torch.zeros(x.shape[1], dtype=x.dtype, device="cpu")
    for _ in range(50):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (p - y) / len(y)
        if gradient.norm() < 1e-12:
            break
        w = w - torch.linalg.lstsq((x.T * (p * (1 - p))) @ x / len(y), gradient).solution
    if gradient.norm() < 1e-12 and not bool(((2 * y - 1) * (x @ w) > 0).all()):
        return w
    raise ArithmeticError(
        "logistic got labels without a minimum, expected some that no plane separates: take more examples"
    )


def least_squares(size: int = 20, examples: int = 12, condition: float = 10.0, seed: int = 0) -> Known:
    """mean_i (x_i^T w - y_i)^2 with fewer examples than weights: flat in size - examples directions, min f = 0.

    Not strongly convex, but it satisfies the condition of Polyak and Lojasiewicz with twice the least non-zero
    eigenvalue of X^T X / n; L is twice the largest, 1 here.  Neither the gradient nor the noise is bounded: for full
    gradients.

    Raises ValueError for numbers out of range.

    Example:
        >>> known = least_squares(condition=10.0)
        >>> round(known.smoothness, 9), round(known.pl, 9), known.minimum
        (1.0, 0.1, 0.0)
    """
    check_count("least_squares", "size", size)
    check_count("least_squares", "examples", examples)
    check_range("least_squares", "condition", condition, 1)
    if examples > size:
        raise ValueError(
            f"least_squares got examples={examples}, expected at most size={size}, for a minimum of 0: lower examples"
        )
    rng = _generator(seed)
    left = torch.linalg.qr(_normal(rng, examples, examples)).Q
    right = torch.linalg.qr(_normal(rng, size, examples)).Q
    values = torch.logspace(0.0, -0.5 * math.log10(condition), examples, dtype=torch.float64, device="cpu")
    x = math.sqrt(examples / 2) * (left * values) @ right.T
    best = _normal(rng, size)
    y = x @ best
    return Known(
        f"rank-deficient least squares, {size} weights, {examples} examples",
        lambda: _Linear(torch.zeros(size, dtype=torch.float64, device="cpu")), nn.MSELoss(), x, y, 1.0,
        float(2 * x.square().sum(dim=1).max()), math.inf, math.inf, float(values[-1] ** 2), 0.0, best,
    )  # fmt: skip


def waves(size: int = 10, seed: int = 0) -> Known:
    """sum_j x_j^2 + 3 sin^2 x_j: not convex (second derivatives from -4 to 8), one minimum, min f = 0.

    Karimi, Nutini and Schmidt (2016), "Linear convergence of gradient and proximal-gradient methods under the
    Polyak-Lojasiewicz condition", section 2.2, give 1/32 as its constant; 0.17 holds too (the least of
    f'^2 / (2 f) is 0.1755, at |x| = 2.2), and since f is a sum of terms with minimum 0, in any dimension.  Starts are
    uniform in [-4, 4].  One example: for full gradients.

    Example:
        >>> waves().smoothness, waves().pl
        (8.0, 0.17)
    """
    check_count("waves", "size", size)
    start = 8.0 * torch.rand(size, generator=_generator(seed), dtype=torch.float64, device="cpu") - 4.0
    zero = torch.zeros(1, size, dtype=torch.float64, device="cpu")
    return Known(
        f"$x^2 + 3\\sin^2 x$ in {size} dimensions", lambda: _Waves(start), _mean, zero, zero[:, 0], 8.0, 8.0, math.inf,
        0.0, 0.17, 0.0, zero[0],
    )  # fmt: skip
