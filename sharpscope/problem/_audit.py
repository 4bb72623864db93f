"""Is L one function of w, the one that was meant?  Looked at once, on a few examples, at slightly displaced weights.

What a forward pass reads and writes is watched (weights of the user's own model, random numbers, writes into
parameters); values with and without gradients, of parts and of single examples are compared.  It takes about six
forward passes of at most 32 examples.  Slopes are looked at by ``_slope``, where derivatives are asked for.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharpscope.core.vectors import Vec, generator, mix
from sharpscope.problem._snapshot import Snapshot
from sharpscope.problem._twin import plain_attention
from sharpscope.problem.examples import Examples, ProblemError, cut, merge, on_tensors, tensors_of
from sharpscope.problem.returned import ModelLoss

__all__ = ["Audit", "audit", "displaced", "few_of"]

_FEW = 32  # examples that are looked at
_AWAY = 0.02  # how far weights are displaced, of the root mean square of each tensor
# What a model or a loss may raise that does not follow; anything else is an error of another kind, and told.
_CANNOT = (RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, AssertionError)
_SLACK = 1e3  # roundings by which two sums of the same numbers may differ


@dataclasses.dataclass(frozen=True)
class Audit:
    """What a few examples tell of a function.

    ``coupled``: L of a batch is not the sum over its examples, so batches are evaluated as they are and quantities of
    single examples do not exist.  ``by_inputs``: losses of single examples are those of the model called with single
    examples, as rows of the outputs do not tell.  ``differentiates``: outputs need gradients to be computed, or are
    others without them.  ``batches``: the data where they must not be cut as they were, else None.
    """

    examples: int
    coupled: bool = False
    by_inputs: bool = False
    differentiates: bool = False
    draws: int | None = None
    batches: list[Examples] | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def words(self) -> str:
        """What is out of the ordinary, for the description of a problem."""
        found = ", examples coupled: batches as given" if self.coupled and not self.draws else ""
        return found + (f", mean over {self.draws} fixed draws" if self.draws else "")

    def check_single(self, what: str) -> None:
        """Raise ProblemError where quantities of single examples do not exist."""
        if self.coupled:
            why = "draws random numbers for whole batches" if self.draws else "couples the examples of a batch"
            raise ProblemError(
                f"{what} got a loss that {why}, expected a sum over examples: use what looks at whole batches "
                f"(loss, gradient, hessian, surface), or another loss"
            )

    def without_batches(self) -> Audit:
        """The same of other data."""
        return dataclasses.replace(self, batches=None)


def audit(problem: Snapshot, batches: list[Examples], cuttable: bool, unbatched: bool) -> Audit:
    """Look at a few examples of the first batch.

    Args:
        problem: its twin is told how it must be evaluated.
        batches: the data.
        cuttable: whether the data came whole and were cut into batches by us.
        unbatched: whether they came as a Dataset, whose order says nothing of batches.

    Raises ProblemError for what is no function of the weights that are handed in.
    """
    with problem.guard(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what parts of a batch lack is no news of the batch
        weights = displaced(problem)
        first = max(batches, key=lambda batch: batch.examples)
        if first.examples < 2 and not problem.draws and not _opaque(first):
            joined = merge(batches[:_FEW])
            first = joined[0] if len(joined) == 1 else first
        few, whole, value = _first(problem, first, weights)
        if not math.isfinite(value):
            weights = [w.clone() for w in problem.twin.weights]
            value = _watched(problem, few, [w.detach() for w in weights])
        differentiates = _needs_gradients(problem, few, weights, value)
        with torch.set_grad_enabled(differentiates):
            if isinstance(problem.objective, ModelLoss):
                problem.objective.settle(problem.outputs(few, weights), few.targets)
            found = Audit(few.examples, differentiates=differentiates, draws=problem.draws)
            if problem.draws:
                return dataclasses.replace(found, coupled=True, batches=_drawn(batches, problem.draws))
            others = [few_of(batches[-1]), few_of(batches[len(batches) // 2])] if len(batches) > 1 and not whole else []
            coupled = whole or not all(_additive(problem, part, weights) for part in (few, *others))
            if coupled:
                _check_batches(problem, few, weights, batches, cuttable, unbatched, whole)
                joint = _joined(batches) if cuttable else None
                return dataclasses.replace(found, coupled=True, batches=joint)
            return dataclasses.replace(found, by_inputs=not _by_rows(problem, few, weights))


# -- what a forward pass touches


class _Watch(TorchDispatchMode):
    """Which of some storages are read or written, and whether random numbers are drawn."""

    def __init__(self, mine: Sequence[Tensor], own: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.mine, self.own, self.theirs = ({_storage(x) for x in xs if x.numel()} for xs in (mine, own, theirs))
        self.random = self.writes = self.second = self.captured = False  # the second: a reference beside that in place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random = True
        read = {_storage(x) for x in tensors_of([list(args), kwargs]) if _has_storage(x)}
        self.captured = self.captured or not self.theirs.isdisjoint(read)
        self.second = self.second or not self.own.isdisjoint(read)
        if func._schema.is_mutable and args and isinstance(args[0], Tensor) and _has_storage(args[0]):
            self.writes = self.writes or _storage(args[0]) in self.mine
        return func(*args, **kwargs)


def _has_storage(x: Tensor) -> bool:
    return x.layout == torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(x)


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _watched(problem: Snapshot, few: Examples, weights: Vec) -> float:
    """The numerator of a few examples; tells the twin how it must be evaluated.  Refuses what is no function of w."""
    twin = problem.twin
    theirs = [] if twin.shared else [p.detach() for p in problem.parameters.values()]
    for _ in range(2):
        mine = [w.clone() for w in weights]
        own = [] if twin.moving else [p.detach() for p in twin.leaves]
        watch = _Watch(twin.weights if twin.moving else mine, own, theirs)
        with plain_attention() as attention, torch.enable_grad(), watch:
            found = float(_value(problem, few, twin.leaves_at(mine)))
        twin.attends = twin.attends_by_module or attention.seen
        twin.random = watch.random
        if watch.captured:
            raise ProblemError(
                f"the loss got weights of {type(problem.model).__name__} that were not handed in (a penalty, or a call "
                f"of the model, inside the loss), expected a function of its arguments: give Problem(model, "
                f"data=batches, evaluate=lambda model, batch: ...), whose model is the one that moves"
            )
        twin.guarding = twin.guarding or watch.writes
        if not watch.second:
            return found
        if twin.shared:
            raise ProblemError(
                f"{type(problem.model).__name__} got weights that it reads by a second reference, and cannot be "
                f"copied, expected one or the other: make it copyable, or read parameters where they are registered"
            )
        twin.move()
    raise ProblemError(
        f"{type(problem.model).__name__} got weights from tensors that are not its parameters, expected a function of "
        f"its parameters: read them where they are registered"
    )


def _random(problem: Snapshot, first: float, second: float) -> str:
    awake = [n for n, m in problem.model.named_modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)]
    named = [name for name in awake if problem.twin.module.get_submodule(name).training]
    cause = f"the dropout layer {named[0]!r} stays active" if named else "a dropout or other random numbers act"
    return (
        f"the loss got {first:.9g} and {second:.9g} at the same weights, expected one value: {cause} in eval mode; let "
        f"them follow eval(), as dropout(x, training=self.training) does, or give draws= for the mean over fixed draws"
    )


# -- the same value in other ways


def _value(problem: Snapshot, batch: Examples, weights: Sequence[Tensor]) -> Tensor:
    """The numerator of a batch, without its graph."""
    seed = None if not problem.draws else mix("draws", 0, 0)
    batch = dataclasses.replace(batch, draw=seed)
    return problem.numerator(problem.outputs(batch, weights), batch.targets).detach()


def _first(problem: Snapshot, batch: Examples, weights: Vec) -> tuple[Examples, bool, float]:
    """A few examples of a batch, whether it must stay whole because rows cannot be cut, and their numerator."""
    whole = _opaque(batch)
    few = batch if whole or problem.draws else few_of(batch)
    try:
        return few, whole, _watched(problem, few, weights)
    except (ProblemError, torch.OutOfMemoryError):
        raise
    except _CANNOT:  # of the user's code, told by the whole batch if that fails too
        if few is batch:
            raise
        return batch, True, _watched(problem, batch, weights)


def few_of(batch: Examples) -> Examples:
    """A few examples of a batch."""
    return batch if batch.examples <= _FEW else cut(batch, slice(0, None, -(-batch.examples // _FEW)))


def _opaque(batch: Examples) -> bool:
    """Whether a batch holds what is no tensor, number or text, of which rows cannot be cut."""
    if isinstance(batch.targets, (Tensor, Mapping)) or not batch.args:
        return False
    values = [batch.args[0]] if len(batch.args) == 1 else list(batch.args)
    plain = (Tensor, Mapping, bool, int, float, str, type(None))
    inside = [x for value in values for x in (value if isinstance(value, (tuple, list)) else [value])]
    return not inside or not all(isinstance(x, plain) for x in inside)


def displaced(problem: Snapshot, share: float = _AWAY, draw: int = 0) -> Vec:
    """Weights beside the problem's own, where nothing lies on a kink by its making."""
    found = []
    for name, w in zip(problem.names, problem.twin.weights, strict=True):
        size = float(w.double().square().mean().sqrt()) if w.numel() else 0.0
        size = size if math.isfinite(size) else 0.0
        noise = torch.randn(w.shape, generator=generator("audit", name, draw), dtype=torch.float64, device="cpu")
        found.append(w + (share * (size or 0.5) * noise).to(w))
    return found


