"""What the finished runs of a recipe say: one entry per column and row, each measure with one value per seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from sharpscope.optimizers.parse import parse
from sharpscope.recipes._work import Finished
from sharpscope.recipes.numbers import FLOPS, MEASURES, Mean, flops, measure, resolution, sparsity
from sharpscope.recipes.plan import Cell
from sharpscope.recipes.read import Column, Recipe
from sharpscope.recipes.verdicts import Verdict, judged, matching
from sharpscope.store import Run

__all__ = ["ACCOUNTING", "Entry", "entries", "missing", "verdicts"]

ACCOUNTING = ("expected", "extra")


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One row of a recipe's table."""

    row: str
    column: Column
    cells: tuple[Cell, ...]  # one per seed
    runs: tuple[Run, ...]
    values: Mapping[str, Mean]  # by measure; "flops" too
    variables: Mapping[str, float]


def missing(cells: Sequence[Cell], finished: Finished) -> list[Cell]:
    """The cells whose run is not finished."""
    return [cell for cell in cells if finished(cell) is None]


def entries(recipe: Recipe, cells: Sequence[Cell], finished: Finished, k: float = FLOPS["conventional"]) -> list[Entry]:
    """The table of a recipe, all of whose runs are finished.  ``k`` is that of ``numbers.flops``."""
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.column.name, cell.row.name), []).append(cell)
    return [_entry(recipe, tuple(group), finished, k) for group in grouped.values()]


def _entry(recipe: Recipe, cells: tuple[Cell, ...], finished: Finished, k: float) -> Entry:
    runs = tuple(run for cell in cells if (run := finished(cell)) is not None)
    names = dict.fromkeys((*recipe.measures, *ACCOUNTING, *(claim.measure for claim in recipe.claims), "seconds"))
    seeds = tuple(cell.seed for cell in cells)
    values = {
        name: Mean(
            tuple(measure(name, run, cell) for run, cell in zip(runs, cells, strict=True)),
            seeds,
            resolution(name, runs, cells),
        )
        for name in names
        if name in MEASURES
    }
    s = sparsity(parse(cells[0].experiment.settings.rule))
    values["flops"] = Mean(tuple(flops(1.0 + extra, s, k) for extra in values["extra"].values), seeds)
    numbers = {name: float(value) for name, value in cells[0].scope.items() if isinstance(value, int | float)}
    return Entry(cells[0].row.name, cells[0].column, cells, runs, values, numbers)


def verdicts(recipe: Recipe, found: Sequence[Entry]) -> list[tuple[str, Verdict]]:
    """Every claim of a recipe, decided for every column that it is about: (column, verdict)."""
    columns = dict.fromkeys(entry.column.name for entry in found)
    listed = []
    for claim in recipe.claims:
        for column in matching(list(columns), claim.columns):
            own = [entry for entry in found if entry.column.name == column]
            values = {entry.row: entry.values for entry in own}
            variables = {entry.row: entry.variables for entry in own}
            listed += [(column, verdict) for verdict in judged(claim, values, variables)]
    return listed
