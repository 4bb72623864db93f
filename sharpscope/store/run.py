"""Runs: what a training or an analysis left on disk.

Schema 2.  A run is a folder of parts (see ``parts`` for what each holds):

============================  ============  ==========================================================================
file                          kind          content
============================  ============  ==========================================================================
``run.h5``                    run           the configuration as a tree; provenance, ``run_id`` and ``ordinal`` (place
                                            among its siblings) as attributes
``history.h5``                result        training curves; replaced as a whole at every epoch
``steps/000000001.h5``        result        curves from that step on, see ``steps``
``checkpoints/000000120.h5``  checkpoint    the tree that training gave: weights, optimizer, ...; attribute ``step``
``trajectory/000000120.h5``   weights       {parameter name: weights}; attributes ``step`` and ``every``
``masks/000000120.h5``        masks         {parameter name: bits}; attribute ``step``
``results/spectrum.h5``       result        one analysis
``sam/``                      -             a child run, a folder of the same layout
``.lock``, ``.tmp-...``       -             who writes now; what is being written; readers look at neither
============================  ============  ==========================================================================

Every part but ``run.h5`` carries ``run_id`` and its own name as ``part``, so that a part that was renamed or copied
from another run is refused and not mistaken for its neighbour.  There is no index: the folder is the index, and a
reader sees every part as soon as it has its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from sharpscope.core.history import Steps
from sharpscope.core.results import Result
from sharpscope.store._backends import Backend, Folder, check_name, check_origin, check_owner, kind_of, make_folder
from sharpscope.store._files import fsync_folder
from sharpscope.store._locks import locked
from sharpscope.store._parts import shown, write_part
from sharpscope.store._tree import decode
from sharpscope.store.errors import MissingPart, StoreError, answering
from sharpscope.store.results import result_tree, revive
from sharpscope.store.snapshots import Snapshots
from sharpscope.store.steps import StepWriter, read_steps

__all__ = ["Results", "Run", "create_run", "open_folder"]

T = TypeVar("T")


class Run:
    """A run on disk, read lazily; made by ``create_run`` and ``open_run``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = create_run(Path(folder) / "run", {"rule": "sam(rho=0.05)"}, {"seed": 0})
    ...     run.add_checkpoint(10, {"model": {"w": torch.ones(2)}})
    ...     run.config["rule"], run.attributes["seed"], run.checkpoints()
    ('sam(rho=0.05)', 0, [10])
    """

    def __init__(self, backend: Backend) -> None:
        if not hasattr(backend, "path"):
            raise TypeError(
                f"Run got a {type(backend).__name__}, expected what open_run and create_run make: call them"
            )
        self._backend = backend
        self.path: Path = backend.path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> dict[str, Any]:
        """What the run was asked to do, as ``create_run`` got it; a fresh copy each time."""
        return dict(self._read("run")[0])

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Provenance: what ``create_run`` got, versions, platform, time, checksum."""
        return self._backend.header("run")

    @property
    def history(self) -> Result | None:
        """The training curves so far, or None before the first epoch."""
        return self._result("history") if self._has("history") else None

    def set_history(self, result: Result) -> None:
        """Write the training curves in place of the former ones; a reader sees the old or the new, never a mixture."""
        self._write_result("history", result, replace=True)

    @property
    def steps(self) -> Steps | None:
        """The curves of every step that is on disk, or None before the first; also while the run is being trained."""
        return self._settled(lambda: read_steps(self))

    def step_writer(self, after: int = 0, seconds: float = 5.0) -> StepWriter:
        """A context that takes curve points and keeps them on disk, at most ``seconds`` late; see ``StepWriter``."""
        return StepWriter(self, after, seconds)

    @property
    def status(self) -> str | None:
        """Such as "finished 15 of 15 epochs" or "stopped after 7 of 15 epochs"; None where there is no history."""
        history = self.history
        epochs, curve = getattr(history, "epochs", None), getattr(history, "train_loss", None)
        if epochs is None or curve is None:
            return None
        done = len(curve)
        return f"{'finished' if done >= epochs else 'stopped after'} {done} of {epochs} epochs"

    @property
    def results(self) -> Results:
        """Stored results by name: ``run.results["spectrum"]``; each is read when it is asked for."""
        return Results(self)

    def result_names(self) -> list[str]:
        """Names of the stored results, sorted."""
        return self._drawer("results")

    def add_result(
        self, name: str, result: Result, replace: bool = False, provenance: Mapping[str, Any] | None = None
    ) -> None:
        """Store a result; raises StoreError if there is one of that name and ``replace`` is false."""
        check_name(name, "result", str(self.path))
        self._write_result(f"results/{name}", result, replace, provenance)

    def provenance(self, part: str = "run") -> dict[str, Any]:
        """What a part says of its making: versions, platform, time, checksum, and what its writer added."""
        return self._backend.header(part)

    def checkpoints(self) -> list[int]:
        """Steps of the stored checkpoints, ascending."""
        return self._steps("checkpoints")

    def add_checkpoint(self, step: int, tree: dict[Any, Any], replace: bool = False) -> None:
        """Store a tree of weights, optimizer state and the like; raises StoreError if there is one of that step."""
        self._write(_numbered("checkpoints", step, self.path), tree, {"step": int(step)}, replace)

    def checkpoint(self, step: int | None = None) -> dict[Any, Any]:
        """The tree of one checkpoint, by default the last; raises StoreError where there is none."""
        return self._settled(lambda: dict(self._read(self._at("checkpoints", step, "checkpoint"))[0]))

    def prune(self, keep: int = 1, spare: int | None = None) -> list[int]:
        """Remove all checkpoints but the last ``keep``, and that of step ``spare``, and return their steps."""
        if keep < 1:
            raise StoreError(f"{self.path}: got keep={keep}, expected at least 1: the last checkpoint always stays")
        old = [step for step in self.checkpoints()[:-keep] if step != spare]
        self._remove([_numbered("checkpoints", step, self.path) for step in old])
        return old

    def trajectory(self) -> Snapshots:
        """Weights along training, {step: {parameter name: tensor}}, each read when it is asked for; may be empty."""
        return Snapshots(self)

    def add_weights(self, step: int, weights: Mapping[str, torch.Tensor], every: int, replace: bool = False) -> None:
        """Store a point of the trajectory, which has one ``every`` so many steps; raises as ``add_checkpoint`` does."""
        own = {"step": int(step), "every": int(every)}
        self._write(_numbered("trajectory", step, self.path), dict(weights), own, replace)

    def prune_trajectory(self, steps: Iterable[int]) -> list[int]:
        """Remove the points of the trajectory at these steps, as far as there are any, and return their steps."""
        old = sorted(set(steps) & set(self.trajectory()))
        self._remove([_numbered("trajectory", step, self.path) for step in old])
        return old

    def mask_steps(self) -> list[int]:
        """Steps of the stored masks, ascending."""
        return self._steps("masks")

    def add_masks(self, step: int, masks: Mapping[str, torch.Tensor], replace: bool = False) -> None:
        """Store {parameter name: bool tensor}, one bit per entry; raises StoreError as ``add_checkpoint`` does."""
        for name, mask in masks.items():
            if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
                got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
                raise StoreError(
                    f"{self.path}: got {got} as the mask {name!r}, expected a bool tensor: convert with .bool()"
                )
        self._write(_numbered("masks", step, self.path), dict(masks), {"step": int(step)}, replace)

    def masks(self, step: int | None = None) -> dict[str, torch.Tensor]:
        """The masks of one step, by default the last; raises StoreError where there are none."""
        return self._settled(lambda: dict(self._read(self._at("masks", step, "set of masks"))[0]))

    def children(self) -> list[str]:
        """Names of the child runs in the order of their creation."""
        runs = [name for name in self._backend.names() if name.count("/") == 1 and kind_of(name) == "run"]
        return [
            name.removesuffix("/run") for name in sorted(sorted(runs), key=lambda name: _ordinal(self._backend, name))
        ]

    def child(self, name: str) -> Run:
        """One child run; raises StoreError where there is none of that name."""
        check_name(name, "child", str(self.path))
        if f"{name}/run" not in self._backend.names():
            known = ", ".join(self.children()) or "none"
            raise MissingPart(f"{self.path}: got no child {name!r}, expected one of {known}: check the name")
        return Run(self._backend.child(name))

    def create_child(self, name: str, config: dict[str, Any], provenance: Mapping[str, Any] | None = None) -> Run:
        """Make a run inside this one, such as one per method; raises StoreError if there is one of that name."""
        check_name(name, "child", str(self.path))
        path = make_folder(self._folder().path / name, config, provenance or {}, ordinal=len(self.children()))
        return Run(Folder(path))

    def tree(self, passed: list[StoreError] | None = None) -> list[tuple[str, str, int]]:
        """Every part, those of children included: name, kind, bytes.

        Raises StoreError for what lies there in place of a part, unless there is a list to put the errors into.
        """
        found = []
        for name in self._backend.names():
            try:
                found.append((name, kind_of(name), self._backend.size(name)))
            except MissingPart:  # a writer removed it meanwhile
                continue
            except StoreError as error:
                if passed is None:
                    raise
                passed.append(error)
        return found

    @property
    def digest(self) -> str:
        """``sha256:...`` over the names and checksums of all parts: the same for a folder and its packed file."""
        lines = sorted(f"{name}\t{header['checksum']}\n" for name, header in self._present(self._backend.header))
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()

    def lock(self) -> AbstractContextManager[None]:
        """``with run.lock():`` makes this process the only writer; where it is taken, StoreError names the holder."""
        return locked(self._folder().path)

    def _read(self, name: str) -> tuple[Any, dict[str, Any]]:
        branch = self._backend.read(name)
        where, attributes = f"{self.path}/{name}", shown(branch.attributes)
        if name == "run":
            check_owner(self._backend, name, attributes.get("run_id"), self._backend.names())
        else:
            check_origin(attributes, name, self.attributes.get("run_id"), where)
        return decode(branch, where), attributes

    def _write(self, name: str, tree: dict[Any, Any], attributes: dict[str, Any], replace: bool) -> None:
        path = self._folder().path / (name + ".h5")
        if not path.parent.is_dir():
            with answering(path, "a folder that can be written: free space or check who may write"):
                path.parent.mkdir(exist_ok=True)
                fsync_folder(path.parent.parent)
        own = {"run_id": self.attributes["run_id"], "part": name}
        write_part(path, kind_of(name), tree, attributes | own, replace)

    def _result(self, name: str) -> Result:
        tree, attributes = self._read(name)
        return revive(tree, attributes, f"{self.path}/{name}")

    def _write_result(
        self, name: str, result: Result, replace: bool, provenance: Mapping[str, Any] | None = None
    ) -> None:
        tree = result_tree(result, f"{self.path}/{name}")
        self._write(name, tree, {**(provenance or {}), "result": type(result).__name__}, replace)

    def _remove(self, names: Sequence[str]) -> None:
        """Remove parts of one drawer, and flush it."""
        with answering(self.path, "a folder whose old parts can be removed: check who may write"):
            for name in names:
                self._folder().file(name).unlink(missing_ok=True)
            if names:
                fsync_folder((self.path / names[0]).parent)

    def _present(self, look: Callable[[str], T]) -> Iterator[tuple[str, T]]:
        """A look at every part but those that a writer removes meanwhile."""
        for name in self._backend.names():
            with contextlib.suppress(MissingPart):
                yield name, look(name)

    def _settled(self, read: Callable[[], T]) -> T:
        """Read again where a writer removed a part between the look into the folder and the look into the part."""
        for _ in range(9):
            with contextlib.suppress(MissingPart):
                return read()
        return read()

    def _has(self, name: str) -> bool:
        return name in self._backend.names()

    def _drawer(self, drawer: str) -> list[str]:
        return [
            name.partition("/")[2]
            for name in self._backend.names()
            if name.startswith(drawer + "/") and name.count("/") == 1
        ]

    def _steps(self, drawer: str) -> list[int]:
        return sorted(int(name) for name in self._drawer(drawer) if name.isdigit() and len(name) >= 9)

    def _at(self, drawer: str, step: int | None, what: str) -> str:
        steps = self._steps(drawer)
        if not steps or (step is not None and step not in steps):
            wanted = "" if step is None else f" at step {step}"
            known = ", ".join(map(str, steps)) or "none"
            raise MissingPart(f"{self.path}: got no {what}{wanted}, expected one of the steps {known}: check the step")
        return _numbered(drawer, steps[-1] if step is None else step, self.path)

    def _folder(self) -> Folder:
        if not isinstance(self._backend, Folder):
            raise StoreError(f"{self.path}: got a packed run, expected a folder to write into: unpack it first")
        return self._backend


