"""Directions in weight space, scaled as the loss surface literature scales them."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpscope.problem import Problem
from sharpscope.vectors import Vec, generator

__all__ = ["filter_normalised", "random_directions"]


def random_directions(problem: Problem, seed: int, axis: str) -> Vec:
    """Gaussian numbers for every parameter, a function of (seed, axis, parameter name, shape) alone.

    Drawn in float64 on the CPU and rounded to the model's dtype, so checkpoints, dtypes and devices share their
    directions.
    """
    return [
        torch.randn(w.shape, generator=generator("direction", seed, axis, name), dtype=torch.float64).to(w)
        for name, w in zip(problem.names, problem.weights, strict=True)
    ]


def filter_normalised(directions: Vec, weights: Vec) -> Vec:
    """Every filter of a direction scaled to the norm of the same filter of the weights (Li et al. 2018, section 4).

    A filter is a slice along dim 0 of a tensor with two or more dims: an output channel of a convolution (1-d, 2-d,
    3-d, grouped), a row of a linear layer or an embedding; of a transposed convolution, whose dim 0 is the input, an
    input channel, as in the authors' code.  Tensors with fewer dims (biases, norm layers) get a zero direction, and so
    does a filter of zero weights.
    """
    return [_scaled(d, w) if w.dim() >= 2 else torch.zeros_like(w) for d, w in zip(directions, weights, strict=True)]


def _scaled(direction: Tensor, weight: Tensor) -> Tensor:
    flat, reference = direction.flatten(1).double(), weight.flatten(1).double()
    mine = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    theirs = torch.linalg.vector_norm(reference, dim=1, keepdim=True)
    factor = torch.where(mine > 0, theirs / mine, torch.zeros_like(mine))
    return torch.empty_like(weight).copy_((flat * factor).view(weight.shape))  # in the weight's own memory layout
