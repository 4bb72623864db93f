"""Before a curvature is used: is the loss a function, which ways to a product are right, which is fastest, how exact.

Everything here looks at a few examples of the first batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharpscope.core.vectors import Vec, flatten, generator, norm, scale, unflatten
from sharpscope.curvature._over_data import running
from sharpscope.curvature._tape import Tape, TapeError
from sharpscope.curvature.products import MODES, Curvature, Hessian, differences
from sharpscope.problem.examples import Examples, cut
from sharpscope.problem.problem import ProblemError, check_norms

__all__ = ["Noise", "Plan", "check", "measure_noise", "plan"]

POLICIES = ("auto", "untimed")
_COMPILED = ", compiled"
_FEW, _MORE = 6, 16  # examples that are looked at: to check, to time
_LEAST, _MOST = 32, 128  # examples in one pass: not fewer for lack of memory; not more on a CPU, for its caches
_FASTER, _GAIN = 1.25, 0.002  # another way must be faster by this factor and by seconds: a close race has one winner


@dataclasses.dataclass(frozen=True)
class Noise:
    """How far products are from those of one symmetric matrix, relative to |A u| for a dominant unit vector u."""

    repeat: float  # the same product twice
    asymmetry: float  # |u^T A v - v^T A u| for unit vectors
    rounding: float  # |A (u + v) - A u - A v|

    @property
    def floor(self) -> float:
        """What a residual relative to lambda_1 cannot go below."""
        return max(self.repeat, self.asymmetry, self.rounding)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How products are computed.  ``how`` is its text, which ``mode=`` takes in place of a choice."""

    mode: str
    channels_last: bool = False
    size: int | None = None  # most examples in one pass; None takes batches as they are
    taped: bool = False  # whether what does not depend on the vector is kept where memory allows
    cost: float = math.nan  # time of a product in gradients (the faster memory layout); nan where nothing was timed
    error: float = math.nan  # relative distance from a finite difference
    noise: Noise | None = None
    compiled: bool = False  # whether products are compiled; cost is that of the product before

    @property
    def how(self) -> str:
        """All that the last bits of a product depend on: a stored result says it, and ``mode=`` brings it back."""
        layout = ", channels_last" if self.channels_last else ""
        size = f", {self.size} examples at a time" if self.size else ""
        return f"{self.mode}{layout}{size}{_COMPILED if self.compiled else ''}"

    @staticmethod
    def of(text: str, modes: tuple[str, ...]) -> Plan:
        """The plan of a text.  Raises ValueError for one that is none."""
        mode, *rest = text.split(", ")
        size = next((int(part.split()[0]) for part in rest if part.split()[0].isdigit()), None)
        found = Plan(mode, "channels_last" in rest, size, compiled="compiled" in rest)
        if mode not in modes or found.how != text or size == 0:
            raise ValueError(
                f"got mode={text!r}, expected one of {', '.join((*POLICIES, *modes))}, or such a text as "
                f"operator.plan.how is; {_COMPILED!r} may stand at its end: change mode"
            )
        return found


def plan(curvature: Curvature, batches: list[Examples], mode: str, memory: int) -> Plan:
    """Check and choose.

    Args:
        curvature: which matrix.
        batches: the data.
        mode: "auto" takes the fastest correct way, "untimed" the first correct one of a fixed order (so that the same
            program makes the same choice on every run), a mode or the text of a plan takes that.  Each of them may end
            in ", compiled": no policy compiles by itself, as it takes longer than most spectra.
        memory: bytes for tapes, which bound the examples in one pass too.

    The choice is made once for a problem, at whatever weights; the loss is checked every time.

    Raises ValueError for another mode, ProblemError for a loss that is no function of the weights, not finite or
    dependent on how examples are batched by BatchNorm, and for a way that is asked for and does not work, or cannot be
    compiled.
    """
    if not isinstance(mode, str):
        raise ValueError(f"got mode={mode!r}, expected one of {', '.join((*POLICIES, *curvature.modes))}: change mode")
    plain = mode.removesuffix(_COMPILED)
    asked = None if plain in POLICIES else Plan.of(mode, curvature.modes)
    if plain != mode:
        return _compiled(plan(curvature, batches, plain, memory), mode, memory)
    problem = curvature.point.problem
    key = (curvature.name, mode, memory)
    with problem.guard(), running(curvature):
        check(curvature, batches[0])
        known: Plan | None = problem.plans.get(key)
        if known is not None:  # one problem, one choice: what is computed twice is the same twice
            return known
        trial = _Trial(curvature, batches[0])
        if asked is not None:
            chosen = dataclasses.replace(asked, error=trial.demand(asked))
        else:
            chosen = trial.first(trial.images)
            if mode == "auto":
                chosen = trial.fastest(chosen)
        chosen, nbytes = trial.tape(chosen)
        if mode in POLICIES and trial.separable:
            chosen = _fitting(chosen, batches, nbytes, memory)
        if mode == "auto":
            chosen = dataclasses.replace(chosen, cost=trial.cost(chosen))
        chosen = dataclasses.replace(chosen, noise=trial.noise(chosen))
    problem.plans[key] = chosen
    return chosen


