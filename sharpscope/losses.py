"""A loss, split into numerator and denominator, so that batches of any size add up to the loss of the whole data set.

The mean over a data set is not the mean of the means of its batches: batches differ in size, in the class weights of
their targets, in the tokens they ignore.  Here every batch gives its sum and its denominator, and the division happens
once.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Objective"]

_CLASSES: dict[Any, str] = {
    nn.CrossEntropyLoss: "classes",
    nn.NLLLoss: "classes",
    nn.MSELoss: "entries",
    nn.L1Loss: "entries",
    nn.SmoothL1Loss: "entries",
    nn.HuberLoss: "entries",
    nn.BCELoss: "entries",
    nn.BCEWithLogitsLoss: "entries",
}
_FUNCTIONS: dict[Any, str] = {
    F.cross_entropy: "classes",
    F.nll_loss: "classes",
    F.mse_loss: "entries",
    F.l1_loss: "entries",
    F.smooth_l1_loss: "entries",
    F.huber_loss: "entries",
    F.binary_cross_entropy: "entries",
    F.binary_cross_entropy_with_logits: "entries",
}


class Objective:
    """``loss(outputs, targets)`` as a sum and a denominator.

    The losses of torch (modules, functions, ``functools.partial`` of functions) are known exactly, with class weights,
    ``ignore_index``, label smoothing and positions beyond the batch dimension; for ``reduction="sum"`` the denominator
    is that of the whole data set: 1.  Any other callable must return the **mean over the examples of the batch**, or
    their sum where it says so itself by an option ``reduction="sum"``; the denominator of a mean is the number of
    examples, unless ``denominator(outputs, targets) -> float`` says otherwise.

    Raises ValueError for a loss with ``reduction="none"``, and for a sum that is given a denominator.
    """

    def __init__(self, loss: Callable[..., Tensor], denominator: Callable[..., float] | None = None) -> None:
        self.loss = loss
        self.denominator = denominator
        self.kind, self._options = _recognise(loss)
        reduction = self._options.get("reduction", "mean")
        if reduction == "none" or (self.kind and reduction not in ("mean", "sum")):
            raise ValueError(
                f"the loss got reduction={reduction!r}, expected 'mean' or 'sum': the objective must be one number"
            )
        self.mean = reduction != "sum"
        if denominator is not None and not self.mean:
            raise ValueError(
                "the loss got reduction='sum' and a denominator, expected one of the two: "
                "drop denominator= or use reduction='mean'"
            )

    @property
    def name(self) -> str:
        """Text for figures and files, e.g. ``CrossEntropyLoss(mean)``."""
        base = self.loss.func if isinstance(self.loss, functools.partial) else self.loss
        label = getattr(base, "__name__", type(base).__name__)
        return f"{label}({'mean' if self.mean else 'sum'})"

    def sum(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor | float]:
        """Numerator (0-dim, differentiable) and denominator of one batch."""
        if self.denominator is not None:
            weight = self.denominator(outputs, targets)
            loss = self.loss(outputs, targets)
            return loss * weight if float(weight) else torch.zeros_like(loss), weight  # a mean of nothing is nan
        if not self.kind:
            examples = _length(targets) if self.mean else 1
            return self.loss(outputs, targets) * examples, self.weight(outputs, targets)
        self._check_shapes(outputs, targets)
        return self._reduced("sum")(outputs, targets), self.weight(outputs, targets)

    def each(self, outputs: Any, targets: Any) -> Tensor:
        """(n,) numerator of every example of the batch; their sum is ``sum(...)[0]``."""
        if self.kind and self.denominator is None:
            self._check_shapes(outputs, targets)
            single: Tensor = self._reduced("none")(outputs, targets)
            return single.reshape(single.shape[0], -1).sum(1) if single.dim() > 1 else single
        if self.denominator is None and isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            with contextlib.suppress(RuntimeError):  # a loss that vmap cannot follow is taken one by one below
                losses: Tensor = torch.func.vmap(lambda o, t: self.loss(o[None], t[None]))(outputs, targets)
                return losses
        rows = [slice(row, row + 1) for row in range(_length(targets))]
        return torch.stack([self.sum(_cut(outputs, row), _cut(targets, row))[0] for row in rows])

    def _check_shapes(self, outputs: Tensor, targets: Tensor) -> None:
        if self.kind == "entries" and outputs.shape != targets.shape:
            raise ValueError(
                f"the loss got outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}, "
                f"expected the same: reshape one, because broadcasting pairs every output with every target"
            )

    def _reduced(self, reduction: str) -> Callable[..., Any]:
        if isinstance(self.loss, nn.Module):
            changed = copy.copy(self.loss)
            setattr(changed, "reduction", reduction)  # noqa: B010  (a Module declares its attributes as tensors)
            return changed
        return functools.partial(self.loss, reduction=reduction)

    def weight(self, outputs: Any, targets: Any) -> Tensor | float:
        """Denominator of one batch; 0 for a sum, whose denominator is 1 for the whole data set."""
        if self.denominator is not None:
            return self.denominator(outputs, targets)
        if not self.mean:
            return 0.0
        if not self.kind:
            return float(_length(targets))
        if self.kind == "entries":
            return float(outputs.numel())
        if targets.is_floating_point():
            return float(targets.numel() / targets.shape[1 if targets.dim() > 1 else 0])
        counted = targets != self._options.get("ignore_index", -100)
        weight = self._options.get("weight")
        total: Tensor = counted.sum() if weight is None else weight[targets[counted]].sum()
        return total


def _recognise(loss: Callable[..., Tensor]) -> tuple[str, dict[str, Any]]:
    if isinstance(loss, nn.Module):
        options = {name: getattr(loss, name, None) for name in ("reduction", "ignore_index", "weight")}
        known = {name: value for name, value in options.items() if value is not None}
        return _CLASSES.get(type(loss), ""), known
    if isinstance(loss, functools.partial) and not loss.args and loss.func in _FUNCTIONS:
        kind = _FUNCTIONS[loss.func]
        if kind == "entries" and loss.keywords.get("weight") is not None:
            kind = ""  # some divide by the weights, some do not
        return kind, {name: value for name, value in loss.keywords.items() if value is not None}
    if isinstance(loss, functools.partial):
        return "", {name: value for name, value in loss.keywords.items() if name == "reduction"}
    if inspect.isroutine(loss) and loss in _FUNCTIONS:
        return _FUNCTIONS[loss], {}
    return "", {}


def _cut(value: Any, rows: slice) -> Any:
    if isinstance(value, Tensor):
        return value[rows] if value.dim() else value
    if isinstance(value, dict):
        return type(value)({name: _cut(item, rows) for name, item in value.items()})
    if isinstance(value, (tuple, list)):
        return type(value)(_cut(item, rows) for item in value)
    return value


def _length(targets: Any) -> int:
    if isinstance(targets, dict):
        targets = next(iter(targets.values()))
    elif isinstance(targets, (tuple, list)):
        targets = targets[0]
    return len(targets)
