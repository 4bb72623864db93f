"""How far losses in a lower precision are from exact ones: measured on some points of the plane itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from sharpscope.analyzers.surfaces._points import Points
from sharpscope.core.vectors import generator

__all__ = ["Rounding", "first_points", "more_points"]

_FIRST = 16  # points before the others are known
_LEAST, _SHARE = 32, 0.05  # points in all: at least so many, and this share of those evaluated


class Rounding:
    """The relative errors of a plane in bfloat16, at the points where they are known."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.errors: dict[int, float] = {}

    def measured(self) -> tuple[float, float, int]:
        """The largest relative error of the losses on some points, its 95th percentile, their number.

        The first call takes the points of ``first_points``, later ones those of ``more_points`` too.  Raises
        ValueError where it is above the bound.  Zeros where the precision is exact.
        """
        points, request = self.points, self.points.request
        if not points.evaluator.half:
            return 0.0, 0.0, 0
        rng = generator("surface precision", int(request.seed), len(self.errors))
        if self.errors:
            known = {index: float(row[0]) for index, row in points.known.items() if index >= 0}
            chosen = more_points(known, list(self.errors), rng)
        else:
            chosen = first_points(request.axes, rng)
        found, exact = points.evaluate(chosen)[:, 0], points.exact(chosen)
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = np.where(found == exact, 0.0, np.abs(found - exact) / np.abs(exact))
        errors = np.where(np.isfinite(exact), np.where(np.isfinite(errors), errors, np.inf), 0.0)
        self.errors |= dict(zip(chosen, errors.tolist(), strict=True))
        worst = max(self.errors.values())
        if not worst <= request.bound:
            raise ValueError(
                f"the {request.owner} got a relative error of {worst:.2g} in bfloat16 on {len(self.errors)} points, "
                f"expected at most {request.bound:g}: use precision='float32', or a larger bound"
            )
        return worst, float(np.quantile(list(self.errors.values()), 0.95)), len(self.errors)


def first_points(coordinates: Sequence[np.ndarray], rng: torch.Generator) -> list[int]:
    """Flat places: the ends and the middle of every axis combined, those next to the centre, and others at random.

    ``coordinates`` are those along each axis, the first fastest.
    """
    shape = tuple(len(axis) for axis in reversed(coordinates))
    ends = [sorted({0, size // 2, size - 1}) for size in shape]
    centre = tuple(int(np.abs(axis).argmin()) for axis in reversed(coordinates))
    marked = [int(np.ravel_multi_index(place, shape)) for place in (*itertools.product(*ends), centre)]
    random = torch.randperm(math.prod(shape), generator=rng, device="cpu").tolist()
    return sorted(list(dict.fromkeys([*marked, *random]))[:_FIRST])


def more_points(losses: Mapping[int, float], done: Sequence[int], rng: torch.Generator) -> list[int]:
    """Flat places among those evaluated: where the loss is lowest, so that errors are relatively largest, and others.

    ``losses`` by place; ``done`` are the places that were taken before.  Half of all that were asked for are lowest.
    """
    wanted = max(_LEAST, math.ceil(_SHARE * len(losses)))
    places = [place for place in sorted(losses) if place not in set(done)]
    order = torch.randperm(len(places), generator=rng, device="cpu").tolist()
    finite = [place for place in places if math.isfinite(losses[place])]
    lowest = sorted(finite, key=lambda place: abs(losses[place]))[: max(wanted // 2, 1)]
    return sorted(list(dict.fromkeys([*lowest, *(places[index] for index in order)]))[: max(wanted - len(done), 0)])
