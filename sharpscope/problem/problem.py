"""A Problem is the function L(w) that is analysed: a model, a loss and data, evaluated at any weights.

The model is never displaced: weights other than its own are handed to it for one call (``call_with``),
so there is nothing to restore after an exception.  Buffers, modes, gradients and random states are guarded.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from sharpscope.core.expressions import check_count
from sharpscope.core.vectors import Vec, mismatch
from sharpscope.problem._functional_call import call_with
from sharpscope.problem.examples import Examples, ProblemError, as_batches, check_fixed, cut, merge, on_tensors
from sharpscope.problem.losses import Objective

__all__ = ["Problem", "ProblemError", "check_autograd", "check_norms"]

_GRADIENT_BYTES = 512 * 2**20  # bound on the per-example gradients held at once


class Problem:
    """``L(w)``: the losses of all examples summed and divided once by their denominator, in eval mode.

    Args:
        model: a ``torch.nn.Module``; its parameters with ``requires_grad`` are w, in the order of
            ``named_parameters()``. Tied parameters count once, frozen ones are constants.
        loss: ``loss(outputs, targets) -> 0-dim tensor``.  Losses of torch are weighted exactly (see ``losses.py``); any
            other callable must return the mean over the examples of its batch.
        data: ``(inputs, targets)`` tensors, a ``Dataset``, a ``DataLoader`` or a list of batches.  A batch is
            ``(inputs, targets)``, where inputs may be a tensor, ``model(inputs)``; a tuple or list of positional
            arguments, ``model(*inputs)``; or a dict of keyword arguments, ``model(**inputs)``.  A batch that is one
            dict is both: ``loss(model(**batch), batch)``.  Read once, when the problem is made, in the order given.
        batch_size: examples per evaluation for tensors and Datasets; a choice of speed and memory, never of the result.
            ``None`` suits the input size.
        denominator: ``denominator(outputs, targets) -> float`` for a callable whose mean is not over examples.

    All of the data is kept on the model's device.  Raises ProblemError for a model without trainable parameters; no
    data, or data that are random (augmentation, a loader that shuffles and drops what is left over); mixed or
    mismatched dtypes or devices; and, where it is evaluated, for inputs that are not the model's arguments and a loss
    that is not one number.

    Example:
        >>> problem = Problem(nn.Linear(2, 2), nn.CrossEntropyLoss(), (torch.zeros(3, 2), torch.tensor([0, 1, 1])))
        >>> problem.size, problem.examples
        (6, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        data: Any,
        *,
        batch_size: int | None = None,
        denominator: Callable[..., float] | None = None,
    ) -> None:
        self.model = model
        self.objective = Objective(loss, denominator)
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ProblemError("the model has no parameter with requires_grad, expected at least one: unfreeze one")
        self.names: tuple[str, ...] = tuple(trainable)
        self._parameters = tuple(trainable.values())
        self.device, self.dtype = _one_place(trainable)
        self.plans: dict[tuple[str, str, int], Any] = {}  # how its curvatures are multiplied, by kind, mode and memory
        self.compiled: dict[Any, Callable[..., Any]] = {}  # their parts that were compiled, by structure
        self.epoch: int | None = None  # steps of one pass through the data, where a DataLoader says so
        if isinstance(data, DataLoader):
            self.epoch = len(data)
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws its seeds from the global state
            check_fixed(data)
            self.batches = [on_tensors(batch, lambda x: x.to(self.device)) for batch in as_batches(data, batch_size)]
        self.examples = sum(batch.examples for batch in self.batches)
        if not self.examples:
            raise ProblemError("the data holds no example, expected at least one: check the data set or its filter")
        _check_dtype(self.batches[0], self.dtype)

    @property
    def weights(self) -> Vec:
        """The model's own weights, detached (they share memory with the model)."""
        return [p.detach() for p in self._parameters]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trainable parameters of the model by name, in the order of the coordinates."""
        return dict(zip(self.names, self._parameters, strict=True))

    def weights_at(self, at: Sequence[Tensor] | None) -> Vec:
        """``at`` as a list, the model's own weights if None.

        Raises TypeError for what are no floating-point tensors on the model's device, ValueError for other shapes.
        """
        if at is None:
            return self.weights
        remedy = "give one tensor per trainable parameter, in their order"
        found = list(at) if isinstance(at, Iterable) else [at]
        for x in found:
            if not isinstance(x, Tensor):
                raise TypeError(f"at= got {type(x).__name__}, expected tensors: {remedy}")
        if wrong := mismatch(found, [tuple(w.shape) for w in self.weights]):
            raise ValueError(f"at= got {wrong[0]}, expected {wrong[1]}: {remedy}")
        for x in found:
            if not x.is_floating_point() or x.layout != torch.strided or x.device != self.device:
                raise TypeError(
                    f"at= got a tensor of {str(x.dtype).removeprefix('torch.')}, {x.layout}, on {x.device}, expected "
                    f"{str(self.dtype).removeprefix('torch.')}, torch.strided, on {self.device}: convert it"
                )
        return found

    @property
    def size(self) -> int:
        """n, the number of trainable entries."""
        return sum(p.numel() for p in self._parameters)

    def describe(self) -> str:
        """What a figure must say of the function behind it."""
        return (
            f"{type(self.model).__name__}, {self.objective.name}, {self.examples} examples, "
            f"eval mode, {str(self.dtype).removeprefix('torch.')}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled functions, which belong to a process."""
        return {**self.__dict__, "compiled": {}}

    def __repr__(self) -> str:
        return f"Problem({self.describe()}, {self.size} parameters on {self.device}, {len(self.batches)} batches)"

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Eval mode inside, every module's own mode, the buffers and the random states afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        buffers = [(module, dict(module._buffers)) for module in self.model.modules() if module._buffers]
        copies = [(buffer, buffer._version, buffer.clone()) for buffer in self.model.buffers()]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            try:
                self.model.eval()
                yield
            finally:
                for module, training in modes:
                    module.training = training
                for module, own in buffers:
                    module._buffers.update(own)
                with torch.no_grad():
                    for buffer, version, copy in copies:
                        if buffer._version != version:
                            buffer.copy_(copy)

    def loss(self, at: Sequence[Tensor] | None = None) -> float:
        """L at the weights ``at`` (the model's own if None), summed in float64."""
        with self.guard(), torch.no_grad():
            weights = self.weights_at(at)
            total, weight = 0.0, 0.0
            for batch in self.batches:
                if self.objective.kind:  # example by example: what surfaces sum too, and more exact in float32
                    outputs = self.outputs(batch, weights)
                    total += float(self.objective.each(outputs, batch.targets).double().sum())
                    weight += float(self.objective.weight(outputs, batch.targets))
                else:
                    numerator, denominator = self._sum(batch, weights)
                    total += float(numerator)
                    weight += float(denominator)
        return self._divide(total, weight)

    def error(self, at: Sequence[Tensor] | None = None) -> float:
        """Share of examples whose largest output, of shape (examples, classes), is not at the target class.

        Raises ProblemError for outputs or targets of another shape, of which no such share exists.
        """
        with self.guard(), torch.no_grad():
            weights = self.weights_at(at)
            wrong = sum(_wrong(self.outputs(batch, weights), batch.targets) for batch in self.batches)
        return float(wrong / self.examples)

    def example_losses(
        self, at: Sequence[Tensor] | None = None, batches: Sequence[Examples] | None = None
    ) -> tuple[Tensor, float]:
        """``(N,)`` float64 numerators of all examples at ``at``, and the denominator: L is their sum divided by it.

        ``batches`` are other examples than the problem's own.
        """
        with self.guard(), torch.no_grad():
            weights = self.weights_at(at)
            single, weight = [], 0.0
            for batch in self.batches if batches is None else batches:
                outputs = self.outputs(batch, weights)
                single.append(self.objective.each(outputs, batch.targets).double())
                weight += float(self.objective.weight(outputs, batch.targets))
        return torch.cat(single), weight if self.objective.mean else 1.0

    def gradient(self, at: Sequence[Tensor] | None = None) -> Vec:
        """Gradient of L at ``at``; zeros for parameters that the loss does not use."""
        return self.value_and_gradient(at)[1]

    def value_and_gradient(self, at: Sequence[Tensor] | None = None) -> tuple[float, Vec]:
        """L and its gradient at ``at``, in one forward and backward pass over the data."""
        check_autograd(self)
        with self.guard(), torch.enable_grad():
            weights = _leaves(self.weights_at(at))
            sums: Vec = [torch.zeros_like(w) for w in weights]
            total, weight = 0.0, 0.0
            for batch in self.batches:
                numerator, denominator = self._sum(batch, weights)
                if numerator.requires_grad:
                    torch._foreach_add_(sums, _gradients(numerator, weights))
                total += float(numerator.detach())
                weight += float(denominator)
        torch._foreach_div_(sums, weight if self.objective.mean else 1.0)
        return self._divide(total, weight), sums

    def squared_gradients(self, samples: int | None = None, rng: torch.Generator | None = None) -> Vec:
        """Diagonal of the empirical Fisher: mean over examples of the squared gradient of the example's own loss.

        Sparse SAM (Mi et al. 2022), eq. (5), at the true labels and in eval mode.  ``samples`` examples are drawn
        without replacement from ``rng`` (all examples if None or if there are fewer).  For a mean loss with class
        weights an example's loss is its own numerator.
        """
        check_count("squared_gradients", "samples", samples, optional=True)
        check_autograd(self)
        with self.guard():
            chosen = self.draw(samples, rng)
            weights = self.weights
            chunk = max(1, min(64, _GRADIENT_BYTES // max(1, self.size * weights[0].element_size())))
            sums: Vec = [torch.zeros_like(w) for w in weights]
            count = 0
            for batch in chosen:
                for start in range(0, batch.examples, chunk):
                    piece = cut(batch, slice(start, start + chunk))
                    torch._foreach_add_(sums, self._squares(piece, weights))
                    count += piece.examples
        torch._foreach_div_(sums, float(count))
        return sums

    def _squares(self, batch: Examples, weights: Vec) -> Vec:
        def of_example(values: dict[str, Tensor], args: Any, kwargs: Any, targets: Any) -> Tensor:
            one = on_tensors(Examples(args, kwargs, targets, 1), lambda x: x[None])
            outputs = call_with(self.model, values, one.args, one.kwargs)
            return self.objective.each(outputs, one.targets)[0]

        values = dict(zip(self.names, weights, strict=True))
        per_example = vmap(grad(of_example), in_dims=(None, 0, 0, 0), randomness="different")
        try:
            with sdpa_kernel(SDPBackend.MATH):
                found = per_example(values, batch.args, batch.kwargs, batch.targets)
        except (RuntimeError, ValueError):  # a model that vmap cannot follow: recurrent, with decisions on its values
            return self._squares_one_by_one(batch, weights)
        each = [found[name] for name in self.names]
        return [(g.square_() if g.is_contiguous() else g.square()).sum(0) for g in each]  # an unused one is expanded

    def _squares_one_by_one(self, batch: Examples, weights: Vec) -> Vec:
        leaves = _leaves(weights)
        sums: Vec = [torch.zeros_like(w) for w in weights]
        for row in range(batch.examples):
            with torch.enable_grad():
                numerator, _ = self._sum(cut(batch, slice(row, row + 1)), leaves)
                gradient = _gradients(numerator, leaves) if numerator.requires_grad else ()
            for total, one in zip(sums, gradient, strict=False):
                total.addcmul_(one, one)
        return sums

    def draw(self, samples: int | None, rng: torch.Generator | None) -> list[Examples]:
        """``samples`` examples, drawn without replacement and in order; all of them if None or if there are fewer."""
        if samples is None or samples >= self.examples:
            return self.batches
        picked = torch.randperm(self.examples, generator=rng)[:samples].sort().values
        found, start = [], 0
        for batch in self.batches:
            inside = picked[(picked >= start) & (picked < start + batch.examples)] - start
            start += batch.examples
            if len(inside):
                found.append(cut(batch, inside.to(self.device)))
        return merge(found)

    def outputs(self, batch: Examples, weights: Sequence[Tensor], buffers: Mapping[str, Tensor] | None = None) -> Any:
        """Outputs of the model for a batch, with other weights and buffers in place of its own.

        Raises ProblemError where the inputs of the batch are not the arguments of the model.
        """
        values = {**(buffers or {}), **dict(zip(self.names, weights, strict=True))}
        try:
            return call_with(self.model, values, batch.args, batch.kwargs)
        except TypeError as error:
            raise _call_error(self.model, batch, error) from error

    def numerator(self, outputs: Any, targets: Any, objective: Objective | None = None) -> Tensor:
        """The losses of a batch, summed: a differentiable number.  Raises ProblemError for anything else."""
        return self._checked(*(objective or self.objective).sum(outputs, targets))[0]

    def _sum(self, batch: Examples, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor | float]:
        return self._checked(*self.objective.sum(self.outputs(batch, weights), batch.targets))

    def _checked(self, numerator: Any, denominator: Tensor | float) -> tuple[Tensor, Tensor | float]:
        if not isinstance(numerator, Tensor):
            raise ProblemError(
                f"the loss got a {type(numerator).__name__}, expected a tensor of one number: compute it with torch"
            )
        if numerator.dim() or numerator.is_complex():
            raise ProblemError(
                f"the loss got shape {tuple(numerator.shape)}, expected one real number: reduce it to its mean or sum"
            )
        return numerator, denominator

    def _divide(self, total: float, weight: float) -> float:
        if not self.objective.mean:
            return total
        return total / weight if weight else float("nan")


def check_norms(model: nn.Module) -> None:
    """Raise ProblemError for a BatchNorm, in eval mode, whose outputs depend on the examples beside each other."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ProblemError(
                f"the BatchNorm layer {name!r} got the statistics of each batch in eval mode too, expected running "
                f"ones, because the loss must not depend on how examples are batched: let it follow eval(), with "
                f"track_running_stats=True"
            )


def check_autograd(problem: Problem) -> None:
    """Raise ProblemError where derivatives cannot be taken, which would be zero without a word."""
    batch = problem.batches[0]
    values = [*problem.parameters.values(), *batch.args, *batch.kwargs.values()]
    made = any(isinstance(x, Tensor) and x.is_inference() for x in values)
    if torch.is_inference_mode_enabled() or made:
        what = "weights or data that were made under" if made else "called under"
        raise ProblemError(
            f"a derivative got {what} torch.inference_mode(), expected autograd: use torch.no_grad() in its place, or "
            f"leave it with torch.inference_mode(False)"
        )


def _wrong(outputs: Any, targets: Any) -> int:
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (outputs, targets)]
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.dim() == 2):
        good = False
    else:
        good = targets.shape == outputs.shape[:1] and not targets.is_floating_point()
    if not good:
        raise ProblemError(
            f"the error got outputs {shapes[0]} and targets {shapes[1]}, expected (examples, classes) and class "
            f"numbers (examples,): it is defined for classification only"
        )
    return int((outputs.argmax(1) != targets).sum())


def _call_error(model: nn.Module, batch: Examples, error: TypeError) -> Exception:
    """The error of a model that got other arguments than it takes, in terms of how data become arguments."""
    try:
        inspect.signature(model.forward).bind(*batch.args, **batch.kwargs)
    except TypeError as mismatch:
        given = f"the keyword arguments {', '.join(batch.kwargs)}" if batch.kwargs else f"{len(batch.args)} arguments"
        return ProblemError(
            f"the model {type(model).__name__} got {given} ({mismatch}), expected those of its forward: a tuple of "
            f"inputs becomes positional arguments, a dict keyword arguments, and a batch that is one dict goes to the "
            f"model whole"
        )
    return error


def _leaves(weights: Sequence[Tensor]) -> Vec:
    return [w.detach().requires_grad_() for w in weights]


def _gradients(value: Tensor, weights: Vec, create_graph: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, weights, create_graph=create_graph, materialize_grads=True)


def _one_place(parameters: dict[str, nn.Parameter]) -> tuple[torch.device, torch.dtype]:
    devices = sorted({str(p.device) for p in parameters.values()})
    dtypes = sorted({str(p.dtype) for p in parameters.values()})
    if len(devices) > 1:
        raise ProblemError(
            f"the parameters are on {', '.join(devices)}, expected one device: move the model with .to()"
        )
    if len(dtypes) > 1:
        raise ProblemError(f"the parameters are {', '.join(dtypes)}, expected one dtype: convert with .float()")
    first = next(iter(parameters.values()))
    return first.device, first.dtype


def _check_dtype(batch: Examples, dtype: torch.dtype) -> None:
    for value in (*batch.args, *batch.kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != dtype:
            raise ProblemError(
                f"the inputs are {value.dtype} and the model is {dtype}, expected one dtype: "
                f"convert the inputs with .to({dtype}) or the model with .to({value.dtype})"
            )
