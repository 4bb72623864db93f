"""What a training rule may ask of the current batch.

A Probe answers with gradients and losses at w + eps and leaves the weights, the buffers (BatchNorm statistics move once
a step, in the first pass) and the random states (dropout draws the same units in every pass of a step) as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from sharpscope.problem import Problem
from sharpscope.schedules import Number, value_at
from sharpscope.vectors import Vec, generator, mix

__all__ = ["Closure", "Probe", "RowClosure", "coin"]

Closure = Callable[[], Any]


@runtime_checkable
class RowClosure(Protocol):
    """A closure that knows its examples; ``sharpscope.Batch`` is one."""

    rows: int

    def __call__(self, rows: Tensor | None = None) -> Any: ...

    def losses(self) -> Tensor: ...


class Probe:
    """One optimizer step as the rules see it.

    Ask for what is needed at w before climbing: once a gradient at w + eps is asked for, the first gradient is let go,
    so that SAM costs one copy of the weights and no copy of the gradient.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        names: Sequence[str],
        *,
        closure: Closure | None = None,
        step: int = 0,
        seed: int = 0,
        lr: float | None = None,
        problem: Problem | None = None,
        modules: Iterable[nn.Module] = (),
    ) -> None:
        self.params = list(params)
        self.names = tuple(names)
        self.step, self.seed, self.lr = step, seed, lr
        self.loss: Any = None  # what the closure returned at w
        self.passes = 0.0  # forward-backward pairs, a pass over a share of the rows counting as that share
        self.used = [False] * len(self.params)  # which parameters had a gradient in any pass
        self._problem = problem
        self._closure = closure
        self._modules = list(modules)
        self._first: Vec | None = None
        self._start: list[Tensor] | None = None
        self._before: list[_Buffers] = []

    @property
    def problem(self) -> Problem:
        """The problem behind the training, for rules that look at more than the batch."""
        if self._problem is None:
            raise ValueError(
                "the rule asks for per-example gradients and got no problem, expected the data it trains on: "
                "SharpnessAware(base, rule, problem=sharpscope.Problem(model, loss, data))"
            )
        return self._problem

    def value(self, number: Number) -> float:
        """A number or schedule at this step."""
        return value_at(number, self.step, self.lr)

    def coin(self, p: float) -> bool:
        """True with probability p; a function of (seed, step) alone, so ranks agree and resumed runs agree."""
        return coin(self.seed, self.step) < p

    def generator(self, *salt: int | str) -> torch.Generator:
        """Random numbers that are a function of (seed, step, salt)."""
        return generator("probe", self.seed, self.step, *salt)

    def gradient(self, at: Sequence[Tensor] | None = None, rows: Tensor | None = None) -> Vec:
        """Gradient of the batch's loss at w (``at=None``) or at w + at; zeros for parameters without one.

        ``rows`` restricts the batch to some of its examples (needs a closure that knows rows).
        """
        if at is None:
            if self._first is None:
                first = self._start is None
                self._first = self._first_pass(rows) if first else self._replayed(lambda: self._pass(rows))
            return self._first
        self._first = None
        found: Vec = self._climbed(at, lambda: self._pass(rows))
        return found

    def losses(self, at: Sequence[Tensor] | None = None) -> Tensor:
        """(rows,) loss of every example at w + at (forward only; needs a closure that knows rows)."""
        closure = self._rows_closure()
        if self._start is None:
            self.gradient()  # the first pass comes first: it alone moves buffers and random states
        found: Tensor = self._replayed(closure.losses) if at is None else self._climbed(at, closure.losses)
        return found

    @property
    def rows(self) -> int:
        """Examples in the batch."""
        return self._rows_closure().rows

    def undo(self) -> None:
        """Put buffers and random states back to where they were before the step, for a step that fails."""
        for buffers in self._before:
            buffers.restore()
        if self._start is not None:
            _set_random_states(self.params, self._start)

    def _rows_closure(self) -> RowClosure:
        if not isinstance(self._closure, RowClosure):
            raise TypeError(
                "the rule selects examples and got a closure that knows none, expected one that does: "
                "optimizer.step(sharpscope.Batch(model, loss, x, y))"
            )
        return self._closure

    def _first_pass(self, rows: Tensor | None) -> Vec:
        self._start = _random_states(self.params)
        with _Listener(self._modules, self._before):
            return self._pass(rows)

    def _pass(self, rows: Tensor | None) -> Vec:
        if self._closure is None:
            raise TypeError("the probe got no closure, expected one that evaluates the batch: pass it to step()")
        for p in self.params:
            p.grad = None
        loss = self._closure() if rows is None else self._rows_closure()(rows)
        if loss is None:
            raise TypeError("the closure returned None, expected the loss: end it with `return loss`")
        if self.loss is None:
            self.loss = loss.detach() if isinstance(loss, Tensor) else loss
        found = [p.grad for p in self.params]
        if all(g is None for g in found):
            raise ValueError(
                f"the closure left no gradient on any of {len(found)} parameters, expected at least one: "
                f"call loss.backward() in it"
            )
        self.passes += 1.0 if rows is None else len(rows) / self.rows
        self.used = [used or g is not None for used, g in zip(self.used, found, strict=True)]
        for p in self.params:
            p.grad = None
        return [torch.zeros_like(p) if g is None else _dense(g) for p, g in zip(self.params, found, strict=True)]

    def _climbed(self, at: Sequence[Tensor], ask: Callable[[], Any]) -> Any:
        params = [p.detach() for p in self.params]
        saved = [p.clone() for p in params]
        try:
            torch._foreach_add_(params, list(at))
            return self._replayed(ask)
        finally:
            torch._foreach_copy_(params, saved)

    def _replayed(self, ask: Callable[[], Any]) -> Any:
        """Ask with the random numbers of the first pass, and leave buffers and random states as they are now."""
        if self._start is None:
            return ask()
        buffers = _Buffers(self._modules)
        now = _random_states(self.params)
        try:
            _set_random_states(self.params, self._start)
            return ask()
        finally:
            buffers.restore()
            _set_random_states(self.params, now)


