"""What a line or surface may be asked for, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.surfaces.directions import SCALINGS, Directions, random_directions
from sharpscope.analyzers.surfaces.keeping import Resume
from sharpscope.core.expressions import check_count
from sharpscope.problem.evaluator import Metric
from sharpscope.problem.problem import Problem, check_problem

__all__ = ["PRECISIONS", "Metrics", "Request", "check_reach"]

Metrics = str | Sequence[str] | Mapping[str, Any]

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Request:
    """A line or plane, as it is asked for; see ``surface``.  ``axes`` are coordinates, the fastest first."""

    owner: str
    axes: tuple[np.ndarray, ...]
    directions: str | Directions
    seed: int
    precision: str
    metrics: Metrics | None
    examples: int | None
    batchnorm: str
    statistics: int | None
    bound: float
    how: str
    resume: Resume

    def check(self, problem: Problem) -> None:
        """Raise ValueError for what cannot be meant, before any work."""
        owner, given = self.owner, self.directions
        check_problem(f"the {owner}", problem)
        if not isinstance(given, Directions) and given not in SCALINGS:
            raise ValueError(
                f"the {owner} got directions={given!r}, expected one of {', '.join(SCALINGS)} or Directions: change it"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"the {owner} got precision={self.precision!r}, expected 'float32' or 'bfloat16': change precision"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)):
            raise ValueError(f"the {owner} got seed={self.seed!r}, expected a whole number: 0 is usual")
        if self.batchnorm not in ("eval", "recompute"):
            raise ValueError(
                f"the {owner} got batchnorm={self.batchnorm!r}, expected 'eval' or 'recompute': change batchnorm"
            )
        if isinstance(self.bound, bool) or not isinstance(self.bound, (int, float)) or not self.bound > 0:
            raise ValueError(f"the {owner} got bound={self.bound!r}, expected a positive number: 0.02 is usual")
        check_count(f"the {owner}", "examples", self.examples, optional=True)
        check_count(f"the {owner}", "statistics", self.statistics, optional=True)
        if isinstance(self.resume, (str, bytes)) and not self.resume:
            raise ValueError(f"the {owner} got resume={self.resume!r}, expected a path or None: name a file")
        check_reach(owner, self.axes, torch.promote_types(problem.dtype, torch.float32))
        if isinstance(given, Directions):
            given.check(problem, f"the {owner}")
            if len(given.vectors) < len(self.axes):
                raise ValueError(
                    f"the {owner} got {len(given.vectors)} directions, expected {len(self.axes)}: use "
                    f"first.beside(second), or a line"
                )
            given.check_lengths(len(self.axes), f"the {owner}")

    def chosen(self, problem: Problem) -> Directions:
        """The directions that were handed over, or random ones."""
        if isinstance(self.directions, Directions):
            return self.directions
        try:
            return random_directions(problem, self.directions, int(self.seed), count=len(self.axes))
        except ValueError as error:
            raise ValueError(str(error).replace("random_directions", f"the {self.owner}", 1)) from None

    def measures(self) -> dict[str, Metric]:
        """Metrics by name."""
        given = self.metrics or {}
        given = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
        pairs = given.items() if isinstance(given, Mapping) else [(name, name) for name in given]
        found: dict[str, Metric] = {}
        for name, metric in pairs:
            known = _METRICS.get(metric) if isinstance(metric, str) else metric
            if not isinstance(name, str) or not callable(known):
                raise ValueError(
                    f"the {self.owner} got the metric {metric!r}, expected {', '.join(_METRICS)} or {{name: "
                    f"function(outputs, targets)}}: change metrics"
                )
            found[name] = known
        return found


def check_reach(owner: str, coordinates: Sequence[np.ndarray], dtype: torch.dtype) -> None:
    """Raise ValueError for coordinates that the dtype of the weights cannot hold."""
    farthest, largest = max(float(np.abs(axis).max()) for axis in coordinates), torch.finfo(dtype).max
    if not farthest <= largest:
        raise ValueError(
            f"the {owner} got a span up to {farthest:g}, expected at most {largest:.2g}, the largest number of "
            f"{str(dtype).removeprefix('torch.')}: reduce span"
        )


def _accuracy(outputs: Any, targets: Any) -> Tensor:
    if not (isinstance(outputs, Tensor) and outputs.dim() == 2 and targets.shape == outputs.shape[:1]):
        raise TypeError("accuracy takes outputs (examples, classes) and class numbers (examples,)")
    right: Tensor = outputs.argmax(1) == targets
    return right


_METRICS: dict[str, Metric] = {"accuracy": _accuracy, "error": lambda outputs, targets: ~_accuracy(outputs, targets)}
