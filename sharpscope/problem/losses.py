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

from sharpscope.problem.examples import count, rows

__all__ = ["Objective"]

_KINDS: dict[Any, str] = {
    F.cross_entropy: "classes",
    F.nll_loss: "classes",
    F.mse_loss: "entries",
    F.l1_loss: "entries",
    F.smooth_l1_loss: "entries",
    F.huber_loss: "entries",
    F.binary_cross_entropy: "entries",
    F.binary_cross_entropy_with_logits: "entries",
}
_FUNCTIONS: dict[Any, Any] = {
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
    nn.MSELoss: F.mse_loss,
    nn.L1Loss: F.l1_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.HuberLoss: F.huber_loss,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
}
_OPTIONS = ("reduction", "ignore_index", "weight", "label_smoothing", "pos_weight")


class Objective:
    """``loss(outputs, targets)`` as a sum and a denominator.

    The losses of torch (modules, functions, ``functools.partial`` of functions) are known exactly, with class weights,
    ``ignore_index``, label smoothing and positions beyond the batch dimension; for ``reduction="sum"`` the denominator
    is that of the whole data set: 1.  Any other callable must return the **mean over the examples of the batch**, or
    their sum where it says so itself by an option ``reduction="sum"``; the denominator of a mean is the number of
    examples, unless ``denominator(outputs, targets) -> float`` says otherwise.

    Raises ValueError for a loss with ``reduction="none"``, and for a sum that is given a denominator.
    """

    needs_outputs = False  # whether the denominator of a batch is known only with its outputs

    def __init__(self, loss: Callable[..., Tensor], denominator: Callable[..., float] | None = None) -> None:
        self.loss = loss
        self.denominator = denominator
        self.needs_outputs = denominator is not None
        self.function, self._options = _recognise(loss)
        self.kind = _KINDS.get(self.function, "")
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

    def to(self, dtype: torch.dtype) -> Objective:
        """The same loss for outputs of another dtype, as far as its options hold tensors."""
        loss = self.loss
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss).to(dtype)
        elif isinstance(loss, functools.partial):
            cast = {
                k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v
                for k, v in loss.keywords.items()
            }
            loss = functools.partial(loss.func, *loss.args, **cast)
        return Objective(loss, self.denominator)

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
            examples = count(targets) if self.mean else 1
            return self.loss(outputs, targets) * examples, self.weight(outputs, targets)
        return self._known("sum", outputs, targets), self.weight(outputs, targets)

    def each(self, outputs: Any, targets: Any) -> Tensor:
        """(n,) numerator of every example of the batch; their sum is ``sum(...)[0]``."""
        if self.kind and self.denominator is None:
            single = self._known("none", outputs, targets)
            return single.reshape(single.shape[0], -1).sum(1) if single.dim() > 1 else single
        if self.denominator is None and isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            with contextlib.suppress(RuntimeError):  # a loss that vmap cannot follow is taken one by one below
                losses: Tensor = torch.func.vmap(lambda o, t: self.loss(o[None], t[None]))(outputs, targets)
                return losses
        single_rows = [slice(row, row + 1) for row in range(count(targets))]
        return torch.stack([self.sum(rows(outputs, row), rows(targets, row))[0] for row in single_rows])

    def parts(self, outputs: Any, targets: Any) -> tuple[Any, Any, Objective]:
        """Predictions, their targets and the loss of them: what a GGN and a Fisher are taken of."""
        return outputs, targets, self

    def positions(self, outputs: Any, targets: Any) -> Tensor:
        """(m,) numerator of every position of every example of the batch; those that are ignored are 0.

        Raises ValueError for a loss that is not known to be a sum over positions.
        """
        if not self.kind or self.denominator is not None:
            raise ValueError(
                f'the Fisher of positions got {self.name}, expected a loss of torch: use kind="empirical", over '
                f"examples"
            )
        single = self._known("none", outputs, targets)
        if self.kind == "entries" and single.dim() > 1:
            single = single.sum(-1)  # the entries of a vector are one position
        return single.reshape(-1)

    def draw(self, outputs: Tensor, samples: int, rng: torch.Generator) -> Tensor:
        """(n, samples, ...) targets that the model itself predicts: classes, bits, or normal residuals.

        Example by example, so that the numbers do not depend on how the examples are batched.  Raises ValueError for
        a loss that is no likelihood of its outputs.
        """
        found = []
        for output in outputs.detach().double().cpu():
            if self.function is F.cross_entropy:
                below = output.softmax(0).cumsum(0)[None]  # (1, C, ...)
                random = torch.rand(samples, *output.shape[1:], generator=rng, dtype=torch.float64, device="cpu")
                found.append((random[:, None] > below).sum(1).clamp(max=len(output) - 1))
            elif self.function is F.binary_cross_entropy_with_logits:
                random = torch.rand(samples, *output.shape, generator=rng, dtype=torch.float64, device="cpu")
                found.append(random < output.sigmoid()[None])
            elif self.function is F.mse_loss:
                found.append(torch.randn(samples, *output.shape, generator=rng, dtype=torch.float64, device="cpu"))
            else:
                raise ValueError(
                    f"the model's Fisher got {self.name}, expected cross_entropy, mse_loss or "
                    f'binary_cross_entropy_with_logits, which are likelihoods: use kind="empirical" or ggn'
                )
        return torch.stack(found).to(outputs.device)

    def scores(self, outputs: Tensor, targets: Tensor, drawn: Tensor) -> Tensor:
        """(n, samples, ...) vectors like the outputs, whose covariance is the Hessian of each example's numerator.

        They are gradients in the outputs of -log p(drawn), times the square root of the weight that the loss gives it.
        """
        if self.function is F.mse_loss:
            return drawn.to(outputs.dtype) * 2**0.5
        if self.function is F.binary_cross_entropy_with_logits:
            share = self._options.get("pos_weight", 1.0) * targets + (1 - targets)
            share = share * self._options.get("weight", 1.0)
            bits: Tensor = (outputs.sigmoid()[:, None] - drawn.to(outputs.dtype)) * share[:, None].sqrt()
            return bits
        ones = F.one_hot(drawn, outputs.shape[1]).movedim(-1, 2).to(outputs.dtype)
        missed: Tensor = (outputs.softmax(1)[:, None] - ones) * self._shares(outputs, targets).sqrt()[:, None, None]
        return missed

    def _shares(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(n, ...) what multiplies log sum exp of the outputs in a cross-entropy: the weight of each target."""
        classes, smoothing = outputs.shape[1], self._options.get("label_smoothing", 0.0)
        weight = self._options.get("weight")
        weight = torch.ones(classes, device="cpu").to(outputs) if weight is None else weight.to(outputs)
        if targets.is_floating_point():
            shares: Tensor = torch.tensordot(targets, weight, dims=([1], [0]))
            shares = (1 - smoothing) * shares + smoothing * weight.mean()
            return shares
        counted = targets != self._options.get("ignore_index", -100)
        every: Tensor = (1 - smoothing) * weight[torch.where(counted, targets, 0)] + smoothing * weight.mean()
        return torch.where(counted, every, 0.0)

    def _known(self, reduction: str, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.kind == "entries" and outputs.shape != targets.shape:
            raise ValueError(
                f"the loss got outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}, "
                f"expected the same: reshape one, because broadcasting pairs every output with every target"
            )
        try:
            value: Tensor = self._reduced(reduction)(outputs, targets)
        except (IndexError, RuntimeError) as error:
            if self.kind == "classes" and (reason := self._wrong_classes(outputs, targets)):
                raise ValueError(reason) from error
            raise
        return value

    def _wrong_classes(self, outputs: Any, targets: Any) -> str | None:
        """Why a loss of classes refused its arguments, told only after it did: looking costs time."""
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not outputs.dim():
            return None
        if targets.is_floating_point() and targets.shape != outputs.shape:
            return (
                f"the loss got targets of {targets.dtype} and shape {tuple(targets.shape)}, expected class numbers of "
                f"torch.int64 or probabilities of the outputs' shape {tuple(outputs.shape)}: convert with .long()"
            )
        classes = outputs.shape[1 if outputs.dim() > 1 else 0]
        counted = targets[targets != self._options.get("ignore_index", -100)]
        if not targets.is_floating_point() and bool(((counted < 0) | (counted >= classes)).any()):
            return (
                f"the loss got class numbers from {int(counted.min())} to {int(counted.max())}, expected 0 to "
                f"{classes - 1} for outputs of shape {tuple(outputs.shape)}: relabel the targets or widen the model"
            )
        return None

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
            return float(count(targets))
        if self.kind == "entries":
            return float(targets.numel())
        if targets.is_floating_point():
            return float(targets.numel() / targets.shape[1 if targets.dim() > 1 else 0])
        counted = targets != self._options.get("ignore_index", -100)
        weight = self._options.get("weight")
        total: Tensor = counted.sum() if weight is None else weight[targets[counted]].sum()
        return total

    def weights(self, outputs: Any, targets: Any) -> Tensor:
        """(n,) float64: what every example of one batch adds to its ``weight``."""
        examples = count(targets)
        if self.denominator is not None:
            each = [slice(row, row + 1) for row in range(examples)]
            found = [float(self.denominator(rows(outputs, row), rows(targets, row))) for row in each]
            return torch.tensor(found, dtype=torch.float64, device="cpu")
        weight = self._options.get("weight")
        if not (self.mean and self.kind == "classes") or targets.is_floating_point():
            return torch.full(
                (examples,), float(self.weight(outputs, targets)) / examples, dtype=torch.float64, device="cpu"
            )
        counted = targets != self._options.get("ignore_index", -100)
        single = counted.double() if weight is None else weight.double()[torch.where(counted, targets, 0)] * counted
        found_each: Tensor = single.reshape(examples, -1).sum(1).cpu()
        return found_each


def _recognise(loss: Callable[..., Tensor]) -> tuple[Any, dict[str, Any]]:
    """The function of torch that a loss is, or None, and its options."""
    if isinstance(loss, nn.Module):
        options = {name: getattr(loss, name, None) for name in _OPTIONS}
        return _FUNCTIONS.get(type(loss)), {name: value for name, value in options.items() if value is not None}
    if isinstance(loss, functools.partial) and not loss.args and loss.func in _KINDS:
        weighted = _KINDS[loss.func] == "entries" and loss.keywords.get("weight") is not None
        function = None if weighted else loss.func  # some divide by the weights, some do not
        return function, {name: value for name, value in loss.keywords.items() if value is not None}
    if isinstance(loss, functools.partial):
        return None, {name: value for name, value in loss.keywords.items() if name == "reduction"}
    return (loss, {}) if inspect.isroutine(loss) and loss in _KINDS else (None, {})
