"""Parts: immutable HDF5 files with a checksum, the bricks of a run.

Schema 3.  A part is one HDF5 file (superblock version 0, readable by every HDF5 since 1.6).  Its root group is a dict
tree (see ``tree``), so a part with the tree ``{"conv.weight": tensor}`` holds a plain dataset named ``conv.weight``.
Attributes of the root group:

=============  =======  =============================================================================================
name           type     meaning
=============  =======  =============================================================================================
format         text     "sharpscope"
schema         integer  3; a reader refuses a greater number and reads every smaller one (see ``UPGRADES``)
kind           text     "run", "checkpoint", "weights", "masks", "result", "packed run" (see ``run``, ``pack``)
created        text     ISO 8601 time with time zone
sharpscope, python, platform, packages
               text     what wrote the part; ``packages`` is such as "h5py 3.16.0, hdf5 2.0.0, numpy 2.4.6, ..."
checksum       text     "xxh128:..." over everything else in the part (see ``nodes``)
type           text     "dict"
others         scalar   texts, bools, integers and floats that the writer gave: rule text, seed, step, ...
=============  =======  =============================================================================================

Nothing in a part is pickled, and reading a part runs nothing and opens no other file (see ``guard``).
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from sharpscope.store import guard
from sharpscope.store._files import known_path, require_file, require_free, write_file
from sharpscope.store._nodes import Attribute, Branch, digest, leaves, sum_of, write_branch
from sharpscope.store._tree import decode, encode
from sharpscope.store.errors import StoreError

__all__ = ["FORMAT", "SCHEMA", "open_hdf5", "read_part", "verify", "write_part"]

FORMAT, SCHEMA = "sharpscope", 3
SIGNATURE = b"\x89HDF\r\n\x1a\n"
ATTRIBUTE_BYTES = 60000  # HDF5 files that everyone can read hold no longer attributes
CHECKSUM = frozenset({"checksum"})
NOT_SHOWN = ("type", "index", "key")
HEADER = frozenset(["format", "schema", "kind", "created", "sharpscope", "python", "platform", "packages"])
RESERVED = HEADER | CHECKSUM | set(NOT_SHOWN)


def write_part(
    path: str | os.PathLike[str],
    kind: str,
    tree: dict[Any, Any],
    attributes: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Path:
    """Write one part, whole or not at all, and return its path.

    Raises StoreError if the file exists and ``replace`` is false, if its folder is missing, if the tree holds something
    other than ``tree`` lists, if an attribute is no scalar, or if the system refuses to write.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_part(Path(folder) / "weights.h5", "checkpoint", {"w": torch.ones(2)}, {"step": 5})
    ...     read_part(path)[1]["step"]
    5
    """
    path = Path(path)
    branch = make_branch(kind, tree, attributes or {}, str(path))
    write_sealed(path, branch, replace)
    return path


def read_part(path: str | os.PathLike[str], kind: str | None = None) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The tree and the attributes of a part, verified.

    Raises StoreError if the file is missing, damaged, not one of sharpscope's, of a newer schema, of another kind than
    ``kind``, holds anything but plain data, or does not match its checksum.

    >>> read_part("missing.h5")
    Traceback (most recent call last):
    ...
    sharpscope.store.errors.StoreError: missing.h5: got no such file, expected a part of a run: check the path
    """
    with open_hdf5(path) as file:
        branch = verified(file, str(path), kind)
    return decode(branch, str(path)), shown(branch.attributes)


def read_header(path: str | os.PathLike[str], kind: str | None = None) -> dict[str, Any]:
    """The attributes of a part alone, without verifying its data: quick, for lists.

    Raises StoreError as ``read_part`` does, but for what only the data can tell.
    """
    with open_hdf5(path) as file:
        check_header(file, str(path), kind)
        return shown(guard.read_attributes(file.id, str(path)))


def verify(path: str | os.PathLike[str]) -> None:
    """Raise StoreError unless the part is intact; what ``read_part`` checks, without building the tree.

    >>> verify("missing.h5")
    Traceback (most recent call last):
    ...
    sharpscope.store.errors.StoreError: missing.h5: got no such file, expected a part of a run: check the path
    """
    with open_hdf5(path) as file:
        verified(file, str(path))


def make_branch(kind: str, tree: Any, attributes: Mapping[str, Any], where: str) -> Branch:
    """The sealed root of a new part: header, the caller's attributes, the encoded tree, the checksum over them."""
    branch = encode(tree)
    if type(tree) is not dict or not isinstance(branch, Branch):
        raise StoreError(
            f"{where}: got a {type(tree).__name__} as a tree, expected a dict: wrap it as {{'value': ...}}"
        )
    own = {name: _attribute(name, value, where) for name, value in attributes.items()}
    branch.attributes |= own | _header(kind)
    branch.attributes["checksum"] = digest(branch, CHECKSUM, "xxh128")
    return branch


def write_sealed(path: Path, branch: Branch, replace: bool) -> None:
    """Write the root of a part as it is."""
    require_free(path, sum(leaf.array.nbytes for leaf in leaves(branch) if leaf.array is not None))
    write_file(path, lambda file: write_branch(file, branch), replace)


