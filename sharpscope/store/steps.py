"""Curve points of single steps: gathered, and written down every few seconds.

``RUN/steps/`` holds segments, results of class ``Steps`` under the number of their first step.  A commit adds a segment
with the points since the last one; a merge, once an epoch, writes all points into the first segment and then removes
the others.  A reader goes through the segments in order and skips points that it has, so it is right at any moment of a
merge.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from sharpscope.core.history import Steps
from sharpscope.core.results import Result

__all__ = ["StepWriter", "read_steps"]

DRAWER = "steps"


class Keeper(Protocol):
    """What a run does for its segments."""

    def _steps(self, drawer: str) -> list[int]: ...
    def _result(self, name: str) -> Result: ...
    def _write_result(self, name: str, result: Any, replace: bool) -> None: ...
    def _remove(self, names: list[str]) -> None: ...


class StepWriter:
    """Takes curve points of one training; a context, which writes the last of them at its end.

    ``after`` is the step that training goes on from: points beyond it, which a training that was killed had written,
    are removed.  A point is on disk at most ``seconds`` after ``add``, as long as steps take equally long.

    >>> import tempfile
    >>> from sharpscope.store import create_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = create_run(folder, {})
    ...     with run.step_writer() as points:
    ...         for step in (1, 2, 3):
    ...             points.add(step, 1 / step, 0.1, 2 * step)
    ...     run.steps.passes.tolist()
    [2.0, 4.0, 6.0]
    """

    def __init__(self, run: Keeper, after: int = 0, seconds: float = 5.0) -> None:
        if not hasattr(run, "_steps"):
            raise TypeError(
                f"StepWriter got a {type(run).__name__}, expected a Run: open_run(path) or create_run(path)"
            )
        self._run, self._seconds = run, seconds
        self._loose = False  # whether there are segments since the last merge
        self._points: list[tuple[int, float, float, float]] = []
        stored = read_steps(run)
        kept = 0 if stored is None else int(np.searchsorted(stored.step, after, side="right"))
        self._whole = _columns([]) if stored is None else [values[:kept] for values in stored.fields().values()]
        if stored is not None and (kept < len(stored.step) or len(_segments(run)) > 1):
            self._rewrite()
        self._committed = self._added = time.monotonic()

    def __enter__(self) -> StepWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.commit()

    def add(self, step: int, loss: float, learning_rate: float, passes: float) -> None:
        """Take one point, and write all that wait if the next one may come too late for the first of them."""
        self._points.append((step, loss, learning_rate, passes))
        now = time.monotonic()
        since, self._added = now - self._added, now
        if now + since - self._committed >= self._seconds:
            self.commit()

    def commit(self) -> None:
        """Write the points that wait."""
        self._committed = time.monotonic()
        if self._points:
            columns = _columns(self._points)
            self._run._write_result(_name(columns[0]), Steps(*columns), replace=True)
            self._take(columns)
            self._loose = True

    def merge(self) -> None:
        """Write all points so far into one part."""
        if self._points or self._loose:
            self._take(_columns(self._points))
            self._rewrite()
        self._committed = time.monotonic()

    def _take(self, columns: list[np.ndarray]) -> None:
        self._whole = [np.concatenate(pair) for pair in zip(self._whole, columns, strict=True)]
        self._points = []

    def _rewrite(self) -> None:
        """Make the first segment all there is."""
        old = _segments(self._run)
        first = []
        if len(self._whole[0]):
            first = [_name(self._whole[0])]
            self._run._write_result(first[0], Steps(*self._whole), replace=True)
        self._run._remove([name for name in old if name not in first])
        self._loose = False


def read_steps(run: Keeper) -> Steps | None:
    """The points of all segments, each step once; None where there are none."""
    segments = [run._result(name) for name in _segments(run)]
    columns: list[list[np.ndarray]] = []
    last = -1
    for segment in segments:
        if isinstance(segment, Steps) and len(segment.step):
            new = segment.step > last
            columns.append([values[new] for values in segment.fields().values()])
            last = max(last, int(segment.step[-1]))
    return Steps(*map(np.concatenate, zip(*columns, strict=True))) if columns else None


def _segments(run: Keeper) -> list[str]:
    return [f"{DRAWER}/{step:09d}" for step in run._steps(DRAWER)]


def _name(steps: np.ndarray) -> str:
    return f"{DRAWER}/{int(steps[0]):09d}"


def _columns(points: list[tuple[int, float, float, float]]) -> list[np.ndarray]:
    dtypes = (np.int64, np.float64, np.float64, np.float64)
    return [np.array([point[i] for point in points], dtype) for i, dtype in enumerate(dtypes)]
