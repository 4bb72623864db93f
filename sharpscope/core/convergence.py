"""A theorem beside a measurement: what was measured over seeds, the bound, and the rate of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sharpscope.core.results import Dims, Result

__all__ = ["Convergence"]


@dataclass(frozen=True, eq=False, repr=False)
class Convergence(Result):
    """A measured quantity and the bounds on its expectation after T steps."""

    steps: np.ndarray  # (n,) int64, T, rising
    measured: np.ndarray  # (seeds, n) float64, the quantity after T steps of one seed
    bound: np.ndarray  # (n,) float64, the theorem with its slips mended
    published: np.ndarray  # (n,) float64, the theorem as printed; nan where its conditions do not hold
    direct: np.ndarray | None  # (n,) float64, a bound that is not in the papers, or None
    window: np.ndarray  # (2,) int64, first and last T of the fitted rates
    power: bool  # whether the rate is a power of T (slope of log against log T), else exponential (log against T)
    theorem: str  # such as "SSAM Theorem 2"
    quantity: str  # what was measured, in words
    rule: str  # the text of the rule
    problem: str  # what was minimised, in words
    constants: dict[str, float]  # of the problem and of the theorem by symbol

    dims: ClassVar[Dims] = {"measured": "seed steps", "bound published direct": "steps"}

    @property
    def seeds(self) -> int:
        """How many runs were measured."""
        return len(self.measured)

    @property
    def mean(self) -> np.ndarray:
        """(n,) mean over the seeds."""
        return np.asarray(self.measured.mean(axis=0))

    @property
    def stderr(self) -> np.ndarray:
        """(n,) standard error of the mean; nan for a single seed."""
        if self.seeds < 2:
            return np.full(len(self.steps), np.nan)
        return np.asarray(self.measured.std(axis=0, ddof=1) / np.sqrt(self.seeds))

    @property
    def closest(self) -> float:
        """The largest of measured mean / bound over all T: below 1 where the bound holds."""
        return float((self.mean / self.bound).max())

    @property
    def closest_published(self) -> float:
        """The same against the published formula; above 1 where that is violated, nan where it does not apply."""
        with np.errstate(divide="ignore"):  # the published bound may be 0
            shares = self.mean / self.published
        return float(np.nanmax(shares)) if np.isfinite(self.published).any() else float("nan")

    @property
    def slope(self) -> float:
        """The fitted rate in the window, mean over seeds: d log measured / d log T, or / dT."""
        return float(np.mean(self._slopes(self.measured)))

    @property
    def slope_stderr(self) -> float:
        """Standard error of ``slope`` from the spread over seeds (points of one seed are not independent)."""
        return float(np.std(self._slopes(self.measured), ddof=1) / np.sqrt(self.seeds)) if self.seeds > 1 else np.nan

    @property
    def bound_slope(self) -> float:
        """The rate of the bound in the same window."""
        return float(self._slopes(self.bound[None])[0])

    @property
    def holds(self) -> bool:
        """Whether the mean and two standard errors lie below the bound at every T."""
        return bool((self.mean + 2.0 * np.nan_to_num(self.stderr) <= self.bound).all())

    def _slopes(self, rows: np.ndarray) -> np.ndarray:
        inside = (self.steps >= self.window[0]) & (self.steps <= self.window[1])
        if inside.sum() < 2:
            return np.full(len(rows), np.nan)
        x = np.log(self.steps[inside]) if self.power else self.steps[inside].astype(np.float64)
        y = np.log(np.maximum(rows[:, inside], np.finfo(np.float64).tiny))
        x = x - x.mean()
        return np.asarray(y @ x / (x @ x))
