"""A closure that knows its examples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sharpscope.problem.losses import Objective

__all__ = ["Batch"]


class Batch:
    """One batch as a closure for ``SharpnessAware.step``.

    It clears the gradients, runs forward and backward and returns the loss.  Beyond a plain closure it can restrict
    itself to some of its examples, which rules that select data (ESAM) ask for.

    Args:
        model: called as ``model(x)``, in the mode it is in.
        loss: ``loss(outputs, targets) -> 0-dim tensor``, the mean over examples.
        x: inputs, (n, ...).
        y: targets, (n, ...).
        scaler: the ``torch.amp.GradScaler`` of the optimizer, if it has one; gradients are then scaled, losses are not.
        autocast: dtype of the forward passes where it is not that of the weights; the loss is then taken in float32.

    Example:
        >>> batch = Batch(nn.Linear(2, 1), nn.MSELoss(), torch.ones(4, 2), torch.ones(4, 1))
        >>> batch.rows, batch.losses().shape
        (4, torch.Size([4]))
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        x: Tensor,
        y: Tensor,
        scaler: torch.amp.GradScaler | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.loss, self.x, self.y, self.scaler, self.autocast = model, loss, x, y, scaler, autocast
        self._objective = Objective(loss)
        self._outputs: Tensor | None = None
        self._slope: Tensor | None = None

    @property
    def rows(self) -> int:
        """Examples in the batch."""
        return len(self.y)

    def __call__(self, rows: Tensor | None = None) -> Tensor:
        """Loss of the chosen rows (all by default), with its gradients left on the parameters."""
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        self.model.zero_grad(set_to_none=True)
        outputs = self._outputs_of(x)
        loss = self.loss(outputs, y) if self._slope is None else (outputs * self._slope).sum()
        self._outputs = outputs.detach() if rows is None else None
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))
        return loss

    def last_losses(self) -> Tensor | None:
        """(n,) loss of every example in the last call with all rows; None if there was none."""
        return None if self._outputs is None else self._objective.each(self._outputs, self.y)

    @contextlib.contextmanager
    def linear(self) -> Iterator[None]:
        """Inside, the loss is linear in the outputs, with the slope that it had at those of the last call (all rows).

        A gradient at other weights is then that of the network alone: its Jacobian there times the slope here.
        """
        if not isinstance(self._outputs, Tensor):
            raise ValueError(
                f"Batch got outputs of {type(self._outputs).__name__} in its last call, expected one tensor of all its "
                f"rows: ask for the gradient at w first, of a network with one output"
            )
        with torch.enable_grad():
            outputs = self._outputs.detach().requires_grad_()
            (self._slope,) = torch.autograd.grad(self.loss(outputs, self.y), outputs)
        try:
            yield
        finally:
            self._slope = None

    def losses(self) -> Any:
        """(n,) loss of every example, without gradients."""
        with torch.no_grad():
            return self._objective.each(self._outputs_of(self.x), self.y)

    def _outputs_of(self, x: Tensor) -> Any:
        if self.autocast is None:
            return self.model(x)
        with torch.autocast(x.device.type, self.autocast):
            return self.model(x).float()
