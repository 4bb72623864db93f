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
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor

from sharpscope.core.vectors import Vec, norm
from sharpscope.problem.examples import Examples, on_tensors
from sharpscope.problem.problem import Problem

__all__ = [
    "MODES",
    "Curvature",
    "Hessian",
    "Point",
    "differences",
    "ends_of",
    "gradients_of",
    "kernels",
    "as_leaves",
    "slope_along",
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
        self.problem, self.channels_last, self.dtype, self.cast = problem, channels_last, dtype or problem.dtype, dtype
        self.objective = problem.objective if dtype is None else problem.objective.to(dtype)
        self.everything: Vec = [self.laid(w.detach().clone()) for w in problem.weights_at(at)]
        self.chosen = list(range(len(self.everything))) if chosen is None else list(chosen)
        self.weights: Vec = [self.everything[place] for place in self.chosen]
        found = problem.twin.buffers if buffers is None else buffers
        self.buffers = {name: self.laid(b.detach().clone()) for name, b in found.items()}

    def stored(self, channels_last: bool, dtype: torch.dtype | None = None) -> Point:
        """The same point in another memory layout or floating-point type."""
        return Point(self.problem, self.everything, channels_last, dtype, self.buffers, self.chosen)

    def part(self, chosen: Sequence[int]) -> Point:
        """The same point with other parameters than ``chosen`` held constant."""
        return Point(self.problem, self.everything, self.channels_last, self.dtype, self.buffers, chosen)

    def laid(self, x: Tensor) -> Tensor:
        """``x`` in the memory layout and floating-point type of this point."""
        if self.cast is not None and x.is_floating_point():
            x = x.to(self.cast)
        return x.contiguous(
            memory_format=torch.channels_last if self.channels_last and x.dim() == 4 else torch.contiguous_format
        )

    def direction(self, vector: Sequence[Tensor]) -> Vec:
        """A vector in the memory layouts and types of the weights."""
        return [self.laid(v).to(w.dtype) for v, w in zip(vector, self.weights, strict=True)]

    def leaves(self, weights: Sequence[Tensor] | None = None) -> Vec:
        """(Chosen) weights, those of the point if None, as leaves of a graph."""
        found = self.problem.twin.leaves_at(self._every(self.weights if weights is None else weights))
        return [found[place] for place in self.chosen]

    def _every(self, weights: Sequence[Tensor]) -> Vec:
        every = list(self.everything)
        for place, weight in zip(self.chosen, weights, strict=True):
            every[place] = weight
        return every

    def _buffers(self) -> dict[str, Tensor]:
        """Buffers to write into: what a forward pass leaves in them is forgotten."""
        return {name: b.clone() for name, b in self.buffers.items()}

    def outputs(self, weights: Sequence[Tensor], batch: Examples) -> Any:
        """Outputs of the model at other (chosen) weights."""
        return self.problem.outputs(batch, self._every(weights), self._buffers())

    def each(self, weights: Sequence[Tensor], batch: Examples) -> Tensor:
        """The losses of single examples."""
        return self.problem.each(batch, self._every(weights), self._buffers(), self.objective)

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
        leaves = self.point.leaves()
        return gradients_of(self.point.numerator(leaves, batch), leaves)


class Hessian(Curvature):
    """Second derivatives of L."""

    name = "Hessian"

    def product(self, mode: str, batch: Examples, vector: Vec) -> Vec:
        return _HESSIAN[mode](self.point, batch, vector)


# -- the ways to the Hessian


def _reverse_over_forward(point: Point, batch: Examples, vector: Vec) -> Vec:
    leaves = point.leaves()
    value = functools.partial(_of_tuple, point, batch)
    return gradients_of(torch.func.jvp(value, tuple(leaves), tuple(vector))[1], leaves)


def _of_tuple(point: Point, batch: Examples, *weights: Tensor) -> Tensor:
    return point.numerator(weights, batch)


def _forward_over_reverse(point: Point, batch: Examples, vector: Vec) -> Vec:
    with forward.dual_level():
        leaves = point.leaves()
        duals = [forward.make_dual(w, v) for w, v in zip(leaves, vector, strict=True)]
        found = [forward.unpack_dual(g).tangent for g in gradients_of(point.numerator(duals, batch), leaves)]
    return [torch.zeros_like(w) if x is None else x for x, w in zip(found, leaves, strict=True)]


def _double_backward(point: Point, batch: Examples, vector: Vec) -> Vec:
    leaves = point.leaves()
    first = gradients_of(point.numerator(leaves, batch), leaves, create_graph=True)
    return gradients_of(slope_along(first, vector), leaves)


def differences(point: Point, batch: Examples, vector: Vec, step: float | None = None) -> Vec:
    """Central difference of two gradients, ``step`` long along the vector (a balance of rounding and curvature)."""
    (above, below), scale = ends_of(point.weights, vector, step)
    plus, minus = (gradients_of(point.numerator(leaves, batch), leaves) for leaves in map(point.leaves, (above, below)))
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
    """Kernels that have second derivatives and full precision: no TF32 (attention is the twin's to see to).

    cuDNN has no second derivative of ``recurrent`` layers and is left aside for them.
    """
    _load_forward_mode()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
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
        torch.func.jvp(torch.sin, (torch.zeros((), device="cpu"),), (torch.ones((), device="cpu"),))


def as_leaves(weights: Sequence[Tensor]) -> Vec:
    """The same numbers as leaves of a graph."""
    return [w.detach().requires_grad_() for w in weights]


def gradients_of(value: Tensor, leaves: Vec, create_graph: bool = False) -> Vec:
    """Gradients of a number; zeros where, and if, it does not depend on the leaves."""
    if not value.requires_grad:
        return [torch.zeros_like(x) for x in leaves]
    return list(torch.autograd.grad(value, leaves, create_graph=create_graph, materialize_grads=True))


def slope_along(gradient: Vec, vector: Sequence[Tensor]) -> Tensor:
    """g^T v over the entries that depend on anything; a constant where none does."""
    used = [(g * v).sum() for g, v in zip(gradient, vector, strict=True) if g.requires_grad]
    return torch.stack(used).sum() if used else torch.zeros((), device="cpu")


def ends_of(weights: Vec, vector: Vec, step: float | None = None) -> tuple[tuple[Vec, Vec], float]:
    """w + h v and w - h v, and 2 h."""
    epsilon = float(torch.finfo(weights[0].dtype).eps)
    length, size = float(norm(vector)), float(norm(weights))
    step = (step or epsilon ** (1 / 3)) * min(1.0, size or 1.0) / (length or 1.0)
    moved = [[w + sign * step * v for w, v in zip(weights, vector, strict=True)] for sign in (1.0, -1.0)]
    return (moved[0], moved[1]), 2 * step
