"""What the tests of the optimizer around a rule share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpscope import SharpnessAware
from sharpscope.optimizers.rules import Rule
from tests.problems import Case

ROOT = Path(__file__).parents[2]


def optimizer_of(case: Case, net: nn.Module, rule: Rule | str, **options: Any) -> SharpnessAware:
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    known = {"problem": case.problem(net), "model": net, "seed": 3, "epoch": 3, "total": 50}
    return SharpnessAware(base, rule, **(known | options))


def everything(model: nn.Module, optimizer: SharpnessAware) -> list[Tensor]:
    """All that a step may change: weights, buffers, random state, momentum, the rule's memory, counters."""
    found = [x.detach().clone() for x in model.state_dict().values()] + [torch.get_rng_state()]
    found += [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters() if p in optimizer.state]
    return found + leaves(optimizer.memory) + [torch.tensor(optimizer.steps), torch.tensor(optimizer.passes)]


def leaves(memory: Any) -> list[Tensor]:
    if isinstance(memory, dict):
        return [x for name in sorted(memory) for x in leaves(memory[name])]
    if isinstance(memory, list):
        return [x for item in memory for x in leaves(item)]
    return [torch.as_tensor(memory).detach().clone()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def run(case: Case, model: nn.Module, optimizer: SharpnessAware, start: int, end: int) -> None:
    for step in range(start, end):
        optimizer.step(case.closure(model, step))


def two_ranks(module: str, folder: Path, *arguments: str) -> list[Any]:
    """What two gloo processes leave in ``folder``: ``python -m module rank meeting-place folder arguments...``."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), str(folder / "meeting"), str(folder), *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=120)[1] for worker in workers]  # a hang ends here
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
