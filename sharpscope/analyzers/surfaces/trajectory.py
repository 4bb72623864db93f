"""Training trajectories: recorded in a user's own loop, and seen from a line or plane of directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sharpscope.analyzers.surfaces.directions import Directions, unit_of
from sharpscope.analyzers.surfaces.named_directions import Weights, pca_directions, weights_of
from sharpscope.core.expressions import check_count
from sharpscope.core.results import Dims, Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import Vec
from sharpscope.problem.problem import Problem, check_problem

__all__ = ["Trajectory", "TrajectoryRecorder", "trajectory"]


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory(Result):
    """Weights along training in the coordinates of a line or plane: w_t = w + sum_j coordinates[t, j] d_j + rest."""

    dims: ClassVar[Dims] = {"coordinates": "step direction", "residual distance": "step", "explained": "direction"}

    step: np.ndarray  # (n,) int64, optimizer steps
    coordinates: np.ndarray  # (n, k) float64, by least squares, in units of the directions
    residual: np.ndarray  # (n,) float64, |rest|: distance of the weights from the plane
    distance: np.ndarray  # (n,) float64, |w_t - w|: distance of the weights from the centre
    explained: np.ndarray  # (k,) float64, share of the variance of the w_t along d_1, then what each further d_j adds
    directions: str  # how the directions were made
    digest: str  # of the directions
    norm: float  # |w| of the centre

    def units(self) -> dict[str, str]:
        """The unit of every array that has one."""
        lengths = dict.fromkeys(("residual", "distance"), "Euclidean distance in weight space")
        return {"coordinates": unit_of(self.directions), "step": "optimizer steps", **lengths}


@undisturbed
def trajectory(
    problem: Problem, points: Mapping[int, Weights] | Sequence[Weights], directions: Directions | None = None
) -> Trajectory:
    """Project weights along training onto directions through the problem's weights.

    Coordinates are those of the nearest point of the line or plane (least squares), so they lie on the axes of a
    surface over the same directions, whatever their lengths and angle.  (Li et al.'s projection ``cos`` divides by |d|
    once and so agrees for unit directions only; their ``lstsq`` is this.)  Sums are in float64; one set of weights is
    in memory at a time, but for directions that are to be made.

    Args:
        problem: the centre: its weights are the origin of the coordinates.
        points: weights by step, as ``run.trajectory()`` and ``TrajectoryRecorder.trajectory`` have them, or a sequence
            of weights (their steps are 0, 1, ...): state dicts, models or lists of tensors.
        directions: what to project onto; the first two principal directions of the points if None.

    Raises ValueError for no points, weights or directions of another architecture, weights that are not finite, and
    directions that lie in one line.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> problem = Problem(model, nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
        >>> plane = Directions(("weight",), ([torch.tensor([[2.0, 0.0]])],), "by hand")
        >>> way = trajectory(problem, {7: [model.weight.detach() + torch.tensor([[1.0, 3.0]])]}, plane)
        >>> way.coordinates.round(6).tolist(), way.residual.round(5).tolist()
        ([[0.5]], [3.0])
    """
    check_problem("trajectory", problem)
    named: dict[int, Weights] = dict(points) if isinstance(points, Mapping) else dict(enumerate(points))
    if not named:
        raise ValueError("trajectory got no weights, expected those of at least one step: record some in training")
    steps = sorted(named)
    if directions is None:
        directions = pca_directions(problem, [named[step] for step in steps])
    directions.check(problem, "trajectory")
    onto = _Onto(problem, directions)
    rows = [onto.project(step, weights_of(problem, named[step])) for step in steps]
    coordinates = np.array([row[0] for row in rows])
    residual, distance = (np.array([row[place] for row in rows]) for place in (1, 2))
    return Trajectory(
        np.array(steps, dtype=np.int64), coordinates, residual, distance, onto.explained(coordinates),
        directions.text, directions.digest, float(np.sqrt(_dot(onto.center, onto.center))),
    )  # fmt: skip


class _Onto:
    """Least squares onto directions, and the running variance of what was projected (Welford)."""

    def __init__(self, problem: Problem, directions: Directions) -> None:
        self.center: Vec = [w.double() for w in problem.weights]
        self.vectors: list[Vec] = [[x.to(problem.device) for x in vector] for vector in directions.vectors]
        gram = np.array([[_dot(a, b) for b in self.vectors] for a in self.vectors])
        lengths = np.sqrt(np.diag(gram))
        cosines = gram / np.outer(lengths, lengths) if lengths.all() else np.zeros_like(gram)
        if not float(np.linalg.eigvalsh(cosines)[0]) > 1e-10:
            raise ValueError(
                f"trajectory got directions ({directions.text}) that do not span {len(lengths)} dimensions, expected "
                f"independent ones: leave one out or draw with another seed"
            )
        self.gram, self.half = gram, np.linalg.cholesky(gram)
        self.mean: Vec = [torch.zeros_like(w) for w in self.center]
        self.count, self.squares = 0, 0.0

    def project(self, step: int, weights: Vec) -> tuple[np.ndarray, float, float]:
        """Coordinates, distance from the plane, distance from the centre."""
        moved = [a.double() - b for a, b in zip(weights, self.center, strict=True)]
        distance = float(np.sqrt(_dot(moved, moved)))
        if not np.isfinite(distance):
            raise ValueError(
                f"trajectory got weights at step {step} that are not finite, expected numbers: leave that step out"
            )
        found = np.linalg.solve(self.gram, [_dot(vector, moved) for vector in self.vectors])
        rest = moved
        for share, vector in zip(found, self.vectors, strict=True):
            rest = [a - float(share) * b.double() for a, b in zip(rest, vector, strict=True)]
        self.count += 1
        old = [a - m for a, m in zip(moved, self.mean, strict=True)]
        for m, change in zip(self.mean, old, strict=True):
            m.add_(change, alpha=1 / self.count)
        self.squares += _dot(old, [a - m for a, m in zip(moved, self.mean, strict=True)])
        return found, float(np.sqrt(_dot(rest, rest))), distance

    def explained(self, coordinates: np.ndarray) -> np.ndarray:
        """Shares of the variance; nan where nothing moves."""
        along = (coordinates - coordinates.mean(0)) @ self.half  # in an orthonormal basis: d_1, then what is new in d_2
        return (along**2).sum(0) / self.squares if self.squares else np.full(len(self.gram), np.nan)


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float(torch.dot(x.double().flatten(), y.double().flatten())) for x, y in zip(a, b, strict=True))


class Keeper(Protocol):
    """Where a recorder may put the weights: a run that is open for writing."""

    def add_weights(self, step: int, weights: Mapping[str, Tensor], every: int, replace: bool = False) -> None:
        """Keep the weights of one step."""

    def trajectory(self) -> Mapping[int, Mapping[str, Tensor]]:
        """What was kept."""


class TrajectoryRecorder:
    """``record(step)`` after an optimizer step; ``record.trajectory`` is {step: {parameter name: weights}} so far.

    Args:
        model: whose parameters with ``requires_grad`` are recorded.
        every: steps from one point to the next; the other calls return at once.
        run: keep the points in this run (``create_run``, ``open_run``) and not in memory.

    Copies are on the CPU, in the dtype of the weights; nothing about the training changes.  Raises ValueError for an
    ``every`` below 1, StoreError where the run cannot be written.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> record = TrajectoryRecorder(model, every=2)
        >>> for step in range(5):
        ...     record(step)  # after optimizer.step(); step 0 before the first
        >>> list(record.trajectory)
        [0, 2, 4]
    """

    def __init__(self, model: nn.Module, *, every: int = 1, run: Keeper | None = None) -> None:
        check_count("TrajectoryRecorder", "every", every)
        self.model, self.every, self.run = model, every, run
        self._points: dict[int, dict[str, Tensor]] = {}

    def __call__(self, step: int) -> None:
        """Keep the weights of the moment if ``step`` is a multiple of ``every``."""
        if step % self.every:
            return
        named: Any = self.model.named_parameters()
        weights = {name: p.detach() for name, p in named if p.requires_grad}
        if self.run is None:
            self._points[step] = {name: w.to("cpu", copy=True) for name, w in weights.items()}
        else:
            self.run.add_weights(step, weights, self.every, replace=True)

    @property
    def trajectory(self) -> Mapping[int, Mapping[str, Tensor]]:
        """The points so far."""
        return dict(self._points) if self.run is None else self.run.trajectory()
