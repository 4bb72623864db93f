"""``make bench-surface``: loss surfaces of a ResNet-20 trained on CIFAR-10, beside the plain loop and loss-landscapes.

``python -m benchmarks.surface points`` runs one part: points, plane, memory.  The plain loop is what Li et al.'s tool
runs at a point: a DataLoader over tensors, default layout, batches of 128, eval mode, no gradients.  Times are
processor seconds of one thread, which other programs disturb least.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sharpscope as ss
from benchmarks._peers import tensors, trained
from benchmarks._report import medians, say, seconds, write
from sharpscope.analyzers.surfaces._points import Points, points_of
from sharpscope.analyzers.surfaces.request import Request
from sharpscope.runs.analyze import problem_of

GRID = np.linspace(-1.0, 1.0, 51)

MEMORY = """
import re, sys, torch, sharpscope as ss
from pathlib import Path

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
norms = [[torch.nn.BatchNorm1d(1000)] if sys.argv[1] == "BatchNorm" else [] for _ in range(16)]
model = torch.nn.Sequential(*[m for norm in norms for m in (torch.nn.Linear(1000, 1000, bias=False), *norm)])
problem = ss.Problem(model, torch.nn.MSELoss(), (torch.randn(4, 1000), torch.ones(4, 1000)))
small = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
ss.surface(ss.Problem(small, torch.nn.MSELoss(), (torch.ones(4, 4), torch.ones(4, 4))), 3)
problem.loss()
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kilobytes("VmRSS")
ss.surface(problem, 3)
print((kilobytes("VmHWM") - before) * 1024 / (4 * problem.size))
"""


def plain_loop(problem: ss.Problem) -> Callable[[], float]:
    """The loss at one point as Li et al.'s tool computes it."""
    loader = DataLoader(TensorDataset(*tensors(problem)), batch_size=128)
    model, loss = copy.deepcopy(problem.model).eval(), nn.CrossEntropyLoss()

    def point() -> float:
        total, count = 0.0, 0
        with torch.no_grad():
            for x, y in loader:
                total += loss(model(x), y).item() * len(x)
                count += len(x)
        return total / count

    return point


def loss_landscapes_point(problem: ss.Problem) -> Callable[[], float]:
    """Seconds per point of a small plane of the package loss-landscapes."""
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    x, y = tensors(problem)
    metric = Loss(nn.CrossEntropyLoss(), x, y)

    def point() -> float:
        with torch.no_grad():
            model = copy.deepcopy(problem.model).eval()
            return seconds(lambda: loss_landscapes.random_plane(model, metric, 1.0, 2, "filter", True)) / 4

    return point


def plane_of(problem: ss.Problem, precision: str) -> Points:
    asked = ("filter", 0, precision, None, None, "eval", None, 0.05, "fastest", None)
    return points_of(problem, Request("surface", (GRID, GRID), *asked))


def outside(plane: Points, count: int = 4) -> float:
    """Share of a point's time that is not spent in the model's forward."""
    model = plane.evaluator.folded if plane.evaluator.way.folded else plane.evaluator.model
    assert model is not None
    spent, forward = [0.0], model.forward

    def timed(*args: Any) -> Any:
        began = time.process_time()
        try:
            return forward(*args)
        finally:
            spent[0] += time.process_time() - began

    model.forward = timed  # type: ignore[method-assign]
    whole = seconds(lambda: [plane.row(plane.at(100 + index)) for index in range(count)])
    model.forward = forward  # type: ignore[method-assign]
    return 1.0 - spent[0] / whole


def convolutions(problem: ss.Problem, dtype: torch.dtype) -> float:
    """Seconds of nothing but the convolutions of all images, each in the layout and number of images that suits it."""
    calls: dict[Any, int] = {}  # of one shape

    def note(layer: nn.Module, args: Any, output: Any) -> None:
        assert isinstance(layer, nn.Conv2d)
        key = (tuple(args[0].shape[1:]), tuple(layer.weight.shape), layer.stride, layer.padding)
        calls[key] = calls.get(key, 0) + 1

    model = copy.deepcopy(problem.model).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        model(tensors(problem)[0][:1])
        return sum(
            count * problem.examples * min(
                one_convolution(shapes, images, layout, dtype)
                for images in (16, 32, 64, 128)
                for layout in (torch.channels_last, torch.contiguous_format)
            )
            for shapes, count in calls.items()
        )  # fmt: skip


