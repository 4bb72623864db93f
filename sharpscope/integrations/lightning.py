"""Lightning with automatic optimization: what is clipped, and what is logged, where a step has several passes.

Lightning runs ``training_step`` once a pass.  By itself it would clip the gradient of every pass, and ``self.log``
would average the loss at w with that at w + eps.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule

from sharpscope.optimizers.sharpness_aware import SharpnessAware

__all__ = ["SharpnessAwareModule"]


class SharpnessAwareModule(LightningModule):
    """A LightningModule whose ``configure_optimizers`` returns a ``SharpnessAware``.

    ``Trainer(gradient_clip_val=...)`` clips the final direction, once a step, by its norm; ``self.log`` in
    ``training_step`` keeps what the first pass logs: L(w).  ``first_pass`` tells the passes apart for what else
    ``training_step`` counts, such as metrics that hold a state.

    Accumulate micro-batches inside ``training_step``: ``accumulate_grad_batches`` is refused by ``step``, and so is
    ``precision="16-mixed"``, whose scaler takes the closure away ("bf16-mixed" needs none).

    Example:
        >>> import torch
        >>> class Net(SharpnessAwareModule):
        ...     def configure_optimizers(self):
        ...         return SharpnessAware(torch.optim.SGD(self.parameters(), lr=0.1), "sam(rho=0.05)")
        >>> Net().first_pass
        True
    """

    _passes = 0  # of the step that is being taken

    @property
    def first_pass(self) -> bool:
        """Whether ``training_step`` is run for the first time in its step, as in a loop without sharpness."""
        return self._passes <= 1

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """One step; counts its passes."""

        def counted() -> Any:
            self._passes += 1
            return optimizer_closure()

        self._passes = 0
        try:
            optimizer.step(closure=counted)
        finally:
            self._passes = 0

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Leave the gradients of a pass alone: the optimizer clips the direction that they lead to.

        Raises TypeError for an optimizer that is none of ours, ValueError for clipping by value.
        """
        if gradient_clip_val is None:
            return
        inner = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(inner, SharpnessAware):
            raise TypeError(
                f"SharpnessAwareModule got a {type(inner).__name__} to clip, expected a SharpnessAware: return one "
                f"from configure_optimizers, or derive from LightningModule"
            )
        algorithm = getattr(gradient_clip_algorithm, "value", gradient_clip_algorithm)
        if algorithm not in (None, "norm"):
            raise ValueError(
                f"SharpnessAwareModule got gradient_clip_algorithm={algorithm!r}, expected 'norm': leave it out"
            )
        inner.clip = float(gradient_clip_val)

    def log(self, *arguments: Any, **options: Any) -> None:
        """As in Lightning, in the first pass of a step; nothing in the others."""
        if self.first_pass:
            super().log(*arguments, **options)
