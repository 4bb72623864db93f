"""The losses of all examples at given weights, as fast as a forward pass allows.

The data is laid out and cut once, BatchNorm is folded where that is exact, and nothing of autograd is kept.  What is
fastest is measured once per model and process.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpscope.core.vectors import Vec
from sharpscope.problem._batchnorm import Fold, displace, find_folds, fold, folded_model, same
from sharpscope.problem._functional_call import swapped
from sharpscope.problem._layout import Way, fastest, images_of, laid_out, usual
from sharpscope.problem.examples import Examples, cut, merge, on_tensors
from sharpscope.problem.problem import Problem, check_norms

__all__ = ["Evaluator", "Metric"]

Metric = Callable[[Any, Any], Any]

_QUICK = 2e-3  # seconds of an evaluation that is not worth measuring
_STATISTICS = 128  # examples at a time where BatchNorm statistics are re-estimated
_CHOSEN: dict[Any, Way] = {}  # per model and process, so that the same question has the same bits


class Evaluator:
    """Losses and metrics of the examples of some batches at any weights, paired with those at the problem's own.

    ``moved`` makes weights, a call evaluates them.  ``denominator`` (what a sum of losses is divided by), ``shares``
    ((N,) float64, each example's part of it; zeros for a sum) and ``how`` (the text of the way) belong to it.  Where
    single examples have no losses of their own (``whole``), losses and shares are those of batches.

    Args:
        problem: the function.
        batches: its examples, or some of them.
        statistics: examples on which BatchNorm statistics are re-estimated at every point; None leaves those of the
            model.
        metrics: ``metric(outputs, targets)`` by name: a value per example, or the mean over the examples.

    Raises ValueError for a loss that is not finite at the problem's weights, ProblemError for a BatchNorm that looks at
    the examples beside each other.
    """

    def __init__(
        self,
        problem: Problem,
        batches: Sequence[Examples],
        statistics: Sequence[Examples] | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        self.problem, self.metrics, self.batches = problem, dict(metrics or {}), list(batches)
        self.twin, self.weights = problem.twin, [w.clone() for w in problem.weights]
        self.wide = torch.promote_types(problem.dtype, torch.float32)
        self.scratch = [torch.empty_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in self.weights]
        self.whole = problem.audit.coupled or problem.audit.by_inputs  # losses are those of batches, not of examples
        self.examples = sum(batch.examples for batch in batches)
        self.refreshed = 0 if statistics is None else sum(batch.examples for batch in statistics)
        self.size = batches[0].examples  # that the problem takes at a time
        self.folds: list[Fold] = []
        self.folded: nn.Module | None = None
        self.way, self.half, self.lasts = Way(), False, False
        with problem.guard():
            check_norms(problem.twin.module)
            self.own = {name: x.detach() for name, x in _state(self.twin.module)}
            self.given = list(batches) if problem.audit.coupled else merge(self.batches)
            self.statistics: list[Examples] | None = None
            began = time.perf_counter()
            losses = self._each(self._typed(self.moved()))[0]
            self.seconds = time.perf_counter() - began
            self.denominator, self.shares = self._shares()
            plain = float(losses.sum() / self.denominator)
            if not math.isfinite(plain):
                raise ValueError(
                    f"the loss at the centre is {plain}, expected a finite number: "
                    f"check the weights and the data before drawing around them"
                )
            self._verify(losses, statistics)

    @property
    def how(self) -> str:
        """The text of the way in which outputs are computed."""
        return self.way.how

    def moved(self, steps: Sequence[float] = (), axes: Sequence[Vec] = ()) -> Vec:
        """w + steps[0] axes[0] + ..., formed from w in float32 (float64 for a float64 model), valid until the next."""
        torch._foreach_copy_(self.scratch, self.weights)
        for step, axis in zip(steps, axes, strict=True):
            torch._foreach_add_(self.scratch, axis, alpha=float(step))
        return self.scratch

    def settle(self, how: str, half: bool = False) -> tuple[Tensor, dict[str, float]]:
        """Choose a way, and evaluate the problem's own weights in it.

        Args:
            how: "fastest" (measured), "untimed" (by rule), or the text of a former way.
            half: compute in bfloat16.
        """
        with self.problem.guard():
            self.way, self.half = self._chosen(how, half), half
            self.batches = laid_out(self.given, self.way, half)
            return self(self.moved())

    @contextlib.contextmanager
    def exactly(self) -> Iterator[None]:
        """Inside, outputs are computed in the dtype of the model, in the usual way."""
        before = self.way, self.half
        self.way, self.half = self._chosen("untimed", False), False
        self.batches = laid_out(self.given, self.way, False)
        try:
            yield
        finally:
            self.way, self.half = before
            self.batches = laid_out(self.given, *before)

    def __call__(self, moved: Vec) -> tuple[Tensor, dict[str, float]]:
        """(N,) float64 numerators of all examples, and the metrics.  ``moved`` is scratch afterwards."""
        losses, totals = self._each(moved)
        return losses, {name: total / self.examples for name, total in totals.items()}

    # -- which model is called

    def _verify(self, losses: Tensor, statistics: Sequence[Examples] | None) -> None:
        """Fold BatchNorms into the layers before them where that gives the losses of the model, of all examples.

        What else reads a layer's output may show in a late batch only, or elsewhere than at the weights.
        """
        self.lasts = bool(images_of(self.given)) and self._takes_channels_last()
        points = [lambda: self._typed(self.moved()), self._elsewhere]
        if not (self.twin.shared or self.whole or self.problem.audit.differentiates or self.problem.returns):
            references = [losses, self._each(self._elsewhere())[0]]
            self._seek_folds(points)
            if self.folds and not self._agrees(points, references):
                self.folds, self.folded = [], None
        self.statistics = None if statistics is None else _even(merge(list(statistics)))
        if self.twin.shared and statistics is not None:
            raise ValueError(
                f"batchnorm='recompute' got a {type(self.problem.model).__name__} that copy.deepcopy cannot copy, "
                f"expected one that it can: use batchnorm='eval'"
            )

    def _takes_channels_last(self) -> bool:
        """Whether the model computes the same of images with the channels last (``.view`` refuses them)."""
        few = self.given if self.whole else [cut(self.given[0], slice(0, 2))]
        before, found = self.batches, []
        try:
            for layout in ("contiguous", "channels-last"):
                self.batches = laid_out(few, Way(layout), False)
                found.append(self._each(self._typed(self.moved()))[0])
        except (RuntimeError, ValueError):
            return False
        finally:
            self.batches = before
        return _close(found[0], found[1], self.problem.dtype)

    def _seek_folds(self, points: Sequence[Callable[[], Vec]]) -> None:
        module = self.twin.module
        self.folds = find_folds(module, self.batches[0])
        if not self.folds:
            return
        self.folded = folded_model(module, self.folds)
        there = [functools.partial(lambda point: self._values(point()), point) for point in points]
        if not same(module, self.folded, self.folds, there, self.batches[0]):
            self.folds, self.folded = [], None

    def _agrees(self, points: Sequence[Callable[[], Vec]], references: Sequence[Tensor]) -> bool:
        """Whether losses are those of the model itself, with all folds there are."""
        before, self.way = self.way, replace(self.way, folded=len(self.folds))
        try:
            found = [self._each(point())[0] for point in points]
        finally:
            self.way = before
        return all(_close(a, b, self.problem.dtype) for a, b in zip(references, found, strict=True))

    def _elsewhere(self) -> Vec:
        """Weights that are displaced at random."""
        displace(dict(zip(self.problem.names, self.moved(), strict=True)), 0)
        return self._typed(self.scratch)

    # -- how it is called

    def _typed(self, moved: Vec) -> Vec:
        """Weights in the dtypes of the model."""
        return [x.to(w.dtype) for x, w in zip(moved, self.weights, strict=True)]

    def _each(self, moved: Vec) -> tuple[Tensor, dict[str, float]]:
        single, totals = [], dict.fromkeys(self.metrics, 0.0)
        usual = self.problem.audit.differentiates or self.twin.moving
        with self.problem.quiet() if usual else torch.inference_mode():
            values = self._values(moved if self.half else self._typed(moved))
            module = self.twin.module
            if self.way.folded and self.folded is not None:
                module, values = self.folded, fold(self.folds, values, self.own)
            if self.half:
                values = _halved(module, values)
            for batch in self.batches:
                outputs = self._outputs(module, values, batch)
                if self.half:
                    outputs = on_tensors(outputs, lambda x: x.float() if x.is_floating_point() else x)
                single.append(self._losses(outputs, batch).detach().double())
                for name, metric in self.metrics.items():
                    totals[name] += _measured(name, metric, outputs, batch)
            losses = torch.cat(single)
        return losses, totals

    def _losses(self, outputs: Any, batch: Examples) -> Tensor:
        if self.whole:
            return self.problem.numerator(outputs, batch.targets)[None]
        predictions, targets, objective = self.problem.objective.parts(outputs, batch.targets)
        return objective.each(predictions, targets)

    def _outputs(self, module: nn.Module, values: dict[str, Tensor], batch: Examples) -> Any:
        if module is not self.twin.module:
            with swapped(module, values):
                return module(*batch.args, **batch.kwargs)
        weights = [values[name] for name in self.problem.names]
        return self.problem.outputs(batch, weights, {n: x for n, x in values.items() if n not in self.problem.names})

    def _values(self, moved: Vec) -> dict[str, Tensor]:
        """What stands in for parameters and buffers of the twin."""
        values = dict(zip(self.problem.names, moved, strict=True))
        return values if self.statistics is None else values | self._estimated(values)

    def _estimated(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Running means and variances over the examples of ``statistics``: the mean over batches, by their size.

        BatchNorm alone is in training mode.
        """
        norms = {
            name: module
            for name, module in self.twin.module.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        found = {}
        for name, module in norms.items():
            assert isinstance(module.running_mean, Tensor) and isinstance(module.running_var, Tensor)
            found[f"{name}.running_mean"] = torch.zeros_like(module.running_mean)
            found[f"{name}.running_var"] = torch.ones_like(module.running_var)
            found[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.long, device=self.problem.device)
        seen, momenta = 0, {name: module.momentum for name, module in norms.items()}
        try:
            for batch in self.statistics or []:
                seen += batch.examples
                for module in norms.values():
                    module.training, module.momentum = True, batch.examples / seen
                self._outputs(self.twin.module, {**values, **found}, batch)
        finally:
            for name, module in norms.items():
                module.training, module.momentum = False, momenta[name]
        return found

    # -- which way is fastest

    def _shares(self) -> tuple[float, Tensor]:
        """The denominator, and (N,) float64 the part of every example in it; zeros for a sum, which is not divided."""
        problem, found = self.problem, []
        with problem.quiet():
            for batch in self.batches:
                outputs = problem.outputs(batch, self.weights) if problem.objective.needs_outputs else None
                if self.whole:
                    share = float(problem.objective.weight(outputs, batch.targets))
                    found.append(torch.tensor([share], dtype=torch.float64, device="cpu"))
                else:
                    parts = problem.objective.parts(outputs, batch.targets) if outputs is not None else None
                    objective = problem.objective if parts is None else parts[2]
                    found.append(objective.weights(outputs, batch.targets))
            shares = torch.cat(found)
            total = sum(problem.weight(batch, self.weights) for batch in self.batches)
        return total if problem.objective.mean else 1.0, shares

    def _chosen(self, how: str, half: bool) -> Way:
        plain = usual(self.given, self.size, self.problem.dtype, half, len(self.folds), self.lasts)
        if self.whole:
            plain = replace(plain, size=0)
        if how == "untimed":
            return plain
        if how != "fastest":
            way = Way.of(how)
            last = way.layout == "channels-last" and images_of(self.given) and not self.lasts
            if way.folded != len(self.folds) or (way.size and (self.whole or len(self.given) > 1)) or last:
                raise ValueError(f"got how={how!r}, expected a way that this model can go, such as {plain.how!r}")
            return way
        key = self._key(half)
        if key not in _CHOSEN:
            slow = self.seconds >= _QUICK and not self.whole
            seconds = functools.partial(self._seconds, half=half)
            _CHOSEN[key] = fastest(plain, self.given, seconds, self.lasts) if slow else plain
        return _CHOSEN[key]

    def _seconds(self, way: Way, half: bool) -> float:
        """Of a few hundred examples."""
        size = min(self.examples, 2 * self.size)
        some = [cut(self.given[0], slice(0, size))] if len(self.given) == 1 else self.given[:2]
        before = self.way, self.half, self.batches, self.statistics
        self.way, self.half, self.batches = way, half, laid_out(some, way, half)
        self.statistics = self.statistics and self.statistics[:1]
        try:
            moved, count = self.moved(), sum(batch.examples for batch in some)
            began = self._clock()
            self._each(moved)
            return (self._clock() - began) / count
        finally:
            self.way, self.half, self.batches, self.statistics = before

    def _clock(self) -> float:
        """Processor seconds, which other programs disturb least; wall seconds where a GPU works."""
        if self.problem.device.type == "cpu":
            return time.process_time()
        if self.problem.device.type == "cuda":
            torch.cuda.synchronize(self.problem.device)
        return time.perf_counter()

    def _key(self, half: bool) -> Any:
        weights = tuple((name, tuple(w.shape)) for name, w in self.problem.parameters.items())
        inputs = tuple(tuple(x.shape) for x in self.given[0].args if isinstance(x, Tensor))
        where = (self.problem.dtype, self.problem.device, torch.get_num_threads())
        model = type(self.problem.model)
        shape = model, weights, inputs, len(self.given), where, half
        return *shape, len(self.folds), self.statistics is not None, self.lasts, self.whole


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _halved(module: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """All parameters and buffers in bfloat16, but for those of BatchNorm, which takes float32 beside it."""
    norms = tuple(f"{name}." for name, m in module.named_modules() if isinstance(m, _BatchNorm))
    values = dict(_state(module)) | values
    return {
        name: x if name.startswith(norms) or not x.is_floating_point() else x.detach().bfloat16()
        for name, x in values.items()
    }


def _measured(name: str, metric: Metric, outputs: Any, batch: Examples) -> float:
    """The sum of a metric over the examples of a batch.  Raises ValueError where it fails."""
    try:
        found = torch.as_tensor(metric(outputs, batch.targets)).double()
    except Exception as error:
        raise ValueError(
            f"the metric {name!r} got {type(error).__name__}: {error}, expected numbers: check "
            f"metric(outputs, targets) on a batch"
        ) from error
    if found.shape == (batch.examples,):
        return float(found.sum())
    if found.numel() == 1:
        return float(found) * batch.examples
    raise ValueError(
        f"the metric {name!r} got values of shape {tuple(found.shape)}, expected ({batch.examples},) or one number: "
        f"return a value per example, or their mean"
    )


def _even(batches: list[Examples]) -> list[Examples]:
    """Batches of nearly one size, so that none is too small for statistics."""
    found = []
    for batch in batches:
        pieces = max(1, -(-batch.examples // _STATISTICS))
        ends = [round(place * batch.examples / pieces) for place in range(pieces + 1)]
        found += [cut(batch, slice(a, b)) for a, b in itertools.pairwise(ends)]
    return found


def _close(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    far = ~(torch.isfinite(a) & torch.isfinite(b))
    if not bool((far == ~torch.isfinite(a)).all()):
        return False
    a, b = a[~far], b[~far]
    return not len(a) or float((a - b).abs().max()) <= 1e4 * torch.finfo(dtype).eps * float(a.abs().max())
