"""Where the parts of a run are: in a folder, or in one packed file.  A run asks both the same questions.

Names of parts are paths without a suffix: "run", "history", "checkpoints/000000120", "results/spectrum",
"sam/run" (the child run "sam").
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from sharpscope.store._files import TEMPORARY, fsync_folder, known_path
from sharpscope.store._locks import LOCK
from sharpscope.store._nodes import Branch
from sharpscope.store._parts import open_hdf5, read_header, shown, verified, write_part
from sharpscope.store.errors import MissingPart, StoreError, answering

__all__ = [
    "DRAWERS",
    "NAME",
    "QUARANTINE",
    "SUFFIX",
    "Backend",
    "Folder",
    "Part",
    "check_name",
    "check_origin",
    "check_owner",
    "kind_of",
    "left_over",
    "make_folder",
    "read_parts",
    "split_name",
]

SUFFIX = ".h5"
DRAWERS = {  # folder: kind of its parts
    "steps": "result",
    "checkpoints": "checkpoint",
    "trajectory": "weights",
    "masks": "masks",
    "results": "result",
}
QUARANTINE = "quarantine"  # where damaged parts are put aside; no reader looks into it
SINGLES = {"run": "run", "history": "result"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
LEVELS = 16  # of children of children
OWN = ("run_id", "part", "step", "ordinal", "result")  # attributes that the run itself writes


Part: TypeAlias = Branch | StoreError


class Backend(Protocol):
    """What a run needs to know about its parts."""

    path: Path

    def names(self) -> list[str]:
        """Every part, those of children included, in one fixed order."""

    def read(self, name: str) -> Branch:
        """The verified root of one part."""

    def header(self, name: str) -> dict[str, Any]:
        """The attributes of one part, without its data."""

    def size(self, name: str) -> int:
        """Bytes of one part."""

    def child(self, name: str) -> Backend:
        """The parts of one child run."""


class Folder:
    """Parts as files; the folder is looked at anew each time, so a reader sees what a writer adds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        with answering(self.path, "a folder that can be read: check who may read it"):
            return list(self._names(self.path, "", 0))

    def read(self, name: str) -> Branch:
        path = self.file(name)
        with self._unless_removed(path), open_hdf5(path) as file:
            branch = verified(file, str(path), kind_of(name))
        return branch

    def header(self, name: str) -> dict[str, Any]:
        path = self.file(name)
        with self._unless_removed(path):
            return read_header(path, kind_of(name))

    def size(self, name: str) -> int:
        path = self.file(name)
        with self._unless_removed(path):
            return path.stat().st_size

    def child(self, name: str) -> Folder:
        self.file(f"{name}/run")
        return Folder(self.path / name)

    def file(self, name: str) -> Path:
        """The file of a part that is there; links out of the run are refused."""
        path = self.path / (name + SUFFIX)
        for place in [path, *path.parents[: name.count("/")]]:
            if place.is_symlink():
                raise StoreError(f"{place}: got a symbolic link inside a run, expected a file: copy the file here")
        if path.is_file():
            return path
        if os.path.lexists(path):
            got = "a folder" if path.is_dir() else "a device or pipe"
            raise StoreError(f"{path}: got {got}, expected the file of a part: move it out of the run")
        raise self._missing(path)

    def _missing(self, path: Path) -> StoreError:
        if path.name == "run" + SUFFIX:  # which no writer removes
            return StoreError(
                f"{path}: got parts of a run without run.h5, expected the one that they belong to: put it back"
            )
        return MissingPart(
            f"{path}: got no such part in the run {self.path}, expected one that it holds: see Run.tree()"
        )

    @contextmanager
    def _unless_removed(self, path: Path) -> Iterator[None]:
        """A part that its writer removes while it is read is missing, not damaged."""
        try:
            yield
        except (StoreError, OSError) as error:
            if path.exists():
                raise
            raise self._missing(path) from error

    def _names(self, folder: Path, prefix: str, level: int) -> Iterator[str]:
        found = {entry.name: entry for entry in os.scandir(folder) if not entry.name.startswith(TEMPORARY)}
        yield from (prefix + single for single in SINGLES if single + SUFFIX in found)
        for drawer in DRAWERS:
            if drawer not in found:
                continue
            if found[drawer].is_symlink() or not found[drawer].is_dir():
                raise StoreError(
                    f"{found[drawer].path}: got something else, expected a folder of parts: copy the parts here"
                )
            inside = (name for name in os.listdir(folder / drawer) if name.endswith(SUFFIX) and NAME.fullmatch(name))
            yield from (f"{prefix}{drawer}/{name.removesuffix(SUFFIX)}" for name in sorted(inside, key=_by_number))
        if level == LEVELS:
            return
        for name in sorted(found, key=_by_number):
            child = NAME.fullmatch(name) and name not in (*DRAWERS, QUARANTINE) and found[name].is_dir()
            if child and _holds_parts(folder / name):
                if found[name].is_symlink() or not os.path.lexists(folder / name / ("run" + SUFFIX)):
                    yield f"{prefix}{name}/run"  # to be refused, and named, by whoever reads it
                if not found[name].is_symlink():
                    yield from self._names(folder / name, f"{prefix}{name}/", level + 1)


def _holds_parts(folder: Path) -> bool:
    """Whether a folder is a child run, be it one that lost its ``run.h5``."""
    if any(os.path.lexists(folder / (single + SUFFIX)) for single in SINGLES):
        return True
    return any(
        any(name.endswith(SUFFIX) for name in os.listdir(folder / drawer))
        for drawer in DRAWERS
        if (folder / drawer).is_dir()
    )


