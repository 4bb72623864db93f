"""One rank of a distributed training, as a program: rank, meeting place, results, sync, rules."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from sharpscope import Problem, SharpnessAware

STEPS = 4


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 7, dtype=torch.float64), nn.Tanh(), nn.Linear(7, 3, dtype=torch.float64))


def joint_batch(step: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=rng, dtype=torch.float64), torch.randint(0, 3, (8,), generator=rng)


def optimizer_of(rule: str, model: nn.Module, bare: nn.Module, sync: bool) -> SharpnessAware:
    base = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    problem = Problem(bare, nn.CrossEntropyLoss(), joint_batch(99))
    return SharpnessAware(base, rule, problem, seed=1, epoch=2, total=STEPS, model=model, sync=sync)


def run(model: nn.Module, optimizer: SharpnessAware, rows: slice) -> None:
    for step in range(STEPS):
        x, y = (part[rows] for part in joint_batch(step))

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)


def main() -> None:
    rank, place, results, sync, rules = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=int(rank), world_size=2)
    share = 4
    rows = slice(share * int(rank), share * (int(rank) + 1))
    found = {}
    for rule in json.loads(rules):
        bare = network()
        model = DistributedDataParallel(bare)
        optimizer = optimizer_of(rule, model, bare, sync == "True")
        run(model, optimizer, rows)
        weights = torch.cat([p.detach().reshape(-1) for p in bare.parameters()])
        found[rule] = (weights, torch.tensor(optimizer.passes), list(optimizer.masks()))
    torch.save(found, Path(results) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
