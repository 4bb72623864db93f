"""Points of a loss surface on disk: one HDF5 file, replaced as a whole every few seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sharpscope.analyzers.surfaces.keeping import Kept
from sharpscope.store import StoreError, read_part, sweep, write_part

__all__ = ["PointFile"]


class PointFile:
    """The finished points of one line or surface; ``surface(..., resume=path)`` makes it.

    A kill at any moment leaves the file as it was or as it should be.  Another question's file is refused: weights,
    data, directions, grid and settings are compared by their fingerprints.

    Args:
        path: of the file; its folder must exist.

    Its methods raise StoreError for a file that is damaged, is none of this kind, or belongs to another surface, and
    where the system refuses to write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.about: dict[str, str] = {}
        self.kept: Kept | None = None

    def open(self, about: Mapping[str, str]) -> Kept | None:
        """The points so far, or None where there is no file yet."""
        self.about = dict(about)
        if not self.path.parent.is_dir():
            raise StoreError(
                f"{self.path}: got no folder {str(self.path.parent)!r}, expected one to write into: create it first"
            )
        if not os.path.lexists(self.path):
            return None
        sweep(self.path.parent, "")
        tree, _ = read_part(self.path, "points")
        former = tree["about"]
        for name, value in self.about.items():
            if former.get(name) != value:
                raise StoreError(
                    f"{self.path}: got points of another {name} ({_shown(former.get(name))}), expected "
                    f"{_shown(value)}: use the same to go on, or another file"
                )
        self.kept = Kept(tree["how"], np.asarray(tree["indices"]), np.asarray(tree["rows"]))
        return self.kept

    def add(self, kept: Kept) -> None:
        """Write the points so far and these."""
        if self.kept is not None:
            indices = np.concatenate([self.kept.indices, kept.indices])
            kept = Kept(kept.how, indices, np.concatenate([self.kept.rows, kept.rows]))
        tree = {"about": self.about, "how": kept.how, "indices": kept.indices, "rows": kept.rows}
        write_part(self.path, "points", tree, replace=True)
        self.kept = kept


def _shown(text: str | None) -> str:
    words = str(text).split()
    return " ".join(word[:19] if word.startswith("sha256:") else word for word in words)