def _near(problem: Snapshot, a: float, b: float, size: float = 0.0) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return (a == b) or (a != a and b != b)
    return abs(a - b) <= _SLACK * torch.finfo(problem.dtype).eps * max(abs(a), abs(b), size)


def _needs_gradients(problem: Snapshot, few: Examples, weights: Vec, value: float) -> bool:
    """Whether outputs are computed with gradients only, or are others without.  Refuses values that do not repeat."""
    try:
        with torch.no_grad():
            if _near(problem, value, float(_value(problem, few, weights))):
                return False
    except (ProblemError, torch.OutOfMemoryError):
        raise
    except _CANNOT:  # a model that differentiates in its forward
        pass
    with torch.enable_grad():
        again = float(_value(problem, few, problem.twin.leaves_at(weights)))
    if not _near(problem, value, again):
        raise ProblemError(_random(problem, value, again))
    return True


# -- examples and batches


def _halves(few: Examples) -> tuple[Examples, Examples]:
    """Two unequal parts."""
    middle = max(1, few.examples // 3)
    return cut(few, slice(0, middle)), cut(few, slice(middle, few.examples))


def _additive(problem: Snapshot, few: Examples, weights: Vec) -> bool:
    """Whether the losses of two parts add up to that of both."""
    if few.examples < 2:
        return True
    try:
        whole, *parts = (float(_value(problem, part, weights)) for part in (few, *_halves(few)))
    except (ProblemError, torch.OutOfMemoryError):
        raise
    except _CANNOT:  # a model or a loss that takes no part of a batch
        return False
    return _near(problem, whole, sum(parts), sum(abs(part) for part in parts))


def _by_rows(problem: Snapshot, few: Examples, weights: Vec) -> bool:
    """Whether the loss of a row of the outputs is the loss of the model called with that example."""
    try:
        outputs, targets, objective = problem.objective.parts(problem.outputs(few, weights), few.targets)
        found = objective.each(outputs, targets)
        if found.shape != (few.examples,):
            return False
        ones = [float(_value(problem, cut(few, slice(row, row + 1)), weights)) for row in range(min(2, few.examples))]
    except _CANNOT:  # outputs that have no rows, or a loss that the model or evaluate= returns
        return False
    size = float(found.double().abs().sum())
    return all(_near(problem, float(a), b, size) for a, b in zip(found, ones, strict=False))


def _check_batches(
    problem: Snapshot,
    few: Examples,
    weights: Vec,
    batches: list[Examples],
    cuttable: bool,
    unbatched: bool,
    whole: bool,
) -> None:
    """Raise ProblemError where it is not known how batches of a loss that is no sum over examples are weighed."""
    if unbatched and cuttable:
        raise ProblemError(
            "the loss couples the examples of a batch and got a Dataset, expected batches: give batch_size=, a "
            "DataLoader, or a list of batches"
        )
    if len(batches) == 1 or cuttable or whole:
        return
    if _is_sum(problem, few, weights):
        raise ProblemError(
            "the loss is the sum over the examples of its batch, expected their mean: use a loss of torch with "
            "reduction='sum', which is known, or divide by the number of examples"
        )
    share = _hidden_weights(problem, few)
    if share is not None:
        raise ProblemError(
            f"the loss is a mean over something else than examples (two parts of a batch weigh {share:.3g} : 1), "
            f"expected to know over what: give denominator=lambda outputs, targets: their number, or "
            f"evaluate=lambda model, batch: (loss, number)"
        )


def _is_sum(problem: Snapshot, few: Examples, weights: Vec) -> bool:
    """Whether the loss of two parts, not their mean, adds up to that of both."""
    try:
        whole, *parts = (float(_value(problem, b, weights)) / b.examples for b in (few, *_halves(few)))
    except _CANNOT:
        return False
    return few.examples > 1 and _near(problem, whole, sum(parts), sum(abs(part) for part in parts))


def _hidden_weights(problem: Snapshot, few: Examples) -> float | None:
    """The ratio of the weights of two parts, if the loss of both is a weighted mean of theirs wherever w is."""
    parts, found = _halves(few), []
    for draw in range(3):  # far from each other: what couples examples has no constant weights
        at = displaced(problem, 1.0, draw)
        try:
            means = [float(_value(problem, b, at)) / max(b.examples, 1) for b in (few, *parts)]
        except _CANNOT:  # a model or a loss that takes no part of a batch
            return None
        mean, a, b = means
        if not abs(mean - a) > 1e-5 * (abs(a) + abs(b)):
            return None
        found.append((b - mean) / (mean - a))
    first = found[0]
    return first if first > 0 and all(abs(r - first) <= 1e-3 * abs(first) for r in found) else None


def _joined(batches: list[Examples]) -> list[Examples]:
    """Batches that were cut from one, as one again."""
    parts = [tensors_of((b.args, b.kwargs, b.targets)) for b in batches]
    columns = [torch.cat(column) if column[0].dim() else column[0] for column in zip(*parts, strict=True)]
    rest = iter(columns)
    first = batches[0]
    args, kwargs, targets = on_tensors((first.args, first.kwargs, first.targets), lambda x: next(rest))
    examples = sum(batch.examples for batch in batches)
    return [dataclasses.replace(first, args=args, kwargs=kwargs, targets=targets, examples=examples)]


def _drawn(batches: list[Examples], draws: int) -> list[Examples]:
    """Every batch once per draw; the denominators add up alike, so that L is the mean over draws."""
    return [
        dataclasses.replace(batch, draw=mix("draws", place, draw) % 2**63)
        for place, batch in enumerate(batches)
        for draw in range(draws)
    ]
