"""The points of a plane that are evaluated in full precision too, to tell the error of a lower one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

__all__ = ["first_points", "more_points"]

_FIRST = 16  # points before the others are known
_LEAST, _SHARE = 32, 0.05  # points in all: at least so many, and this share of those evaluated


def first_points(coordinates: Sequence[np.ndarray], rng: torch.Generator) -> list[int]:
    """Flat places: the ends and the middle of every axis combined, those next to the centre, and others at random.

    ``coordinates`` are those along each axis, the first fastest.
    """
    shape = tuple(len(axis) for axis in reversed(coordinates))
    ends = [sorted({0, size // 2, size - 1}) for size in shape]
    centre = tuple(int(np.abs(axis).argmin()) for axis in reversed(coordinates))
    marked = [int(np.ravel_multi_index(place, shape)) for place in (*itertools.product(*ends), centre)]
    random = torch.randperm(math.prod(shape), generator=rng).tolist()
    return sorted(list(dict.fromkeys([*marked, *random]))[:_FIRST])


def more_points(losses: Mapping[int, float], done: Sequence[int], rng: torch.Generator) -> list[int]:
    """Flat places among those evaluated: where the loss is lowest, so that errors are relatively largest, and others.

    ``losses`` by place; ``done`` are the places that were taken before.  Half of all that were asked for are lowest.
    """
    wanted = max(_LEAST, math.ceil(_SHARE * len(losses)))
    places = [place for place in sorted(losses) if place not in set(done)]
    order = torch.randperm(len(places), generator=rng).tolist()
    finite = [place for place in places if math.isfinite(losses[place])]
    lowest = sorted(finite, key=lambda place: abs(losses[place]))[: max(wanted // 2, 1)]
    return sorted(list(dict.fromkeys([*lowest, *(places[index] for index in order)]))[: max(wanted - len(done), 0)])
