"""Looking for damage: every part of a run read to its last bit, and bad ones put aside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from sharpscope.store._backends import QUARANTINE, SUFFIX, Backend, Folder, kind_of, read_parts, split_name
from sharpscope.store._files import fsync_folder, known_path
from sharpscope.store._locks import locked
from sharpscope.store._tree import decode
from sharpscope.store.errors import MissingPart, StoreError, answering
from sharpscope.store.pack import INDEX, open_run, pack_run, search_packed
from sharpscope.store.run import Run

__all__ = ["Damage", "verify_run"]


@dataclass(frozen=True)
class Damage:
    """One damaged part."""

    part: str  # its name, such as "checkpoints/000000120"
    error: str  # what is wrong with it, in one sentence
    moved: Path | None = None  # where it was put aside


def verify_run(path: str | os.PathLike[str], quarantine: bool = False) -> list[Damage]:
    """Read every part of a run, packed or not, and return the damaged ones; an empty list for a sound run.

    With ``quarantine`` all that is left is sound.  The damaged parts of a folder are moved into its ``quarantine/``,
    where no reader looks.  A packed file that has damage is kept as a whole under a new name, "run.damaged-....h5", and
    a new file of its sound parts takes its place, also where its list of parts (``_index``) is damaged.  Without a
    sound part ``run`` of the run that the others belong to, nothing is known of these: then it is only named, and
    nothing is changed (for a child: nothing of that child).

    Raises StoreError where there is no run, and where another process writes into a run that is to be changed.

    >>> import tempfile
    >>> from sharpscope.store.run import create_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     verify_run(create_run(Path(folder) / "run", {}).path)
    []
    """
    path = known_path(path)
    if not path.is_dir():
        return _verify_packed(path, quarantine)
    if not (path / ("run" + SUFFIX)).is_file():
        raise StoreError(f"{path}: got a folder without run.h5, expected the folder of a run: check the path")
    with locked(path) if quarantine else nullcontext():
        damaged = list(_damaged(Folder(path)))
        lost = {split_name(damage.part)[0] for damage in damaged if kind_of(damage.part) == "run"}
        if not quarantine or "" in lost:
            return damaged
        return [damage if split_name(damage.part)[0] in lost else _aside(path, damage) for damage in damaged]


def _verify_packed(path: Path, quarantine: bool) -> list[Damage]:
    damaged = []
    try:
        backend = open_run(path)._backend
    except StoreError as error:
        if not path.is_file():
            raise
        backend = search_packed(path)
        if "run" not in backend.names():
            raise
        damaged.append(Damage(INDEX, str(error)))
    damaged += _damaged(backend)
    parts = {damage.part for damage in damaged}
    lost = {name.removesuffix("/run") for name in parts if kind_of(name) == "run"}
    for name in backend.names():
        if name not in parts and any(name.startswith(child + "/") for child in lost):
            damaged.append(Damage(name, f"{path}: got a part of a child whose part run is damaged, expected that too"))
            parts.add(name)
    if not quarantine or not damaged or "run" in parts:
        return damaged
    aside = path.with_name(f"{path.stem}.damaged-{time.time_ns()}{path.suffix}")
    with answering(path, "a folder that can be written: free space or check who may write"):
        os.link(path, aside)
        fsync_folder(path.parent)
    pack_run(Run(backend), path, replace=True, skip=parts)
    return [Damage(damage.part, damage.error, aside) for damage in damaged]


def _damaged(backend: Backend) -> Iterator[Damage]:
    for name, part in read_parts(backend, backend.names()):
        try:
            if isinstance(part, StoreError):
                raise part
            decode(part, f"{backend.path}/{name}")
        except MissingPart:  # a writer removed it meanwhile
            continue
        except StoreError as error:
            yield Damage(name, str(error))


def _aside(path: Path, damage: Damage) -> Damage:
    folder = path / QUARANTINE
    target = folder / f"{damage.part.replace('/', '--')}-{time.time_ns()}{SUFFIX}"
    with answering(path, "a folder that can be written: free space or check who may write"):
        folder.mkdir(exist_ok=True)
        os.rename(path / (damage.part + SUFFIX), target)
        fsync_folder(folder)
        fsync_folder((path / damage.part).parent)
    return Damage(damage.part, damage.error, target)
