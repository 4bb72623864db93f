"""One rank of trainings in which ranks are unlike one another, as a program: rank, meeting place, results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from sharpscope import Batch, Problem, SharpnessAware

STEPS = 4
FORKED = ["sgd()", "sam(0.1)", "rst(looksam(0.1, every=2), p=0.7)", "grst(gsam(0.1), p=0.7)", "ssam_d(0.1, every=2)"]
OVERFLOWING = ["sam(0.1)", "gsam(0.1)", "looksam(0.1, every=2)", "ssam_d(0.1, every=2)", "gnr(0.1)", "esam(0.1)"]
MASKED = [
    "Ascend(Masked(Ball(0.3), RandomMask(0.5, every=1)))",
    "Ascend(Masked(Ball(0.3), RandomTensors(0.5)))",
    "ssam_d(0.3, sparsity=0.5, every=1)",
    "ssam_f(0.3, sparsity=0.5, samples=4, every=1)",
]


class Forked(nn.Module):
    """Two heads, of which a batch uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.left, self.right = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor, right: bool = False) -> Tensor:
        h = self.norm(self.stem(x)).tanh()
        out: Tensor = self.right(h) if right else self.left(h)
        return out


def network(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    return kind()


def plain_network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


def share(step: int, rank: int) -> tuple[Tensor, Tensor]:
    """What a rank sees at a step: 3 examples on rank 0, 5 on rank 1."""
    rng = torch.Generator().manual_seed(10 * step + rank)
    rows = 5 if rank else 3
    return torch.randn(rows, 6, generator=rng), torch.randint(0, 3, (rows,), generator=rng)


def wrapped(model: nn.Module, bare: nn.Module, rule: str, **options: Any) -> SharpnessAware:
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    problem = Problem(bare, nn.CrossEntropyLoss(), share(99, 0))
    return SharpnessAware(base, rule, problem, **({"model": model, "total": STEPS, "epoch": 2} | options))


def state(model: nn.Module) -> Tensor:
    return torch.cat([x.detach().double().flatten() for x in model.state_dict().values()])


def fork(rank: int, rule: str | None, sync: bool) -> Tensor:
    """State after steps in which rank 1 takes the other head every second time; None for plain torch."""
    bare = network(Forked)
    model = DistributedDataParallel(bare, find_unused_parameters=True)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    if rule is not None:
        optimizer = wrapped(model, bare, rule, sync=sync)
    for step in range(STEPS):
        x, y = share(step, rank)

        def closure(x: Tensor = x, y: Tensor = y, right: bool = rank == 1 and step % 2 == 0) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x, right=right), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return state(bare)


class Bursting(Batch):
    """Its ``bad``-th pass overflows."""

    bad = calls = 0

    def __call__(self, rows: Tensor | None = None) -> Tensor:
        loss = super().__call__(rows)
        self.calls += 1
        if self.calls == self.bad:
            next(self.model.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
        return loss


def overflow(rank: int, rule: str, sync: bool, bad: int) -> Tensor:
    """Weights after every step and the scale, for an overflow on rank 1 alone in pass ``bad`` of the third step."""
    bare = network(plain_network)
    model = DistributedDataParallel(bare)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = wrapped(model, bare, rule, sync=sync, scaler=scaler)
    found = []
    for step in range(STEPS):
        batch = Bursting(model, nn.CrossEntropyLoss(), *share(step, rank), scaler=scaler)
        batch.bad = bad if rank == 1 and step == 2 else 0
        optimizer.step(batch)
        scaler.update()
        found.append(torch.cat([state(bare), torch.tensor([scaler.get_scale()])]))
    return torch.stack(found)


def masked(rank: int, rule: str, sync: bool) -> list[tuple[Tensor, Tensor]]:
    """Weights before every step of plain descent, and the mask of it."""
    bare = network(plain_network)
    model = DistributedDataParallel(bare)
    problem = Problem(bare, nn.CrossEntropyLoss(), share(99, 0))
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = SharpnessAware(base, rule, problem, model=model, sync=sync, total=STEPS)
    found = []
    for step in range(STEPS):
        before = state(bare)
        optimizer.step(Batch(model, nn.CrossEntropyLoss(), *share(step, rank)))
        found.append((before, torch.cat([mask.flatten() for mask in optimizer.masks().values()])))
    return [*found, (state(bare), found[-1][1])]


def disagree(rank: int) -> str:
    bare = network(plain_network)
    model = DistributedDataParallel(bare)
    optimizer = wrapped(model, bare, "rst(sam(0.1), p=0.5)", seed=rank)
    before = state(bare)
    try:
        optimizer.step(Batch(model, nn.CrossEntropyLoss(), *share(0, rank)))
    except ValueError as error:
        assert torch.equal(state(bare), before)
        return str(error)
    return ""


def compiled(rank: int, compile_it: bool) -> Tensor:
    bare = network(plain_network)
    model: Any = DistributedDataParallel(bare)
    model = torch.compile(model, backend="eager") if compile_it else model
    optimizer = wrapped(model, bare, "ssam_d(0.1)")
    for step in range(STEPS):
        optimizer.step(Batch(model, nn.CrossEntropyLoss(), *share(step, rank)))
    assert list(optimizer.masks()) == [name for name, _ in bare.named_parameters()]
    return state(bare)


def main() -> None:
    rank, place, results = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    found: dict[str, Any] = {"plain": fork(rank, None, False), "disagree": disagree(rank)}
    for sync in (False, True):
        for rule in FORKED:
            found[f"fork {rule} {sync}"] = fork(rank, rule, sync)
        for rule in OVERFLOWING:
            for bad in (1, 2):
                found[f"overflow {rule} {sync} {bad}"] = overflow(rank, rule, sync, bad)
        for rule in MASKED:
            found[f"masked {rule} {sync}"] = masked(rank, rule, sync)
    found["compiled"] = [compiled(rank, False), compiled(rank, True)]
    torch.save(found, results / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