def check(curvature: Curvature, batch: Examples) -> None:
    """Raise ProblemError unless the loss of a few examples is a finite number that depends on them alone."""
    point = curvature.point
    check_norms(point.problem.twin.module)
    batch = curvature.laid(_some(curvature, batch, _FEW))
    with point.problem.quiet():
        first = float(curvature.value(batch).detach())
    if not math.isfinite(first):
        raise ProblemError(
            f"the loss got {first} at these weights, expected a finite number: check the weights and the data"
        )


def measure_noise(product: Callable[[Tensor], Tensor], size: int, dtype: torch.dtype, device: torch.device) -> Noise:
    """The noise of ``v -> A v`` on vectors of shape (size,), from four products with random and dominant vectors."""
    draw = torch.randn(size, generator=generator("noise"), dtype=torch.float64, device="cpu").to(device, dtype)
    v = draw / torch.linalg.vector_norm(draw)
    av = product(v)
    length = torch.linalg.vector_norm(av)
    if not float(length) > 0.0:
        return Noise(0.0, 0.0, 0.0)
    u = av / length
    au, again = product(u), product(u)
    both = product(u + v)
    top = float(torch.linalg.vector_norm(au.double()))

    def relative(x: Tensor) -> float:
        return float(torch.linalg.vector_norm(x.double())) / top if top else 0.0

    return Noise(
        relative(au - again),
        relative((u.double() @ av.double() - v.double() @ au.double())[None]),
        relative(both.double() - au.double() - av.double()),
    )


