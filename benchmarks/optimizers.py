"""``make bench-optimizers``: what the optimizer costs beyond the passes, and what a step costs beside a plain one."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from pytorch_optimizer import SAM
from torch import Tensor, nn
from torch.nn import functional as F

import sharpscope as ss
from benchmarks._report import medians, wall, write
from sharpscope import models
from sharpscope.ascent.masks import Evolving, Top
from sharpscope.ascent.scores import Random
from sharpscope.ascent.shift import Shift, Way
from sharpscope.core.vectors import Vec

CLASSES, SHAPE = 10, (3, 32, 32)


def sgd(params: list[nn.Parameter], lr: float = 1e-6) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=5e-4)


def own_time(tensors: Vec) -> dict[str, float]:
    """Seconds of one SAM step without its closure: ours, pytorch_optimizer's, and the floor at memory speed."""
    first, second = ([torch.randn_like(p) for p in tensors] for _ in range(2))
    sets = [[nn.Parameter(p.clone()) for p in tensors] for _ in range(3)]
    ours, loss, spent, turn = ss.SharpnessAware(sgd(sets[0]), ss.sam(0.05)), torch.zeros(()), [0.0], [0]

    def closure() -> Tensor:
        began = time.perf_counter()
        for p, g in zip(sets[0], second if turn[0] % 2 else first, strict=True):
            p.grad = g
        turn[0] += 1
        spent[0] += time.perf_counter() - began
        return loss

    def sharpscope_step() -> float:
        spent[0] = 0.0
        return wall(lambda: ours.step(closure)) - spent[0]

    peer = SAM(sets[1], torch.optim.SGD, rho=0.05, lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def peer_step() -> float:
        total = 0.0
        for gradient, half in ((first, lambda: peer.first_step(zero_grad=True)), (second, peer.second_step)):
            for p, g in zip(sets[1], gradient, strict=True):
                p.grad = g
            total += wall(half)
        return total

    base, saved = sgd(sets[2]), [torch.empty_like(p) for p in sets[2]]
    data = [p.detach() for p in sets[2]]

    def floor() -> None:
        torch._foreach_norm(first)
        torch._foreach_copy_(saved, data)
        torch._foreach_add_(data, first, alpha=1e-9)
        torch._foreach_copy_(data, saved)
        base.step()

    def floor_step() -> float:
        for p, g in zip(sets[2], second, strict=True):
            p.grad = g
        return wall(floor)

    return medians({"ours": sharpscope_step, "peer": peer_step, "floor": floor_step}, runs=40, warm=5)


def whole_step(rules: dict[str, tuple[str, int]], batch: int = 128, rounds: int = 6) -> dict[str, tuple[float, float]]:
    """Seconds and passes of a step of ResNet-20 under each rule, called in turn, a rule's period of steps at a time.

    Where every round has the same passes the seconds are a median; where coins decide, both are means over the rounds.
    """
    x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = torch.arange(batch) % CLASSES
    running: dict[str, tuple[ss.SharpnessAware, ss.Batch]] = {}
    for name, (rule, _) in rules.items():
        model = models.build("resnet20", SHAPE, CLASSES)
        problem = ss.Problem(model, nn.CrossEntropyLoss(), (x, y))
        base = sgd(list(model.parameters()))
        optimizer = ss.SharpnessAware(base, rule, problem, epoch=10**6, model=model)
        running[name] = optimizer, ss.Batch(model, F.cross_entropy, x, y)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rules}
    for _ in range(rounds + 1):
        for name, (optimizer, closure) in running.items():
            period, before = rules[name][1], optimizer.passes
            taken = 0.0
            for _ in range(period):
                taken += wall(lambda optimizer=optimizer, closure=closure: optimizer.step(closure))  # type: ignore[misc]
            found[name].append((taken / period, (optimizer.passes - before) / period))
    result = {}
    for name, rows in found.items():
        times, passes = zip(*rows[1:], strict=True)
        result[name] = (
            statistics.median(times) if len(set(passes)) == 1 else statistics.mean(times),
            statistics.mean(passes),
        )
    return result


def fisher() -> float:
    """Fisher diagonal of 128 examples of ResNet-20, in gradients of the same examples."""
    x = torch.randn(128, *SHAPE, generator=torch.Generator().manual_seed(0))
    model = models.build("resnet20", SHAPE, CLASSES)
    problem = ss.Problem(model, nn.CrossEntropyLoss(), (x, torch.arange(128) % CLASSES))
    found = medians(
        {"fisher": lambda: wall(problem.squared_gradients), "gradient": lambda: wall(problem.gradient)}, runs=5
    )
    return found["fisher"] / found["gradient"]


