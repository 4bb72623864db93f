"""The problems that training methods are tested on: small, float64, the same weights and data every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import Batch, Problem

EXAMPLES, BATCH, CLASSES = 24, 8, 3


class Attention(nn.Module):
    """One block of a transformer over 4 tokens of width 6, mean over tokens, linear head; no bias of gradient 0."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(6), nn.LayerNorm(6)
        self.qkv, self.out = nn.Linear(6, 18, bias=False), nn.Linear(6, 6)
        self.wide, self.narrow = nn.Linear(6, 12), nn.Linear(12, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 3)).transpose(-2, -3) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        seen = torch.softmax(q @ k.transpose(-1, -2) / 3**0.5, -1) @ v
        x = x + self.out(seen.transpose(-2, -3).flatten(-2))
        x = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        scores: Tensor = self.head(x.mean(-2))
        return scores


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, CLASSES))


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, CLASSES)
    )


def _dropout() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(8, CLASSES),
        nn.Dropout(0.1),
    )


@dataclass(frozen=True)
class Case:
    """A model and its data."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return self.build()

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(8)
        x = torch.randn(EXAMPLES, *self.shape, generator=rng)
        return x, torch.randint(CLASSES, (EXAMPLES,), generator=rng)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x, y = self.data
        rows = torch.arange(BATCH) + BATCH * (step % (EXAMPLES // BATCH))
        return x[rows], y[rows]

    def closure(self, model: nn.Module, step: int) -> Batch:
        return Batch(model, nn.CrossEntropyLoss(), *self.batch(step))

    def problem(self, model: nn.Module) -> Problem:
        return Problem(model, nn.CrossEntropyLoss(), self.data)


MLP = Case("mlp", _mlp, (5,))
CONV = Case("conv", _conv, (1, 5, 5))
TRANSFORMER = Case("transformer", Attention, (4, 6))
DROPOUT = Case("dropout", _dropout, (5,))
CASES = [MLP, CONV, TRANSFORMER]

METHODS = {
    "sgd": "sgd()",
    "sam": "sam(rho=0.1)",
    "asam": "asam(rho=0.5, eta=0.01)",
    "ssam_f": "ssam_f(rho=0.2, sparsity=0.5, samples=8, every=4)",
    "ssam_d": "ssam_d(rho=0.2, sparsity=0.6, drop=0.5, every=3, total=50)",
    "gsam": "gsam(rho=0.1, alpha=0.4)",
    "looksam": "looksam(rho=0.1, every=3, alpha=0.7)",
    "esam": "esam(rho=0.1, keep=0.6, fraction=0.5)",
    "gnr": "gnr(rho=0.1, weight=0.8)",
    "rst": "rst(sam(rho=0.1), p=0.5)",
    "grst": "grst(sam(rho=0.1), p=0.5, weight=2.0)",
}
INNER = ["asam", "gsam", "looksam", "esam", "ssam_f", "ssam_d", "gnr"]
RULES = METHODS | {f"rst-{name}": f"rst({METHODS[name]}, p=0.6)" for name in INNER}
RULES |= {f"grst-{name}": f"grst({METHODS[name]}, p=0.6, weight=1.5)" for name in INNER}
