"""Running what a plan lacks: finished runs are never repeated, runs that were cut off go on where they stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sharpscope.analyses import analyze_run
from sharpscope.data import DataError
from sharpscope.recipes.plan import Cell
from sharpscope.runs import train_run
from sharpscope.store import Run, is_run, open_run

__all__ = ["finished", "work"]

PAUSE = 10.0  # seconds of work that a kill may cost


def finished(cell: Cell, out: str | Path) -> Run | None:
    """The run of a cell where it is trained and analysed to the end, None otherwise."""
    path = Path(out, cell.folder)
    if not is_run(path):
        return None
    run = open_run(path)
    if not (run.status or "").startswith("finished"):
        return None
    return run if not _lacking(run, cell) else None


def _lacking(run: Run, cell: Cell) -> list[str]:
    """Analyses that a run still needs; those of masks only where there is a mask."""
    there = set(run.result_names())
    wanted = [name for name in cell.analyses if name not in there]
    return [name for name in wanted if name not in {"masks", "mask_profile"} or run.mask_steps()]


def work(
    groups: Sequence[Sequence[Cell]],
    out: str | Path,
    progress: bool | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> None:
    """Train and analyse every run that is not there yet.

    Args:
        groups: cells by run; the cells of one run may ask for different analyses of it.
        out: the folder of all runs.
        progress: show progress bars; None shows them on a terminal only.
        say: told one line per run that is made.

    Raises DataError before anything is run where a data set cannot be read, naming where it is to be had.
    """
    missing = [cells for cells in groups if any(finished(cell, out) is None for cell in cells)]
    _check_data(cells[0] for cells in missing)
    passes = sum(cells[0].steps for cells in missing)
    done, began = 0, time.monotonic()
    for place, cells in enumerate(missing, 1):
        first = cells[0]
        left = (time.monotonic() - began) / done * (passes - done) if done else None
        say(
            f"[{place}/{len(missing)}] {first.row.name}, {first.column.name}, seed {first.seed}: {first.folder}"
            + (f" ({_minutes(left)} left)" if left is not None else "")
        )
        path = Path(out, first.folder)
        run = train_run(first.experiment, path, resume=True, checkpoint_seconds=PAUSE, progress=progress)
        for cell in cells:
            if lacking := _lacking(run, cell):
                analyze_run(run, lacking, cell.analysis)
        done += first.steps


_SOURCES = {
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "imagenet": "https://image-net.org, as folders train and val with one folder of images per class",
}


def _check_data(cells: Iterable[Cell]) -> None:
    """Read every data set once."""
    for experiment in {(cell.experiment.data, cell.experiment.root): cell.experiment for cell in cells}.values():
        try:
            experiment.images()
        except DataError as error:
            source = _SOURCES.get(experiment.data)
            hint = f" The files: {source}; unpack them and add --root {experiment.data}=DIR." if source else ""
            raise DataError(f"{error}{hint}") from error


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
