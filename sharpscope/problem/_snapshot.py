"""The weights of a model at a moment, on a copy of it, and how a batch is evaluated there."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from sharpscope.core.surroundings import analysis
from sharpscope.core.vectors import Vec, mismatch
from sharpscope.problem._checks import call_error, check_model, one_place
from sharpscope.problem._twin import Twin, drawing
from sharpscope.problem.examples import Examples, ProblemError
from sharpscope.problem.losses import Objective

__all__ = ["Snapshot"]


class Snapshot:
    """A model, its copy with the weights and buffers of the moment, and the loss of a batch at any weights.

    Raises ProblemError for what is no module, has no trainable parameters, or has them on several devices.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, evaluate: Callable[..., Any] | None, draws: int | None
    ) -> None:
        check_model(model)
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ProblemError("the model has no parameter with requires_grad, expected at least one: unfreeze one")
        self.model, self.objective, self.draws, self._evaluate = model, objective, draws, evaluate
        self.names: tuple[str, ...] = tuple(trainable)
        self._parameters = tuple(trainable.values())
        self.device, self.dtype = one_place(trainable)
        self.twin = Twin(model)
        self._structure: list[Any] = self._structured()
        self._stamp, self._told = self._stamped(), False
        self._thread: int | None = threading.get_ident()  # None where it came from another process
        self._followed = analysis()

    @property
    def weights(self) -> Vec:
        """The problem's own weights, detached: those of the model now (once an analysis), in the thread that made it.

        In other threads, those that it last followed, with a warning if the model has moved on.
        """
        now = analysis()
        if (now is None or now != self._followed) and self._stamp != self._stamped():
            if self._thread in (None, threading.get_ident()):
                self.refresh()
            elif not self._told:
                self._told = True
                warnings.warn(
                    f"the weights of {type(self.model).__name__} have moved on since its problem last followed, and "
                    f"this is not the thread that made the problem: analysed are those of then; problem.refresh() "
                    f"takes those of now",
                    stacklevel=2,
                )
        self._followed = now
        return list(self.twin.weights)

    def refresh(self) -> Self:
        """Take over the weights and buffers of the model as they are now; returns the problem.

        Raises ProblemError where its parameters have other names or shapes than those that the problem was made for.
        """
        own = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if [tuple(p.shape) for p in own.values()] != [tuple(p.shape) for p in self._parameters] or tuple(
            own
        ) != self.names:
            raise ProblemError(
                f"{type(self.model).__name__} got other trainable parameters since its problem was made, expected the "
                f"same: make a new Problem"
            )
        if self._structure == self._structured():
            with self.guard():
                self.twin.follow(self.model)
        else:  # other modules or hooks: another function
            self.twin, self._structure = Twin(self.model), self._structured()
            self.forget()
        self._parameters = tuple(own.values())
        self._stamp, self._told = self._stamped(), False
        return self

    def forget(self) -> None:
        """Called where the function has become another one."""

    def _structured(self) -> list[Any]:
        kinds = [(type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in self.model.modules()]
        return [
            *kinds,
            *(
                (name, tuple(x.shape))
                for name, x in self.model.state_dict(keep_vars=True).items()
                if isinstance(x, Tensor)
            ),
        ]

    def _stamped(self) -> list[Any]:
        """What differs after any step, ``.data`` writes and replaced modules too."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        with torch.no_grad():
            sums = [float(x.detach().sum()) if x.numel() and not x.is_complex() else 0.0 for x in tensors]
        return [*(repr(total) for total in sums), *(id(x) for x in tensors), *self._structured()]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trainable parameters of the model by name, in the order of the coordinates."""
        return dict(zip(self.names, self._parameters, strict=True))

    @property
    def size(self) -> int:
        """n, the number of trainable entries."""
        return sum(p.numel() for p in self._parameters)

    def weights_at(self, at: Sequence[Tensor] | None) -> Vec:
        """``at`` as a list, the problem's own weights if None.

        Raises TypeError for what are no floating-point tensors on the model's device, ValueError for other shapes.
        """
        if at is None:
            return self.weights
        remedy = "give one tensor per trainable parameter, in their order"
        found = list(at) if isinstance(at, Iterable) else [at]
        for x in found:
            if not isinstance(x, Tensor):
                raise TypeError(f"at= got {type(x).__name__}, expected tensors: {remedy}")
        if wrong := mismatch(found, [tuple(w.shape) for w in self.twin.leaves]):
            raise ValueError(f"at= got {wrong[0]}, expected {wrong[1]}: {remedy}")
        for x in found:
            if not x.is_floating_point() or x.layout != torch.strided or x.device != self.device:
                raise TypeError(
                    f"at= got a tensor of {str(x.dtype).removeprefix('torch.')}, {x.layout}, on {x.device}, expected "
                    f"{str(self.dtype).removeprefix('torch.')}, torch.strided, on {self.device}: convert it"
                )
        return found

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """Inside, outputs may be asked for: the copy in eval mode, no autocast, no other problem at work."""
        return self.twin.alone()

    @property
    def returns(self) -> bool:
        """Whether the loss comes from ``evaluate=`` rather than from outputs and targets."""
        return self._evaluate is not None

    def outputs(self, batch: Examples, weights: Sequence[Tensor], buffers: Mapping[str, Tensor] | None = None) -> Any:
        """Outputs of the model for a batch, with other weights and buffers in place of its own; inside ``guard()``.

        Raises ProblemError where the inputs of the batch are not the arguments of the model.
        """
        self.twin.put(weights, buffers)
        with drawing(batch.draw, self.device):
            try:
                return self.twin.called(self._evaluate, batch.args, batch.kwargs)
            except TypeError as error:
                called = self.model.forward if self._evaluate is None else functools.partial(self._evaluate, None)
                raise call_error(called, self.model, batch, error) from error

    def numerator(self, outputs: Any, targets: Any, objective: Objective | None = None) -> Tensor:
        """The losses of a batch, summed: a differentiable number.  Raises ProblemError for anything else."""
        return self.checked(*(objective or self.objective).sum(outputs, targets))[0]

    def sum(self, batch: Examples, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor | float]:
        """Numerator and denominator of a batch."""
        return self.checked(*self.objective.sum(self.outputs(batch, weights), batch.targets))

    def weight(self, batch: Examples, weights: Sequence[Tensor]) -> float:
        """The denominator of a batch."""
        outputs = self.outputs(batch, weights) if self.objective.needs_outputs else None
        return float(self.objective.weight(outputs, batch.targets))

    def checked(self, numerator: Any, denominator: Tensor | float) -> tuple[Tensor, Tensor | float]:
        """A numerator and denominator.  Raises ProblemError for a loss that is not one real number."""
        if not isinstance(numerator, Tensor):
            raise ProblemError(
                f"the loss got a {type(numerator).__name__}, expected a tensor of one number: compute it with torch"
            )
        if numerator.dim() or numerator.is_complex():
            raise ProblemError(
                f"the loss got shape {tuple(numerator.shape)}, expected one real number: reduce it to its mean or sum"
            )
        return numerator, denominator
