"""What a line or surface may be asked for, checked before any work, and where its points are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.directions import SCALINGS, Directions
from sharpscope.analyzers.forward import Metric
from sharpscope.pieces import check_count

__all__ = ["PRECISIONS", "Ask", "Keep", "Kept", "Metrics", "Resume", "check_reach", "keep_with", "opened"]

Metrics = str | Sequence[str] | Mapping[str, Any]

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Kept:
    """What an earlier call left: rows are (loss, standard error, metrics...); index -1 is the centre."""

    how: str
    indices: np.ndarray  # (n,) int64, flat places in the grid
    rows: np.ndarray  # (n, 2 + metrics) float64


class Keep(Protocol):
    """Where finished points are kept, so that a killed call goes on; ``sharpscope.resume`` has one of HDF5."""

    def open(self, about: Mapping[str, str]) -> Kept | None:
        """What is there already; raises where it belongs to another question than ``about``."""

    def add(self, kept: Kept) -> None:
        """More points; they are on the disk when this returns."""


Resume = Any  # a Keep, or what the registered opener takes: a path
_OPENER: list[Callable[[Any], Keep]] = []  # analyzers know no files; the module that does registers here


def keep_with(opener: Callable[[Any], Keep]) -> None:
    """Let ``resume=path`` mean ``opener(path)``."""
    _OPENER[:] = [opener]


def opened(resume: Resume) -> Keep | None:
    """Where points are to be kept, if anywhere."""
    is_path = resume is not None and not hasattr(resume, "add")
    keep: Keep | None = _OPENER[0](resume) if is_path else resume
    return keep


@dataclass(frozen=True)
class Ask:
    """The options that lines and surfaces have in common; see ``surface``."""

    owner: str
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

    def check(self) -> None:
        """Raise ValueError for what cannot be meant, before any work."""
        owner, given = self.owner, self.directions
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
