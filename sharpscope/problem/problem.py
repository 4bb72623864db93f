"""A Problem is the function L(w) that is analysed: a model, a loss and data, evaluated at any weights.

It is evaluated on a copy of the model (``_twin``), so that nothing of the user's is ever moved, and audited once
(``_audit``): is L one function of w, of single examples or of whole batches, with the gradient that autograd says?
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sharpscope.core.expressions import check_count
from sharpscope.core.vectors import Vec
from sharpscope.problem._audit import Audit, audit
from sharpscope.problem._checks import (
    check_dtype,
    check_norms,
    check_ways,
    wrong_classes,
)
from sharpscope.problem._per_example import each, squares
from sharpscope.problem._slope import check_autograd, check_slope
from sharpscope.problem._snapshot import Snapshot
from sharpscope.problem.examples import (
    Examples,
    ProblemError,
    as_batches,
    check_fixed,
    cut,
    handed,
    labelled,
    merge,
    moved,
)
from sharpscope.problem.losses import Objective
from sharpscope.problem.returned import ModelLoss, Returned

__all__ = ["Problem", "ProblemError", "check_norms", "check_problem"]

_MISSING: Any = object()


class Problem(Snapshot):
    """``L(w)``: the losses of all examples summed and divided once by their denominator, in eval mode.

    The problem holds a copy of the model, and every analysis takes over the weights and buffers that the model has when
    it begins; training on, hooks, modes and an exception do not meet it.  In other threads than the one that made the
    problem it stays where it was, so that a training that goes on does not move an analysis; ``refresh()`` takes over
    the weights of now there.

    Args:
        model: a ``torch.nn.Module``; its parameters with ``requires_grad`` are w, in the order of
            ``named_parameters()``. Tied parameters count once, frozen ones are constants.
        loss: ``loss(outputs, targets) -> 0-dim tensor``.  Losses of torch are weighted exactly (see ``losses.py``); any
            other callable must return the mean over the examples of its batch.  None for a model that returns its loss
            (attribute or key ``loss``, or first), as those of Hugging Face do: the mean over labels that are not -100.
        data: ``(inputs, targets)`` tensors, a ``Dataset``, a ``DataLoader``, or batches (a list or any iterable, read
            once).  A batch is
            ``(inputs, targets)``, where inputs may be a tensor, ``model(inputs)``; a tuple or list of positional
            arguments, ``model(*inputs)``; or a dict of keyword arguments, ``model(**inputs)``.  A batch that is one
            dict is both: ``loss(model(**batch), batch)``.  Read when the problem is made, in the order given.
        batch_size: examples per evaluation for tensors and Datasets; a choice of speed and memory, never of the result.
            ``None`` suits the input size.
        denominator: ``denominator(outputs, targets) -> float`` for a callable whose mean is not over examples.
        evaluate: in place of a loss, ``evaluate(model, batch) -> loss`` or ``(loss, weight)`` for batches of any kind
            (what has a method ``to`` is moved by it): the copy of the model is handed in, and what is computed from its
            parameters counts, penalties too.  Its loss is the mean over ``weight``: the examples of the batch unless
            told.
        draws: for a model that draws random numbers in eval mode: L is then the mean over so many fixed draws (common
            random numbers; ``torch.manual_seed(batch.draw)`` before a batch of ``batches`` repeats its draw).

    A loss that couples the examples of a batch (contrastive, Dice, ranking) is evaluated on the batches as they are
    given, weighed by their examples; quantities of single examples are refused then.  All data are kept on the model's
    device.  Raises ProblemError for what is no module, no loss or no data; a model without trainable parameters; data
    that are random (augmentation, a loader that shuffles and drops what is left over); mismatched dtypes or devices;
    and, where it is first evaluated, for a loss that is no number, is random, reads weights that were not handed in, or
    is a mean over something unknown; where derivatives are asked for, for one whose gradient is not its slope.

    Example:
        >>> problem = Problem(nn.Linear(2, 2), nn.CrossEntropyLoss(), (torch.zeros(3, 2), torch.tensor([0, 1, 1])))
        >>> problem.size, problem.examples
        (6, 3)
        >>> def ridge(model, batch):
        ...     x, y = batch
        ...     return nn.functional.mse_loss(model(x), y) + sum(p.square().sum() for p in model.parameters())
        >>> Problem(nn.Linear(2, 1), data=(torch.ones(4, 2), torch.ones(4, 1)), evaluate=ridge).size
        3
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor] | None = None,
        data: Any = _MISSING,
        *,
        batch_size: int | None = None,
        denominator: Callable[..., float] | None = None,
        evaluate: Callable[..., Any] | None = None,
        draws: int | None = None,
    ) -> None:
        check_ways(loss, evaluate, data, _MISSING)
        check_count("the problem", "draws", draws, optional=True)
        read: Callable[[Any], Examples] | None = handed if evaluate else None if loss else labelled
        objective = Returned(evaluate) if evaluate else Objective(loss, denominator) if loss else ModelLoss()
        super().__init__(model, objective, evaluate, draws)
        self.plans: dict[tuple[str, str, int], Any] = {}  # how its curvatures are multiplied, by kind, mode and memory
        self.compiled: dict[Any, Callable[..., Any]] = {}  # their parts that were compiled, by structure
        self.epoch: int | None = None  # steps of one pass through the data, where a DataLoader says so
        if isinstance(data, DataLoader):
            with contextlib.suppress(TypeError):  # one over an iterable does not know
                self.epoch = len(data)
        self._read(data, batch_size, read)

    def _read(self, data: Any, batch_size: int | None, read: Callable[[Any], Examples] | None) -> None:
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws its seeds from the global state
            check_fixed(data)
            batches, self._cuttable = as_batches(data, batch_size, read)
            self._batches = [moved(batch, self.device) for batch in batches]
        self._unbatched = isinstance(data, Dataset)
        self.examples = sum(batch.examples for batch in self._batches)
        if not self.examples:
            raise ProblemError("the data holds no example, expected at least one: check the data set or its filter")
        if read is None:
            check_dtype(self._batches[0], self.parameters)

    # -- what the function is

    @functools.cached_property
    def audit(self) -> Audit:
        """What a few examples tell of the function; see ``Audit``.  Raises ProblemError for what is none."""
        return audit(self, self._batches, self._cuttable, self._unbatched)

    @property
    def batches(self) -> list[Examples]:
        """The data as they are evaluated: whole where the loss couples examples that came without batches."""
        return self.audit.batches if self.audit.batches is not None else self._batches

    def check_derivatives(self) -> None:
        """Raise ProblemError where the gradient that autograd gives is not the slope of L."""
        self._check_slope  # noqa: B018  (computed once)

    def check_autograd(self) -> None:
        """Raise ProblemError under inference mode, and for what was made there."""
        check_autograd([*self.parameters.values(), *self.batches[0].args, *self.batches[0].kwargs.values()])

    @functools.cached_property
    def _check_slope(self) -> None:
        self.check_autograd()
        check_slope(self, self.audit, self.batches[0])

    def weights_at(self, at: Sequence[Tensor] | None) -> Vec:
        self.audit  # noqa: B018  (it may decide how weights are held)
        return super().weights_at(at)

    def forget(self) -> None:
        self.plans = {}
        for name in ("audit", "_check_slope"):
            self.__dict__.pop(name, None)

    def of(self, data: Any, batch_size: int | None = None) -> Problem:
        """The same function of other data: model, weights and what the audit found are shared."""
        found = copy.copy(self)
        found.plans = {}
        read = handed if self._evaluate is not None else labelled if isinstance(self.objective, ModelLoss) else None
        found._read(data, batch_size, read)
        for name in ("audit", "_check_slope"):  # other data may couple what these do not
            found.__dict__.pop(name, None)
        return found

    def on(self, batches: Sequence[Examples]) -> Problem:
        """The same function on some examples of the problem."""
        found = copy.copy(self)
        found.plans, found._batches = {}, list(batches)
        found.examples = sum(batch.examples for batch in batches)
        found.__dict__["audit"] = self.audit.without_batches()
        return found

    def describe(self) -> str:
        """What a figure must say of the function behind it; of one that was not evaluated yet, less is known."""
        known = self.__dict__.get("audit")
        found = "" if known is None else known.words
        if self.twin.shared:
            found += ", evaluated in the model itself, which cannot be copied"
        return (
            f"{type(self.model).__name__}, {self.objective.name}, {self.examples} examples, "
            f"eval mode, {str(self.dtype).removeprefix('torch.')}{found}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled functions, which belong to a process."""
        return {**self.__dict__, "compiled": {}, "_thread": None, "_followed": None}

    def __repr__(self) -> str:
        return f"Problem({self.describe()}, {self.size} parameters on {self.device}, {len(self._batches)} batches)"

    # -- evaluation

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Without gradients, unless the model needs them to compute its outputs."""
        with torch.set_grad_enabled(self.audit.differentiates):
            yield

    def each(
        self,
        batch: Examples,
        weights: Sequence[Tensor],
        buffers: Mapping[str, Tensor] | None = None,
        objective: Objective | None = None,
    ) -> Tensor:
        """(n,) numerators of the examples of a batch; (1,) that of the whole batch where its examples are coupled."""
        return each(self, self.audit, batch, weights, buffers, objective)

    def loss(self, at: Sequence[Tensor] | None = None) -> float:
        """L at the weights ``at`` (the problem's own if None), summed in float64."""
        weights = self.weights_at(at)
        with self.guard(), self.quiet():
            total, weight = 0.0, 0.0
            for batch in self.batches:
                if self.objective.kind and not self.audit.coupled:
                    # example by example: what surfaces sum too, and more exact in float32
                    outputs = self.outputs(batch, weights)
                    total += float(self.objective.each(outputs, batch.targets).detach().double().sum())
                    weight += float(self.objective.weight(outputs, batch.targets))
                else:
                    numerator, denominator = self.sum(batch, weights)
                    total += float(numerator.detach())
                    weight += float(denominator)
        return self._divide(total, weight)

    def error(self, at: Sequence[Tensor] | None = None) -> float:
        """Share of examples whose largest output, of shape (examples, classes), is not at the target class.

        Raises ProblemError for outputs or targets of another shape, of which no such share exists.
        """
        weights = self.weights_at(at)
        with self.guard(), self.quiet():
            found = ((self.outputs(batch, weights), batch.targets) for batch in self.batches)
            wrong = sum(wrong_classes(outputs, targets) for outputs, targets in found)
        return float(wrong / sum(batch.examples for batch in self.batches))

    def example_losses(
        self, at: Sequence[Tensor] | None = None, batches: Sequence[Examples] | None = None
    ) -> tuple[Tensor, float]:
        """``(N,)`` float64 numerators of all examples at ``at``, and the denominator: L is their sum divided by it.

        ``batches`` are other examples than the problem's own.  Of a loss that couples examples, (batches,) numerators
        of the batches.
        """
        weights = self.weights_at(at)
        with self.guard(), self.quiet():
            single, weight = [], 0.0
            for batch in self.batches if batches is None else batches:
                single.append(self.each(batch, weights).detach().double())
                weight += self.weight(batch, weights)
        return torch.cat(single), weight if self.objective.mean else 1.0

    def gradient(self, at: Sequence[Tensor] | None = None) -> Vec:
        """Gradient of L at ``at``; zeros for parameters that the loss does not use."""
        return self.value_and_gradient(at)[1]

    def value_and_gradient(self, at: Sequence[Tensor] | None = None) -> tuple[float, Vec]:
        """L and its gradient at ``at``, in one forward and backward pass over the data.

        Raises ProblemError for a loss whose gradient is not its slope, as where a part of it is detached.
        """
        weights = [w.clone() for w in self.weights_at(at)] if self.twin.moving else self.weights_at(at)
        self.check_derivatives()
        with self.guard(), torch.enable_grad():
            sums: Vec = [torch.zeros_like(w) for w in weights]
            total, weight = 0.0, 0.0
            for batch in self.batches:
                leaves = self.twin.leaves_at(weights)
                numerator, denominator = self.sum(batch, leaves)
                if numerator.requires_grad:
                    torch._foreach_add_(sums, torch.autograd.grad(numerator, leaves, materialize_grads=True))
                total += float(numerator.detach())
                weight += float(denominator)
        torch._foreach_div_(sums, weight if self.objective.mean else 1.0)
        return self._divide(total, weight), sums

    def squared_gradients(self, samples: int | None = None, rng: torch.Generator | None = None) -> Vec:
        """Diagonal of the empirical Fisher: mean over examples of the squared gradient of the example's own loss.

        Sparse SAM (Mi et al. 2022), eq. (5), at the true labels and in eval mode.  ``samples`` examples are drawn
        without replacement from ``rng`` (all examples if None or if there are fewer).  For a mean loss with class
        weights an example's loss is its own numerator.  Raises ProblemError for a loss that couples examples.
        """
        check_count("squared_gradients", "samples", samples, optional=True)
        weights = self.weights_at(None)
        self.check_derivatives()
        self.audit.check_single("a Fisher")
        with self.guard():
            sums, count = squares(self, self.draw(samples, rng), [w.clone() for w in weights])
        torch._foreach_div_(sums, float(count))
        return sums

    def draw(self, samples: int | None, rng: torch.Generator | None) -> list[Examples]:
        """``samples`` examples, drawn without replacement and in order; all of them if None or if there are fewer."""
        if samples is None or samples >= self.examples:
            return self.batches
        self.audit.check_single("a subset of the examples")
        picked = torch.randperm(self.examples, generator=rng, device="cpu")[:samples].sort().values
        found, start = [], 0
        for batch in self.batches:
            inside = picked[(picked >= start) & (picked < start + batch.examples)] - start
            start += batch.examples
            if len(inside):
                found.append(cut(batch, inside.to(self.device)))
        return merge(found)

    def _divide(self, total: float, weight: float) -> float:
        if not self.objective.mean:
            return total
        return total / weight if weight else float("nan")


def check_problem(verb: str, problem: Any) -> None:
    """Raise TypeError for what is no problem."""
    if not isinstance(problem, Problem):
        raise TypeError(f"{verb} got a {type(problem).__name__}, expected a Problem: Problem(model, loss, data)")
