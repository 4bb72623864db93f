"""``make bench-refine``: adaptive refinement over 20 planes of trained networks, against the full planes.

``python -m benchmarks.refine FOLDER`` keeps the full planes there, so that an interrupted run goes on.  None of these
networks was seen when the safety factor of the estimate was chosen: other seeds, other settings.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

import sharpscope as ss
from benchmarks._report import write
from sharpscope import data, models
from sharpscope.analyzers.surfaces.refine import INTERPOLATED, Refined, refine

TOLERANCE, RESOLUTION, EXAMPLES = 0.01, 51, 300


@dataclass(frozen=True)
class Net:
    """A network trained on digits, and the half-width of its plane."""

    name: str  # "convnet", or the activation of a multilayer perceptron
    rule: str
    epochs: int
    span: float
    hidden: int = 2  # layers

    def plane(self, seed: int) -> np.ndarray:
        """(51, 51) float64, every point evaluated."""
        inputs, targets = data.load("digits", seed=seed).train
        model = self.trained(inputs, targets, seed)
        problem = ss.Problem(model, nn.CrossEntropyLoss(), (inputs[:EXAMPLES], targets[:EXAMPLES]))
        return ss.surface(problem, resolution=RESOLUTION, span=self.span, seed=seed).loss

    def trained(self, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> nn.Module:
        if self.name == "convnet":
            model = models.build("convnet", tuple(inputs.shape[1:]), 10, seed)
        else:
            torch.manual_seed(seed)
            sizes = [inputs[0].numel(), *[96] * self.hidden]
            layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), getattr(nn, self.name)())]
            model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))
        optimizer = ss.SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), ss.parse(self.rule))
        for epoch in range(self.epochs):
            for index in data.batches(len(inputs), 64, seed, epoch, drop_last=True):

                def closure(index: torch.Tensor = index) -> torch.Tensor:
                    optimizer.zero_grad()
                    loss = nn.functional.cross_entropy(model(inputs[index]), targets[index])
                    loss.backward()
                    return loss

                optimizer.step(closure)
        return model.eval()


NETS = [
    Net("convnet", "sgd()", 6, 1.0), Net("convnet", "sam(rho=0.05)", 6, 1.0), Net("convnet", "sam(rho=0.2)", 10, 0.7),
    Net("convnet", "sgd()", 1, 1.5), Net("convnet", "asam(rho=0.5)", 6, 0.5), Net("convnet", "sgd()", 20, 0.4),
    Net("convnet", "sgd()", 3, 2.0), Net("convnet", "rst(sam(rho=0.1), p=0.5)", 6, 1.0),
    Net("ReLU", "sgd()", 8, 1.0), Net("ReLU", "sam(rho=0.1)", 8, 1.0), Net("ReLU", "sgd()", 60, 0.5),
    Net("ReLU", "sgd()", 1, 2.0), Net("ReLU", "sam(rho=0.1)", 20, 0.7, 4), Net("Tanh", "sgd()", 12, 1.0),
    Net("Tanh", "sam(rho=0.1)", 5, 1.5), Net("Tanh", "sgd()", 40, 0.5), Net("GELU", "sgd()", 8, 1.0),
    Net("GELU", "sam(rho=0.1)", 15, 1.0, 3), Net("SiLU", "sgd()", 20, 2.0), Net("LeakyReLU", "sgd()", 8, 0.3),
]  # fmt: skip


def row(net: Net, plane: np.ndarray, seed: int) -> dict[str, str]:
    axis = np.linspace(-net.span, net.span, RESOLUTION)
    levels: list[Refined] = []
    began = time.perf_counter()
    found = refine(lambda at: plane[at[:, 0], at[:, 1]], axis, axis, TOLERANCE, seed, show=levels.append)
    seconds = time.perf_counter() - began

    def missed(level: Refined) -> float:
        distance = np.abs(level.loss - plane) / np.maximum(np.abs(plane), level.floor)
        return float(distance[level.status == INTERPOLATED].max(initial=0.0))

    true = missed(found)
    least = next(level.evaluated for level in levels if missed(level) <= TOLERANCE)
    name = net.name if net.name == "convnet" else f"{net.hidden} x {net.name}"
    return {
        "plane": f"{name}, {net.rule}, {net.epochs} epochs, span {net.span}",
        "losses": f"{plane.min():.2g} to {plane.max():.3g}",
        "points": f"{found.evaluated / plane.size:.1%}",
        "enough, had the truth been known": f"{least / plane.size:.1%}",
        "estimate": f"{found.error:.3%}",
        "true error": f"{true:.3%}",
        "true / estimate": f"{true / found.error:.2f}",
        "seconds of its own": f"{seconds:.2f}",
    }


def full(net: Net, seed: int, folder: Path | None) -> np.ndarray:
    path = folder / f"{seed}.npy" if folder else None
    if path is not None and path.exists():
        return np.load(path)
    plane = net.plane(seed)
    if path is not None:
        np.save(path, plane)
    return plane


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    rows = [row(net, full(net, 1000 + i, folder), 1000 + i) for i, net in enumerate(NETS)]
    write("refine", rows, ("numpy", "scipy"))


if __name__ == "__main__":
    main()
