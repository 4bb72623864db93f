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
                self._first = self._first_pass(rows)
            return self._first
        self._first = None
        found: Vec = self._climbed(at, lambda: self._pass(rows))
        return found

    def losses(self, at: Sequence[Tensor] | None = None) -> Tensor:
        """(rows,) loss of every example at w + at (forward only; needs a closure that knows rows)."""
        closure = self._rows_closure()
        found: Tensor = self._replayed(closure.losses) if at is None else self._climbed(at, closure.losses)
        return found

    @property
    def rows(self) -> int:
        """Examples in the batch."""
        return self._rows_closure().rows

    def _rows_closure(self) -> RowClosure:
        if not isinstance(self._closure, RowClosure):
            raise TypeError(
                "the rule selects examples and got a closure that knows none, expected one that does: "
                "optimizer.step(sharpscope.Batch(model, loss, x, y))"
            )
        return self._closure

    def _first_pass(self, rows: Tensor | None) -> Vec:
        self._start = _random_states(self.params)
        with _Listener(self._modules):
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
        buffers = [b for module in self._modules for b in module.buffers()]
        kept = [b.clone() for b in buffers]
        now = _random_states(self.params)
        try:
            _set_random_states(self.params, self._start)
            return ask()
        finally:
            for b, k in zip(buffers, kept, strict=True):
                b.copy_(k)
            _set_random_states(self.params, now)


def coin(seed: int, step: int) -> float:
    """A uniform number in [0, 1) that depends on (seed, step) alone."""
    return (mix("coin", seed, step) >> 10) / 2.0**53


class _Listener:
    """Learns which modules a closure calls, so that their buffers can be guarded in later passes of the step."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self.known = bool(modules)
        self.covered: set[nn.Module] = set()

    def __enter__(self) -> None:
        if not self.known:
            self.handle = torch_module.register_module_forward_pre_hook(self._called)

    def __exit__(self, *_: object) -> None:
        if not self.known:
            self.handle.remove()

    def _called(self, module: nn.Module, _: Any) -> None:
        if module not in self.covered:
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
