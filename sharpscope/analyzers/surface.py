"""Loss along filter-normalised directions: lines and surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpscope.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class Line(Result):
    """Loss along one direction: L(w + alpha d)."""

    alpha: np.ndarray  # (n,) float64, in units of the direction (1 = one filter norm for every filter)
    loss: np.ndarray  # (n,) float64, mean loss; nan or inf where the loss was not finite
    stderr: np.ndarray  # (n,) float64, paired standard error of L(w + alpha d) - L(w) over examples; nan if unknown
    radius: np.ndarray  # (n,) float64, |alpha d| / |w|
    center: float  # L(w)
    norm: float  # |d|
    directions: str  # how the direction was made
    seed: int
    precision: str
    examples: int  # examples behind every point
    problem: str  # loss, examples, BatchNorm mode, dtype in words


@dataclass(frozen=True, eq=False, repr=False)
class Surface(Result):
    """Loss over a plane: ``loss[i, j]`` is L(w + alpha[j] d1 + beta[i] d2)."""

    alpha: np.ndarray  # (nx,) float64, coordinate along d1 (1 = one filter norm for every filter)
    beta: np.ndarray  # (ny,) float64, coordinate along d2
    loss: np.ndarray  # (ny, nx) float64, mean loss; nan or inf where the loss was not finite
    stderr: np.ndarray  # (ny, nx) float64, paired standard error of L(w + d) - L(w) over examples; nan if unknown
    radius: np.ndarray  # (ny, nx) float64, |alpha d1 + beta d2| / |w|
    center: float  # L(w)
    norms: np.ndarray  # (2,) float64, |d1|, |d2|
    cosine: float  # of the angle between d1 and d2
    directions: str  # how the directions were made
    seed: int
    precision: str
    examples: int  # examples behind every point
    problem: str  # loss, examples, BatchNorm mode, dtype in words
