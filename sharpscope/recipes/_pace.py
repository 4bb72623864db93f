"""How long the runs of a plan take on this machine: from finished runs, or from a timed pass."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Iterable

import torch
from torch.nn import functional as F

from sharpscope import models
from sharpscope.core.history import History
from sharpscope.core.vectors import generator
from sharpscope.data.synthetic import SHAPES
from sharpscope.optimizers.parse import parse
from sharpscope.recipes._work import Finished
from sharpscope.recipes.numbers import expected_extra
from sharpscope.recipes.plan import Cell

__all__ = ["Pace", "passes"]

_SAMPLED = 1000  # steps at most over which a schedule is averaged
_PASSES = 12  # timed at most, and
_PATIENCE = 0.5  # seconds for them
_TIMED = 64  # images at most in a timed pass of a small picture
_PIXELS = 1 << 16  # of a timed pass, so that large networks do not take minutes


def passes(cell: Cell) -> float:
    """Forward-backward pairs of the whole training, as expected."""
    return cell.steps * (1.0 + _extra(cell.experiment.settings.rule, cell.steps))


@functools.cache
def _extra(rule: str, steps: int) -> float:
    return expected_extra(parse(rule), min(steps, _SAMPLED))  # a mean over the schedule, which few steps tell


class Pace:
    """Seconds per forward-backward pair by model, data and batch size."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int], float] = {}

    def learn(self, cells: Iterable[Cell], finished: Finished) -> None:
        """Take the pace of every finished run, tests of every epoch included."""
        found: dict[tuple[str, str, int], list[float]] = {}
        for cell in cells:
            run = finished(cell)
            history = run.history if run else None
            if isinstance(history, History):
                found.setdefault(_key(cell), []).append(float(history.seconds[-1] / history.passes[-1]))
        self._known |= {key: statistics.median(paces) for key, paces in found.items()}

    def seconds(self, cell: Cell) -> float:
        """Estimated time of a run's training; analyses come on top."""
        key = _key(cell)
        if key not in self._known:
            self._known[key] = _timed(cell)
        return self._known[key] * passes(cell)


def _key(cell: Cell) -> tuple[str, str, int]:
    return cell.experiment.data, cell.experiment.model, cell.experiment.settings.batch_size


def _timed(cell: Cell) -> float:
    """The median of some passes on made-up images after a first one, scaled to the batch size."""
    shape, classes, _ = SHAPES[cell.experiment.data.removeprefix("synthetic:")]
    batch = cell.experiment.settings.batch_size
    count = max(2, min(batch, _TIMED, _PIXELS // (shape[1] * shape[2] * 16)))
    model = models.build(cell.experiment.model, shape, classes)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(count, *shape, generator=generator("pace"), device="cpu")
    y = torch.arange(count, device="cpu") % classes
    spent: list[float] = []
    while len(spent) < 2 or (len(spent) < _PASSES and sum(spent) < _PATIENCE):
        began = time.perf_counter()
        F.cross_entropy(model(x), y).backward()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[1:]) * batch / count