class _Trial:
    """Products of a few examples in several ways, compared and timed."""

    def __init__(self, curvature: Curvature, batch: Examples) -> None:
        self.curvature, self.batch, self.problem = curvature, batch, curvature.point.problem
        self.curves = {curvature.point.channels_last: curvature}
        self.few, self.more = (_some(curvature, batch, count) for count in (_FEW, _MORE))
        self.gradient = curvature.gradient(curvature.laid(self.few))
        self.images = _images(curvature, batch) and self._takes_channels_last()
        draw = [
            torch.randn(g.shape, generator=generator("preflight", i), device="cpu").to(g)
            for i, g in enumerate(self.gradient)
        ]
        length = float(norm(self.gradient))
        along = scale(self.gradient, 1.0 / length) if length > 0.0 else self.gradient
        self.vector = [d / float(norm(draw)) + a for d, a in zip(draw, along, strict=True)]
        self.separable = not self.problem.audit.coupled
        self.references, self.slack = self._references(length)
        self.tolerance = max(1e-5, 10.0 * torch.finfo(self.problem.dtype).eps ** 0.5)

    def curve(self, channels_last: bool) -> Curvature:
        if channels_last not in self.curves:
            self.curves[channels_last] = self.curvature.at(self.curvature.point.stored(channels_last))
        return self.curves[channels_last]

    def run(self, plan: Plan, batch: Examples, vector: Vec | None = None) -> Vec:
        curve = self.curve(plan.channels_last)
        return curve.product(plan.mode, curve.laid(batch), curve.point.direction(vector or self.vector))

    def error(self, plan: Plan) -> float | None:
        """Distance from finite differences; None for a product that nothing confirms.

        Differences are wrong where a kink (a ReLU at exactly 0) lies at the weights; another exact way, which knows
        nothing of this one, is as good a witness then.
        """
        found = self.run(plan, self.few)
        errors = [self._distance(found, reference) for reference in self.references]
        if min(errors) <= self.tolerance or plan.mode == MODES[-1]:
            return min(errors)
        for mode in self.curvature.modes[:-1]:
            if mode != plan.mode:
                try:
                    witness = self._distance(found, self.run(dataclasses.replace(plan, mode=mode), self.few))
                except Exception:  # a way that does not work is no witness, whatever it raises
                    continue
                if witness <= self.tolerance:
                    return min(errors)
        return None

    def _takes_channels_last(self) -> bool:
        """Whether the model follows at all: one that flattens with ``.view`` does not."""
        try:
            self.curve(True).gradient(self.curve(True).laid(self.few))
        except RuntimeError:
            return False
        return True

    def demand(self, asked: Plan) -> float:
        """The error of a way that the user wants.  Raises ProblemError where it does not work."""
        remedy = 'use mode="auto", or "finite-differences" for kernels without second derivatives'
        try:
            error = self.error(asked)
        except Exception as failure:  # torch's and the user's code may raise anything
            said = " ".join(str(failure).split())[:200]
            raise ProblemError(
                f"mode={asked.how!r} got {type(failure).__name__} ({said}), expected a model with such derivatives: "
                f"{remedy}"
            ) from failure
        if error is None:
            raise ProblemError(
                f"mode={asked.how!r} got products unlike finite differences and every other mode, expected the same: "
                f"{remedy}"
            )
        return error

    def first(self, channels_last: bool) -> Plan:
        """The first correct way in the order of ``MODES``."""
        for mode in self.curvature.modes:
            try:
                error = self.error(Plan(mode, channels_last))
            except Exception:  # torch's and the user's code may raise anything; the next way is tried
                continue
            if error is not None:
                return Plan(mode, channels_last, error=error)
        return Plan(MODES[-1], channels_last, error=self.demand(Plan(MODES[-1], channels_last)))

    def fastest(self, first: Plan) -> Plan:
        """The fastest correct way; the first one unless another is faster by a clear margin."""
        best, least = first, self._time(lambda: self.run(first, self.more), 2)
        for layout in (True, False) if self.images else (first.channels_last,):
            for mode in self.curvature.modes[:-1]:
                other = Plan(mode, layout)
                if other.how == first.how:
                    continue
                try:
                    taken = self._time(functools.partial(self.run, other, self.more), 0, most=least)
                    error = self.error(other) if _clearly(taken, least) else None
                except Exception:  # as above
                    continue
                if error is not None:
                    best, least = dataclasses.replace(other, error=error), taken
        return best

    def tape(self, chosen: Plan) -> tuple[Plan, float]:
        """Whether products can be played from a tape, and the bytes that one example takes."""
        if self.problem.twin.moving:  # every product writes weights into the copy
            return chosen, 0.0
        other = self.curve(chosen.channels_last).point.direction(self.gradient)
        try:
            tape = self._record(chosen, self.few)
            played = tape(other)
        except (TapeError, RuntimeError, TypeError):
            return chosen, 0.0
        rounding = 100 * torch.finfo(self.problem.dtype).eps
        same = self._distance(played, self.run(chosen, self.few, other)) <= rounding
        return dataclasses.replace(chosen, taped=same), tape.nbytes / self.few.examples

    def _record(self, chosen: Plan, batch: Examples) -> Tape:
        curve = self.curve(chosen.channels_last)
        product = functools.partial(curve.product, chosen.mode, curve.laid(batch))
        vector = curve.point.direction(self.vector)
        return Tape.record(product, vector, [*curve.point.weights, *curve.point.buffers.values()])[1]

    def cost(self, chosen: Plan) -> float:
        """Time of a product in that of a gradient of the same examples, in the faster of the two layouts."""
        if chosen.taped:
            tape = self._record(chosen, self.more)
            point = self.curve(chosen.channels_last).point
            seconds = self._time(lambda: tape(point.direction(self.vector)), 1)
        else:
            seconds = self._time(lambda: self.run(chosen, self.more), 2)
        layouts = (True, False) if self.images else (chosen.channels_last,)
        curves = [self.curve(layout) for layout in layouts]
        gradients = [self._time(functools.partial(c.gradient, c.laid(self.more)), 2) for c in curves]
        return seconds / min(gradients)

    def noise(self, chosen: Plan) -> Noise:
        weights = self.curvature.point.weights

        def product(v: Tensor) -> Tensor:
            return flatten(self.run(chosen, self.few, unflatten(v, weights)))

        return measure_noise(product, self.problem.size, self.problem.dtype, self.problem.device)

    def _references(self, length: float) -> tuple[list[Vec], float]:
        """The product by differences, in float64 where model and loss follow, and how little of it is meaningless."""
        double = torch.float64
        try:
            curve = self.curvature.at(self.curvature.point.stored(False, double))
            vector, batch = [v.to(double) for v in self.vector], curve.laid(self.few)
            if not isinstance(curve, Hessian):
                return [curve.product(MODES[-1], batch, vector)], 1e-8 * length
            return [differences(curve.point, batch, vector, step) for step in (1e-5, 1e-7)], 1e-6 * length
        except Exception:  # tensors of one dtype inside the model or the loss
            found = self.curvature.product(MODES[-1], self.curvature.laid(self.few), self.vector)
            return [found], torch.finfo(self.problem.dtype).eps ** 0.5 * length

    def _distance(self, found: Vec, reference: Vec) -> float:
        a, b = flatten(found).double(), flatten(reference).double()
        size = max(float(a.norm()), float(b.norm()))
        apart = float((a - b).norm())
        if not math.isfinite(apart):
            return math.inf
        return max(0.0, apart - self.slack) / size if size else 0.0

    def _time(self, run: Callable[[], Any], repeats: int, most: float = math.inf) -> float:
        """Seconds of the fastest run.  The first warms up, and is not repeated where it is far beyond ``most``."""
        best = math.inf
        for number in range(repeats + 1):
            self._wait()
            start = time.perf_counter()
            run()
            self._wait()
            best = min(best, time.perf_counter() - start)
            if number == 0 and best < 0.02 and repeats == 0:
                return self._time(run, 2)
            if best > 3.0 * most:
                break
        return best

    def _wait(self) -> None:
        if self.problem.device.type == "cuda":
            torch.cuda.synchronize(self.problem.device)


