"""A linear function, recorded once and played again: only what depends on its argument is computed anew.

A product with a curvature spends half of its time on what depends on the weights alone.  ``Tape.record`` runs the
function under a dispatch mode that notes every operation on the argument and on what came of it; everything else it
holds as constants.  Playing it performs the same operations in the same order, so the result is the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from sharpscope.core.vectors import Vec

__all__ = ["Tape", "TapeError", "fill"]

_aten = torch.ops.aten
# Which arguments each output depends on, where not all depend on all: the derivative of a convolution in its input does
# not depend on the input, and of a tensor of ones only the shape is asked.
_NEEDS: dict[Any, tuple[tuple[int, ...], ...]] = {
    _aten.convolution_backward.default: ((0, 2), (0, 1), (0,)),
    _aten.native_batch_norm_backward.default: ((0, 2), (0, 1), (0,)),  # in eval mode
    _aten.nll_loss_forward.default: ((0, 1, 2), (1, 2)),
    _aten.nll_loss2d_forward.default: ((0, 1, 2), (1, 2)),
    _aten.nll_loss_backward.default: ((0, 2, 3, 6),),
    _aten.nll_loss2d_backward.default: ((0, 2, 3, 6),),
    **dict.fromkeys([_aten.ones_like.default, _aten.zeros_like.default, _aten.full_like.default], ((),)),
    **dict.fromkeys([_aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default], ((),)),
}
_MASKS = {_aten.convolution_backward.default: 10, _aten.native_batch_norm_backward.default: 9}  # of wanted outputs
_SHAPE_ONLY = {"aten::is_same_size", "aten::_has_same_storage_numel"}  # what they tell depends on no entry


class TapeError(RuntimeError):
    """The function cannot be played from a tape: it decides on values, or writes into what it has read."""


class _Slot:
    """Stands for a value: of the vector, a constant, or computed anew."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class Tape:
    """Plays ``function(vector)`` for other vectors of the same shapes.

    The first ``slots`` hold the vector; ``constants`` are tensors by slot, ``steps`` and ``results`` name slots alone.
    ``nbytes`` is what the constants occupy beside tensors that live anyway.
    """

    def __init__(
        self, steps: list[_Step], results: list[Any], slots: int, constants: dict[int, Tensor], nbytes: int
    ) -> None:
        self.steps, self.results, self.slots, self.constants, self.nbytes = steps, results, slots, constants, nbytes

    @staticmethod
    def record(function: Callable[[Vec], Vec], vector: Vec, alive: Iterable[Tensor] = ()) -> tuple[Vec, Tape]:
        """``function(vector)`` and its tape.  ``alive`` are tensors whose memory is not the tape's.

        Raises TapeError where the function cannot be played.
        """
        recorder = _Recorder()
        threads = torch.autograd.set_multithreading_enabled(False)  # operations on other threads would not be seen
        with threads, recorder:
            for x in vector:
                recorder.name(x)
            found = function(vector)
        results = [recorder.slot(x) for x in found]
        steps = _needed(recorder.steps, results)
        read = {slot.number for slot in _slots([*(step.args for step in steps), results])}
        constants = {number: x for number, x in recorder.constants.values() if number in read}
        mine = {_storage(x) for x in alive}
        kept = {_storage(x): x.untyped_storage().nbytes() for x in constants.values()}
        nbytes = sum(n for key, n in kept.items() if key not in mine)
        return found, Tape(steps, results, recorder.count, constants, nbytes)

    def __call__(self, vector: Sequence[Tensor]) -> Vec:
        """The result for another vector."""
        values: list[Any] = [*vector, *[None] * (self.slots - len(vector))]
        for place, constant in self.constants.items():
            values[place] = constant
        with torch.no_grad():
            for step in self.steps:
                args, kwargs = fill(step.args, values)
                found = step.operation(*args, **kwargs)
                for number, x in zip(
                    step.outputs, found if isinstance(found, (tuple, list)) else (found,), strict=True
                ):
                    if number is not None:
                        values[number] = x
                for number in step.last:
                    values[number] = None
        return list(fill(self.results, values))


