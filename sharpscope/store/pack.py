"""One file out of a run, for mail and archives; every reader takes it where it takes a folder.

A packed run is an HDF5 file in which every part is a group under the part's name ("run",
"checkpoints/000000120", "results/spectrum", "sam/run"), with the attributes and the checksum of the part.  The root
group has the header of a part with kind "packed run"; its group ``_index`` lists ``names``, ``checksums`` and ``bytes``
of all parts in order, and the root's checksum is that of the index.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import h5py

from sharpscope.store import guard
from sharpscope.store._backends import (
    DRAWERS,
    LEVELS,
    NAME,
    SINGLES,
    SUFFIX,
    Folder,
    kind_of,
    left_over,
    read_parts,
    split_name,
)
from sharpscope.store._files import fsync_folder, known_path, require_free, sweep, temporary_name, write_file
from sharpscope.store._nodes import Branch, digest, sum_of, write_branch
from sharpscope.store._parts import CHECKSUM, check_header, make_branch, open_hdf5, shown, verified, write_sealed
from sharpscope.store._tree import decode
from sharpscope.store.errors import MissingPart, StoreError, answering
from sharpscope.store.run import Run, open_folder

__all__ = ["is_run", "open_run", "pack_run", "unpack_run"]

INDEX = "_index"
KIND = "packed run"


class Packed:
    """Parts as groups of one file; ``prefix`` is empty, or the child runs on the way down, as in "sam/"."""

    def __init__(self, path: Path, prefix: str = "", index: dict[str, tuple[str, int]] | None = None) -> None:
        self.path, self.prefix = path, prefix
        self._index = _read_index(path) if index is None else index

    def names(self) -> list[str]:
        return [name.removeprefix(self.prefix) for name in self._index if name.startswith(self.prefix)]

    def read(self, name: str) -> Branch:
        checksum, _ = self._entry(name)
        where = f"{self.path}:{self.prefix}{name}"
        with open_hdf5(self.path) as file:
            branch = verified(self._group(file, name, where), where, kind_of(name))
        if branch.attributes["checksum"] != checksum:
            raise StoreError(f"{where}: got another part than the index lists, expected {checksum}: use another copy")
        return branch

    def header(self, name: str) -> dict[str, Any]:
        self._entry(name)
        where = f"{self.path}:{self.prefix}{name}"
        with open_hdf5(self.path) as file:
            group = self._group(file, name, where)
            check_header(group, where, kind_of(name))
            return shown(guard.read_attributes(group.id, where))

    def size(self, name: str) -> int:
        return self._entry(name)[1]

    def child(self, name: str) -> Packed:
        return Packed(self.path, f"{self.prefix}{name}/", self._index)

    def _entry(self, name: str) -> tuple[str, int]:
        entry = self._index.get(self.prefix + name)
        if entry is None:
            raise MissingPart(
                f"{self.path}: got no part {self.prefix + name!r}, expected one that it holds: see Run.tree()"
            )
        return entry

    def _group(self, file: h5py.File, name: str, where: str) -> h5py.Group:
        group = file
        for step in (self.prefix + name).split("/"):
            group = guard.checked_child(group, step, where)
            if not isinstance(group, h5py.Group):
                raise StoreError(
                    f"{where}: got no group {step!r}, expected the part that the index lists: use another copy"
                )
        return group


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether there is a run, or anything else that ``create_run`` would refuse; not so what a killed one left.

    >>> is_run("missing")
    False
    """
    path = known_path(path)
    return path.exists() and not (path.is_dir() and all(left_over(file.name) for file in path.iterdir()))


def open_run(path: str | os.PathLike[str]) -> Run:
    """The run in a folder or in a packed file.

    Raises StoreError if there is nothing, if it is not a run, or if it is damaged.

    >>> open_run("missing")
    Traceback (most recent call last):
    ...
    sharpscope.store.errors.StoreError: missing: got no such folder or file, expected a run: check the path
    """
    path = known_path(path)
    if path.is_dir():
        return open_folder(path)
    if not path.exists():
        raise StoreError(f"{path}: got no such folder or file, expected a run: check the path")
    return Run(Packed(path))


def pack_run(
    run: Run, path: str | os.PathLike[str], replace: bool = False, skip: Collection[str] = frozenset()
) -> Path:
    """Copy every part of a run but those in ``skip`` into one file and return its path; the run itself stays.

    Raises StoreError if a part is damaged or of another run, if ``path`` exists and ``replace`` is false, or if the
    system refuses to write.

    >>> import tempfile
    >>> from sharpscope.store.run import create_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = create_run(Path(folder) / "run", {"rule": "sgd()"})
    ...     packed = open_run(pack_run(run, Path(folder) / "run.h5"))
    ...     packed.config, packed.digest == run.digest
    ({'rule': 'sgd()'}, True)
    """
    path, backend = known_path(path), run._backend
    names = [name for name in backend.names() if name not in skip]
    index: dict[str, list[Any]] = {"names": names, "checksums": [], "bytes": [backend.size(name) for name in names]}
    require_free(path, sum(index["bytes"]))
    with contextlib.suppress(OSError):
        sweep(path.parent, "")

    def fill(file: h5py.File) -> None:
        for name, branch in read_parts(backend, names):
            if isinstance(branch, MissingPart):
                raise StoreError(
                    f"{path}: got a run that lost {name} while it was packed, expected one that nobody writes: pack it "
                    f"when its training has ended or stopped"
                ) from branch
            if isinstance(branch, StoreError):
                raise branch
            index["checksums"].append(branch.attributes["checksum"])
            write_branch(file.create_group(name), branch)
        root = make_branch(KIND, {INDEX: index}, {}, str(path))
        write_branch(file, root)

    write_file(path, fill, replace)
    return path


