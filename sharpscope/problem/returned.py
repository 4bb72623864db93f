"""Losses that are not ``loss(outputs, targets)``: returned by the model, by ``evaluate``, or a function of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope.problem.examples import ProblemError, count
from sharpscope.problem.losses import Objective

__all__ = ["ModelLoss", "Returned", "as_module"]

_IGNORED = -100  # the label that does not count, as in torch and in Hugging Face's models


class Returned(Objective):
    """What ``evaluate(model, batch)`` returned: a loss, or (loss, weight); L is the mean of losses by their weights.

    Without a weight a batch counts by its examples (the length of its first tensor), or as one where it holds none.
    """

    needs_outputs = True

    def __init__(self, evaluate: Callable[..., Any]) -> None:
        self.loss, self.denominator, self.function = evaluate, None, None
        self._options, self.kind, self.mean = {}, "", True

    def to(self, dtype: torch.dtype) -> Returned:
        return self

    def sum(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor | float]:
        loss, weight = self._split(outputs, targets)
        return loss * weight if float(weight) else torch.zeros_like(loss), weight

    def weight(self, outputs: Any, targets: Any) -> Tensor | float:
        return self._split(outputs, targets)[1]

    def parts(self, outputs: Any, targets: Any) -> tuple[Any, Any, Objective]:
        raise ProblemError(
            "a GGN or Fisher got a loss that evaluate= returns, expected outputs and a loss of them: give "
            "Problem(model, loss, data), or use the Hessian"
        )

    @staticmethod
    def _split(outputs: Any, targets: Any) -> tuple[Tensor, Tensor | float]:
        if isinstance(outputs, (tuple, list)) and len(outputs) == 2:
            loss, weight = outputs
            if not isinstance(weight, (Tensor, float, int)) or isinstance(weight, bool):
                raise ProblemError(
                    f"evaluate= returned a weight of type {type(weight).__name__}, expected a number: return loss, "
                    f"weight, the loss being the mean over so much weight"
                )
        else:
            loss, weight = outputs, float(_rows(targets))
        if not isinstance(loss, Tensor):
            raise ProblemError(
                f"evaluate= returned a {type(loss).__name__}, expected a tensor of one number, or (loss, weight): "
                f"compute it with torch"
            )
        return loss, weight.detach() if isinstance(weight, Tensor) else float(weight)


class ModelLoss(Objective):
    """``loss=None``: the model returns its loss, as attribute or key ``loss`` or as its first output.

    It is the mean over the labels that are not -100 (of a causal model, those after the first position); ``settle``
    finds out which, and whether it is the cross-entropy of the ``logits``, of which GGN and Fisher are then taken.
    """

    def __init__(self) -> None:
        self.loss, self.denominator, self.function = None, None, None  # type: ignore[assignment]
        self._options, self.kind, self.mean = {}, "", True
        self.shift = 0
        self.likelihood: Objective | None = None
        self.counts = False  # whether the denominator is that of the labels, or examples

    @property
    def name(self) -> str:
        return "the model's own loss"

    def to(self, dtype: torch.dtype) -> ModelLoss:
        return self

    def sum(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor | float]:
        loss, weight = self.of(outputs), self.weight(outputs, targets)
        return loss * weight if float(weight) else torch.zeros_like(loss), weight

    def weight(self, outputs: Any, targets: Any) -> Tensor | float:
        labels = _labels(targets)
        if not self.counts or labels is None:
            return float(_rows(targets))
        if labels.is_floating_point():
            return float(labels.numel())
        return float((labels[..., self.shift :] != _IGNORED).sum())

    def parts(self, outputs: Any, targets: Any) -> tuple[Any, Any, Objective]:
        """The logits (classes second), their labels, and the cross-entropy of them."""
        labels = _labels(targets)
        if self.likelihood is None or labels is None:
            raise ProblemError(
                "a GGN or Fisher got a loss that the model computes in a way of its own, expected the cross-entropy or "
                "the squared error of its logits and labels: give Problem(model, loss, data), or use the Hessian"
            )
        logits = _get(outputs, "logits")
        return *_arranged(logits, labels, self.shift), self.likelihood

    def settle(self, outputs: Any, targets: Any) -> None:
        """Find out what the loss is of: called with the outputs of a few examples."""
        loss, logits, labels = self.of(outputs), _get(outputs, "logits"), _labels(targets)
        if not isinstance(logits, Tensor) or labels is None:
            return
        for shift in (0, 1):
            for likelihood in (Objective(F.cross_entropy), Objective(F.mse_loss)):
                try:
                    given = _arranged(logits, labels, shift)
                    numerator, weight = likelihood.sum(*given)
                except (RuntimeError, ValueError, IndexError):
                    continue
                if not float(weight):
                    continue
                apart = float((numerator / weight - loss).abs())
                if apart <= 1e-4 * max(abs(float(loss)), 1e-30):
                    self.shift, self.likelihood, self.counts = shift, likelihood, True
                    return

    @staticmethod
    def of(outputs: Any) -> Tensor:
        """The loss among the outputs.  Raises ProblemError where there is none."""
        found = _get(outputs, "loss")
        found = outputs if found is None else found
        if not isinstance(found, Tensor) or found.dim():
            raise ProblemError(
                f"loss=None got outputs {type(outputs).__name__} without a loss, expected an attribute or key 'loss' "
                f"that is one number: put the labels into the batch, or give a loss"
            )
        return found


def _get(outputs: Any, name: str) -> Any:
    """An output by name; of a plain tuple the first is the loss, the second the logits."""
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    if isinstance(outputs, (tuple, list)) and not hasattr(outputs, name):
        place = ("loss", "logits").index(name)
        return outputs[place] if len(outputs) > place else None
    return getattr(outputs, name, None)


def _labels(targets: Any) -> Tensor | None:
    found = targets.get("labels") if isinstance(targets, Mapping) else None
    return found if isinstance(found, Tensor) else None


def _arranged(logits: Tensor, labels: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """Logits with classes second, and labels; of a causal model each position beside the next one's label."""
    if labels.is_floating_point():
        if shift:
            raise ValueError("regression has no next position")
        return logits.reshape(labels.shape), labels
    if shift:
        if labels.dim() < 2 or labels.shape[-1] < 2:
            raise ValueError("there is no next position")
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    return logits.movedim(-1, 1) if logits.dim() > 2 else logits, labels


