"""Perturbations that change the gradient before another perturbation climbs along it."""

from __future__ import annotations

from dataclasses import dataclass

from sharpscope.ascent.perturbations import Memory, Perturbation
from sharpscope.ascent.probe import Probe
from sharpscope.ascent.shift import Shift
from sharpscope.core.expressions import check_piece, check_range
from sharpscope.core.schedules import Number
from sharpscope.core.vectors import Vec, add, scale

__all__ = ["Centralised", "Residual", "centralised"]


@dataclass(frozen=True, repr=False)
class Residual(Perturbation):
    """Another perturbation along g - sigma m, with m the moving average of the gradients of the steps before.

    m <- decay m + (1 - decay) g, begun with the first gradient, along which the first step climbs.  What is left of g
    is the noise of the batch (F-SAM, Li et al. 2024).  The average is over ranks, and free of a loss scale.
    """

    perturbation: Perturbation
    sigma: Number = 1.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        check_piece("Residual", "perturbation", self.perturbation, Perturbation)
        check_range("Residual", "sigma", self.sigma, 0, schedule=True)
        check_range("Residual", "decay", self.decay, 0, 1)

    def __call__(self, g: Vec, probe: Probe, memory: Memory) -> Shift | None:
        mean, size = memory.get("mean"), probe.scale
        seen = scale(probe.average(g), (1.0 if mean is None else 1.0 - self.decay) / size)
        memory["mean"] = seen if mean is None else add(seen, mean, alpha=self.decay)
        rest = g if mean is None else add(g, mean, alpha=-size * probe.value(self.sigma, 0))
        return self.perturbation(rest, probe, memory.setdefault("perturbation", {}))


@dataclass(frozen=True, repr=False)
class Centralised(Perturbation):
    """Another perturbation along the centralised gradient (GCSAM, Hassan et al. 2025); see ``centralised``."""

    perturbation: Perturbation

    def __post_init__(self) -> None:
        check_piece("Centralised", "perturbation", self.perturbation, Perturbation)

    def __call__(self, g: Vec, probe: Probe, memory: Memory) -> Shift | None:
        return self.perturbation(centralised(g), probe, memory.setdefault("perturbation", {}))


def centralised(vector: Vec) -> Vec:
    """Every slice along dim 0 of a tensor with two or more dims less its mean; the other tensors as they are.

    Source: Yong et al. 2020, "Gradient centralization", eq. 1: the slices are the weights into one unit or filter.
    """
    return [x - x.mean(tuple(range(1, x.dim())), keepdim=True) if x.dim() > 1 else x for x in vector]