def unpack_run(packed: Run, path: str | os.PathLike[str], skip_damaged: bool = False) -> Run:
    """Write every part of a run, packed or not, into a new folder; the parts are those that were packed.

    Raises StoreError if ``path`` exists, if a part is damaged or of another run and ``skip_damaged`` is false (``run``
    itself is always needed; a child without it is left out), or if the system refuses to write.

    >>> import tempfile
    >>> from sharpscope.store.run import create_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = create_run(Path(folder) / "run", {"rule": "sgd()"})
    ...     packed = open_run(pack_run(run, Path(folder) / "run.h5"))
    ...     unpack_run(packed, Path(folder) / "copy").digest == run.digest
    True
    """
    path, backend = known_path(path), packed._backend
    if path.is_symlink() or path.exists():
        raise StoreError(f"{path}: got something that exists, expected a new folder: choose another")
    with answering(path, "a folder that can be made: free space or choose another"):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, "")
        half = temporary_name(path.parent)
        try:
            lost: list[str] = []  # children whose run is damaged
            for name, branch in read_parts(backend, backend.names()):
                if isinstance(branch, StoreError):
                    if not skip_damaged or name == "run":
                        raise branch
                    lost += [name.removesuffix("run")] if kind_of(name) == "run" else []
                elif not name.startswith(tuple(lost)):
                    file = half / (name + SUFFIX)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_sealed(file, branch, replace=False)
            os.rename(half, path)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        fsync_folder(path.parent)
    return Run(Folder(path))


def search_packed(path: Path) -> Packed:
    """A packed run by the parts that are in it, for a file whose list of them is damaged; their sizes are estimates."""
    found: dict[str, tuple[str, int]] = {}
    with open_hdf5(path) as file:
        check_header(file, str(path), KIND)
        size = path.stat().st_size
        for name, group in _search(file, "", str(path)):
            with contextlib.suppress(StoreError), guard.reading(str(path)):
                found[name] = str(guard.read_attributes(group.id, str(path)).get("checksum")), size
    order = [*SINGLES, *DRAWERS]  # as in a folder: what tells of a run before its parts, then children

    def place(name: str) -> list[tuple[int, str]]:
        return [(order.index(step) if step in order else len(order), step) for step in name.split("/")]

    return Packed(path, index={name: (found[name][0], size // len(found)) for name in sorted(found, key=place)})


def _search(group: h5py.Group, prefix: str, where: str) -> Iterator[tuple[str, h5py.Group]]:
    """Groups that have the header of a part, those of children included; what cannot be opened is passed over."""
    for name in group:
        child = None
        if NAME.fullmatch(name) and name != INDEX and prefix.count("/") < 2 * LEVELS:
            with contextlib.suppress(StoreError), guard.reading(where):
                child = guard.checked_child(group, name, where)
        if isinstance(child, h5py.Group):
            if "format" in child.attrs:
                yield prefix + name, child
            else:
                yield from _search(child, f"{prefix}{name}/", where)


def _read_index(path: Path) -> dict[str, tuple[str, int]]:
    """Checksum and bytes of every part by name, verified."""
    where = str(path)
    with open_hdf5(path) as file:
        check_header(file, where, KIND)
        root = guard.read_branch(file, where, takes=INDEX.__eq__)
    if not isinstance(root.children.get(INDEX), Branch):
        raise StoreError(f"{where}: got no {INDEX}, expected the list of the parts: use another copy")
    if digest(root, CHECKSUM, sum_of(root.attributes)) != root.attributes.get("checksum"):
        raise StoreError(f"{where}: got an index that is damaged, expected an intact one: use another copy")
    return _checked_index(decode(root, where)[INDEX], where)


def _checked_index(index: Any, where: str) -> dict[str, tuple[str, int]]:
    """What a list of parts says, by name; raises StoreError where it is none."""
    columns: list[list[Any]] = []
    for column, kind in (("names", str), ("checksums", str), ("bytes", int)):
        entries = index.get(column) if isinstance(index, dict) else None
        sound = isinstance(entries, list) and all(type(entry) is kind for entry in entries)
        columns.append(entries if sound and entries is not None else [])
    names, checksums, sizes = columns
    if not len(set(names)) == len(names) == len(checksums) == len(sizes) or not names or min(sizes) < 0:
        raise StoreError(
            f"{where}: got an {INDEX} that is no list of parts, expected names, each once, checksums and bytes: use "
            f"another copy"
        )
    runs = set()
    for name in names:
        if not all(NAME.fullmatch(step) for step in name.split("/")):
            raise StoreError(f"{where}: got the part name {name!r}, expected plain names: do not unpack this file")
        folder, own = split_name(name)
        runs |= {folder} if own == "run" else set()
        if folder not in runs:
            raise StoreError(f"{where}: got {name!r} and no run before it, expected its run first: use another copy")
    return dict(zip(names, zip(checksums, sizes, strict=True), strict=True))