def one_convolution(shapes: Any, images: int, layout: torch.memory_format, dtype: torch.dtype) -> float:
    """Seconds per image, the fastest of twenty."""
    inside, weights, stride, padding = shapes
    x = torch.randn(images, *inside).to(dtype).contiguous(memory_format=layout)
    weight, bias = (torch.randn(weights) / 10).to(dtype).contiguous(memory_format=layout), torch.zeros(weights[0])
    bias = bias.to(dtype)
    return min(seconds(lambda: nn.functional.conv2d(x, weight, bias, stride, padding)) for _ in range(20)) / images


def points(problem: ss.Problem) -> list[dict[str, str]]:
    """Seconds per point, in turn."""
    say("planes")
    planes = {name: plane_of(problem, name) for name in ("float32", "bfloat16")}
    loop, at = plain_loop(problem), planes["float32"].at(777)
    timed: dict[str, Callable[[], float]] = {"plain": lambda: seconds(loop)}
    timed |= {name: lambda plane=plane: seconds(lambda: plane.row(at)) for name, plane in planes.items()}
    found = medians(timed, runs=5, warm=1)
    found["loss-landscapes"] = loss_landscapes_point(problem)()
    say(f"seconds per point: {found}, {[plane.evaluator.how for plane in planes.values()]}")
    exact = abs(planes["float32"].center[0] / loop() - 1.0)
    error = planes["bfloat16"].compared()
    shares = {name: outside(plane) for name, plane in planes.items()}
    how = {name: plane.evaluator.how for name, plane in planes.items()}
    least = {name: convolutions(problem, getattr(torch, name)) for name in planes}
    rows = [
        ("float32 per point / plain loop", "<= 0.52", found["float32"] / found["plain"], how["float32"]),
        ("its convolutions alone, each in its fastest way / plain loop", "", least["float32"] / found["plain"], ""),
        ("float32 per point / loss-landscapes", "", found["float32"] / found["loss-landscapes"], ""),
        ("its loss at the centre, relative distance to the plain loop", "", exact, ""),
        ("bfloat16 per point / plain loop", "<= 0.20", found["bfloat16"] / found["plain"], how["bfloat16"]),
        ("its convolutions alone, each in its fastest way / plain loop", "", least["bfloat16"] / found["plain"], ""),
        ("its stated error: largest, 95 %", "", error[0], f"95 %: {error[1]:.2g}, {error[2]} points"),
        ("float32: share of time outside the forward pass", "<= 0.03", shares["float32"], ""),
        ("bfloat16: share of time outside the forward pass", "<= 0.03", shares["bfloat16"], ""),
        ("plain loop, seconds per point", "", found["plain"], ""),
    ]
    return [{"measure": a, "reach": b, "measured": f"{c:.3g}", "note": d} for a, b, c, d in rows]


def adaptive(problem: ss.Problem) -> list[dict[str, str]]:
    """A whole plane within a tolerance; the plain loop's is its point times their number."""
    loop = plain_loop(problem)
    before = min(seconds(loop) for _ in range(3))
    began = time.process_time()
    found = ss.surface(problem, 51, precision="bfloat16", tolerance=0.01, bound=0.05, progress=False)
    spent = time.process_time() - began
    point = min(before, *(seconds(loop) for _ in range(3)))
    count, error, rounding = int(found.evaluated.sum()), found.error, found.precision_error
    note = f"{count} points evaluated, error {error:.2g}, of bfloat16 {rounding:.2g}"
    say(f"{spent:.0f} s, {point:.2f} s per point of the plain loop, {note}")
    return [{"measure": "51 x 51 plane, tolerance 0.01, bfloat16 / plain loop's full plane", "reach": "<= 0.04",
             "measured": f"{spent / (point * found.loss.size):.3g}", "note": note}]  # fmt: skip


def memory() -> list[dict[str, str]]:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed goes back to the system
    rows = []
    for kind in ("linear layers", "BatchNorm"):
        command = [sys.executable, "-c", MEMORY, kind.split()[0]]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        rows.append({"measure": "memory beyond model, data and activations, copies of the weights", "reach": "<= 4",
                     "measured": f"{float(done.stdout):.2f}", "note": f"16 M weights, {kind}, 4 examples"})  # fmt: skip
    return rows


def main() -> None:
    torch.set_num_threads(1)
    asked, parts = sys.argv[1:] or ["points", "plane", "memory"], {"points": points, "plane": adaptive}
    problem = None if asked == ["memory"] else problem_of(trained(), 1000)
    rows = [row for part in asked for row in (memory() if part == "memory" else parts[part](problem))]
    section = "surface" + ("" if not sys.argv[1:] else f": {', '.join(asked)}")
    write(section, rows, ("loss-landscapes",))


if __name__ == "__main__":
    main()
