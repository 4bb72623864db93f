"""Numbers that change over training: step -> float, frozen and printable.

``t`` is the optimizer step, counted from 0, and ``T`` the total.  The probabilities of the RST paper (Zhao et al. 2023,
section 4) are read at the midpoint of a step, (t + 1/2) / T, so that their mean over T steps equals the paper's
Delta-eta, an integral, to rounding for the linear families and to O(1/T^2) for the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from sharpscope.core.expressions import Piece, check_count, check_range

__all__ = [
    "Constant",
    "Cosine",
    "Decay",
    "InverseSqrt",
    "Linear",
    "Number",
    "Piecewise",
    "Proportional",
    "Schedule",
    "Sine",
    "Warmup",
    "delta_eta",
    "value_at",
]


@dataclass(frozen=True, repr=False)
class Schedule(Piece):
    """A function of the step; ``lr`` is the base optimizer's current learning rate, for those that follow it.

    Derive a frozen dataclass from it; a field ``total`` that is None is filled with the length of the training.

    Example:
        >>> @dataclass(frozen=True)
        ... class Halving(Schedule):
        ...     start: float
        ...     every: int = 100
        ...     def __call__(self, step, lr=None):
        ...         return self.start / 2 ** (step // self.every)
        >>> Halving(0.2)(250)
        0.05
    """

    varies: ClassVar[bool] = True

    def __call__(self, step: int, lr: float | None = None) -> float:
        """The value at optimizer step ``step``, counted from 0."""
        raise NotImplementedError


Number = float | Schedule


def value_at(number: Number, step: int, lr: float | None = None) -> float:
    """The float that a number or schedule stands for at a step."""
    return number(step, lr) if isinstance(number, Schedule) else float(number)


def _progress(step: int, total: int | None) -> float:
    if total is None:
        raise ValueError("the schedule got total=None, expected its length in steps: give total= to the schedule")
    return min((step + 0.5) / total, 1.0)


@dataclass(frozen=True, repr=False)
class Constant(Schedule):
    """p(t) = value."""

    value: float

    def __post_init__(self) -> None:
        check_range("Constant", "value", self.value, -math.inf)

    def __call__(self, step: int, lr: float | None = None) -> float:
        return float(self.value)


@dataclass(frozen=True, repr=False)
class Linear(Schedule):
    """p(t) = start + (end - start) (t + 1/2) / T; the RST paper's linear groups 1 and 2 are choices of the two ends."""

    start: float
    end: float
    total: int | None = None

    def __post_init__(self) -> None:
        check_range("Linear", "start", self.start, -math.inf)
        check_range("Linear", "end", self.end, -math.inf)
        check_count("Linear", "total", self.total, optional=True)

    def __call__(self, step: int, lr: float | None = None) -> float:
        return self.start + (self.end - self.start) * _progress(step, self.total)


@dataclass(frozen=True, repr=False)
class Piecewise(Schedule):
    """p(t) = first for t < at T, then ``1 - first`` (RST paper, piecewise family: a_p = first, b_p = at)."""

    first: float
    at: float = 0.5
    total: int | None = None

    def __post_init__(self) -> None:
        check_range("Piecewise", "first", self.first, 0, 1)
        check_range("Piecewise", "at", self.at, 0, 1)
        check_count("Piecewise", "total", self.total, optional=True)

    def __call__(self, step: int, lr: float | None = None) -> float:
        return self.first if _progress(step, self.total) <= self.at else 1.0 - self.first


@dataclass(frozen=True, repr=False)
class Cosine(Schedule):
    """Half a cosine from start to end.

    Cosine(1, 0) is the RST paper's cos1 = 1/2 + 1/2 cos(pi t / T), Cosine(0, 1) its cos2.
    """

    start: float
    end: float
    total: int | None = None

    def __post_init__(self) -> None:
        check_range("Cosine", "start", self.start, -math.inf)
        check_range("Cosine", "end", self.end, -math.inf)
        check_count("Cosine", "total", self.total, optional=True)

    def __call__(self, step: int, lr: float | None = None) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * _progress(step, self.total)))


