"""From names of recipes to their tables and figures."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sharpscope.recipes._gather import entries, missing, verdicts
from sharpscope.recipes._table import write_summary, write_tables
from sharpscope.recipes._work import Finished, work
from sharpscope.recipes.drawings import draw
from sharpscope.recipes.numbers import FLOPS
from sharpscope.recipes.plan import Cell, plan, shard, unique
from sharpscope.recipes.read import RecipeError, read

__all__ = ["Task", "report", "reproduce"]


@dataclasses.dataclass(frozen=True)
class Task:
    """What to reproduce, and where."""

    names: tuple[str, ...]
    scale: str = "small"
    seeds: int | None = None  # the recipes' own numbers
    out: str = "runs"
    figures: str = "figures"
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    roots: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the data sets
    k: float = FLOPS["conventional"]  # of the FLOPs column
    command: str = ""  # as the tables tell it

    def cells(self) -> dict[str, list[Cell]]:
        """Every run of every recipe."""
        return {name: plan(read(name), self.scale, self.seeds, self.changes, self.roots) for name in self.names}

    def place(self, name: str) -> Path:
        """Folder of a recipe's table and figure."""
        return Path(self.figures, self.scale, name)


def reproduce(
    task: Task,
    share: str | None = None,
    *,
    progress: bool | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> list[Path]:
    """Run what is missing, then write the tables and figures of every recipe whose runs are all there.

    Finished runs are not repeated, runs that were cut off go on where they stopped, and recipes share equal runs.  The
    tables are a function of the runs: killed and called again, the same bytes come out (on a CPU), the times aside.

    Args:
        task: recipes, scale, seeds and places.
        share: "I/N": only the I-th of N parts of the runs, for array jobs; whoever finishes last writes the tables.
        progress: show progress bars; None shows them on a terminal only.
        say: told line by line what happens.

    Returns the files written.  Raises RecipeError and what reading data, training and analysing raise.
    """
    planned = task.cells()
    for name in planned:
        _check_writable(task.place(name), "--figures")
    _check_writable(Path(task.out), "--out")
    groups = unique(cell for cells in planned.values() for cell in cells)
    work(shard(groups, share), task.out, progress, say)
    return report(task, say)


def _check_writable(folder: Path, option: str) -> None:
    """Raise RecipeError, before hours of training, for a folder that cannot take runs or tables."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RecipeError(
            f"got the folder {str(folder)!r} ({error.strerror}), expected one that can be written: change {option}"
        ) from None


def report(task: Task, say: Callable[[str], object] = lambda text: None) -> list[Path]:
    """Tables and figures of every recipe whose runs are all there; nothing is run."""
    written: list[Path] = []
    judged = []
    finished = Finished(task.out)
    for name, cells in task.cells().items():
        lacking = missing(cells, finished)
        if lacking:
            say(f"{name}: {len(lacking)} of {len(cells)} runs are missing, no table yet: reproduce makes them")
            continue
        recipe = read(name)
        found = entries(recipe, cells, finished, task.k)
        decided = verdicts(recipe, found)
        judged += [(recipe, column, verdict) for column, verdict in decided]
        command = f"sharpscope reproduce {name} --scale {task.scale}{task.command}"
        own = write_tables(recipe, found, decided, task.place(name), command, task.scale, task.k)
        own += draw(recipe, found, task.place(name))
        written += own
        say(f"{name}: {task.place(name)}")
    if len(task.names) > 1 and judged:
        written += write_summary(judged, Path(task.figures, task.scale))
    return written
