"""L(w) written out: a function of one flat vector, with its dense derivatives, beside every way into the product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

import sharpscope as ss
from sharpscope import Problem

TOLERANCE = 1e-8


def unflat(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = vector.split([w.numel() for w in like])
    return [piece.view(w.shape) for piece, w in zip(pieces, like, strict=True)]


def literal(model: nn.Module, loss: Callable[[Callable[..., Any]], Tensor]) -> Callable[[Tensor], Tensor]:
    """``loss`` of a callable model whose parameters are those of the flat vector; the model is in eval mode."""
    model = model.eval()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    like = [dict(model.named_parameters())[name] for name in names]

    def of(vector: Tensor) -> Tensor:
        given = dict(zip(names, unflat(vector, like), strict=True))
        return loss(lambda *args, **kwargs: functional_call(model, given, args, kwargs))

    return of


def flat(vectors: Any) -> Tensor:
    return torch.cat([x.detach().reshape(-1) for x in vectors])


def near(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-6), (found, expected)


def check_everything(
    problem: Problem, f: Callable[[Tensor], Tensor], *, hessian: bool = True, tolerance: float = TOLERANCE
) -> None:
    """Loss, gradient, Hessian, line and ratio of the problem against the function, here and elsewhere."""
    at = flat(problem.weights).requires_grad_()
    away = (at + 0.05 * torch.randn(len(at), generator=torch.Generator().manual_seed(3))).detach().requires_grad_()
    for point in (at, away):
        value = f(point)
        (slope,) = torch.autograd.grad(value, point)
        where = unflat(point.detach(), problem.weights)
        near(problem.loss(where), value.detach(), tolerance)
        found, gradient = problem.value_and_gradient(where)
        near(found, value.detach(), tolerance)
        near(flat(gradient), slope, tolerance)
        if hessian:
            matrix = torch.autograd.functional.hessian(f, point.detach())
            operator = ss.hessian(problem, at=where)
            near(operator @ torch.eye(len(at)), matrix, tolerance)
    directions = ss.random_directions(problem, "none", seed=1, count=1, include_1d=True)
    line = ss.line(problem, 5, 0.3, directions)
    along = flat(directions.vectors[0])
    near(line.loss, [float(f(at + a * along).detach()) for a in line.alpha], max(tolerance, 1e-10))
    assert line.center == line.loss[2] or abs(line.center - line.loss[2]) < 1e-12 * abs(line.center)
    ratio = ss.gradient_ratio(problem, ss.Ball(0.05))
    (slope,) = torch.autograd.grad(f(at), at)
    (climbed,) = torch.autograd.grad(f(away := (at + 0.05 * slope / slope.norm()).detach().requires_grad_()), away)
    if bool((slope != 0).all()) and bool((climbed != slope).all()):
        moved = ((climbed - slope) / slope).abs().log10()
        assert abs(ratio.share_below_zero - float((moved < 0).double().mean())) <= 1e-9
