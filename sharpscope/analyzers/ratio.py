"""How much does the SAM gradient differ from the SGD gradient, coordinate by coordinate?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpscope.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class GradientRatio(Result):
    """Distribution of r = log|(g_SAM - g_SGD) / g_SGD| over the coordinates (Sparse SAM, section 3.2, Fig. 1).

    Every coordinate is in exactly one place: a bin of ``counts``, ``below``, ``above``, ``zero_numerators``
    (r = -inf) or ``zero_denominators`` (r = +inf or undefined).
    """

    edges: np.ndarray  # (b + 1,) float64, bin edges of r, in units of the logarithm
    counts: np.ndarray  # (layers, b) int64, coordinates per bin
    below: np.ndarray  # (layers,) int64, finite r under the first edge
    above: np.ndarray  # (layers,) int64, finite r at or over the last edge
    negative: np.ndarray  # (layers,) int64, finite r < 0
    zero_numerators: np.ndarray  # (layers,) int64, g_SAM == g_SGD != 0
    zero_denominators: np.ndarray  # (layers,) int64, g_SGD == 0
    layers: tuple[str, ...]  # parameter names
    perturbation: str  # text of the perturbation
    base: str  # "log10" or "ln"
    levels: np.ndarray  # (q,) float64, probabilities of the quantiles
    quantiles: np.ndarray  # (q,) float64, of r over coordinates with g_SGD != 0 (-inf counts as smallest)
    problem: str  # loss, examples, BatchNorm mode, dtype in words

    @property
    def sizes(self) -> np.ndarray:
        """(layers,) int64: coordinates per layer."""
        outside = self.below + self.above + self.zero_numerators + self.zero_denominators
        return np.asarray(self.counts.sum(axis=1) + outside)

    @property
    def share_below_zero(self) -> float:
        """Share of r < 0 among the coordinates with g_SGD != 0 (r = -inf included)."""
        defined = int((self.sizes - self.zero_denominators).sum())
        return float((self.negative + self.zero_numerators).sum()) / defined if defined else float("nan")

    @property
    def layer_share_below_zero(self) -> np.ndarray:
        """(layers,) float64: the same share, layer by layer."""
        defined = self.sizes - self.zero_denominators
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.negative + self.zero_numerators) / defined)
