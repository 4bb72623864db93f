"""What a training run is, apart from its model and data: rule, base optimizer, learning rate, loss, precision.

A setting's default is what every training did before the setting was there, so that stored runs mean what they meant.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR, StepLR

from sharpscope.core.expressions import check_count, check_range
from sharpscope.optimizers.parse import parse

__all__ = ["Settings"]

_CHOICES = {
    "schedule": ("cosine", "step", "constant"),
    "optimizer": ("sgd", "adam", "adamw"),
    "precision": ("float32", "bfloat16"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a training run is, apart from its model and data.  Raises ValueError for a setting out of range."""

    rule: str = "sgd()"  # text of the rule
    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.1  # at the first step, or at the end of the warm-up; then as the schedule has it
    momentum: float = 0.9  # of SGD; the first beta of Adam and AdamW
    weight_decay: float = 5e-4
    seed: int = 0
    optimizer: str = "sgd"  # the base: sgd, adam (weight decay in the gradient) or adamw (decoupled)
    schedule: str = "cosine"  # cosine to 0 at the last step, step, constant
    warmup: int = 0  # epochs in which the learning rate rises linearly, beginning at lr / their steps
    drop_every: int = 30  # epochs between the drops of schedule="step", counted from the end of the warm-up
    drop: float = 0.1  # factor of each of them
    label_smoothing: float = 0.0  # of the training loss; test losses have none
    mixup: float = 0.0  # alpha of the Beta distribution of shares; 0 does not mix
    cutout: int = 0  # side in pixels of the square that is cut out of every training image; 0 cuts none
    precision: str = "float32"  # of the training passes; bfloat16 is autocast, weights and tests stay float32
    # the user's own that the rule names; None reads no rule; code, and no part of what a training is
    pieces: tuple[Callable[..., Any], ...] | None = dataclasses.field(default=(), compare=False)
    steps: int | None = None  # stop after so many steps, at the learning rates of the whole training: a dry run

    def __post_init__(self) -> None:
        if self.pieces is not None:  # who analyses a stored training has no need of its rule
            parse(self.rule, self.pieces)
        for name in ("epochs", "batch_size", "drop_every"):
            check_count("training", name, getattr(self, name))
        check_count("training", "steps", self.steps, optional=True)
        check_range("training", "momentum", self.momentum, 0.0, 1.0, open_high=True)
        for name in ("lr", "weight_decay", "drop", "mixup", "warmup", "cutout"):
            check_range("training", name, getattr(self, name), 0.0)
        for name in ("warmup", "cutout"):
            if int(getattr(self, name)) != getattr(self, name):
                raise ValueError(f"training got {name}={getattr(self, name)!r}, expected a whole number: change {name}")
        check_range("training", "label_smoothing", self.label_smoothing, 0.0, 1.0, open_high=True)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"training got {name}={getattr(self, name)!r}, expected one of {', '.join(choices)}: change {name}"
                )
        if self.schedule == "cosine" and self.warmup >= self.epochs:
            raise ValueError(
                f"training got warmup={self.warmup} of epochs={self.epochs}, expected fewer: lower warmup, or use "
                f"schedule='constant'"
            )

    def total(self, epoch_steps: int) -> int:
        """Optimizer steps that are made, for ``epoch_steps`` steps in an epoch."""
        planned = self.epochs * epoch_steps
        return planned if self.steps is None else min(self.steps, planned)

    def base(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The base optimizer."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, self.lr, betas=(self.momentum, 0.999), weight_decay=self.weight_decay)

    def scheduler(self, optimizer: Optimizer, epoch_steps: int) -> LRScheduler:
        """The learning rate of every step, from torch's own schedulers."""
        rising = self.warmup * epoch_steps
        rest = self.epochs * epoch_steps - rising
        if not rising:
            return self._after_warmup(optimizer, rest, epoch_steps)
        warm = LinearLR(optimizer, start_factor=1 / rising, total_iters=rising)
        return SequentialLR(optimizer, [warm, self._after_warmup(optimizer, rest, epoch_steps)], [rising])

    def _after_warmup(self, optimizer: Optimizer, steps: int, epoch_steps: int) -> LRScheduler:
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, steps)
        if self.schedule == "step":
            return StepLR(optimizer, self.drop_every * epoch_steps, self.drop)
        return ConstantLR(optimizer, factor=1.0)

    def loss(self) -> Callable[..., Tensor]:
        """Cross-entropy of a batch, for class numbers and for mixed ones."""
        return functools.partial(F.cross_entropy, label_smoothing=self.label_smoothing)

    def autocast(self) -> torch.dtype | None:
        """The dtype of the passes where it is not that of the weights."""
        return None if self.precision == "float32" else torch.bfloat16
