"""Quantities of single examples: their losses, and the sums of their squared gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from sharpscope.core.vectors import Vec
from sharpscope.problem._audit import Audit
from sharpscope.problem._snapshot import Snapshot
from sharpscope.problem.examples import Examples, cut, on_tensors
from sharpscope.problem.losses import Objective

__all__ = ["each", "squares"]

_BYTES = 512 * 2**20  # bound on the per-example gradients held at once


def each(
    problem: Snapshot,
    audit: Audit,
    batch: Examples,
    weights: Sequence[Tensor],
    buffers: Mapping[str, Tensor] | None = None,
    objective: Objective | None = None,
) -> Tensor:
    """(n,) numerators of the examples of a batch, differentiable; (1,) that of the batch where examples are coupled."""
    objective = objective or problem.objective
    if audit.coupled:
        return problem.numerator(problem.outputs(batch, weights, buffers), batch.targets, objective)[None]
    if not audit.by_inputs:
        outputs, targets, single = objective.parts(problem.outputs(batch, weights, buffers), batch.targets)
        return single.each(outputs, targets)
    found = []
    for row in range(batch.examples):
        one = cut(batch, slice(row, row + 1))
        found.append(problem.numerator(problem.outputs(one, weights, buffers), one.targets, objective))
    return torch.stack(found)


def squares(problem: Snapshot, batches: Sequence[Examples], weights: Vec) -> tuple[Vec, int]:
    """The sums of the squares of every example's gradient, and how many examples there are."""
    chunk = max(1, min(64, _BYTES // max(1, problem.size * weights[0].element_size())))
    sums: Vec = [torch.zeros_like(w) for w in weights]
    count = 0
    for batch in batches:
        for start in range(0, batch.examples, chunk):
            piece = cut(batch, slice(start, start + chunk))
            torch._foreach_add_(sums, _of_piece(problem, piece, weights))
            count += piece.examples
    return sums, count


def _of_piece(problem: Snapshot, batch: Examples, weights: Vec) -> Vec:
    def of_example(weights: list[Tensor], args: Any, kwargs: Any, targets: Any) -> Tensor:
        one = on_tensors(Examples(args, kwargs, targets, 1), lambda x: x[None])
        return problem.numerator(problem.outputs(one, weights), one.targets)

    if problem.twin.moving:
        return _one_by_one(problem, batch, weights)
    per_example = vmap(grad(of_example), in_dims=(None, 0, 0, 0), randomness="different")
    try:
        found = per_example(list(weights), batch.args, batch.kwargs, batch.targets)
    except (RuntimeError, ValueError):  # a model that vmap cannot follow: recurrent, with decisions on its values
        return _one_by_one(problem, batch, weights)
    return [(g.square_() if g.is_contiguous() else g.square()).sum(0) for g in found]  # an unused one is expanded


def _one_by_one(problem: Snapshot, batch: Examples, weights: Vec) -> Vec:
    sums: Vec = [torch.zeros_like(w) for w in weights]
    for row in range(batch.examples):
        one = cut(batch, slice(row, row + 1))
        with torch.enable_grad():
            leaves = problem.twin.leaves_at(weights)
            numerator = problem.numerator(problem.outputs(one, leaves), one.targets)
            if not numerator.requires_grad:
                continue
            gradient = torch.autograd.grad(numerator, leaves, materialize_grads=True)
        for total, found in zip(sums, gradient, strict=True):
            total.addcmul_(found, found)
    return sums
