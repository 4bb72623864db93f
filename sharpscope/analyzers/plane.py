"""The points of a line or plane through the weights: each is formed from the centre, evaluated once, and kept.

A point is (w + a d1) + b d2 in float32 (float64 for a float64 model), in this order, whatever the order of the points:
the same point has the same bits on every grid, and after a kill.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.ask import Ask, Kept, check_reach, opened
from sharpscope.analyzers.directions import Directions, random_directions
from sharpscope.analyzers.fold import displace
from sharpscope.analyzers.forward import Forward
from sharpscope.analyzers.identity import digest, identified
from sharpscope.analyzers.rounding import first_points, more_points
from sharpscope.examples import Examples, tensors_of
from sharpscope.problem import Problem, check_norms
from sharpscope.vectors import Vec, generator

__all__ = ["Plane"]

EVERY = 2.0  # seconds between two writes


class Plane:
    """The centre, the axes, and what is the same at every point.

    ``coordinates`` are those along each axis, the first fastest: index = i * len(coordinates[0]) + j for the point
    (coordinates[0][j], coordinates[1][i]).
    """

    def __init__(self, problem: Problem, ask: Ask, coordinates: Sequence[np.ndarray]) -> None:
        ask.check()
        self.problem, self.ask, self.coordinates = problem, ask, coordinates
        self.shape = tuple(len(axis) for axis in reversed(coordinates))
        self.metrics = ask.measures()
        self.weights = problem.weights
        self.batches = problem.draw(ask.examples, generator("surface examples", int(ask.seed)))
        self.wide = torch.promote_types(problem.dtype, torch.float32)
        check_reach(ask.owner, coordinates, self.wide)
        self.axes: list[Vec] = []
        given = _given(problem, ask, len(coordinates))
        self.scratch = [torch.empty_like(w, dtype=self.wide) for w in self.weights]
        self.examples = sum(batch.examples for batch in self.batches)
        refresh = problem.draw(ask.statistics, generator("surface statistics", int(ask.seed)))
        self.refreshed = sum(batch.examples for batch in refresh) if ask.batchnorm == "recompute" else 0
        with problem.guard():
            check_norms(problem.model)
            seconds = self._verified(refresh if self.refreshed else None)
        self.directions = given or _random(problem, ask, len(coordinates))  # after copies of the weights were tried out
        self.axes = [
            [d.to(w) for d, w in zip(vector, self.weights, strict=True)]
            for vector in self.directions.vectors[: len(coordinates)]
        ]
        with problem.guard():
            self._start(seconds)

    def _verified(self, refresh: list[Examples] | None) -> float:
        """The plain loss at the centre, and what computes all others like it; the seconds that the plain one takes."""
        began = time.perf_counter()
        losses, self.denominator = self._plain()
        seconds = time.perf_counter() - began
        self.shares = self._shares()
        self.forward = Forward(self.problem, self.batches, refresh, self.metrics)
        elsewhere = self.problem.example_losses(self._elsewhere(), self.batches)[0]
        self.forward.verify([lambda: self.form(()), self._elsewhere], [losses, elsewhere])
        return seconds

    def _start(self, seconds: float) -> None:
        """The way to compute losses, the loss at the centre, what is kept already."""
        middle = (0.0,) * len(self.axes)
        resume = self.ask.resume
        self.keep = opened(resume)
        kept = None if self.keep is None else self.keep.open(self.about())
        how = self.ask.how if kept is None or self.ask.how not in ("fastest", "untimed") else kept.how
        self.known: dict[int, np.ndarray] = {}
        self.errors: dict[int, float] = {}  # of bfloat16, relative, at the points where they are known
        self.new: list[int] = []
        self.center_losses = self._first(middle, how, seconds)
        self.how = self.forward.way.how
        self.center = self.row(middle)
        self.written = time.perf_counter()
        if kept is not None:
            self._take(kept)
        else:
            self.known[-1] = self.center
            self.new = [-1]

    def _plain(self) -> tuple[Tensor, float]:
        """Losses and denominator of the model itself at the centre."""
        losses, denominator = self.problem.example_losses(self.weights, self.batches)
        plain = float(losses.sum() / denominator)
        if not np.isfinite(plain):
            raise ValueError(
                f"the loss at the centre is {plain}, expected a finite number: "
                f"check the weights and the data before drawing around them"
            )
        return losses, denominator

    def _shares(self) -> Tensor:
        """(N,) float64: the part of every example in the denominator; zeros for a sum, which is not divided."""
        objective, found = self.problem.objective, []
        for batch in self.batches:
            outputs = None
            if objective.denominator is not None:
                with torch.no_grad():
                    outputs = self.problem.outputs(batch, self.weights)
            found.append(objective.weights(outputs, batch.targets))
        return torch.cat(found)

    def _first(self, middle: Sequence[float], how: str, seconds: float) -> Tensor:
        """The losses at the centre in the way that is chosen."""
        half = self.ask.precision == "bfloat16"
        try:
            self.forward.choose(how, seconds, lambda: self.form(middle), half)
            return self._losses(middle)[0]
        except RuntimeError as error:
            if not half:
                raise
            raise ValueError(
                f"the {self.ask.owner} got precision='bfloat16' for a model that cannot compute in it "
                f"({str(error).splitlines()[0]}), expected 'float32': change precision"
            ) from error

    def _take(self, kept: Kept) -> None:
        """Take over kept points, if the centre is still the same."""
        self.known = {int(index): row for index, row in zip(kept.indices, kept.rows, strict=True)}
        old = self.known.get(-1)
        near = math.sqrt(torch.finfo(self.wide).eps)  # other threads may round otherwise
        if old is None or not np.allclose(old, self.center, rtol=near, atol=0.0, equal_nan=True):
            raise ValueError(
                f"the {self.ask.owner} got kept points around {old}, expected {self.center} at the centre: the loss or "
                f"a metric has changed; delete the file to begin again"
            )

    def form(self, at: Sequence[float]) -> Vec:
        """The weights at a point; they live until the next call."""
        torch._foreach_copy_(self.scratch, self.weights)
        for coordinate, axis in zip(at, self.axes, strict=True):
            torch._foreach_add_(self.scratch, axis, alpha=float(coordinate))
        return self.scratch if self.forward.half else self._typed()

    def _typed(self) -> Vec:
        """The scratch in the dtype of the model."""
        return self.scratch if self.wide == self.problem.dtype else [x.to(self.problem.dtype) for x in self.scratch]

    def _elsewhere(self) -> Vec:
        """Weights that are displaced at random."""
        torch._foreach_copy_(self.scratch, self.weights)
        displace(dict(zip(self.problem.names, self.scratch, strict=True)), 0)
        return self._typed()

    def _losses(self, at: Sequence[float]) -> tuple[Tensor, dict[str, float]]:
        losses, _, metrics = self.forward(self.form(at))
        return losses, metrics

    def row(self, at: Sequence[float]) -> np.ndarray:
        """Loss, paired standard error of its difference to the centre, metrics: (2 + metrics,) float64."""
        losses, metrics = self._losses(at)
        loss = float(losses.sum() / self.denominator)
        return np.array([loss, self._stderr(losses - self.center_losses), *metrics.values()])

    def at(self, index: int) -> tuple[float, ...]:
        """The coordinates of a point, the first axis first."""
        places = np.unravel_index(index, self.shape)[::-1]
        return tuple(float(axis[place]) for axis, place in zip(self.coordinates, places, strict=True))

    def evaluate(self, indices: Iterable[int], tick: Callable[[], object] = lambda: None) -> np.ndarray:
        """(n, 2 + metrics) float64, one row per flat index; a point that is known is not computed again."""
        asked = [int(index) for index in indices]
        try:
            with self.problem.guard():
                for index in asked:
                    if index not in self.known:
                        self.known[index] = self.row(self.at(index))
                        self.new.append(index)
                        if time.perf_counter() - self.written > EVERY:
                            self.flush()
                    tick()
        finally:
            self.flush()
        return np.array([self.known[index] for index in asked]).reshape(len(asked), 2 + len(self.metrics))

    def flush(self) -> None:
        """Hand what is new to the keeper."""
        self.written = time.perf_counter()
        if self.keep is not None and self.new:
            rows = np.array([self.known[index] for index in self.new])
            self.keep.add(Kept(self.how, np.array(self.new, dtype=np.int64), rows))
        self.new = []

    def compared(self) -> tuple[float, float, int]:
        """The largest relative error of the losses in bfloat16 on some points, its 95th percentile, their number.

        The first call takes the points of ``first_points``, later ones those of ``more_points`` too.  Raises
        ValueError where it is above the bound.  Zeros where the precision is exact.
        """
        if not self.forward.half:
            return 0.0, 0.0, 0
        rng = generator("surface precision", int(self.ask.seed), len(self.errors))
        if self.errors:
            known = {index: float(row[0]) for index, row in self.known.items() if index >= 0}
            points = more_points(known, list(self.errors), rng)
        else:
            points = first_points(self.coordinates, rng)
        found = self.evaluate(points)[:, 0]
        way = self.forward.way
        self.forward.choose("untimed", 0.0, lambda: self.form(self.at(0)))
        try:
            with self.problem.guard():
                exact = np.array([self.row(self.at(index))[0] for index in points])
        finally:
            self.forward.use(way, half=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = np.where(found == exact, 0.0, np.abs(found - exact) / np.abs(exact))
        errors = np.where(np.isfinite(exact), np.where(np.isfinite(errors), errors, np.inf), 0.0)
        self.errors |= dict(zip(points, errors.tolist(), strict=True))
        worst = max(self.errors.values())
        if not worst <= self.ask.bound:
            raise ValueError(
                f"the {self.ask.owner} got a relative error of {worst:.2g} in bfloat16 on {len(self.errors)} points, "
                f"expected at most {self.ask.bound:g}: use precision='float32', or a larger bound"
            )
        return worst, float(np.quantile(list(self.errors.values()), 0.95)), len(self.errors)

    def radii(self) -> np.ndarray:
        """|d| / |w| at every point of the grid, from the lengths of the axes and the angle between them."""
        lengths, cosine = self.directions.norms, self.directions.cosine
        square: Any = 0.0
        for place, axis in enumerate(self.coordinates):
            moved = (axis * lengths[place]).reshape(-1, *[1] * place)
            square = square + moved**2
        if len(self.coordinates) > 1:
            first, second = self.coordinates[0] * lengths[0], (self.coordinates[1] * lengths[1])[:, None]
            square = square + 2.0 * cosine * first * second
        whole = Directions(self.problem.names, (self.weights,), "weights").norms[0]
        return np.asarray(np.sqrt(np.maximum(square, 0.0)) / whole)

    def about(self) -> dict[str, str]:
        """What kept points belong to: digests and settings, by a name that an error can say."""
        state = {**dict(self.problem.model.named_parameters()), **dict(self.problem.model.named_buffers())}
        grid = hashlib.sha256(b"".join(np.ascontiguousarray(axis).tobytes() for axis in self.coordinates))
        spans = ", ".join(f"{len(axis)} from {axis[0]:g} to {axis[-1]:g}" for axis in self.coordinates)
        return {
            "weights": digest(state.values()),
            "data": _digest_data(self.problem.batches),
            "directions": f"{self.directions.text} {self.directions.digest}",
            "grid": f"{spans} sha256:{grid.hexdigest()}",
            "problem": self.described(),
            "loss": self._identified(),
            "precision": self.precision,
            "metrics": ", ".join(f"{name}: {identified(metric)}" for name, metric in self.metrics.items()) or "none",
            "examples": self._drawn(self.ask.examples, self.examples),
            "statistics": self._drawn(self.ask.statistics, self.refreshed) if self.refreshed else "of the model",
        }

    def _drawn(self, asked: int | None, examples: int) -> str:
        return f"{examples} drawn with seed {self.ask.seed}" if asked else "all"

    def _identified(self) -> str:
        objective = self.problem.objective
        denominator = objective.denominator
        return identified(objective.loss) + (f" over {identified(denominator)}" if denominator else "")

    @property
    def precision(self) -> str:
        """The dtype of the outputs in words."""
        return "bfloat16" if self.ask.precision == "bfloat16" else str(self.problem.dtype).removeprefix("torch.")

    def described(self) -> str:
        """What a figure must say of the function."""
        text = self.problem.describe()
        if self.examples < self.problem.examples:
            text = text.replace(
                f", {self.problem.examples} examples", f", {self.examples} of {self.problem.examples} examples"
            )
        refreshed = f"BatchNorm re-estimated at every point on {self.refreshed} examples"
        return text.replace("eval mode", refreshed) if self.refreshed else text

    def _stderr(self, difference: Tensor) -> float:
        """Of a ratio of two sums over random examples (Cochran 1977, "Sampling techniques", section 2.11): linearised.

        With class weights or ignored targets, the denominator varies with the examples as the numerator does.
        """
        count = len(difference)
        if count < 2:
            return float("nan")
        rest = difference - difference.sum() / self.denominator * self.shares.to(difference.device)
        return float(rest.std()) * math.sqrt(count) / self.denominator


def _given(problem: Problem, ask: Ask, axes: int) -> Directions | None:
    """The directions that were handed over, if they suit; None where random ones are asked for."""
    given = ask.directions
    if not isinstance(given, Directions):
        return None
    given.check(problem, f"the {ask.owner}")
    if len(given.vectors) < axes:
        raise ValueError(
            f"the {ask.owner} got {len(given.vectors)} directions, expected {axes}: use first.beside(second), or a line"
        )
    given.check_lengths(axes, f"the {ask.owner}")
    return given


def _random(problem: Problem, ask: Ask, axes: int) -> Directions:
    try:
        return random_directions(problem, str(ask.directions), int(ask.seed), count=axes)
    except ValueError as error:
        raise ValueError(str(error).replace("random_directions", f"the {ask.owner}", 1)) from None


def _digest_data(batches: Iterable[Examples]) -> str:
    """Of the examples one after another, however they are cut into batches of one kind."""
    return digest(x for batch in batches for x in tensors_of((batch.args, batch.kwargs, batch.targets)))
