"""Products of a curvature with a vector on one batch, in every way there is to compute them.

With f the sum of the losses of a batch (its numerator), g its gradient, J the Jacobian of some outputs and M a matrix
in the space of those outputs:

=====================  ======================================  ====================================
mode                   Hessian: H v                            GGN and Fisher: J^T M J v
=====================  ======================================  ====================================
reverse-over-forward   gradient of the derivative of f along v  J v by forward mode, J^T by reverse mode
forward-over-reverse   derivative of g along v                 (none)
double-backward        gradient of g^T v                       J v as a gradient of u^T J in u
finite-differences     (g(w + h v) - g(w - h v)) / (2 h)       J v likewise, J^T by reverse mode
=====================  ======================================  ====================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpscope.core.vectors import Vec, generator, norm
from sharpscope.problem.examples import Examples, on_tensors
from sharpscope.problem.problem import Problem, ProblemError

__all__ = [
    "MODES",
    "Curvature",
    "Gauss",
    "Hessian",
    "Point",
    "differences",
    "fisher_of",
    "ggn_of",
    "kernels",
    "with_draws",
]

MODES = ("reverse-over-forward", "forward-over-reverse", "double-backward", "finite-differences")


class Point:
    """Where a curvature is taken: copies of the weights and buffers, and the loss there.

    Args:
        problem: model, loss and data.
        at: weights, the model's own if None.
        channels_last: whether tensors of four dimensions are stored with the channels last.
        dtype: another one than the model's.
        buffers: other buffers than the model's, by name.
        chosen: places of the parameters that the curvature is over; the others are constants.  All if None.
    """

    def __init__(
        self,
        problem: Problem,
        at: Sequence[Tensor] | None = None,
        channels_last: bool = False,
        dtype: torch.dtype | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        chosen: Sequence[int] | None = None,
    ) -> None:
        self.problem, self.channels_last, self.dtype = problem, channels_last, dtype or problem.dtype
        self.objective = problem.objective if dtype is None else problem.objective.to(dtype)
        self.everything: Vec = [self.laid(w.detach().clone()) for w in problem.weights_at(at)]
        self.chosen = list(range(len(self.everything))) if chosen is None else list(chosen)
        self.weights: Vec = [self.everything[place] for place in self.chosen]
        found = dict(problem.model.named_buffers()) if buffers is None else buffers
        self.buffers = {name: self.laid(b.detach().clone()) for name, b in found.items()}

    def stored(self, channels_last: bool, dtype: torch.dtype | None = None) -> Point:
        """The same point in another memory layout or floating-point type."""
        return Point(self.problem, self.everything, channels_last, dtype, self.buffers, self.chosen)

    def part(self, chosen: Sequence[int]) -> Point:
        """The same point with other parameters than ``chosen`` held constant."""
        return Point(self.problem, self.everything, self.channels_last, self.dtype, self.buffers, chosen)

    def laid(self, x: Tensor) -> Tensor:
        """``x`` in the memory layout and floating-point type of this point."""
        if x.is_floating_point():
            x = x.to(self.dtype)
        return x.contiguous(
            memory_format=torch.channels_last if self.channels_last and x.dim() == 4 else torch.contiguous_format
        )

    def outputs(self, weights: Sequence[Tensor], batch: Examples) -> Any:
        """Outputs of the model at other (chosen) weights; what it writes into its buffers is forgotten."""
        every = list(self.everything)
        for place, weight in zip(self.chosen, weights, strict=True):
            every[place] = weight
        return self.problem.outputs(batch, every, {name: b.clone() for name, b in self.buffers.items()})

    def numerator(self, weights: Sequence[Tensor], batch: Examples) -> Tensor:
        """The sum of the losses of a batch."""
        return self.problem.numerator(self.outputs(weights, batch), batch.targets, self.objective)


class Curvature:
    """A symmetric matrix at a point that is a sum over examples; ``product`` gives the part of one batch."""

    name = "curvature"
    modes: tuple[str, ...] = MODES

    def __init__(self, point: Point) -> None:
        self.point = point

    def at(self, point: Point) -> Curvature:
        """The same matrix with its weights stored otherwise."""
        return type(self)(point)

    def product(self, mode: str, batch: Examples, vector: Vec) -> Vec:
        """What ``batch`` adds to the product with ``vector``, before the division by the denominator."""
        raise NotImplementedError

    def laid(self, batch: Examples) -> Examples:
        """The batch in the memory layout and floating-point type of the point."""
        found: Examples = on_tensors(batch, self.point.laid)
        return found

    def value(self, batch: Examples) -> Tensor:
        """The numerator at the point."""
        return self.point.numerator(self.point.weights, batch)

    def gradient(self, batch: Examples) -> Vec:
        """The gradient of the numerator: what a product is compared with in cost."""
        leaves = _leaves(self.point.weights)
        return _gradients(self.point.numerator(leaves, batch), leaves)


class Hessian(Curvature):
    """Second derivatives of L."""

    name = "Hessian"

    def product(self, mode: str, batch: Examples, vector: Vec) -> Vec:
        return _HESSIAN[mode](self.point, batch, vector)


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
        leaves = _leaves(self.point.weights)
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
        outputs, floats = point.outputs(weights, batch), []

        def strip(x: Tensor) -> Tensor:
            if x.is_floating_point():
                floats.append(x)
                return x.new_zeros(())
            return x.detach()

        return floats, on_tensors(outputs, strip)

    def middle(point: Point, batch: Examples, tree: Any, outputs: Vec, tangents: Vec) -> Vec:
        leaves = _leaves(outputs)
        rest = iter(leaves)
        whole = on_tensors(tree, lambda x: next(rest) if x.is_floating_point() else x)
        first = _gradients(point.problem.numerator(whole, batch.targets, point.objective), leaves, create_graph=True)
        return _gradients(_slope(first, tangents), leaves)

    return Gauss(point, "GGN", features, middle)


def fisher_of(point: Point, name: str, scored: bool) -> Gauss:
    """The mean of the squares of every example's gradient: of its own loss, or of losses of ``scored`` targets.

    With scores, batches are those of ``with_draws``.
    """

    def own(point: Point, weights: Sequence[Tensor], batch: Examples) -> tuple[Vec, Any]:
        return [point.objective.each(point.outputs(weights, batch), batch.targets)], None

    def drawn(point: Point, weights: Sequence[Tensor], batch: Examples) -> tuple[Vec, Any]:
        outputs = point.outputs(weights, batch)
        with torch.no_grad():
            scores = point.objective.scores(outputs.detach(), batch.targets, batch.extra) / batch.extra.shape[1] ** 0.5
        return [(outputs[:, None] * scores).reshape(*scores.shape[:2], -1).sum(2)], None

    def identity(point: Point, batch: Examples, context: Any, outputs: Vec, tangents: Vec) -> Vec:
        return tangents

    return Gauss(point, name, drawn if scored else own, identity)


def with_draws(point: Point, samples: int, seed: int) -> list[Examples]:
    """The batches of the problem with targets that the model predicts, ``samples`` for every example, as ``extra``."""
    random, found = generator("fisher", seed), []
    with point.problem.guard(), torch.no_grad():
        for batch in point.problem.batches:
            outputs = point.outputs(point.weights, batch)
            if not isinstance(outputs, Tensor):
                raise ProblemError(
                    f"the model's Fisher got outputs {type(outputs).__name__}, expected one tensor: "
                    f'use kind="empirical" or ggn'
                )
            draws = point.objective.draw(outputs, samples, random)
            found.append(dataclasses.replace(batch, extra=draws))
    return found


# -- the ways to the Hessian


def _reverse_over_forward(point: Point, batch: Examples, vector: Vec) -> Vec:
    leaves = _leaves(point.weights)
    value = functools.partial(_of_tuple, point, batch)
    return _gradients(torch.func.jvp(value, tuple(leaves), tuple(vector))[1], leaves)


def _of_tuple(point: Point, batch: Examples, *weights: Tensor) -> Tensor:
    return point.numerator(weights, batch)


def _forward_over_reverse(point: Point, batch: Examples, vector: Vec) -> Vec:
    with forward.dual_level():
        leaves = _leaves(point.weights)
        duals = [forward.make_dual(w, v) for w, v in zip(leaves, vector, strict=True)]
        found = [forward.unpack_dual(g).tangent for g in _gradients(point.numerator(duals, batch), leaves)]
    return [torch.zeros_like(w) if x is None else x for x, w in zip(found, leaves, strict=True)]


def _double_backward(point: Point, batch: Examples, vector: Vec) -> Vec:
    leaves = _leaves(point.weights)
    first = _gradients(point.numerator(leaves, batch), leaves, create_graph=True)
    return _gradients(_slope(first, vector), leaves)


def differences(point: Point, batch: Examples, vector: Vec, step: float | None = None) -> Vec:
    """Central difference of two gradients, ``step`` long along the vector (a balance of rounding and curvature)."""
    (above, below), scale = _ends(point.weights, vector, step)
    plus, minus = (_gradients(point.numerator(leaves, batch), leaves) for leaves in (_leaves(above), _leaves(below)))
    return [(p - m) / scale for p, m in zip(plus, minus, strict=True)]


_HESSIAN: dict[str, Callable[[Point, Examples, Vec], Vec]] = {
    "reverse-over-forward": _reverse_over_forward,
    "forward-over-reverse": _forward_over_reverse,
    "double-backward": _double_backward,
    "finite-differences": differences,
}


# -- pieces


@contextlib.contextmanager
def kernels(device: torch.device, recurrent: bool = False) -> Iterator[None]:
    """Kernels that have second derivatives and full precision: attention by plain products, no TF32.

    cuDNN has no second derivative of ``recurrent`` layers and is left aside for them.
    """
    _load_forward_mode()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=not recurrent, allow_tf32=False))
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield


@functools.cache
def _load_forward_mode() -> None:
    """The first forward-mode derivative of a process warns of something inside torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def _leaves(weights: Sequence[Tensor]) -> Vec:
    return [w.detach().requires_grad_() for w in weights]