def coin(seed: int, step: int) -> float:
    """A uniform number in [0, 1) that depends on (seed, step) alone."""
    return (mix("coin", seed, step) >> 10) / 2.0**53


class _Buffers:
    """The buffers of some modules, to be put back: their values, and the tensors that a forward has replaced."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.kept = [
            (owner, name, buffer, buffer.clone())
            for module in modules
            for owner in module.modules()
            for name, buffer in owner._buffers.items()
            if buffer is not None
        ]

    def restore(self) -> None:
        for owner, name, buffer, value in self.kept:
            buffer.copy_(value)
            owner._buffers[name] = buffer


class _Listener:
    """Learns which modules a closure calls, and what their buffers held before it called them."""

    def __init__(self, modules: list[nn.Module], before: list[_Buffers]) -> None:
        self.modules, self.before = modules, before
        self.known = bool(modules)
        self.covered: set[nn.Module] = set()

    def __enter__(self) -> None:
        if self.known:
            self.before.append(_Buffers(self.modules))
        else:
            self.handle = torch_module.register_module_forward_pre_hook(self._called)

    def __exit__(self, *_: object) -> None:
        if not self.known:
            self.handle.remove()

    def _called(self, module: nn.Module, _: Any) -> None:
        if torch.compiler.is_compiling():  # a compiled module was seen when it was called from outside
            return
        if module not in self.covered:
            self.before.append(_Buffers([module]))
            self.covered.update(module.modules())
            self.modules.append(module)


def _dense(g: Tensor) -> Tensor:
    return g.detach().to_dense() if g.is_sparse else g.detach()


def _random_states(params: Sequence[Tensor]) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if params[0].device.type == "cuda":
        states.append(torch.cuda.get_rng_state(params[0].device))
    return states


def _set_random_states(params: Sequence[Tensor], states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], params[0].device)
