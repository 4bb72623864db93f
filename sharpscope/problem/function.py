"""L(w) given directly, as a function of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sharpscope.problem.examples import ProblemError
from sharpscope.problem.problem import Problem
from sharpscope.problem.returned import as_module

__all__ = ["function"]


def function(f: Callable[..., Tensor], weights: Any) -> Problem:
    """The problem of ``L(w) = f(w)``, a function of weights without a model or data.

    Args:
        f: called with the weights in the form in which they were given; returns one number.
        weights: a tensor, a list of tensors or a dict of tensors of floating point: where L is analysed.  Copied.

    Raises ProblemError for weights of another kind, and, where it is evaluated, for what is no function of them.

    Example:
        >>> import torch
        >>> bowl = function(lambda w: (torch.tensor([3.0, 1.0]) * w**2).sum() / 2, torch.ones(2))
        >>> bowl.loss(), [g.tolist() for g in bowl.gradient()]
        (2.0, [[3.0, 1.0]])
    """
    if not callable(f):
        raise ProblemError(f"function got a {type(f).__name__}, expected a function of the weights: function(f, w)")
    return Problem(as_module(weights), data=[()], evaluate=lambda model, batch: f(model()))
