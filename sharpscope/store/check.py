"""Looking for damage: every part of a run read to its last bit, and bad ones put aside."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from sharpscope.store.backends import QUARANTINE, SUFFIX, Backend, Folder, check_origin
from sharpscope.store.errors import StoreError, answering
from sharpscope.store.files import fsync_folder
from sharpscope.store.locks import locked
from sharpscope.store.pack import INDEX, open_run, pack_run, search_packed
from sharpscope.store.parts import shown
from sharpscope.store.run import Run
from sharpscope.store.tree import decode

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
    sound part ``run`` nothing else can be found: then that is only named, and nothing is changed.

    Raises StoreError where there is no run, and where another process writes into a run that is to be changed.

    >>> import tempfile
    >>> from sharpscope.store.run import create_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     verify_run(create_run(Path(folder) / "run", {}).path)
    []
    """
    path = Path(path)
    if not path.is_dir():
        return _verify_packed(path, quarantine)
    if not (path / ("run" + SUFFIX)).is_file():
        raise StoreError(f"{path}: got a folder without run.h5, expected the folder of a run: check the path")
    with locked(path) if quarantine else nullcontext():
        return [_aside(path, damage) if quarantine else damage for damage in _damaged(Folder(path))]


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
    if not quarantine or not damaged or "run" in parts:
        return damaged
    aside = path.with_name(f"{path.stem}.damaged-{time.time_ns()}{path.suffix}")
    with answering(path, "a folder that can be written: free space or check who may write"):
        os.link(path, aside)
        fsync_folder(path.parent)
    pack_run(Run(backend), path, replace=True, skip=parts)
    return [Damage(damage.part, damage.error, aside) for damage in damaged]


def _damaged(backend: Backend) -> Iterator[Damage]:
    owners: dict[str, object] = {}  # run_id by the folder of the run
    for name in backend.names():
        owner, _, own = _split(name)
        try:
            branch = backend.read(name)
            where, attributes = f"{backend.path}/{name}", shown(branch.attributes)
            if own == "run":
                owners[owner] = attributes.get("run_id")
            elif owner in owners:
                check_origin(attributes, own, owners[owner], where)
            decode(branch, where)
        except StoreError as error:
            yield Damage(name, str(error))


def _aside(path: Path, damage: Damage) -> Damage:
    if _split(damage.part)[2] == "run":
        return damage
    folder = path / QUARANTINE
    folder.mkdir(exist_ok=True)
    target = folder / f"{damage.part.replace('/', '--')}-{time.time_ns()}{SUFFIX}"
    os.rename(path / (damage.part + SUFFIX), target)
    fsync_folder(folder)
    fsync_folder((path / damage.part).parent)
    return Damage(damage.part, damage.error, target)


def _split(name: str) -> tuple[str, str, str]:
    """The folder of the run that a part belongs to, a slash, the part's name in it."""
    steps = name.split("/")
    depth = len(steps) - (1 if steps[-1] in ("run", "history") else 2)
    return "/".join(steps[:depth]), "/", "/".join(steps[depth:])
