"""Is the gradient that autograd gives the slope of the loss?  Looked at once, before derivatives are trusted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpscope.core.vectors import Vec, generator
from sharpscope.problem._audit import Audit, displaced, few_of
from sharpscope.problem._snapshot import Snapshot
from sharpscope.problem.examples import Examples, ProblemError, on_tensors

__all__ = ["check_autograd", "check_slope"]


def check_slope(problem: Snapshot, audit: Audit, batch: Examples) -> None:
    """Raise ProblemError where a gradient is not the slope of the loss, as where a part of it is detached.

    One gradient and four values of a few examples: in float64 where model and loss follow, at displaced weights, along
    a direction that moves every parameter.
    """
    with problem.guard():
        few = batch if audit.coupled else few_of(batch)
        for wide in (True, False):
            if wide and (problem.twin.moving or problem.device.type == "mps"):
                continue
            try:
                found = _slopes(problem, audit, few, wide)
            except ProblemError:
                raise
            except Exception:
                if not wide:
                    raise
                continue  # tensors of one dtype inside the model or the loss
            break
    slope, differences, slack = found
    nearest = min(differences, key=lambda d: abs(slope - d) if math.isfinite(d) else -1.0)
    if not math.isfinite(nearest) or abs(slope - nearest) <= slack:
        return
    raise ProblemError(
        f"the gradient of the loss gives a slope of {slope:.6g} where the loss itself has {nearest:.6g}, expected "
        f"the same: part of it is detached or computed under no_grad (or by a backward of its own); freeze with "
        f"requires_grad_(False) what is not to move, or take the detach out"
    )


def _slopes(problem: Snapshot, audit: Audit, few: Examples, wide: bool) -> tuple[float, list[float], float]:
    """The slope along a direction by the gradient, by values over two steps, and how far apart they may be.

    A kink between the ends of a step makes a difference that a shorter one has not.
    """

    def cast(x: Tensor) -> Tensor:
        return x.double() if wide and x.is_floating_point() else x

    objective = problem.objective.to(torch.float64) if wide else problem.objective
    args, kwargs, targets = on_tensors((few.args, few.kwargs, few.targets), cast)
    batch = dataclasses.replace(few, args=args, kwargs=kwargs, targets=targets)
    buffers = {name: cast(b.detach()).clone() for name, b in problem.twin.buffers.items()}
    weights = [cast(w) for w in displaced(problem)]

    def value(at: Sequence[Tensor]) -> Tensor:
        return problem.numerator(
            problem.outputs(batch, at, {name: b.clone() for name, b in buffers.items()}), batch.targets, objective
        )

    epsilon = torch.finfo(weights[0].dtype).eps
    with torch.enable_grad():
        leaves = problem.twin.leaves_at(weights)
        loss = value(leaves)
        if loss.dtype != weights[0].dtype:
            if wide:
                raise TypeError("the loss is not in float64")
            epsilon = torch.finfo(loss.dtype).eps
        if loss.requires_grad:
            gradient = [g.detach().clone() for g in torch.autograd.grad(loss, leaves, materialize_grads=True)]
        else:
            gradient = [torch.zeros_like(w) for w in weights]
    along = _along(problem, weights, gradient)
    steps = (epsilon**0.5, epsilon**0.4)  # relative to the weights
    with torch.set_grad_enabled(audit.differentiates):
        found = [_difference(value, weights, along, step) for step in steps]
    products = [float((g * d).double().sum()) for g, d in zip(gradient, along, strict=True)]
    slope = sum(products)
    whole = sum(float(g.double().norm() * d.double().norm()) for g, d in zip(gradient, along, strict=True))
    rounding = 50 * epsilon * abs(float(loss.detach())) / steps[0]
    return slope, found, (1e-3 if wide else 2e-2) * (abs(slope) + 0.01 * whole) + rounding


def _difference(value: Callable[[Vec], Tensor], weights: Vec, along: Vec, step: float) -> float:
    ends = [
        float(value([w + sign * step * d for w, d in zip(weights, along, strict=True)]).detach())
        for sign in (1.0, -1.0)
    ]
    return (ends[0] - ends[1]) / (2 * step)


def _along(problem: Snapshot, weights: Vec, gradient: Vec) -> Vec:
    """A direction that moves every tensor by about its own size, half at random, half along its gradient."""
    found = []
    for name, w, g in zip(problem.names, weights, gradient, strict=True):
        noise = torch.randn(w.shape, generator=generator("slope", name), dtype=torch.float64, device="cpu").to(w)
        size = float(w.double().square().mean().sqrt()) if w.numel() else 0.0
        length = float(noise.norm())
        slope = float(g.norm())
        noise = noise + (g * (length / slope) if slope and math.isfinite(slope) else 0.0)
        found.append((size or 0.1) * noise)
    for module_name, module in problem.twin.module.named_modules():
        name = f"{module_name}.weight" if module_name else "weight"
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None and name in problem.names:
            found[problem.names.index(name)][module.padding_idx] = 0.0  # torch gives this row no gradient
    return found


def check_autograd(values: Iterable[Any]) -> None:
    """Raise ProblemError where derivatives cannot be taken, which would be zero without a word."""
    made = any(isinstance(x, Tensor) and x.is_inference() for x in values)
    if torch.is_inference_mode_enabled() or made:
        what = "weights or data that were made under" if made else "called under"
        raise ProblemError(
            f"a derivative got {what} torch.inference_mode(), expected autograd: use torch.no_grad() in its place, or "
            f"leave it with torch.inference_mode(False)"
        )
