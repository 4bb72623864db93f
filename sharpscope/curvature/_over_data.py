"""A curvature over all data: batch by batch, from tapes as far as memory allows, divided once by the denominator."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sharpscope.core.vectors import Vec, flatten, unflatten
from sharpscope.curvature._compiled import compiled
from sharpscope.curvature._tape import Tape
from sharpscope.curvature.products import Curvature, kernels
from sharpscope.problem.examples import Examples, cut
from sharpscope.problem.problem import ProblemError

__all__ = ["Sum", "budget", "pieces"]


class Sum:
    """``v -> A v`` on flat vectors of all parameters.

    Args:
        curvature: which matrix, and where.
        batches: the data.
        mode: how a product is computed (``products.MODES``).
        size: most examples in one pass; batches are cut into equal pieces.  None takes them as they are.
        memory: bytes for tapes; a batch whose tape finds no room is computed afresh every time, with the same result.
        taped: whether the function can be played from a tape at all.
        compile: whether tapes are compiled; then every batch needs one, and a product raises ProblemError where
            ``memory`` does not hold them all.  Blocks are played as they are: each would be compiled anew.
    """

    def __init__(
        self,
        curvature: Curvature,
        batches: list[Examples],
        mode: str,
        size: int | None,
        memory: int,
        taped: bool = True,
        compile: bool = False,
    ) -> None:
        self.curvature, self.mode, self.memory, self.taped = curvature, mode, memory, taped and memory > 0
        self.compile, self.compiled = compile, list[Callable[[Vec], Vec]]()
        self.batches = [piece for batch in batches for piece in pieces(batch, size)]
        self.tapes: list[Tape | None] = [None] * len(self.batches)
        self.used = 0

    @functools.cached_property
    def denominator(self) -> float:
        """What the sum over the data is divided by; 1 for a loss that is a sum."""
        problem = self.curvature.point.problem
        if not problem.objective.mean:
            return 1.0
        with problem.guard(), problem.quiet():
            total = sum(problem.weight(batch, self.curvature.point.everything) for batch in problem.batches)
        if total == 0.0:
            raise ProblemError(
                "the loss got the denominator 0, expected a target that counts: all are ignored or weigh nothing, so "
                "change ignore_index, the class weights or the data"
            )
        return total

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with a vector of shape (n,)."""
        point = self.curvature.point
        direction = point.direction(unflatten(vector, point.weights))
        sums: Vec = [torch.zeros_like(w) for w in point.weights]
        with point.problem.guard(), running(self.curvature):
            if self.compile and not self.compiled:
                self.compiled = compiled(self._every_tape(direction), direction, point.problem.compiled)
            for number in range(len(self.batches)):
                torch._foreach_add_(sums, self._part(number, direction))
        torch._foreach_div_(sums, self.denominator)
        return flatten(sums)

    def part(self, chosen: Sequence[int]) -> Sum:
        """The block of the parameters at the places ``chosen``, on vectors of their entries alone.

        It takes derivatives in no others, so what lies before the first of them in the model costs one pass forward.
        """
        inside = self.curvature.at(self.curvature.point.part(chosen))
        return Sum(inside, self.batches, self.mode, None, max(0, self.memory - self.used), self.taped)

    def _every_tape(self, direction: Vec) -> list[Tape]:
        for number in range(len(self.batches)):
            self._part(number, direction)
            if self.tapes[number] is None:
                raise ProblemError(
                    f"a compiled product got memory={self.memory} bytes, which hold {number} of {len(self.batches)} "
                    f'batches, expected room for all: raise memory=, take fewer examples, or leave "compiled" out of '
                    f"mode="
                )
        return [tape for tape in self.tapes if tape is not None]

    def _part(self, number: int, direction: Vec) -> Vec:
        if self.compiled:
            return self.compiled[number](direction)
        tape = self.tapes[number]
        if tape is not None:
            return tape(direction)
        batch = self.curvature.laid(self.batches[number])
        product = functools.partial(self.curvature.product, self.mode, batch)
        largest = max((t.nbytes for t in self.tapes if t is not None), default=0)
        if not self.taped or self.used + largest > self.memory:
            return product(direction)
        alive = [*self.curvature.point.everything, *self.curvature.point.buffers.values()]
        found, tape = Tape.record(product, direction, alive)
        if self.used + tape.nbytes <= self.memory:
            self.tapes[number], self.used = tape, self.used + tape.nbytes
        else:
            self.taped = False
        return found


def running(curvature: Curvature) -> contextlib.AbstractContextManager[None]:
    """The kernels under which products of a curvature are computed."""
    curvature.point.problem.check_autograd()
    recurrent = any(isinstance(module, nn.RNNBase) for module in curvature.point.problem.twin.module.modules())
    return kernels(curvature.point.problem.device, recurrent)


def pieces(batch: Examples, size: int | None) -> list[Examples]:
    """A batch in pieces of nearly equal size, at most ``size`` each."""
    if size is None or batch.examples <= size:
        return [batch]
    count = -(-batch.examples // size)
    ends = [batch.examples * i // count for i in range(count + 1)]
    return [cut(batch, slice(a, b)) for a, b in itertools.pairwise(ends)]


def budget(device: torch.device, memory: int | None) -> int:
    """Bytes for tapes: ``memory``, or a third of what the device has, at most 16 GiB.

    It is a property of the machine and not of the moment, although results do not depend on it.
    """
    if memory is not None:
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0:
            raise ValueError(f"got memory={memory!r}, expected a whole number of bytes >= 0: change memory")
        return memory
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        total = 8 * 2**30
    return min(16 * 2**30, total // 3)
