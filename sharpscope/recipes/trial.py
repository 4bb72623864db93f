"""Trying a recipe out: a few steps of every rule, with the recipe's networks and shapes, on made-up images."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sharpscope.recipes._gather import entries, verdicts
from sharpscope.recipes._table import write_tables
from sharpscope.recipes._work import Finished, work
from sharpscope.recipes.drawings import draw
from sharpscope.recipes.plan import Cell, unique
from sharpscope.recipes.read import RecipeError, read
from sharpscope.recipes.reproduce import Task

__all__ = ["trial"]

BATCH = 2


def trial(task: Task, steps: int, say: Callable[[str], object] = lambda text: None) -> None:
    """Run every recipe of a task to its table and figure within ``steps`` optimizer steps a run.

    Networks, shapes of the images, numbers of classes and rules are those of the recipe; batches have two images, there
    is one seed, and analyses are coarse.  Of rows whose rules differ in numbers alone, the first is run.  Nothing is
    kept.
    """
    if steps < 1:
        raise RecipeError(f"got --steps {steps}, expected at least 1: change it")
    task.cells()  # refuses what no plan can be made of
    with tempfile.TemporaryDirectory(prefix="sharpscope-") as folder:
        for name, cells in dataclasses.replace(task, seeds=1).cells().items():
            began = time.monotonic()
            chosen = {_kind(cell): _shortened(cell, steps) for cell in reversed(cells)}
            small = list(reversed(chosen.values()))
            work(unique(small), folder, progress=False)
            recipe = read(name)
            found = entries(recipe, small, Finished(folder), task.k)
            decided = verdicts(recipe, found)
            paths = write_tables(recipe, found, decided, Path(folder, "table"), "", task.scale, task.k)
            paths += draw(recipe, found, Path(folder, "table"))
            said = f"{name}: {len(small)} runs of {steps} steps, {len(paths)} files"
            say(f"{said}, {time.monotonic() - began:.1f} s; tried out, nothing is kept")


def _kind(cell: Cell) -> tuple[str, str, str]:
    """Network, data, and the rule without its numbers."""
    rule = re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", cell.experiment.settings.rule)
    return cell.experiment.model, cell.experiment.data, rule


def _shortened(cell: Cell, steps: int) -> Cell:
    settings = dataclasses.replace(cell.experiment.settings, steps=steps, batch_size=BATCH)
    experiment = dataclasses.replace(
        cell.experiment,
        settings=settings,
        data=f"synthetic:{cell.experiment.data}",
        root=None,
        train=BATCH * steps,
        test=BATCH,
    )
    analysis = dataclasses.replace(cell.analysis, examples=BATCH, k=2, tol=0.5, resolution=3)
    return dataclasses.replace(cell, experiment=experiment, analysis=analysis, examples=BATCH * steps)
