"""Where the finished points of a line or plane are kept, so that a killed call goes on.

Analyzers know no files: whoever does hands over an opener of paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["Keep", "Kept", "Resume", "keep_with", "opened"]


@dataclass(frozen=True)
class Kept:
    """What an earlier call left: rows are (loss, standard error, metrics...); index -1 is the centre."""

    how: str
    indices: np.ndarray  # (n,) int64, flat places in the grid
    rows: np.ndarray  # (n, 2 + metrics) float64


class Keep(Protocol):
    """Where finished points are kept, so that a killed call goes on; ``runs.points`` has one of HDF5."""

    def open(self, about: Mapping[str, str]) -> Kept | None:
        """What is there already; raises where it belongs to another question than ``about``."""

    def add(self, kept: Kept) -> None:
        """More points; they are on the disk when this returns."""


Resume = Any  # a Keep, or what the registered opener takes: a path
_OPENER: list[Callable[[Any], Keep]] = []


def keep_with(opener: Callable[[Any], Keep]) -> None:
    """Let ``resume=path`` mean ``opener(path)``."""
    _OPENER[:] = [opener]


def opened(resume: Resume) -> Keep | None:
    """Where points are to be kept, if anywhere."""
    is_path = resume is not None and not hasattr(resume, "add")
    keep: Keep | None = _OPENER[0](resume) if is_path else resume
    return keep
