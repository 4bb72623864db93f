"""What a training run tells about itself, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpscope.results import Result

__all__ = ["History"]


@dataclass(frozen=True, eq=False, repr=False)
class History(Result):
    """Curves of one training run; entry e describes the state after epoch e + 1."""

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

    @property
    def test_stderr(self) -> np.ndarray:
        """(e,) float64: binomial standard error of the test error, from the finite number of test examples."""
        return np.asarray(np.sqrt(self.test_error * (1.0 - self.test_error) / self.test_examples))
