"""How far the loss rises near the weights: at worst within a ball, and on average under noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from sharpscope.core.expressions import check_count, check_range, check_seed
from sharpscope.core.progress import bar
from sharpscope.core.results import Dims, Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import Vec, add, generator, multiply, norm, scale
from sharpscope.problem.examples import cut, merge
from sharpscope.problem.problem import Problem, check_problem

__all__ = ["Sharpness", "sharpness"]


@dataclass(frozen=True, eq=False, repr=False)
class Sharpness(Result):
    """Rises of the loss over L(w), in units of the loss; every one says what it was measured with."""

    course: np.ndarray  # (steps + 1, shards) float64, largest rise found after each ascent step; row 0 is 0
    sizes: np.ndarray  # (shards,) int64, examples in each
    draws: np.ndarray  # (pairs,) float64, (L(w + d) + L(w - d)) / 2 - L(w) of each pair
    loss: float  # L(w) of all data
    rho: float  # radius of the ball; the noise has E|T^-1 d|^2 = rho^2
    scaling: str  # "none" (T = 1) or "magnitude" (T = |w| + eta)
    eta: float  # of "magnitude"
    m: int | None  # examples per shard; None where the rise is that of the whole loss
    unused: int  # examples left over by shards of m
    seed: int
    problem: str  # what was analysed, in words

    dims: ClassVar[Dims] = {"course": "step shard", "sizes": "shard", "draws": "pair"}

    @property
    def worst(self) -> float:
        """The largest rise found in the ball, mean over shards: a lower bound of the maximum."""
        return float(self.course[-1].mean())

    @property
    def worst_stderr(self) -> float:
        """Its standard error over the shards, as a sample of the data; nan for one shard."""
        shards = self.course.shape[1]
        return float(self.course[-1].std(ddof=1) / math.sqrt(shards)) if shards > 1 else float("nan")

    @property
    def first_order(self) -> float:
        """The rise after one step along the gradient (SAM's eps), mean over shards; a lower bound too."""
        return float(self.course[1].mean())

    @property
    def average(self) -> float:
        """The mean rise under Gaussian noise."""
        return float(self.draws.mean()) if len(self.draws) else float("nan")

    @property
    def average_stderr(self) -> float:
        """Its standard error over the pairs; nan for fewer than two."""
        pairs = len(self.draws)
        return float(self.draws.std(ddof=1) / math.sqrt(pairs)) if pairs > 1 else float("nan")


@undisturbed
def sharpness(
    problem: Problem,
    rho: float = 0.05,
    *,
    steps: int = 10,
    pairs: int = 16,
    scaling: str = "none",
    eta: float = 0.0,
    m: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Sharpness:
    """Worst-case and average-case sharpness of a loss at the model's weights, which stay as they are.

    Worst case (Foret et al. 2021, eq. 1): max over |T^-1 e| <= rho of L(w + e) - L(w), T = 1, or T = |w| + eta for the
    adaptive one (Kwon et al. 2021).  The ascent sets e = rho T^2 g / |T g| with g the gradient at the last w + e, again
    and again (the conditional-gradient method; on a quadratic bowl it is power iteration with a linear term, and its
    rises never fall), keeps the largest rise, and is restarted nowhere: what it finds is attained, so it is a **lower
    bound** of the maximum.  A gradient of exactly 0 is left along a random direction.  Weights with T = 0 do not move.

    Average case: the mean of L(w + d) - L(w) over d ~ N(0, sigma^2 T^2) with sigma = rho / sqrt(n), n the parameters
    with T > 0, so that E|T^-1 d|^2 = rho^2, comparable to the ball.  Drawn in pairs +d, -d, which removes the linear
    term; about rho^2 tr(T H T) / 2n.

    m-sharpness: the worst case of every disjoint shard of ``m`` examples by itself, averaged over shards, as SAM on
    batches of m sees it; it is not that of the whole loss, and larger.  Examples beyond the last whole shard are left
    out and counted.  Neither number is comparable between other rho, T, m or models that are scaled differently, and
    neither is known to follow generalisation in general (Andriushchenko et al. 2023, "A modern look at the relationship
    between sharpness and generalization").

    Args:
        problem: model, loss and data.
        rho: radius, > 0 (weight; without unit for "magnitude").
        steps: gradient passes of the ascent, at least 1; 1 is SAM's first-order estimate.
        pairs: of Gaussian draws, two forward passes each; 0 for none.
        scaling: "none" or "magnitude".
        eta: added to |w| in "magnitude".
        m: examples per shard, or None for the whole loss.
        seed: of the draws.
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for arguments out of range and for weights in half precision, ArithmeticError for a loss that is
    not finite at w.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> bowl = Problem(model, torch.nn.MSELoss(), (torch.ones(4, 1), torch.zeros(4, 1)))
        >>> round(sharpness(bowl, rho=0.5, pairs=0).worst, 6)
        0.25
    """
    _check(problem, rho, steps, pairs, scaling, eta, m)
    check_seed("sharpness", seed)
    weights = [w.clone() for w in problem.weights]
    diagonal = None if scaling == "none" else [w.abs() + eta for w in weights]
    shards = [problem] if m is None else list(_shards(problem, m))
    columns, before = [], problem.loss(weights)
    if not math.isfinite(before):
        raise ArithmeticError(f"sharpness got a loss of {before} at w, expected a finite one: train with a lower rate")
    with bar(len(shards) * (steps + 1) + pairs, "sharpness", progress) as shown:
        for number, shard in enumerate(shards):
            columns.append(_ascend(shard, weights, diagonal, rho, steps, (seed, number), shown.update))
        draws = []
        for pair in range(pairs):
            noise = _noise(weights, diagonal, rho, generator("sharpness", seed, pair))
            up, down = (problem.loss(add(weights, noise, alpha=sign)) for sign in (1.0, -1.0))
            draws.append((up + down) / 2 - before)
            shown.update()
    sizes = np.array([shard.examples for shard in shards], dtype=np.int64)
    return Sharpness(
        np.stack(columns, axis=1), sizes, np.array(draws, dtype=np.float64), before, float(rho), scaling, float(eta), m,
        problem.examples - int(sizes.sum()), int(seed), problem.describe(),
    )  # fmt: skip


def _check(problem: Problem, rho: float, steps: int, pairs: int, scaling: str, eta: float, m: int | None) -> None:
    check_problem("sharpness", problem)
    if torch.finfo(problem.dtype).bits < 32:
        raise ValueError(
            f"sharpness got weights in {problem.dtype}, expected float32 or wider, in which small steps are exact "
            f"enough: convert with model.float()"
        )
    check_range("sharpness", "rho", rho, 0, open_low=True)
    check_count("sharpness", "steps", steps)
    if pairs != 0:
        check_count("sharpness", "pairs", pairs)
    check_range("sharpness", "eta", eta, 0)
    if scaling not in ("none", "magnitude") or (scaling == "none" and eta):
        raise ValueError(
            f"sharpness got scaling={scaling!r} and eta={eta!r}, expected 'none' with eta=0, or 'magnitude': change it"
        )
    check_count("sharpness", "m", m, optional=True)
    if m is not None and m > problem.examples:
        raise ValueError(f"sharpness got m={m}, expected at most the {problem.examples} examples: lower m")


def _shards(problem: Problem, m: int) -> Iterator[Problem]:
    """Problems of m examples each, in the order of the data, around the same model."""
    problem.audit.check_single("m-sharpness")
    batches = [cut(batch, slice(i, i + 1)) for batch in problem.batches for i in range(batch.examples)]
    for start in range(0, len(batches) - m + 1, m):
        yield problem.on(merge(batches[start : start + m]))


def _ascend(
    problem: Problem,
    weights: Vec,
    diagonal: Vec | None,
    rho: float,
    steps: int,
    seed: tuple[int, int],
    tell: Callable[[], object],
) -> np.ndarray:
    """(steps + 1,) the largest rise found after each step."""
    course = np.zeros(steps + 1)
    start, g = problem.value_and_gradient(weights)
    tell()
    best = 0.0
    for step in range(1, steps + 1):
        inner = g if diagonal is None else multiply(diagonal, g)  # the gradient by u, e = T u
        length = norm(inner)
        if not bool(torch.isfinite(length)):
            course[step:] = best
            break
        if not bool(length > 0):
            inner = _random(weights, diagonal, generator("sharpness start", *seed))
            length = norm(inner)
        if not bool(length > 0):  # every T is 0: nothing can move
            break
        u = scale(inner, float(rho / length))
        at = add(weights, u if diagonal is None else multiply(diagonal, u))
        if step < steps:
            value, g = problem.value_and_gradient(at)
        else:
            value = problem.loss(at)
        best = max(best, value - start) if math.isfinite(value) else math.inf
        course[step] = best
        tell()
    return course


def _random(weights: Vec, diagonal: Vec | None, rng: torch.Generator) -> Vec:
    """Standard normal numbers where T > 0."""
    drawn = [torch.randn(w.shape, generator=rng, dtype=torch.float64, device="cpu").to(w) for w in weights]
    return drawn if diagonal is None else [x * (t > 0) for x, t in zip(drawn, diagonal, strict=True)]


def _noise(weights: Vec, diagonal: Vec | None, rho: float, rng: torch.Generator) -> Vec:
    count = sum(w.numel() if diagonal is None else 0 for w in weights)
    if diagonal is not None:
        count = sum(int((t > 0).sum()) for t in diagonal)
    drawn = scale(_random(weights, diagonal, rng), rho / math.sqrt(max(count, 1)))
    return drawn if diagonal is None else multiply(diagonal, drawn)
