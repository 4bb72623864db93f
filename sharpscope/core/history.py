"""What a training run tells about itself, epoch by epoch and step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sharpscope.core.results import Dims, Result

__all__ = ["History", "Steps"]


@dataclass(frozen=True, eq=False, repr=False)
class History(Result):
    """Curves of one training run; entry e describes the state after epoch e + 1."""

    dims: ClassVar[Dims] = {"train_loss test_loss test_error learning_rate passes seconds test_top5": "epoch"}

    rule: str  # text of the resolved rule
    epochs: int  # epochs asked for; ``len(train_loss)`` were finished
    steps_per_epoch: int
    test_examples: int  # behind every test error
    train_loss: np.ndarray  # (e,) float64, mean over the epoch's batches of the loss at w
    test_loss: np.ndarray  # (e,) float64, eval mode
    test_error: np.ndarray  # (e,) float64 in [0, 1], eval mode
    learning_rate: np.ndarray  # (e,) float64, at the epoch's last step
    passes: np.ndarray  # (e,) float64, forward-backward pairs since the start
    seconds: np.ndarray  # (e,) float64, wall time since the start, without evaluation
    test_top5: np.ndarray | None = None  # (e,) float64, share not among the five largest outputs; beyond 100 classes

    @property
    def test_stderr(self) -> np.ndarray:
        """(e,) float64: binomial standard error of the test error, from the finite number of test examples."""
        return np.asarray(np.sqrt(self.test_error * (1.0 - self.test_error) / self.test_examples))

    @property
    def best(self) -> int:
        """Index of the first epoch with the lowest test error; -1 before the first."""
        return int(np.argmin(self.test_error)) if len(self.test_error) else -1

    def scalars(self) -> dict[str, Any]:
        """The settings, and every curve at its last epoch."""
        curves = ["train_loss", "test_loss", "test_error", "test_stderr", "learning_rate", "passes", "seconds"]
        curves += [] if self.test_top5 is None else ["test_top5"]
        ends = {name: float(getattr(self, name)[-1]) for name in curves if len(self.train_loss)}
        return {"rule": self.rule, "epochs": len(self.train_loss)} | ends


@dataclass(frozen=True, eq=False, repr=False)
class Steps(Result):
    """Curves of one training run, step by step; entry i describes optimizer step ``step[i]``."""

    dims: ClassVar[Dims] = {"loss learning_rate passes": "step"}

    step: np.ndarray  # (n,) int64, counted from 1, ascending
    loss: np.ndarray  # (n,) float64, mean over the step's batch, at w before the step
    learning_rate: np.ndarray  # (n,) float64, of the step
    passes: np.ndarray  # (n,) float64, forward-backward pairs since the start