class _Step:
    __slots__ = ("args", "last", "operation", "outputs")

    def __init__(self, operation: Any, args: Any, outputs: list[int | None]) -> None:
        self.operation, self.args, self.outputs = operation, args, outputs
        self.last: list[int] = []  # slots that nothing reads later


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers: Any = WeakTensorKeyDictionary()
        self.steps: list[_Step] = []
        self.constants: dict[int, tuple[int, Tensor]] = {}  # by identity, which each keeps by being held
        self.held: set[int] = set()  # their storages
        self.count = 0

    def name(self, x: Tensor) -> int:
        self.numbers[x] = self.count
        self.count += 1
        return self.count - 1

    def slot(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value in self.numbers:
                return _Slot(self.numbers[value])
            if id(value) not in self.constants:
                self.constants[id(value)] = (self.count, value)
                self.held.add(_storage(value))
                self.count += 1
            return _Slot(self.constants[id(value)][0])
        if isinstance(value, (tuple, list)):
            return type(value)(self.slot(x) for x in value)
        return {name: self.slot(x) for name, x in value.items()} if isinstance(value, dict) else value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _aten._efficientzerotensor.default:  # has no memory, which kernels below a mode stumble over
            return torch.zeros(*args, **kwargs)
        moving = [x for x in _tensors([args, kwargs]) if x in self.numbers]
        if func._schema.is_mutable:
            self._check_writing(func, args, kwargs, bool(moving))
        if not moving:
            return func(*args, **kwargs)
        if func._schema.name in _SHAPE_ONLY:
            return func(*args, **kwargs)
        found = func(*args, **kwargs)
        outputs = found if isinstance(found, (tuple, list)) else (found,)
        depends = self._depends(func, args, len(outputs))
        if not any(depends):
            return found
        step = _Step(func, self.slot((args, kwargs)), [])
        if any(x is not None and not isinstance(x, Tensor) for x in outputs):
            raise TapeError(f"{func} gives a number that depends on the vector")
        for x, moves in zip(outputs, depends, strict=True):
            new = moves and x is not None and x not in self.numbers
            step.outputs.append(self.name(x) if new else None)
        self.steps.append(step)
        return found

    def _depends(self, func: Any, args: Any, count: int) -> list[bool]:
        """Which outputs of an operation depend on the vector."""
        if func not in _NEEDS or (func is _aten.native_batch_norm_backward.default and args[7]):
            return [True] * count
        return [any(self._moves(args[i]) for i in needs) for needs in _NEEDS[func]]

    def _moves(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x in self.numbers

    def _check_writing(self, func: Any, args: Any, kwargs: Any, moving: bool) -> None:
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            target = args[place] if place < len(args) else kwargs.get(argument.name)
            for x in _tensors([target]):
                if x not in self.numbers and (moving or _storage(x) in self.held):
                    raise TapeError(f"{func} writes into a tensor that the tape holds")


def _needed(steps: list[_Step], results: list[Any]) -> list[_Step]:
    """The steps that the results depend on, each with the slots that die after it."""
    seen = {slot.number for slot in _slots(results)}
    kept = []
    for step in reversed(steps):
        writes = step.operation._schema.is_mutable
        if writes or any(number in seen for number in step.outputs):
            if step.operation in _MASKS:
                place = _MASKS[step.operation]
                args, kwargs = step.args
                mask = [number in seen for number in step.outputs]
                step.args = ((*args[:place], mask, *args[place + 1 :]), kwargs)
            read = {slot.number for slot in _slots(step.args)}
            made = {number for number in step.outputs if number is not None}
            step.last = sorted((read | made) - seen)
            seen |= read
            kept.append(step)
    return kept[::-1]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [x for item in value for x in _tensors(item)] if isinstance(value, (tuple, list)) else []


def _slots(value: Any) -> list[_Slot]:
    if isinstance(value, _Slot):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [x for item in value for x in _slots(item)] if isinstance(value, (tuple, list)) else []


def fill(value: Any, values: list[Any]) -> Any:
    """``value`` with what ``values`` holds in place of the slots in it."""
    if type(value) is _Slot:
        return values[value.number]
    if type(value) in (tuple, list):
        return type(value)([fill(x, values) for x in value])
    return {name: fill(x, values) for name, x in value.items()} if type(value) is dict else value


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
