"""The weights along a training, as a run keeps them: one part per point, read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from sharpscope.store.errors import MissingPart

__all__ = ["Snapshots"]

DRAWER = "trajectory"


class Keeper(Protocol):
    """What a run does for its trajectory."""

    path: Path

    def _steps(self, drawer: str) -> list[int]: ...
    def _read(self, name: str) -> tuple[Any, dict[str, Any]]: ...
    def provenance(self, part: str) -> dict[str, Any]:
        """The attributes of a part."""


class Snapshots(Mapping[int, dict[str, torch.Tensor]]):
    """{step: {parameter name: weights}} in the order of the steps; the folder is looked at anew each time.

    >>> import tempfile
    >>> from sharpscope.store import create_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = create_run(folder, {})
    ...     for step in (0, 10):
    ...         run.add_weights(step, {"w": torch.full((2,), float(step))}, every=10)
    ...     list(run.trajectory()), run.trajectory()[10]["w"], run.trajectory().every
    ([0, 10], tensor([10., 10.]), 10)
    """

    def __init__(self, run: Keeper) -> None:
        self._run = run

    @property
    def every(self) -> int | None:
        """Steps from one point to the next, as they were recorded; None where there is no point."""
        steps = list(self)
        return int(self._run.provenance(_name(steps[0]))["every"]) if steps else None

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        steps = list(self)
        if step not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise MissingPart(
                f"{self._run.path}: got no weights at step {step!r}, expected one of the steps {known}: check the step"
            )
        return dict(self._run._read(_name(step))[0])

    def __iter__(self) -> Iterator[int]:
        return iter(self._run._steps(DRAWER))

    def __len__(self) -> int:
        return len(self._run._steps(DRAWER))

    def __repr__(self) -> str:
        return f"Snapshots({len(self)} steps of {self._run.path})"


def _name(step: int) -> str:
    return f"{DRAWER}/{int(step):09d}"