def open_hdf5(path: str | os.PathLike[str], what: str = "a part of a run") -> _Opened:
    """A context that opens an HDF5 file for reading and names it, and ``what`` was expected, in every error."""
    return _Opened(Path(path), what)


def verified(group: h5py.Group, where: str, kind: str | None = None) -> Branch:
    """The root of a part, from a file or from a group of a packed run, with header and checksum checked."""
    check_header(group, where, kind)
    branch = guard.read_branch(group, where)
    expected = branch.attributes.get("checksum")
    got = digest(branch, CHECKSUM, sum_of(branch.attributes))
    if got != expected:
        raise StoreError(f"{where}: got data with {got}, expected {expected}: the file is damaged, use another copy")
    return branch


def shown(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    """The attributes of a part that mean something to its reader, as the present schema has them."""
    found = {name: value for name, value in attributes.items() if name not in NOT_SHOWN}
    for version in range(int(str(found.get("schema", SCHEMA))), SCHEMA):
        found = UPGRADES[version](found) | {"schema": version + 1}
    return found


def _from_1(attributes: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 had the versions of four packages as attributes of their own."""
    names = [name for name in ("h5py", "hdf5", "numpy", "torch") if name in attributes]
    rest = {name: value for name, value in attributes.items() if name not in names}
    return rest | {"packages": ", ".join(f"{name} {attributes[name]}" for name in names)}


# schema: attributes as the next schema has them
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: dict}


def check_header(group: h5py.Group, where: str, kind: str | None) -> None:
    """Raise StoreError unless the group is a part of this format, of a schema that this version knows, of this kind."""
    if "format" not in group.attrs:
        raise StoreError(f"{where}: got an HDF5 file of another program, expected one of sharpscope: read it with h5py")
    header = guard.read_attributes(group.id, where)
    if header["format"] != FORMAT:
        raise StoreError(f"{where}: got the format {header['format']!r}, expected {FORMAT!r}: read it with h5py")
    schema = header.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise StoreError(
            f"{where}: got the schema {schema!r}, expected 1 to {SCHEMA}: the file is damaged, use another copy"
        )
    if schema > SCHEMA:
        raise StoreError(
            f"{where}: got the schema {schema}, expected at most {SCHEMA}: update sharpscope to read this file"
        )
    if kind is not None and header.get("kind") != kind:
        raise StoreError(f"{where}: got a part of kind {header.get('kind')!r}, expected {kind!r}: check the path")


class _Opened:
    """``with`` on a path: an h5py file that is open for reading; everything that fails is a StoreError."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.context = guard.reading(str(path))

    def __enter__(self) -> h5py.File:
        path = known_path(self.path)
        require_file(path, self.what)
        try:
            with path.open("rb") as raw:
                start = raw.read(len(SIGNATURE))
        except OSError as error:
            raise StoreError(
                f"{path}: got {error.strerror!r}, expected a file that can be read: check who may"
            ) from error
        if start != SIGNATURE:
            got = "an empty file" if not start else "a file that is not HDF5"
            raise StoreError(f"{path}: got {got}, expected {self.what}: check the path, or use another copy")
        with guard.reading(str(path)):
            self.file = h5py.File(path, "r", locking=False)  # parts never change, so there is nothing to lock
        return self.file

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool | None:
        self.context.__enter__()
        try:
            handled = self.context.__exit__(kind, error, traceback)
        finally:
            with contextlib.suppress(RuntimeError, OSError):  # what was read is read, and verified
                self.file.close()
        return handled


def _header(kind: str) -> dict[str, Attribute]:
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "kind": kind,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "sharpscope": str(getattr(sys.modules.get("sharpscope"), "__version__", "unknown")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
    }


@functools.cache
def _packages() -> str:
    """Versions of what sharpscope is built on and of HDF5 itself, in one line."""
    found = {"hdf5": h5py.version.hdf5_version}
    with contextlib.suppress(metadata.PackageNotFoundError):  # a source tree that is not installed
        for text in metadata.requires("sharpscope") or []:
            if "extra ==" not in text:
                name = re.split(r"[^\w.-]", text)[0]
                found[name] = metadata.version(name)
    found |= {"numpy": np.__version__, "h5py": h5py.version.version, "torch": str(torch.__version__)}
    return ", ".join(f"{name} {found[name]}" for name in sorted(found))


def _attribute(name: str, value: Any, where: str) -> Attribute:
    if name in RESERVED or not name.isidentifier():
        raise StoreError(
            f"{where}: got the attribute name {name!r}, expected one that is free and a plain word: rename it"
        )
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        text = str(value)
        if len(text.encode("utf-8", "surrogatepass")) > ATTRIBUTE_BYTES or "\0" in text or not _is_unicode(text):
            raise StoreError(
                f"{where}: got the attribute {name} of {len(text)} characters, expected at most {ATTRIBUTE_BYTES} "
                f"bytes of valid text without NUL: put it into the tree"
            )
        return text
    if isinstance(value, bool | float) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    raise StoreError(
        f"{where}: got the attribute {name} = {value!r:.60}, expected a text, bool, float or integer of 64 bits: put "
        f"it into the tree"
    )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