def make_folder(path: Path, config: dict[str, Any], provenance: Mapping[str, Any], ordinal: int) -> Path:
    """Make the folder of a run with ``ordinal`` older siblings, and its ``run.h5``; refuses what is there already."""
    for name in provenance:
        if name in OWN:
            raise StoreError(f"{path}: got the attribute name {name!r}, expected one that is free: rename it")
    if known_path(path).is_symlink() or path.exists():
        if not path.is_dir():
            raise StoreError(f"{path}: got a file that exists, expected a new folder: choose another")
        with answering(path, "a folder that can be read: choose another"):
            inside = [file.name for file in path.iterdir()]
        if any(not left_over(name) for name in inside):
            raise StoreError(
                f"{path}: got a folder that is not empty, expected a new one: choose another, or go on with the run "
                f"in it (open_run, --resume)"
            )
    with answering(path, "a folder that can be made: choose another"):
        path.mkdir(parents=True, exist_ok=True)
        fsync_folder(path.parent)
    own = {"run_id": secrets.token_hex(8), "ordinal": ordinal}
    write_part(path / ("run" + SUFFIX), "run", config, dict(provenance) | own)
    return path


def left_over(name: str) -> bool:
    """Whether a file is what a writer that was killed leaves beside the parts."""
    return name == LOCK or name.startswith(TEMPORARY)


def kind_of(name: str) -> str:
    """The kind of a part, which its name tells."""
    parts = name.split("/")
    if len(parts) > 1 and parts[-2] in DRAWERS:
        return DRAWERS[parts[-2]]
    return SINGLES.get(parts[-1], "result")


def check_name(name: str, what: str, where: str) -> None:
    """Raise StoreError unless a name can be a file, a group and a word on a command line."""
    if isinstance(name, str) and len(name) > 200:
        raise StoreError(f"{where}: got a {what} name of {len(name)} characters, expected at most 200: shorten it")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise StoreError(
            f"{where}: got {name!r} as the name of a {what}, expected letters, digits and . _ + - with a letter or "
            f"digit first: rename it"
        )
    if what == "child" and (name in (*DRAWERS, *SINGLES, QUARANTINE) or name.endswith(SUFFIX)):
        raise StoreError(
            f"{where}: got {name!r} as the name of a child, which the run itself uses, expected another: rename it"
        )


def check_origin(attributes: Mapping[str, Any], name: str, run_id: Any, where: str) -> None:
    """Raise StoreError where a part says that it has another name or belongs to another run."""
    part, of = attributes.get("part", name), attributes.get("run_id", run_id)
    if (part, of) != (name, run_id):
        raise StoreError(
            f"{where}: got the part {part!r} of the run {of!r}, expected {name!r} of {run_id!r}: the file was "
            f"renamed or comes from another run, put it back"
        )


def check_owner(backend: Backend, name: str, run_id: Any, names: Iterable[str]) -> None:
    """Raise StoreError where a part "run" is of another run than the parts beside it, as their headers say.

    Parts of its neighbours, parents and children do not count: those were copied within the tree.
    """
    owners, others = set(), []
    for other in names:
        if kind_of(other) == "run":
            others += [other] if other != name else []
        elif split_name(other)[0] == split_name(name)[0]:
            with contextlib.suppress(StoreError):
                owners.add(backend.header(other).get("run_id"))
        if run_id in owners:
            return
    owners.discard(None)  # of results that were saved alone
    for other in others if owners else []:
        with contextlib.suppress(StoreError):
            owners.discard(backend.header(other).get("run_id"))
    if owners:
        raise StoreError(
            f"{backend.path}/{name}: got the run {run_id!r} beside parts of {owners.pop()!r}, expected one run: run.h5 "
            f"comes from another run, put the right one back"
        )


def read_parts(backend: Backend, names: Sequence[str]) -> Iterator[tuple[str, Part]]:
    """Every part, verified and of the run where it lies, or what is wrong with it; a "run" before its other parts."""
    owners: dict[str, Any] = {}  # run_id by the folder of the run
    for name in names:
        try:
            part: Part = _read_owned(backend, name, names, owners)
        except StoreError as error:
            part = error
        yield name, part


def _read_owned(backend: Backend, name: str, names: Sequence[str], owners: dict[str, Any]) -> Branch:
    branch, (folder, own) = backend.read(name), split_name(name)
    attributes = shown(branch.attributes)
    if own == "run":
        check_owner(backend, name, attributes.get("run_id"), names)
        owners[folder] = attributes.get("run_id")
    elif folder in owners:
        check_origin(attributes, own, owners[folder], f"{backend.path}/{name}")
    return branch


def split_name(name: str) -> tuple[str, str]:
    """The folder of the run that a part belongs to, the part's name in it."""
    steps = name.split("/")
    single = steps[-1] in SINGLES and (len(steps) < 2 or steps[-2] not in DRAWERS)
    depth = max(0, len(steps) - (1 if single else 2))
    return "/".join(steps[:depth]), "/".join(steps[depth:])


def _by_number(name: str) -> tuple[tuple[int, str], ...]:
    """Order in which sam2 comes before sam10."""
    parts = re.split("([0-9]+)", name)  # texts at even places, digits at odd ones
    return tuple((int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts))
