"""HDF5 files of other programs: plain arrays by name, with none of the attributes of a part.

Written whole or not at all, read through the same guard as parts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from pathlib import Path

import h5py
import numpy as np

from sharpscope.store._files import require_free, write_file
from sharpscope.store._nodes import Branch
from sharpscope.store._parts import open_hdf5
from sharpscope.store.errors import StoreError
from sharpscope.store.guard import read_branch

__all__ = ["Arrays", "read_arrays", "write_arrays"]

Arrays = Mapping[str, "np.ndarray | str | Arrays"]


def write_arrays(path: str | os.PathLike[str], arrays: Arrays, replace: bool = False) -> Path:
    """Write arrays and texts as datasets, mappings of them as groups, and return the path.

    Raises StoreError as ``save`` does.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_arrays(Path(folder) / "plain.h5", {"x": np.arange(2), "group": {"0": np.ones(1)}, "by": "me"})
    ...     read_arrays(path, skip={"by"})
    {'group': {'0': array([1.])}, 'x': array([0, 1])}
    """
    path = Path(path)

    def fill(group: h5py.Group, inside: Arrays) -> None:
        for name, value in inside.items():
            if isinstance(value, Mapping):
                fill(group.create_group(name), value)
            else:
                group.create_dataset(name, data=value)

    require_free(path, _bytes(arrays))
    write_file(path, lambda file: fill(file, arrays), replace)
    return path


def read_arrays(
    path: str | os.PathLike[str], what: str = "an HDF5 file", skip: Set[str] = frozenset()
) -> dict[str, np.ndarray | dict[str, np.ndarray]]:
    """The arrays of a file of any program, and of the groups at its root; ``skip`` are names to leave alone.

    Raises StoreError for a missing, damaged or foreign file, and for anything but plain arrays (see ``guard``).
    """
    with open_hdf5(path, what) as file:
        root = read_branch(file, str(path), takes=lambda name: name not in skip)
    found: dict[str, np.ndarray | dict[str, np.ndarray]] = {}
    for name, node in root.children.items():
        if isinstance(node, Branch):
            inside = {key: leaf.array for key, leaf in node.children.items() if not isinstance(leaf, Branch)}
            if len(inside) < len(node.children) or any(array is None for array in inside.values()):
                raise StoreError(f"{path}: got groups or nothing inside {name!r}, expected arrays: it is not {what}")
            found[name] = {key: array for key, array in inside.items() if array is not None}
        elif node.array is not None:
            found[name] = node.array
    return found


def _bytes(arrays: Arrays) -> int:
    inside = [value for value in arrays.values() if not isinstance(value, str)]
    return sum(_bytes(value) if isinstance(value, Mapping) else value.nbytes for value in inside)