@dataclass(frozen=True, repr=False)
class Sine(Schedule):
    """Half a sine wave: Sine(0, 1) is the RST paper's sin1 = sin(pi t / T), Sine(1, 0) its sin2 = 1 - sin1.

    The mean is 2/pi for sin1 and 1 - 2/pi for sin2 (the paper's Table 6 prints 2/pi for both).
    """

    edge: float
    middle: float
    total: int | None = None

    def __post_init__(self) -> None:
        check_range("Sine", "edge", self.edge, -math.inf)
        check_range("Sine", "middle", self.middle, -math.inf)
        check_count("Sine", "total", self.total, optional=True)

    def __call__(self, step: int, lr: float | None = None) -> float:
        return self.edge + (self.middle - self.edge) * math.sin(math.pi * _progress(step, self.total))


@dataclass(frozen=True, repr=False)
class Decay(Schedule):
    """SSAM-D's drop rate f_decay(t; alpha) = alpha / 2 (1 + cos(pi t / T)) (Sparse SAM, eq. 9), t and T in steps."""

    alpha: float
    total: int | None = None

    def __post_init__(self) -> None:
        check_range("Decay", "alpha", self.alpha, 0, 1)
        check_count("Decay", "total", self.total, optional=True)

    def __call__(self, step: int, lr: float | None = None) -> float:
        if self.total is None:
            raise ValueError("Decay got total=None, expected its length in steps: give total=")
        return 0.5 * self.alpha * (1.0 + math.cos(math.pi * min(step / self.total, 1.0)))


@dataclass(frozen=True, repr=False)
class InverseSqrt(Schedule):
    """value / sqrt(t), t counted from 1: the rho_t and eta_t of the theorems (Sparse SAM, Theorems 1 and 2)."""

    value: float

    def __post_init__(self) -> None:
        check_range("InverseSqrt", "value", self.value, -math.inf)

    def __call__(self, step: int, lr: float | None = None) -> float:
        return self.value / math.sqrt(step + 1)


@dataclass(frozen=True, repr=False)
class Warmup(Schedule):
    """``number`` times a ramp from 0 to 1 over the first ``steps`` steps, ``number`` afterwards."""

    number: Number
    steps: int

    def __post_init__(self) -> None:
        check_range("Warmup", "number", self.number, -math.inf, schedule=True)
        check_count("Warmup", "steps", self.steps)

    def __call__(self, step: int, lr: float | None = None) -> float:
        return value_at(self.number, step, lr) * min((step + 1) / self.steps, 1.0)


@dataclass(frozen=True, repr=False)
class Proportional(Schedule):
    """low + (high - low) (lr - lr_low) / (lr_high - lr_low): rho that follows the learning rate.

    Source: GSAM, Zhuang et al. 2022.  Departure: a learning rate outside [lr_low, lr_high], as in a warm-up from 0,
    counts as the nearer end, because the formula as it stands makes rho negative there.
    """

    low: float
    high: float
    lr_low: float
    lr_high: float

    def __post_init__(self) -> None:
        for name in ("low", "high", "lr_low", "lr_high"):
            check_range("Proportional", name, getattr(self, name), -math.inf)
        if not self.lr_high > self.lr_low:
            raise ValueError(
                f"Proportional got lr_low={self.lr_low!r} and lr_high={self.lr_high!r}, "
                f"expected lr_low < lr_high: swap or change them"
            )

    def __call__(self, step: int, lr: float | None = None) -> float:
        if lr is None:
            raise ValueError("Proportional got no learning rate, expected an optimizer to follow: use it inside a rule")
        share = (lr - self.lr_low) / (self.lr_high - self.lr_low)
        return self.low + (self.high - self.low) * min(max(share, 0.0), 1.0)


def delta_eta(p: Number, steps: int) -> float:
    """Expected extra forward-backward pairs per step of RST, (1/T) sum_t p(t) (Zhao et al. 2023, eq. 4).

    Raises ValueError for a p that leaves [0, 1].

    Example: ``delta_eta(Linear(0.0, 1.0, total=100), 100)`` is 0.5.
    """
    check_range("delta_eta", "p", p, 0, 1, schedule=True)
    check_count("delta_eta", "steps", steps)
    check_range("delta_eta", "p", p, 0, 1, schedule=True)
    values = [value_at(p, step) for step in range(steps)]
    for value in (min(values), max(values)):
        check_range(f"delta_eta of {p!r}", "p", value, 0, 1)
    return math.fsum(values) / steps
