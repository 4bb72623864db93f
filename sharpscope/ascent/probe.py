"""What a training rule may ask of the current batch.

A Probe answers with gradients and losses at w + eps and leaves the weights, the buffers (BatchNorm statistics move once
a step, in the first pass) and the random states (dropout draws the same units in every pass of a step) as they were.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from sharpscope.ascent.shift import Shift, Way, as_shift
from sharpscope.core.distributed import mean_over_ranks, mean_with_flags
from sharpscope.core.schedules import Number, value_at
from sharpscope.core.vectors import Vec, generator, mix, norm
from sharpscope.problem.problem import Problem

__all__ = ["Closure", "Overflow", "Probe", "RowClosure", "coin"]

Closure = Callable[[], Any]
Select = Callable[[Tensor, Tensor], Tensor]
Act = Callable[[Vec, list[float]], None]


@runtime_checkable
class RowClosure(Protocol):
    """A closure that knows its examples; ``sharpscope.Batch`` is one."""

    rows: int

    def __call__(self, rows: Tensor | None = None) -> Any: ...

    def losses(self) -> Tensor: ...

    def last_losses(self) -> Tensor | None: ...


class Overflow(ArithmeticError):
    """The scaled gradient at w is not finite: there is no direction to climb, and the step is to be skipped."""

    def __init__(self, gradient: Vec) -> None:
        super().__init__("the scaled gradient is not finite")
        self.gradient = gradient


class Probe:
    """One optimizer step as the rules see it.

    Ask for what is needed at w before climbing: once a gradient at w + eps is asked for, the first gradient is let go,
    so that SAM costs one copy of the weights and no copy of the gradient.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        names: Sequence[str] | Callable[[list[nn.Module]], Sequence[str]],
        *,
        closure: Closure | None = None,
        step: int = 0,
        seed: int = 0,
        lr: float | None = None,
        problem: Problem | None = None,
        modules: Iterable[nn.Module] = (),
        way: Way | None = None,
        scaled: bool = False,
        quiet: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        share: bool | None = None,
        loss_scale: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.params = list(params)
        self._names = names
        self.step, self.seed, self.lr = step, seed, lr
        self.loss: Any = None  # what the closure returned at w
        self.passes = 0.0  # forward-backward pairs, a pass over a share of the rows counting as that share
        self.used = [False] * len(self.params)  # which parameters had a gradient in any pass
        self._problem = problem
        self._closure = closure
        self.modules = list(modules)
        self._way = Way() if way is None else way
        self._scaled, self._quiet, self._share = scaled, quiet, share
        self._loss_scale = loss_scale
        self.after: list[Act] = []  # what rules do once the base optimizer has stepped
        self._coins = 0
        self._first: Vec | None = None
        self._start: list[Tensor] | None = None
        self._before: list[_Buffers] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in their order; most rules never ask.

        Where nothing else tells them, the module that the first pass called does.
        """
        return tuple(self._names(self.modules) if callable(self._names) else self._names)

    @property
    def problem(self) -> Problem:
        """The problem behind the training, at the weights that are trained, for rules that look beyond the batch."""
        if self._problem is None:
            raise ValueError(
                "the rule asks for per-example gradients and got no problem, expected the data it trains on: "
                "SharpnessAware(base, rule, problem=sharpscope.Problem(model, loss, data))"
            )
        return self._problem if self._closure is None else self._problem.refresh()

    def value(self, number: Number, low: float = -math.inf, high: float = math.inf) -> float:
        """A number or schedule at this step; raises ValueError where a schedule leaves the range."""
        value = value_at(number, self.step, self.lr)
        if not low - 1e-9 <= value <= high + 1e-9:  # a schedule may round at its ends; not so a NaN
            raise ValueError(
                f"{number!r} got to {value:g} at step {self.step}, expected values in [{low:g}, {high:g}]: "
                f"change the schedule"
            )
        return value

    def coin(self, p: float) -> bool:
        """True with probability p; a function of (seed, step) alone, so ranks agree and resumed runs agree.

        A second coin of the same step (RST over RST) is drawn anew.
        """
        self._coins += 1
        return coin(self.seed, self.step, self._coins - 1) < p

    def generator(self, *salt: int | str) -> torch.Generator:
        """Random numbers that are a function of (seed, step, salt)."""
        return generator("probe", self.seed, self.step, *salt)

    def gradient(self, rows: float = 1.0, only: Sequence[bool] | None = None) -> Vec:
        """Gradient of the batch's loss at w; zeros for parameters without one.

        ``rows < 1`` takes it on that share of the batch, its first examples (needs a closure that knows rows); ``only``
        leaves out the parameters that are False, and the backward pass the work that they alone need.  Both serve a
        climb and are not kept for the next who asks.
        """
        if self._first is not None:
            return self._first
        picked = None if rows == 1.0 else torch.arange(max(1, round(rows * self.rows)))
        try:
            with _frozen(self.params, only):
                found: Vec = self._asked(picked)
        except (RuntimeError, ValueError):
            if only is None:
                raise
            found = self._asked(picked)  # this batch's loss may depend on none of the wanted ones
        if self._scaled and not self._everywhere_finite(found):
            raise Overflow(found)
        if picked is None and only is None:
            self._first = found
        return found

    def gradient_at(self, shift: Shift | Sequence[Tensor], select: Select | None = None) -> Vec:
        """Gradient of the batch's loss at w + eps, on the rows that ``select(losses at w, losses at w + eps)`` names.

        The first gradient is let go: whoever needs it asks for it before.
        """
        before = None if select is None else self.losses()
        self._first = None
        params = [p.detach() for p in self.params]
        try:
            self._way.go(params, as_shift(shift))
            del shift
            rows = None if select is None or before is None else select(before, self.losses(fresh=True))
            return self._asked(rows)
        finally:
            self._way.back(params)

    def losses(self, fresh: bool = False) -> Tensor:
        """(rows,) loss of every example where the weights are now (needs a closure that knows rows).

        Those of the first pass are at hand; ``fresh`` ones take a forward pass, which counts as a third of a pass.
        """
        closure = self._rows_closure()
        if self._start is None:
            self.gradient()  # the first pass comes first: it alone moves buffers and random states
        known = None if fresh else closure.last_losses()
        if known is not None:
            return known
        self.passes += 1.0 / 3.0
        found: Tensor = self._replayed(closure.losses)
        return found

    def leave(self) -> None:
        """Mark a gradient that the step leaves behind, so that the next step knows it from a user's own."""
        left = next((p.grad for p in self.params if p.grad is not None), None)
        if left is not None:
            left._left_by_step = left._version  # type: ignore[attr-defined]

    @property
    def scale(self) -> float:
        """What every gradient of this step is multiplied by: the scale of a GradScaler, 1 without one.

        A rule divides by it what it remembers of gradients, or adds to the weights itself; its direction stays scaled.
        """
        return float(self._loss_scale())

    def afterwards(self, act: Act) -> None:
        """Call ``act(weights, rates)`` once the base optimizer has stepped: nothing where the step is skipped.

        ``weights`` are the parameters, to be changed in place; ``rates`` the learning rate of each.  What it adds must
        be the same on every rank (``average``), and is neither scaled (``scale``) nor clipped.
        """
        if self.lr is None:
            raise ValueError("the rule acts after the step and got a base without lr, expected one: use another base")
        self.after.append(act)

    def average(self, vector: Vec) -> Vec:
        """The mean over ranks, where ranks train together: what a mask is made of must not differ between them."""
        return vector if self._share is None else mean_over_ranks(vector)

    @property
    def rows(self) -> int:
        """Examples in the batch."""
        return self._rows_closure().rows

    @property
    def closure(self) -> Closure | None:
        """What the step was given."""
        return self._closure

    def undo(self) -> None:
        """Put weights, buffers and random states back to where they were before the step, for a step that fails."""
        for p in self.params:
            p.grad = None  # half of a pass is in them
        self._way.back([p.detach() for p in self.params])  # a Ctrl-C may have come just before it
        for buffers in self._before:
            buffers.restore()
        if self._start is not None:
            _set_random_states(self.params, self._start)

    def _everywhere_finite(self, vector: Vec) -> bool:
        """Whether the vector is finite on every rank: they skip a step together, or not at all."""
        finite = torch.isfinite(norm(vector)).to(vector[0].dtype)
        return bool((finite if self._share is None else mean_over_ranks([finite])[0]) == 1)

    def _rows_closure(self) -> RowClosure:
        if not isinstance(self._closure, RowClosure):
            raise TypeError(
                "the rule selects examples and got a closure that knows none, expected one that does: "
                "optimizer.step(sharpscope.Batch(model, loss, x, y))"
            )
        return self._closure

    def _asked(self, rows: Tensor | None) -> Vec:
        """One pass; the first of a step moves buffers and random states, the others replay it."""
        with self._quiet():
            if self._start is None:
                self._start = _random_states(self.params)
                with _Listener(self.modules, self._before):
                    found = self._pass(rows)
            else:
                found = self._replayed(lambda: self._pass(rows))
        if self._share:
            found, self.used = mean_with_flags(found, self.used)
        return found

    def _pass(self, rows: Tensor | None) -> Vec:
        if self._closure is None:
            raise TypeError("the probe got no closure, expected one that evaluates the batch: pass it to step()")
        watched = None if self.passes else self._accumulated()
        for p in self.params:
            p.grad = None
        loss = self._evaluated(rows) if watched is None else self._evaluated_watching(rows, watched)
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
        return [
            torch.zeros_like(p) if g is None else _dense(g) if g.requires_grad or g.is_sparse else g
            for p, g in zip(self.params, found, strict=True)
        ]

    def _evaluated(self, rows: Tensor | None) -> Any:
        return self._closure() if rows is None and self._closure else self._rows_closure()(rows)

    def _accumulated(self) -> Tensor | None:
        """A parameter that has a gradient which is not what the last step left there."""
        p = next((p for p in self.params if p.grad is not None and p.grad.numel()), None)
        if p is None or p.grad is None or p.grad.is_sparse:
            return None
        return None if getattr(p.grad, "_left_by_step", None) == p.grad._version else p

    def _evaluated_watching(self, rows: Tensor | None, p: Tensor) -> Any:
        """Raises ValueError for a closure that does not clear a gradient that was there before."""
        mark = p.grad = torch.full_like(p, torch.nan)
        loss = self._evaluated(rows)
        if p.grad is mark and bool(torch.isnan(mark).all()):
            raise ValueError(
                "step() got gradients from before it that the closure does not clear, expected a closure that runs the "
                "whole batch: clear them in it, and accumulate micro-batches inside it, since the climb needs them all"
            )
        return loss

    def _replayed(self, ask: Callable[[], Any]) -> Any:
        """Ask with the random numbers of the first pass, and leave buffers and random states as they are now."""
        if self._start is None:
            return ask()
        buffers = _Buffers(self.modules)
        now = _random_states(self.params)
        try:
            _set_random_states(self.params, self._start)
            return ask()
        finally:
            buffers.restore()
            _set_random_states(self.params, now)


def coin(seed: int, step: int, draw: int = 0) -> float:
    """A uniform number in [0, 1) that depends on (seed, step) alone, and on which draw of the step it is."""
    return (mix("coin", seed, step, *([draw] if draw else [])) >> 10) / 2.0**53


@contextlib.contextmanager
def _frozen(params: Sequence[Tensor], only: Sequence[bool] | None) -> Iterator[None]:
    """Inside, the parameters that are not wanted require no gradient."""
    unwanted = [] if only is None else [p for p, wanted in zip(params, only, strict=True) if not wanted]
    try:
        for p in unwanted:
            p.requires_grad_(False)
        yield
    finally:
        for p in unwanted:
            p.requires_grad_(True)


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
    return (g.to_dense() if g.is_sparse else g).detach()


def _random_states(params: Sequence[Tensor]) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if params[0].device.type == "cuda":
        states.append(torch.cuda.get_rng_state(params[0].device))
    return states


def _set_random_states(params: Sequence[Tensor], states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], params[0].device)
