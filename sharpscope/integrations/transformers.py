"""Hugging Face ``Trainer``: the micro-batches of a step are held until ``step`` can be given all of them at once.

The Trainer runs forward and backward before it calls ``optimizer.step()`` without a closure.  Here ``training_step``
takes the whole step when its last micro-batch has come, and the Trainer's own call finds it done.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from sharpscope.optimizers.rules import Rule
from sharpscope.optimizers.sharpness_aware import SharpnessAware

__all__ = ["SharpnessAwareTrainer"]


class SharpnessAwareTrainer(Trainer):
    """A ``transformers.Trainer`` that trains under a rule.

    The base optimizer is the one that ``TrainingArguments`` describe, or that of ``optimizers=``.
    ``gradient_accumulation_steps`` is served (every pass runs all micro-batches of the step), ``max_grad_norm`` clips
    the final direction, once, and the logged loss is L(w).  The logged ``grad_norm`` is that of the direction as it was
    descended, after clipping; ``on_pre_optimizer_step`` of a callback comes when the step is done.

    Args:
        *arguments: as of ``Trainer``.
        rule: the rule, or its text.
        sharpness: more options of ``SharpnessAware``: problem, seed, pieces; ``epoch`` and ``total`` are known.
        **options: as of ``Trainer``.

    Raises ValueError before the first step for several processes or devices and for fp16, whose scaler the Trainer
    keeps to itself (bf16 needs none).

    Example:
        >>> trainer = SharpnessAwareTrainer(model, arguments, rule="sam(rho=0.05)")  # doctest: +SKIP
    """

    def __init__(
        self, *arguments: Any, rule: Rule | str, sharpness: dict[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.rule, self.sharpness = rule, dict(sharpness or {})
        self._lengths: dict[str, int] = {}
        self._held: list[tuple[Any, Any]] = []
        self._check()

    def set_initial_training_values(self, *arguments: Any, **options: Any) -> Any:
        """As of ``Trainer``; a mask is renewed once an epoch, and a schedule of the rule ends with the training."""
        found = super().set_initial_training_values(*arguments, **options)
        self._lengths = {"epoch": found[1], "total": found[-1]}
        return found

    def create_optimizer(self, model: Any = None) -> Any:
        """The base optimizer inside the rule."""
        base = super().create_optimizer(model)
        if isinstance(base, SharpnessAware):
            return base
        known = {"model": self.model, "clip": self.args.max_grad_norm or None, **self._lengths}
        optimizer = SharpnessAware(base, self.rule, **(known | self.sharpness))
        optimizer.step = MethodType(_taken, optimizer)  # type: ignore[method-assign]
        self.optimizer = optimizer
        return optimizer

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Hold a micro-batch; with the last one of a step, take it.  Returns L(w), 0 while more are to come."""
        if not self._held:
            self._check()
        self._held.append((inputs, num_items_in_batch))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        held, self._held = self._held, []
        one = super().training_step

        def closure() -> Tensor:
            model.zero_grad()
            total = torch.zeros((), device=self.args.device)
            for micro, items in held:
                total = total + one(model, micro, items)
            return total

        loss: Tensor = _ours(self.optimizer).step(closure)
        return loss.detach()

    def _check(self) -> None:
        """Raise ValueError where a step would not be the rule's."""
        found = {
            "several processes": self.accelerator.num_processes > 1,
            "several devices": self.args.n_gpu > 1,
            "fp16": self.args.fp16,
        }
        got = [name for name, there in found.items() if there]
        if got:
            raise ValueError(
                f"SharpnessAwareTrainer got {got[0]}, expected one process on one device in float32 or bf16: change "
                f"that, or write the loop yourself with SharpnessAware"
            )


def _taken(optimizer: SharpnessAware, closure: Callable[[], Any] | None = None) -> Any:
    """A step; nothing where the Trainer calls for one that ``training_step`` has taken."""
    return None if closure is None else type(optimizer).step(optimizer, closure)


def _ours(optimizer: Any) -> SharpnessAware:
    """The optimizer inside what accelerate wraps around it."""
    found = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(found, SharpnessAware):
        raise TypeError(
            f"SharpnessAwareTrainer got a {type(found).__name__} as optimizer, expected the one that it made: give "
            f"optimizers=(base, scheduler) a base optimizer, and let create_optimizer make the rest"
        )
    return found
