"""The points of a line or plane through the weights: each is formed from the centre, evaluated once, and kept.

A point is (w + a d1) + b d2 in float32 (float64 for a float64 model), in this order, whatever the order of the points:
the same point has the same bits on every grid, and after a kill.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.surfaces.directions import Directions
from sharpscope.analyzers.surfaces.keeping import Keep, Kept, opened
from sharpscope.analyzers.surfaces.request import Request
from sharpscope.core.vectors import Vec, generator
from sharpscope.problem.evaluator import Evaluator
from sharpscope.problem.identity import identified, identity_of
from sharpscope.problem.problem import Problem

__all__ = ["Points", "points_of"]

EVERY = 2.0  # seconds between two writes


def points_of(problem: Problem, request: Request) -> Points:
    """From a request to points that can be evaluated: what computes losses, then directions, then what is kept."""
    request.check(problem)
    metrics = request.measures()
    batches = problem.draw(request.examples, generator("surface examples", int(request.seed)))
    refresh = None
    if request.batchnorm == "recompute":
        refresh = problem.draw(request.statistics, generator("surface statistics", int(request.seed)))
    evaluator = Evaluator(problem, batches, refresh, metrics)
    return Points(request, evaluator, request.chosen(problem))


class Points:
    """Rows (loss, standard error of its difference to the centre, metrics...) by flat index; -1 is the centre.

    Index i * len(axes[0]) + j of a plane is the point (axes[0][j], axes[1][i]).
    """

    def __init__(self, request: Request, evaluator: Evaluator, directions: Directions) -> None:
        self.request, self.evaluator, self.directions = request, evaluator, directions
        self.shape = tuple(len(axis) for axis in reversed(request.axes))
        self.axes: list[Vec] = [
            [d.to(w) for d, w in zip(vector, evaluator.weights, strict=True)]
            for vector in directions.vectors[: len(request.axes)]
        ]
        self.known: dict[int, np.ndarray] = {}
        self.new: list[int] = []
        self.written = time.perf_counter()
        self.keep: Keep | None = opened(request.resume)
        kept = None if self.keep is None else self.keep.open(self.about())
        how = request.how if kept is None or request.how not in ("fastest", "untimed") else kept.how
        losses, metrics = self._settled(how)
        self.center_losses = losses
        self.center = self._as_row(losses, metrics)
        if kept is not None:
            self._take(kept)
        else:
            self.known[-1] = self.center
            self.new = [-1]

    def _settled(self, how: str) -> tuple[Tensor, dict[str, float]]:
        half, owner = self.request.precision == "bfloat16", self.request.owner
        try:
            return self.evaluator.settle(how, half)
        except RuntimeError as error:
            if not half:
                raise
            raise ValueError(
                f"the {owner} got precision='bfloat16' for a model that cannot compute in it "
                f"({str(error).splitlines()[0]}), expected 'float32': change precision"
            ) from error

    def _take(self, kept: Kept) -> None:
        """Take over kept points, if the centre is still the same."""
        self.known = {int(index): row for index, row in zip(kept.indices, kept.rows, strict=True)}
        old = self.known.get(-1)
        near = math.sqrt(torch.finfo(self.evaluator.wide).eps)  # other threads may round otherwise
        if old is None or not np.allclose(old, self.center, rtol=near, atol=0.0, equal_nan=True):
            raise ValueError(
                f"the {self.request.owner} got kept points around {old}, expected {self.center} at the centre: the "
                f"loss or a metric has changed; delete the file to begin again"
            )

    def at(self, index: int) -> tuple[float, ...]:
        """The coordinates of a point, the first axis first."""
        places = np.unravel_index(index, self.shape)[::-1]
        return tuple(float(axis[place]) for axis, place in zip(self.request.axes, places, strict=True))

    def row(self, at: Sequence[float]) -> np.ndarray:
        """Loss, paired standard error of its difference to the centre, metrics: (2 + metrics,) float64."""
        return self._as_row(*self.evaluator(self.evaluator.moved(at, self.axes)))

    def _as_row(self, losses: Tensor, metrics: dict[str, float]) -> np.ndarray:
        loss = float(losses.sum() / self.evaluator.denominator)
        return np.array([loss, self._stderr(losses - self.center_losses), *metrics.values()])

    def _stderr(self, difference: Tensor) -> float:
        """Of a ratio of two sums over random examples (Cochran 1977, "Sampling techniques", section 2.11): linearised.

        With class weights or ignored targets, the denominator varies with the examples as the numerator does.
        """
        count, whole = len(difference), self.evaluator.denominator
        if count < 2 or self.evaluator.whole:  # batches are no sample of independent examples
            return float("nan")
        rest = difference - difference.sum() / whole * self.evaluator.shares.to(difference.device)
        return float(rest.std()) * math.sqrt(count) / whole

    def evaluate(self, indices: Iterable[int], tick: Callable[[], object] = lambda: None) -> np.ndarray:
        """(n, 2 + metrics) float64, one row per flat index; a point that is known is not computed again."""
        asked = [int(index) for index in indices]
        try:
            with self.evaluator.problem.guard():
                for index in asked:
                    if index not in self.known:
                        self.known[index] = self.row(self.at(index))
                        self.new.append(index)
                        if time.perf_counter() - self.written > EVERY:
                            self.flush()
                    tick()
        finally:
            self.flush()
        return np.array([self.known[index] for index in asked]).reshape(len(asked), 2 + len(self.evaluator.metrics))

    def exact(self, indices: Iterable[int]) -> np.ndarray:
        """(n,) float64, the losses in the dtype of the model, which are not kept."""
        with self.evaluator.exactly(), self.evaluator.problem.guard():
            return np.array([self.row(self.at(index))[0] for index in indices])

    def flush(self) -> None:
        """Hand what is new to the keeper."""
        self.written = time.perf_counter()
        if self.keep is not None and self.new:
            rows = np.array([self.known[index] for index in self.new])
            self.keep.add(Kept(self.evaluator.how, np.array(self.new, dtype=np.int64), rows))
        self.new = []

    def about(self) -> dict[str, str]:
        """What kept points belong to: digests and settings, by a name that an error can say."""
        request, evaluator = self.request, self.evaluator
        grid = hashlib.sha256(b"".join(np.ascontiguousarray(axis).tobytes() for axis in request.axes))
        spans = ", ".join(f"{len(axis)} from {axis[0]:g} to {axis[-1]:g}" for axis in request.axes)
        of, refreshed = identity_of(evaluator.problem), evaluator.refreshed
        return {
            "weights": of["weights"],
            "data": of["data"],
            "directions": f"{self.directions.text} {self.directions.digest}",
            "grid": f"{spans} sha256:{grid.hexdigest()}",
            "problem": self.described(),
            "loss": of["loss"],
            "precision": self.precision,
            "metrics": ", ".join(f"{name}: {identified(found)}" for name, found in evaluator.metrics.items()) or "none",
            "examples": self._drawn(request.examples, evaluator.examples),
            "statistics": self._drawn(request.statistics, refreshed) if refreshed else "of the model",
        }

    def _drawn(self, asked: int | None, examples: int) -> str:
        return f"{examples} drawn with seed {self.request.seed}" if asked else "all"

    @property
    def precision(self) -> str:
        """The dtype of the outputs in words."""
        dtype = str(self.evaluator.problem.dtype).removeprefix("torch.")
        return "bfloat16" if self.request.precision == "bfloat16" else dtype

    def described(self) -> str:
        """What a figure must say of the function."""
        evaluator, problem = self.evaluator, self.evaluator.problem
        text = problem.describe()
        if evaluator.examples < problem.examples:
            text = text.replace(
                f", {problem.examples} examples", f", {evaluator.examples} of {problem.examples} examples"
            )
        refreshed = f"BatchNorm re-estimated at every point on {evaluator.refreshed} examples"
        return text.replace("eval mode", refreshed) if evaluator.refreshed else text

    def radii(self) -> np.ndarray:
        """|d| / |w| at every point of the grid."""
        whole = Directions(self.evaluator.problem.names, (self.evaluator.weights,), "weights").norms[0]
        return self.directions.radii(self.request.axes, whole)
