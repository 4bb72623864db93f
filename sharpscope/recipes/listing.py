"""All recipes at a glance: how much there is to run, and how long it takes on this machine."""

from __future__ import annotations

from tabulate import tabulate

from sharpscope.recipes._gather import missing
from sharpscope.recipes._pace import Pace, passes
from sharpscope.recipes._work import Finished
from sharpscope.recipes.plan import Cell, unique
from sharpscope.recipes.read import read
from sharpscope.recipes.reproduce import Task

__all__ = ["listing"]


def listing(task: Task) -> str:
    """One line per recipe: runs, those still missing, forward-backward pairs, estimated time of the missing ones.

    The last line counts runs that recipes share once.  Times are those of training alone, from finished runs in
    ``task.out`` where there are some, from some timed passes otherwise.
    """
    planned = task.cells()
    every = [cell for cells in planned.values() for cell in cells]
    pace, finished = Pace(), Finished(task.out)
    pace.learn((group[0] for group in unique(every)), finished)
    rows = [
        _row(f"{read(name).item}: {read(name).title}", name, cells, pace, finished) for name, cells in planned.items()
    ]
    if len(rows) > 1:
        rows.append(_row("runs that recipes share counted once", "all of these", every, pace, finished))
    return f"{tabulate(rows, headers='keys', tablefmt='github', disable_numparse=True)}\n\n{_TIMES}"


_TIMES = (
    "Training time: of the missing runs, for one process on this machine, as busy as it is now; from finished runs in "
    "--out, or from some timed passes without tests. Analyses (spectra, surfaces, masks) and the files come on top: of "
    "runs that take seconds, as much again or more."
)


def _row(title: str, name: str, cells: list[Cell], pace: Pace, finished: Finished) -> dict[str, str]:
    first = [group[0] for group in unique(cells)]
    lacking = [group[0] for group in unique(missing(cells, finished))]
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
