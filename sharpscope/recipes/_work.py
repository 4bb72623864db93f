"""Running what a plan lacks: finished runs are never repeated, runs that were cut off go on where they stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

from sharpscope.data import DataError
from sharpscope.recipes.plan import Cell
from sharpscope.recipes.read import RecipeError
from sharpscope.runs.analyze import analyze_run, check_kept
from sharpscope.runs.train import check_settings, train_run
from sharpscope.store import Run, StoreError, is_run, open_run

__all__ = ["Finished", "work"]

PAUSE = 10.0  # seconds of work that a kill may cost


class Finished:
    """The finished runs of a folder, each opened once: what is finished later is not seen.

    Called with a cell: its run where it is trained and analysed to the end, None otherwise.  Raises RecipeError for a
    run that cannot be read, and for one of other settings or with analyses of others.
    """

    def __init__(self, out: str | Path) -> None:
        self._out = Path(out)
        self._trained: dict[str, tuple[Run, set[str]] | None] = {}  # run and results by folder
        self._checked: set[tuple[str, tuple[str, ...], str]] = set()

    def __call__(self, cell: Cell) -> Run | None:
        if cell.folder not in self._trained:
            self._trained[cell.folder] = self._opened(self._out / cell.folder)
        found = self._trained[cell.folder]
        if found:
            self._check(found[0], cell)
        return found[0] if found and not _lacking(*found, cell) else None

    def _check(self, run: Run, cell: Cell) -> None:
        """A table is a function of what was asked for, not of what lies there."""
        asked = (cell.folder, cell.analyses, repr(cell.analysis))
        if asked in self._checked:
            return
        try:
            check_settings(run, cell.experiment)
            check_kept(run, cell.analyses, cell.analysis, cell.experiment.root)
        except StoreError as error:
            raise RecipeError(f"{str(error).rsplit(': ', 1)[0]}: use another --out, or remove {run.path}") from error
        self._checked.add(asked)

    def _opened(self, path: Path) -> tuple[Run, set[str]] | None:
        if not is_run(path):  # or what a kill left before there was one, or another process is about to make
            return None
        try:
            run = open_run(path)
            return (run, set(run.result_names())) if (run.status or "").startswith("finished") else None
        except StoreError as error:
            raise RecipeError(f"{error}, or remove {path}: the run is then made again") from error


def _lacking(run: Run, there: Container[str], cell: Cell) -> list[str]:
    """Analyses that a run still needs, beside the results ``there``; those of masks only where there is a mask."""
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

    Raises DataError before anything is run where a data set cannot be read, naming where it is to be had, and
    RecipeError for a run that is damaged.
    """
    finished = Finished(out)
    missing = [cells for cells in groups if any(finished(cell) is None for cell in cells)]
    missing.sort(key=lambda cells: cells[0].seed)  # rows of one seed in turn: a machine that slows down slows all alike
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
            if lacking := _lacking(run, run.result_names(), cell):
                analyze_run(run, lacking, cell.analysis, root=cell.experiment.root)
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