def _gradients(value: Tensor, leaves: Vec, create_graph: bool = False) -> Vec:
    """Gradients of a number; zeros where, and if, it does not depend on the leaves."""
    if not value.requires_grad:
        return [torch.zeros_like(x) for x in leaves]
    return list(torch.autograd.grad(value, leaves, create_graph=create_graph, materialize_grads=True))


def _slope(gradient: Vec, vector: Sequence[Tensor]) -> Tensor:
    """g^T v over the entries that depend on anything; a constant where none does."""
    used = [(g * v).sum() for g, v in zip(gradient, vector, strict=True) if g.requires_grad]
    return torch.stack(used).sum() if used else torch.zeros(())


def _pushed(
    features: Callable[..., tuple[Tensor, ...]], outputs: tuple[Tensor, ...], leaves: Vec, vector: Vec, mode: str
) -> tuple[Tensor, ...]:
    """J v without forward mode."""
    if mode == "finite-differences":
        (above, below), scale = _ends([w.detach() for w in leaves], vector)
        with torch.no_grad():
            return tuple((p - m) / scale for p, m in zip(features(*above), features(*below), strict=True))
    weights = [torch.zeros_like(x, requires_grad=True) for x in outputs]
    used = [(x, u) for x, u in zip(outputs, weights, strict=True) if x.requires_grad]
    if not used:
        return tuple(weights)
    pulled = torch.autograd.grad(
        [x for x, _ in used], leaves, [u for _, u in used], create_graph=True, materialize_grads=True
    )
    return tuple(_gradients(_slope(list(pulled), vector), weights))


def _ends(weights: Vec, vector: Vec, step: float | None = None) -> tuple[tuple[Vec, Vec], float]:
    """w + h v and w - h v, and 2 h."""
    epsilon = float(torch.finfo(weights[0].dtype).eps)
    length, size = float(norm(vector)), float(norm(weights))
    step = (step or epsilon ** (1 / 3)) * min(1.0, size or 1.0) / (length or 1.0)
    moved = [[w + sign * step * v for w, v in zip(weights, vector, strict=True)] for sign in (1.0, -1.0)]
    return (moved[0], moved[1]), 2 * step
