"""What the trainers are compared on: one small net, its batches, and the plain loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from sharpscope import SharpnessAware

RULES = ["sgd()", "sam(0.1)", "gsam(0.1)", "gnr(0.1)", "rst(ssam_d(0.2, every=2), p=0.6)", "wsam(0.1, 0.6)"]
EXAMPLES, BATCH, EPOCHS = 32, 8, 2


class Seeded(nn.Module):
    """Random numbers that depend on the batch alone: loaders of the libraries draw from the global generator too."""

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(int(x.abs().sum() * 1e6))
        return x


def network() -> nn.Module:
    """With BatchNorm, whose statistics move once a step, and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(Seeded(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def data() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(EXAMPLES, 4, generator=rng), torch.randint(0, 2, (EXAMPLES,), generator=rng)


def dataset() -> TensorDataset:
    return TensorDataset(*data())


def optimizer_of(net: nn.Module, rule: str, **options: Any) -> SharpnessAware:
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    steps = EPOCHS * EXAMPLES // BATCH
    return SharpnessAware(base, rule, **({"seed": 2, "model": net, "total": steps} | options))


def plain_loop(rule: str, micro: int = 1, **options: Any) -> tuple[nn.Module, list[float], SharpnessAware]:
    """The net after ``EPOCHS`` without shuffling, and L(w) of every step; ``micro`` batches to a step."""
    net, losses = network(), []
    optimizer = optimizer_of(net, rule, **options)
    torch.manual_seed(0)
    x, y = data()
    for _ in range(EPOCHS):
        for first in range(0, EXAMPLES, BATCH * micro):
            rows = [slice(first + BATCH * part, first + BATCH * (part + 1)) for part in range(micro)]

            def closure(rows: list[slice] = rows) -> Tensor:
                optimizer.zero_grad()
                total = torch.zeros(())
                for part in rows:
                    loss = F.cross_entropy(net(x[part]), y[part]) / micro
                    loss.backward()
                    total = total + loss.detach()
                return total

            losses.append(float(optimizer.step(closure)))
    return net, losses, optimizer


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((p.double() - q.double()).abs().max()) for p, q in pairs)