def _rows(batch: Any) -> int:
    try:
        return count(batch)
    except ProblemError:
        return 1


class _Weights(nn.Module):
    """Weights that belong to no network, in the structure that the user gave."""

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.names = list(weights) if isinstance(weights, Mapping) else None
        self.single = isinstance(weights, Tensor)
        values = list(weights.values()) if isinstance(weights, Mapping) else [weights] if self.single else list(weights)
        self.values = nn.ParameterList([nn.Parameter(x.detach().clone()) for x in values])

    def forward(self) -> Any:
        found: Sequence[Tensor] = list(self.values)
        if self.names is not None:
            return dict(zip(self.names, found, strict=True))
        return found[0] if self.single else found


def as_module(weights: Any) -> nn.Module:
    """A module of these weights: a tensor, a list or a mapping of tensors.  Raises ProblemError for anything else."""
    tensors = list(weights.values()) if isinstance(weights, Mapping) else weights
    tensors = [tensors] if isinstance(tensors, Tensor) else tensors
    if not isinstance(tensors, (list, tuple)) or not tensors:
        got = "an empty" if isinstance(tensors, (list, tuple)) else "a"
        raise ProblemError(
            f"function got {got} {type(weights).__name__} as weights, expected a tensor, a list or a dict of tensors: "
            f"function(f, weights)"
        )
    for x in tensors:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = str(x.dtype).removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
            raise ProblemError(
                f"function got {got} among the weights, expected tensors of floating point: convert with .float()"
            )
    return _Weights(weights)