def _compiled(chosen: Plan, mode: str, memory: int) -> Plan:
    """The same plan with compiled products, which are those of a tape."""
    if not chosen.taped or not memory:
        got = "a product that cannot be recorded" if memory else "memory=0"
        remedy = "" if memory else "give memory, or "
        raise ProblemError(
            f'mode={mode!r} got {got}, expected one that is recorded to be compiled: {remedy}leave "compiled" out'
        )
    return dataclasses.replace(chosen, compiled=True)


def _some(curvature: Curvature, batch: Examples, count: int) -> Examples:
    """So many examples of a batch, or all where they are coupled."""
    return batch if curvature.point.problem.audit.coupled else cut(batch, slice(0, count))


def _clearly(seconds: float, than: float) -> bool:
    return seconds * _FASTER < than and seconds + _GAIN < than


def _images(curvature: Curvature, batch: Examples) -> bool:
    """Whether weights and inputs have four dimensions, so that their memory layout is a choice."""
    inputs = [x for x in (*batch.args, *batch.kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point()]
    return any(x.dim() == 4 for x in inputs) and any(w.dim() == 4 for w in curvature.point.weights)


def _fitting(chosen: Plan, batches: list[Examples], nbytes: float, memory: int) -> Plan:
    """The plan with batches cut to what memory holds (not below 32 examples), on a CPU to what its caches like."""
    largest = max(batch.examples for batch in batches)
    size = chosen.size or largest
    if nbytes > 0.0:
        size = min(size, max(_LEAST, int(memory / nbytes)))
    if batches[0].examples and size > 2 * _MOST and _on_cpu(batches[0]):
        size = _MOST
    return dataclasses.replace(chosen, size=size if size < largest else None)


def _on_cpu(batch: Examples) -> bool:
    return all(x.device.type == "cpu" for x in (*batch.args, *batch.kwargs.values()) if isinstance(x, Tensor))
