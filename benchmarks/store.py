"""``make bench-store``: checkpoints against ``torch.save`` and ``torch.load``, listing, points of a curve."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks._report import medians, wall, write
from sharpscope import models
from sharpscope.store import create_run, open_run
from sharpscope.store._files import fsync_folder

RUNS = 15


def checkpoint() -> dict[str, Any]:
    """Weights of a ResNet-18 (11 M float32 parameters) and as many momentum entries."""
    shapes = [tuple(p.shape) for p in models.build("resnet18", (3, 32, 32), 10, 0).parameters()]
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    state = {i: {"momentum_buffer": torch.randn(shape, generator=generator)} for i, shape in enumerate(shapes)}
    return {"model": {str(i): tensor for i, tensor in enumerate(tensors)}, "optimizer": {"state": state}}


def save_and_load(folder: Path) -> dict[str, float]:
    """Median seconds of writing with fsync and of loading; every file is new, as every checkpoint is."""
    tree, run, turn = checkpoint(), create_run(folder / "run", {}), [0]

    def ours() -> float:
        turn[0] += 1
        spent = wall(lambda: run.add_checkpoint(turn[0], tree))
        run.prune()
        return spent

    def torchs() -> float:
        path = folder / "torch.pt"
        path.unlink(missing_ok=True)

        def save() -> None:
            with path.open("wb") as file:
                torch.save(tree, file)
                file.flush()
                os.fsync(file.fileno())
            fsync_folder(folder)

        return wall(save)

    def torch_load() -> float:
        return wall(lambda: torch.load(folder / "torch.pt", weights_only=True))

    timed = {"write": ours, "torch write": torchs, "load": lambda: wall(run.checkpoint), "torch load": torch_load}
    return medians(timed, RUNS)


def listing(folder: Path) -> float:
    """Median seconds of opening a run of 1,000 parts and listing it."""
    run = create_run(folder / "many", {})
    run.add_checkpoint(0, {"w": torch.ones(10)})
    for step in range(1, 998):
        shutil.copy(run.path / "checkpoints" / "000000000.h5", run.path / "checkpoints" / f"{step:09d}.h5")
    run.create_child("child", {})
    assert len(run.tree()) == 1000
    return medians({"list": lambda: wall(lambda: open_run(run.path).tree())}, RUNS)["list"]


def point(folder: Path, every: float = 0.002, during: float = 12.0) -> tuple[float, int]:
    """Mean seconds that a point of a curve costs a training with steps of 2 ms, over commits and merges; points."""
    run, spent, step = create_run(folder / "curve", {}), 0.0, 0
    end = time.monotonic() + during
    with run.step_writer() as points:
        while time.monotonic() < end:
            step += 1
            time.sleep(every)
            spent += wall(lambda: points.add(step, 1.0, 0.1, 2.0 * step))  # noqa: B023
        spent += wall(points.merge)
    assert run.steps is not None and len(run.steps.step) == step
    return spent / step, step


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        times, many, (one, points) = save_and_load(folder), listing(folder), point(folder)
    saved, loaded = times["write"] / times["torch write"], times["load"] / times["torch load"]
    rows = [
        ("write and fsync 11 M parameters + momentum / torch.save + fsync", "<= 1.5", saved, times["write"]),
        ("load them, verified / torch.load(weights_only=True)", "<= 1.2", loaded, times["load"]),
        ("open a run of 1,000 parts and list it, seconds", "<= 0.3", many, many),
        (f"point of a curve, amortised over {points}, milliseconds", "<= 1", 1e3 * one, one),
    ]
    names = ("measure", "reach", "measured", "seconds")
    write(
        "store",
        [dict(zip(names, (a, b, f"{c:.3f}", f"{d:.6f}"), strict=True)) for a, b, c, d in rows],
        ("h5py", "numpy"),
    )


if __name__ == "__main__":
    main()