def refresh() -> dict[str, float]:
    """Seconds to renew a mask over 11 M parameters, scores at hand."""
    params = [nn.Parameter(p) for p in models.build("resnet18", SHAPE, CLASSES).parameters()]
    g = [torch.randn_like(p) for p in params]
    probe = ss.Probe(params, [str(i) for i in range(len(params))])
    memory: dict[str, Any] = {}
    evolving = Evolving(0.5, drop=0.5, every=1)
    evolving(g, probe, memory)
    scores = Random()(g, probe)
    top = Top(_Given(tuple(scores)), 0.5, 1)
    return medians(
        {
            "top-k": lambda: wall(lambda: top.refresh(g, probe, {})),
            "evolve": lambda: wall(lambda: evolving.refresh(g, probe, memory)),
        },
        runs=7,
    )


class _Given(Random):
    """Scores that are known already."""

    def __init__(self, scores: tuple[Tensor, ...]) -> None:
        object.__setattr__(self, "scores", scores)

    def __call__(self, g: Vec, probe: ss.Probe) -> Vec:
        return list(self.scores)  # type: ignore[attr-defined]


def memory() -> dict[str, float]:
    """Bytes kept for the way back while at w + eps, in copies of the weights: SAM, and SSAM at 90 % sparsity."""
    params = [p.detach() for p in models.build("resnet18", SHAPE, CLASSES).parameters()]
    whole = sum(p.numel() * p.element_size() for p in params)
    found = {}
    for name, bits in (("sam", None), ("ssam", ss.RandomMask(0.9).bits([], ss.Probe(params, [""] * len(params)), {}))):
        way = Way()
        way.go(params, Shift([torch.zeros_like(p) for p in params], 1.0, bits))
        kept = sum(x.numel() * x.element_size() for x in (*way._copy, *way._entries))
        found[name] = (kept + (0 if bits is None else bits.numel())) / whole
        way.back(params)
    return found


def slope(points: list[tuple[float, float]], plain: float, full: float) -> float:
    """Least squares through the origin of RST's extra time against its realised share of SAM steps, in SAM's extra."""
    shares = [passes - 1.0 for _, passes in points]
    extra = [(taken - plain) / (full - plain) for taken, _ in points]
    return sum(a * b for a, b in zip(shares, extra, strict=True)) / sum(a * a for a in shares)


def main() -> None:
    big, small = models.build("resnet18", SHAPE, CLASSES).parameters(), [torch.randn(28, 28) for _ in range(60)]
    tensors = {"ResNet-18": own_time([p.detach() for p in big]), "60 small tensors": own_time(small)}
    rules = {
        "sgd": ("sgd()", 1),
        "sam": ("sam(0.1)", 1),
        "look": ("looksam(0.1, every=5)", 5),
        "perturbed": ("Ascend(Masked(Ball(0.1), RandomTensors(0.5), norm='perturbed'))", 4),
        "rows": ("Ascend(Ball(0.1), rows=0.25)", 1),
    }
    shares = (0.1, 0.3, 0.5, 0.7, 0.9)
    rules |= {f"{p:.1f}": (f"rst(sam(0.1), p={p:.1f})", 5) for p in shares}
    steps = whole_step(rules)
    plain, full = steps["sgd"][0], steps["sam"][0]
    renewed, kept = refresh(), memory()
    rows = [
        ("own time of a SAM step / pytorch_optimizer SAM, ResNet-18 tensors", "<= 0.75",
         tensors["ResNet-18"]["ours"] / tensors["ResNet-18"]["peer"]),
        ("own time of a SAM step / pytorch_optimizer SAM, 60 small tensors", "<= 0.75",
         tensors["60 small tensors"]["ours"] / tensors["60 small tensors"]["peer"]),
        ("own time of a SAM step / floor at memory speed, ResNet-18 tensors", "<= 1.2",
         tensors["ResNet-18"]["ours"] / tensors["ResNet-18"]["floor"]),
        ("SAM step / SGD step, ResNet-20, batch 128", "<= 2.05", full / plain),
        ("slope of RST's extra time against realised Delta-eta, in SAM's extra", "1.00 +- .05",
         slope([steps[f"{p:.1f}"] for p in shares], plain, full)),
        (f"LookSAM(5) step / SGD step ({steps['look'][1]:.2f} passes a step)", "<= 1.3", steps["look"][0] / plain),
        ("Fisher diagonal of 128 examples, ResNet-20, in gradients of the same", "<= 1.3", fisher()),
        ("memory for the way back, SAM, in copies of the weights", "1", kept["sam"]),
        ("memory for the way back, SSAM at 90 %, in copies of the weights", "0.1 + 1/32", kept["ssam"]),
        ("top-k mask of 11 M parameters, seconds", "<= 0.25", renewed["top-k"]),
        ("evolved mask of 11 M parameters, seconds", "<= 0.25", renewed["evolve"]),
        ("step / SGD step, half of the tensors, norm over the perturbed", "aim 1.75", steps["perturbed"][0] / plain),
        ("step / SGD step, climb on a quarter of the rows", "aim 1.35", steps["rows"][0] / plain),
    ]  # fmt: skip
    write(
        "optimizers",
        [{"measure": text, "reach": reach, "measured": f"{value:.3f}"} for text, reach, value in rows],
        ("pytorch_optimizer",),
    )


if __name__ == "__main__":
    main()
