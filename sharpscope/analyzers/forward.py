"""The losses of all examples at given weights, as fast as a forward pass allows.

The data is laid out and cut once, BatchNorm is folded where that is exact, and nothing of autograd is kept.  What is
fastest is measured once per model and process; the choice changes the last bits of a loss and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpscope.analyzers.fold import Fold, find_folds, fold, folded_model, private, same
from sharpscope.calls import call_with, swapped
from sharpscope.examples import Examples, cut, merge, on_tensors
from sharpscope.problem import Problem
from sharpscope.vectors import Vec

__all__ = ["Forward", "Metric", "Way"]

Metric = Callable[[Any, Any], Any]

_SIZES = (0.5, 2.0, 4.0)  # examples at a time that are tried, in shares of the usual number
_CACHED = 98304  # input numbers at a time (32 images of CIFAR) that keep what layers hand on in a processor's cache
_QUICK = 2e-3  # seconds of an evaluation that is not worth measuring
_CLEARLY = 0.87  # what is faster by less keeps the usual choice, so that most processes choose alike
_STATISTICS = 128  # examples at a time where BatchNorm statistics are re-estimated
_CHOSEN: dict[Any, Way] = {}  # per model and process, so that the same question has the same bits


@dataclass(frozen=True)
class Way:
    """How outputs are computed; ``how`` is its text, ``Way.of(text)`` its inverse."""

    layout: str = "contiguous"  # or "channels-last"
    size: int = 0  # examples at a time; 0 leaves the batches as the problem has them
    folded: int = 0  # BatchNorms that are folded into the layer before them

    @property
    def how(self) -> str:
        """Such as "channels-last, 128 at a time, 21 BatchNorms folded"."""
        size = f"{self.size} at a time" if self.size else "batches as given"
        return f"{self.layout}, {size}, {self.folded} BatchNorms folded"

    @staticmethod
    def of(text: str) -> Way:
        """Raises ValueError for what is no text of a Way."""
        found = re.fullmatch(
            r"(contiguous|channels-last), (?:([1-9]\d*) at a time|batches as given), (\d+) BatchNorms folded", str(text)
        )
        if not found:
            raise ValueError(
                f"got how={text!r}, expected 'fastest', 'untimed' or the text of a former result: copy result.how"
            )
        return Way(found[1], int(found[2] or 0), int(found[3]))


class Forward:
    """Losses and metrics of all examples of some batches at given weights.

    Args:
        problem: the function.
        batches: its examples, or some of them.
        statistics: examples on which BatchNorm statistics are re-estimated at every point; None leaves those of the
            model.
        metrics: ``metric(outputs, targets)`` by name: a value per example, or the mean over the examples.
    """

    def __init__(
        self,
        problem: Problem,
        batches: Sequence[Examples],
        statistics: Sequence[Examples] | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        self.problem, self.metrics = problem, dict(metrics or {})
        self.examples = sum(batch.examples for batch in batches)
        copied = private(problem.model)
        self.copied = copied is not None
        self.model = problem.model if copied is None else copied
        self.own = {name: x.detach() for name, x in (*self.model.named_parameters(), *self.model.named_buffers())}
        self.given = merge(list(batches))
        self.statistics = None if statistics is None else _even(merge(list(statistics)))
        self.folds: list[Fold] = []
        self.folded: nn.Module | None = None
        self.way = Way()
        self.half = False
        self.batches = list(batches)
        self.size = batches[0].examples  # that the problem takes at a time

    def verify(self, points: Sequence[Callable[[], Vec]], references: Sequence[Tensor]) -> None:
        """Evaluate a copy of the model, with its BatchNorms folded, where that gives what it should.

        ``references`` are the losses of the model itself at these points, of all examples: what else reads a layer's
        output may show in a late batch only.  A model that holds functions of itself has copies that are not like it;
        it is then evaluated itself.
        """
        statistics, self.statistics = self.statistics, None
        if self.copied:
            self._seek_folds(points)
            if self.folds and not self._agrees(points, references):
                self.folds, self.folded = [], None
            if not self.folds and not self._agrees(points, references):
                self.copied, self.model = False, self.problem.model
        self.statistics = statistics
        if not self.copied and statistics is not None:
            raise ValueError(
                f"batchnorm='recompute' got a {type(self.model).__name__} that copy.deepcopy cannot copy, expected one "
                f"that it can: use batchnorm='eval'"
            )

    def _seek_folds(self, points: Sequence[Callable[[], Vec]]) -> None:
        self.folds = find_folds(self.model, self.batches[0])
        if not self.folds:
            return
        self.folded = folded_model(self.model, self.folds)
        there = [functools.partial(lambda point: self._prepared(point())[1], point) for point in points]
        if not same(self.model, self.folded, self.folds, there, self.batches[0]):
            self.folds, self.folded = [], None

    def _agrees(self, points: Sequence[Callable[[], Vec]], references: Sequence[Tensor]) -> bool:
        """Whether losses are those of the model itself, with all folds there are."""
        usual, self.way = self.way, replace(self.way, folded=len(self.folds))
        try:
            found = [self._each(point())[0] for point in points]
        finally:
            self.way = usual
        return all(_close(a, b, self.problem.dtype) for a, b in zip(references, found, strict=True))

    def choose(self, how: str, seconds: float, at: Callable[[], Vec], half: bool = False) -> None:
        """Settle on a way: "fastest" (measured), "untimed" (by rule), or the text of a former one.

        ``seconds`` is what a plain evaluation took.  ``half`` computes in bfloat16.
        """
        usual = self._usual(half)
        if how == "untimed":
            return self.use(usual, half)
        if how != "fastest":
            way = Way.of(how)
            if way.folded != len(self.folds) or (way.size and len(self.given) > 1):
                raise ValueError(f"got how={how!r}, expected a way that this model can go, such as {usual.how!r}")
            return self.use(way, half)
        key = self._key(half)
        if key not in _CHOSEN:
            _CHOSEN[key] = usual if seconds < _QUICK else self._fastest(usual, at, half)
        return self.use(_CHOSEN[key], half)

    def use(self, way: Way, half: bool = False) -> None:
        """Lay the data out and cut it for this way."""
        self.way, self.half, self.batches = way, half, self._laid_out(self.given, way, half)

    def __call__(self, moved: Vec) -> tuple[Tensor, float, dict[str, float]]:
        """(N,) float64 numerators of all examples, the denominator of the loss, and the metrics.

        ``moved`` are the weights; they are scratch afterwards.
        """
        losses, weight, totals = self._each(moved)
        return losses, weight, {name: total / self.examples for name, total in totals.items()}

    def _each(self, moved: Vec) -> tuple[Tensor, float, dict[str, float]]:
        single, weight, totals = [], 0.0, dict.fromkeys(self.metrics, 0.0)
        objective = self.problem.objective
        quiet = torch.inference_mode() if self.copied else torch.no_grad()  # a user's model may keep what it computes
        with quiet:
            model, values = self._prepared(moved)
            with swapped(model, values) if self.copied else contextlib.nullcontext():
                for batch in self.batches:
                    if self.copied:
                        outputs = model(*batch.args, **batch.kwargs)
                    else:
                        outputs = call_with(model, values, batch.args, batch.kwargs)
                    if self.half:
                        outputs = on_tensors(outputs, lambda x: x.float() if x.is_floating_point() else x)
                    single.append(objective.each(outputs, batch.targets).double())
                    weight += float(objective.weight(outputs, batch.targets))
                    for name, metric in self.metrics.items():
                        totals[name] += _measured(name, metric, outputs, batch)
            losses = torch.cat(single)
        return losses, weight if objective.mean else 1.0, totals

    def _prepared(self, moved: Vec) -> tuple[nn.Module, dict[str, Tensor]]:
        """The model to call and what stands in for its parameters and buffers."""
        values = dict(zip(self.problem.names, moved, strict=True))
        if self.statistics is not None:
            values |= self._estimated(values)
        model = self.model
        if self.way.folded and self.folded is not None:
            model, values = self.folded, fold(self.folds, values, self.own)
        if not self.half:
            return model, values
        norms = tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, _BatchNorm))
        there = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        values = {name: values.get(name, tensor) for name, tensor in there.items()} | values
        halved = {
            name: x if name.startswith(norms) or not x.is_floating_point() else x.detach().bfloat16()
            for name, x in values.items()
        }  # BatchNorm takes bfloat16 with parameters and statistics of float32
        return model, halved

    def _estimated(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Running means and variances over the examples of ``statistics``: the mean over batches, by their size.

        BatchNorm alone is in training mode.
        """
        norms = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        found = {}
        for name, module in norms.items():
            assert isinstance(module.running_mean, Tensor) and isinstance(module.running_var, Tensor)
            found[f"{name}.running_mean"] = torch.zeros_like(module.running_mean)
            found[f"{name}.running_var"] = torch.ones_like(module.running_var)
            found[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.long, device=self.problem.device)
        seen = 0
        try:
            for batch in self.statistics or []:
                seen += batch.examples
                for module in norms.values():
                    module.training, module.momentum = True, batch.examples / seen
                call_with(self.model, {**values, **found}, batch.args, batch.kwargs)
        finally:
            for module in norms.values():
                module.training = False
        return found

    def _images(self) -> Vec:
        inputs = [x for b in self.given for x in (*b.args, *b.kwargs.values())]
        return [x for x in inputs if isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point()]

    def _usual(self, half: bool) -> Way:
        """The choice that needs no clock."""
        images = self._images()
        last = images and self.problem.dtype != torch.float64
        size = self.size * (2 if half else 1)
        if images and self.problem.device.type == "cpu":
            numbers = max(x[0].numel() for x in images)
            size = min(size, max(size // 4, _CACHED * (2 if half else 1) // numbers))
        size = size if len(self.given) == 1 and size < self.examples else 0
        return Way("channels-last" if last else "contiguous", size, len(self.folds))

    def _fastest(self, usual: Way, at: Callable[[], Vec], half: bool) -> Way:
        best = usual
        if self._images():
            for layout in ("contiguous", "channels-last"):
                best = self._faster(best, replace(best, layout=layout), at, half)
        if len(self.given) == 1:
            usual = best
            for share in _SIZES:
                size = max(1, int(share * (usual.size or self.examples)))
                if size < self.examples:
                    best = self._faster(best, replace(best, size=size), at, half)
        return best

    def _faster(self, usual: Way, other: Way, at: Callable[[], Vec], half: bool) -> Way:
        if other == usual:
            return usual
        timed = [[self._seconds(way, at, half) for way in (usual, other)] for _ in range(3)]
        mine, theirs = (min(column) for column in zip(*timed, strict=True))
        return other if theirs < _CLEARLY * mine else usual

    def _seconds(self, way: Way, at: Callable[[], Vec], half: bool) -> float:
        """Of a few hundred examples."""
        size = min(self.examples, 2 * self.size)
        some = [cut(self.given[0], slice(0, size))] if len(self.given) == 1 else self.given[:2]
        before = self.way, self.half, self.batches, self.statistics
        self.way, self.half, self.batches = way, half, self._laid_out(some, way, half)
        self.statistics = self.statistics and self.statistics[:1]
        try:
            moved, count = at(), sum(batch.examples for batch in some)
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

    def _laid_out(self, batches: Sequence[Examples], way: Way, half: bool) -> list[Examples]:
        def change(x: Tensor) -> Tensor:
            if half and x.is_floating_point():
                x = x.bfloat16()
            if x.dim() == 4 and x.is_floating_point():
                last = way.layout == "channels-last"
                x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
            return x

        size = way.size or max(batch.examples for batch in batches)
        found = []
        for batch in batches:
            for start in range(0, batch.examples, size):
                piece = batch if batch.examples <= size else cut(batch, slice(start, start + size))
                args, kwargs = on_tensors((piece.args, piece.kwargs), change)
                found.append(replace(piece, args=args, kwargs=kwargs))
        return found

    def _key(self, half: bool) -> Any:
        weights = tuple((name, tuple(w.shape)) for name, w in self.problem.parameters.items())
        inputs = tuple(tuple(x.shape) for x in self.given[0].args if isinstance(x, Tensor))
        where = (self.problem.dtype, self.problem.device, torch.get_num_threads())
        model = type(self.problem.model)
        return model, weights, inputs, len(self.given), where, half, len(self.folds), self.statistics is not None


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
