"""J^T M J on one batch: the generalised Gauss-Newton matrix and the Fishers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpscope.core.vectors import Vec, generator
from sharpscope.curvature.products import MODES, Curvature, Point, as_leaves, ends_of, gradients_of, slope_along
from sharpscope.problem.examples import Examples, cut, on_tensors
from sharpscope.problem.problem import ProblemError

__all__ = ["Gauss", "check_split", "fisher_of", "ggn_of", "with_draws"]

_FEW = 6  # examples that are looked at

Features = Callable[[Point, Sequence[Tensor], Examples], tuple[Vec, Any]]


class Gauss(Curvature):
    """J^T M J.

    Args:
        point: where.
        name: in words.
        features: ``(point, weights, batch) -> tensors, context``; J is the Jacobian of the tensors in the weights.
        middle: ``(point, batch, context, tensors, tangents) -> M tangents``.
    """

    modes = (MODES[0], *MODES[2:])

    def __init__(
        self, point: Point, name: str, features: Features, middle: Callable[[Point, Examples, Any, Vec, Vec], Vec]
    ) -> None:
        super().__init__(point)
        self.name, self.features, self.middle = name, features, middle

    def at(self, point: Point) -> Gauss:
        return Gauss(point, self.name, self.features, self.middle)

    def product(self, mode: str, batch: Examples, vector: Vec) -> Vec:
        leaves = self.point.leaves()
        context: list[Any] = []

        def features(*weights: Tensor) -> tuple[Tensor, ...]:
            tensors, about = self.features(self.point, weights, batch)
            context[:] = [about]
            return tuple(tensors)

        if mode == "reverse-over-forward":
            outputs, tangents = torch.func.jvp(features, tuple(leaves), tuple(vector))[:2]
        else:
            outputs = features(*leaves)
            tangents = _pushed(features, outputs, leaves, vector, mode)
        used = [i for i, x in enumerate(outputs) if x.requires_grad]
        if not used:
            return [torch.zeros_like(w) for w in leaves]
        pulled = self.middle(
            self.point, batch, context[0], [x.detach() for x in outputs], [x.detach() for x in tangents]
        )
        ends, weights = [outputs[i] for i in used], [pulled[i] for i in used]
        return list(torch.autograd.grad(ends, leaves, weights, materialize_grads=True))


def ggn_of(point: Point) -> Gauss:
    """Generalised Gauss-Newton: the outputs of the model, and the Hessian of the loss in them."""

    def features(point: Point, weights: Sequence[Tensor], batch: Examples) -> tuple[Vec, Any]:
        outputs, targets, objective = point.objective.parts(point.outputs(weights, batch), batch.targets)
        floats: Vec = []

        def strip(x: Tensor) -> Tensor:
            if x.is_floating_point():
                floats.append(x)
                return x.new_zeros(())
            return x.detach()

        return floats, (on_tensors(outputs, strip), targets, objective)

    def middle(point: Point, batch: Examples, context: Any, outputs: Vec, tangents: Vec) -> Vec:
        tree, targets, objective = context
        leaves = as_leaves(outputs)
        rest = iter(leaves)
        whole = on_tensors(tree, lambda x: next(rest) if x.is_floating_point() else x)
        first = gradients_of(point.problem.numerator(whole, targets, objective), leaves, create_graph=True)
        return gradients_of(slope_along(first, tangents), leaves)

    return Gauss(point, "GGN", features, middle)


def check_split(point: Point) -> None:
    """Raise ProblemError where the loss is no convex function of the outputs, of which no GGN can be taken.

    Such is a loss that the model has computed itself: it is linear in itself, and the GGN of that is 0.
    """
    problem = point.problem
    with problem.guard(), torch.enable_grad():
        batch = problem.batches[0] if problem.audit.coupled else cut(problem.batches[0], slice(0, _FEW))
        outputs, targets, objective = point.objective.parts(point.outputs(point.weights, batch), batch.targets)
        leaves: Vec = []

        def leaf(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x.detach()
            leaves.append(x.detach().requires_grad_())
            return leaves[-1]

        value = problem.numerator(on_tensors(outputs, leaf), targets, objective)
        first = gradients_of(value, leaves, create_graph=True)
        if any(not x.dim() and bool(g != 0) for x, g in zip(leaves, first, strict=True)):
            raise ProblemError(
                "the GGN got a loss that is one of the model's outputs, expected a loss of its predictions: "
                "give loss=None where the model returns its loss, or loss=lambda outputs, batch: ... of the logits"
            )
        along = [
            torch.randn(x.shape, generator=generator("split", i), device="cpu").to(x) for i, x in enumerate(leaves)
        ]
        bent = sum(
            float((v * h).sum()) for v, h in zip(along, gradients_of(slope_along(first, along), leaves), strict=True)
        )
        size = sum(float(g.detach().double().norm()) for g in first)
        if bent < -1e-3 * size:
            raise ProblemError(
                "the GGN got a loss that is not convex in the outputs (its curvature along a random direction is "
                f"{bent:.3g}), expected a convex one: use the Hessian, or fisher"
            )


def fisher_of(point: Point, name: str, kind: str) -> Gauss:
    """The mean of the squares of gradients: of whose losses, ``kind`` says.

    Those of every example ("examples"), of every position ("positions"), or of targets that were drawn ("drawn";
    batches are those of ``with_draws``).
    """

    def own(point: Point, weights: Sequence[Tensor], batch: Examples) -> tuple[Vec, Any]:
        return [point.each(weights, batch)], None

    def position(point: Point, weights: Sequence[Tensor], batch: Examples) -> tuple[Vec, Any]:
        outputs, targets, objective = point.objective.parts(point.outputs(weights, batch), batch.targets)
        return [objective.positions(outputs, targets)], None

    def drawn(point: Point, weights: Sequence[Tensor], batch: Examples) -> tuple[Vec, Any]:
        outputs, targets, objective = point.objective.parts(point.outputs(weights, batch), batch.targets)
        with torch.no_grad():
            scores = objective.scores(outputs.detach(), targets, batch.extra) / batch.extra.shape[1] ** 0.5
        return [(outputs[:, None] * scores).reshape(*scores.shape[:2], -1).sum(2)], None

    def identity(point: Point, batch: Examples, context: Any, outputs: Vec, tangents: Vec) -> Vec:
        return tangents

    return Gauss(point, name, {"examples": own, "positions": position, "drawn": drawn}[kind], identity)


def with_draws(point: Point, samples: int, seed: int) -> list[Examples]:
    """The batches of the problem with targets that the model predicts, ``samples`` for every example, as ``extra``."""
    random, found = generator("fisher", seed), []
    with point.problem.guard(), point.problem.quiet():
        for batch in point.problem.batches:
            outputs, _, objective = point.objective.parts(point.outputs(point.weights, batch), batch.targets)
            if not isinstance(outputs, Tensor):
                raise ProblemError(
                    f"the model's Fisher got outputs {type(outputs).__name__}, expected one tensor: "
                    f'use kind="empirical" or ggn'
                )
            draws = objective.draw(outputs, samples, random)
            found.append(dataclasses.replace(batch, extra=draws))
    return found


def _pushed(
    features: Callable[..., tuple[Tensor, ...]], outputs: tuple[Tensor, ...], leaves: Vec, vector: Vec, mode: str
) -> tuple[Tensor, ...]:
    """J v without forward mode."""
    if mode == "finite-differences":
        (above, below), scale = ends_of([w.detach() for w in leaves], vector)
        with torch.no_grad():
            return tuple((p - m) / scale for p, m in zip(features(*above), features(*below), strict=True))
    weights = [torch.zeros_like(x, requires_grad=True) for x in outputs]
    used = [(x, u) for x, u in zip(outputs, weights, strict=True) if x.requires_grad]
    if not used:
        return tuple(weights)
    pulled = torch.autograd.grad(
        [x for x, _ in used], leaves, [u for _, u in used], create_graph=True, materialize_grads=True
    )
    return tuple(gradients_of(slope_along(list(pulled), vector), weights))
