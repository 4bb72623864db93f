"""Many runs as one table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sharpscope.core.frames import frame
from sharpscope.store.pack import open_run
from sharpscope.store.run import Run

if TYPE_CHECKING:
    from sharpscope.core.frames import DataFrame

__all__ = ["collect", "collected", "leaves"]


def collect(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> DataFrame:
    """One row per run: where it is, its configuration, the ends of its curves, and the numbers of its results.

    Columns are named after where a number is from: "settings.lr", "history.test_error", "spectrum.eigenvalues[0]",
    "ratio.share_below_zero" (see ``Result.scalars``).  Where a run lacks what others have, there is NaN.  A run with
    children, such as a comparison of methods, gives one row for each of them.

    Raises StoreError for a path that is no run, ImportError where pandas is not installed
    (``pip install 'sharpscope[frames]'``).

    >>> import tempfile
    >>> from sharpscope.store import create_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = [create_run(f"{folder}/{seed}", {"seed": seed}).path for seed in (0, 1)]
    ...     collect(runs)["seed"].tolist()
    [0, 1]
    """
    return frame(collected(paths))


def collected(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """The rows of ``collect`` as dictionaries."""
    one = isinstance(paths, str | os.PathLike)
    if not one and not isinstance(paths, Iterable):
        raise TypeError(f"collect got a {type(paths).__name__}, expected the path of a run, or several: collect(paths)")
    every = [paths] if one else list(paths)  # type: ignore[arg-type]
    return [row for path in every for row in _rows(open_run(path), str(path))]  # type: ignore[arg-type]


def leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one level: ``{"settings.lr": 0.1, ...}``."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found.update(leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return found


def _rows(run: Run, name: str) -> list[dict[str, Any]]:
    children = run.children()
    rows = [row for child in children for row in _rows(run.child(child), f"{name}/{child}")]
    history, names = run.history, run.result_names()
    if history is None and not names and rows:
        return rows
    results = ({} if history is None else {"history": history}) | {name: run.results[name] for name in names}
    own = {"run": name} | leaves(run.config)
    for prefix, result in results.items():
        own.update({f"{prefix}.{key}": value for key, value in result.scalars().items()})
    return [own, *rows]
