"""All recipes at a glance: how much there is to run, and how long it takes on this machine."""

from __future__ import annotations

from tabulate import tabulate

from sharpscope.recipes.gather import missing
from sharpscope.recipes.pace import Pace, passes
from sharpscope.recipes.plan import Cell, unique
from sharpscope.recipes.read import read
from sharpscope.recipes.reproduce import Task

__all__ = ["listing"]


def listing(task: Task) -> str:
    """One line per recipe: runs, those still missing, forward-backward pairs, estimated time of the missing ones.

    The last line counts runs that recipes share once.  Times are those of training alone, from finished runs in
    ``task.out`` where there are some, from a timed pass otherwise.
    """
    planned = task.cells()
    every = [cell for cells in planned.values() for cell in cells]
    pace = Pace(task.out)
    pace.learn(group[0] for group in unique(every))
    rows = [_row(name, f"{read(name).item}: {read(name).title}", cells, task, pace) for name, cells in planned.items()]
    rows.append(_row("all of these", "runs that recipes share counted once", every, task, pace))
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _row(name: str, title: str, cells: list[Cell], task: Task, pace: Pace) -> dict[str, str]:
    first = [group[0] for group in unique(cells)]
    lacking = [group[0] for group in unique(missing(cells, task.out))]
    return {
        "recipe": name,
        "what": title,
        "runs": str(len(first)),
        "missing": str(len(lacking)),
        "passes": f"{sum(map(passes, first)):,.0f}",
        "training time": duration(sum(pace.seconds(cell) for cell in lacking)),
    }


def duration(seconds: float) -> str:
    """A time with the unit that suits it."""
    for unit, size in (("years", 365.25 * 86400.0), ("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