class Results(Mapping[str, Result]):
    """The results of a run by name, read from disk each time they are asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getitem__(self, name: str) -> Result:
        if name not in self._run.result_names():
            known = ", ".join(self._run.result_names()) or "none"
            raise MissingPart(f"{self._run.path}: got no result {name!r}, expected one of {known}: check the name")
        return self._run._result(f"results/{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.result_names())

    def __len__(self) -> int:
        return len(self._run.result_names())

    def __contains__(self, name: object) -> bool:
        return name in self._run.result_names()

    def __repr__(self) -> str:
        return f"Results({', '.join(self)})"


def create_run(
    path: str | os.PathLike[str], config: dict[str, Any], provenance: Mapping[str, Any] | None = None
) -> Run:
    """Make the folder of a new run; ``config`` is any tree, ``provenance`` a few texts and numbers.

    Raises StoreError if something is there already (an empty folder is fine), or for a configuration that cannot be
    stored.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     create_run(Path(folder) / "run", {"rule": "sgd()", "epochs": 3}).config
    {'rule': 'sgd()', 'epochs': 3}
    """
    return Run(Folder(make_folder(Path(path), config, provenance or {}, ordinal=0)))


def open_folder(path: Path) -> Run:
    """The run in a folder; raises StoreError where ``run.h5`` is missing or no part of a run."""
    if not (path / "run.h5").is_file():
        raise StoreError(f"{path}: got a folder without run.h5, expected the folder of a run: check the path")
    run = Run(Folder(path))
    _ = run.attributes
    return run


def _numbered(drawer: str, step: int, path: Path) -> str:
    if isinstance(step, bool) or not hasattr(step, "__index__") or step < 0:
        raise StoreError(
            f"{path}: got the step {step!r}, expected a non-negative integer: count optimizer steps from 0"
        )
    return f"{drawer}/{int(step):09d}"


def _ordinal(backend: Backend, name: str) -> int:
    try:
        value = backend.header(name).get("ordinal")
    except StoreError:  # damaged: after all others
        return 1 << 62
    return value if isinstance(value, int) else 1 << 62
