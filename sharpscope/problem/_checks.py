"""What a problem refuses before any work: got, expected, remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sharpscope.problem.examples import Examples, ProblemError

__all__ = ["call_error", "check_dtype", "check_model", "check_norms", "check_ways", "one_place", "wrong_classes"]


def check_model(model: Any) -> None:
    """Raise ProblemError for what is no module, or one whose weights are not at hand."""
    if not isinstance(model, nn.Module):
        raise ProblemError(
            f"the problem got a {type(model).__name__} as model, expected a torch.nn.Module: "
            f"Problem(model, loss, data), or function(f, weights) for L(w) without a model"
        )
    kind = type(model).__name__
    if kind in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
        inside = (
            "gather its parameters into a plain module" if kind.startswith("Fully") else f"give it {kind}'s .module"
        )
        raise ProblemError(f"the problem got a {kind}, expected the module itself: {inside}")
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            reason = "has no shape yet", "run the model on a batch once"
        elif p.device.type == "meta":
            reason = "is on the meta device and has no values", "load the weights first"
        elif p.is_complex():
            reason = f"is {str(p.dtype).removeprefix('torch.')}", "keep real and imaginary parts as two real parameters"
        elif hasattr(p, "placements"):
            reason = "is a DTensor of a sharded model", "gather it with .full_tensor() into a plain module"
        else:
            continue
        raise ProblemError(f"the parameter {name!r} {reason[0]}, expected real numbers at hand: {reason[1]}")


def check_ways(loss: Any, evaluate: Any, data: Any, missing: Any) -> None:
    """Raise ProblemError unless it is said what L is, and of which data."""
    if evaluate is not None and not callable(evaluate):
        raise ProblemError(
            f"the problem got evaluate={type(evaluate).__name__}, expected evaluate(model, batch) -> loss: a function"
        )
    if evaluate is not None and loss is not None:
        raise ProblemError("the problem got a loss and evaluate=, expected one of the two: leave one out")
    if loss is not None and (not callable(loss) or isinstance(loss, type)):
        got = loss.__name__ if isinstance(loss, type) else type(loss).__name__
        call = f": call it, {got}()" if isinstance(loss, type) else ": the order is Problem(model, loss, data)"
        raise ProblemError(f"the problem got a {got} as loss, expected loss(outputs, targets) -> one number{call}")
    if data is missing:
        raise ProblemError("the problem got no data, expected (inputs, targets), a loader or batches: data=...")


def one_place(parameters: Mapping[str, nn.Parameter]) -> tuple[torch.device, torch.dtype]:
    """Where the parameters are, and the widest of their dtypes."""
    devices = sorted({str(p.device) for p in parameters.values()})
    if len(devices) > 1:
        raise ProblemError(
            f"the parameters are on {', '.join(devices)}, expected one device: move the model with .to()"
        )
    first = next(iter(parameters.values()))
    dtype = first.dtype
    for p in parameters.values():
        dtype = torch.promote_types(dtype, p.dtype)
    return first.device, dtype


def check_dtype(batch: Examples, parameters: Mapping[str, Tensor]) -> None:
    """Raise ProblemError for inputs of another dtype than that of all parameters."""
    dtypes = {p.dtype for p in parameters.values()}
    if len(dtypes) > 1:  # the model casts as it likes
        return
    dtype = dtypes.pop()
    for value in (*batch.args, *batch.kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != dtype:
            raise ProblemError(
                f"the inputs are {value.dtype} and the model is {dtype}, expected one dtype: "
                f"convert the inputs with .to({dtype}) or the model with .to({value.dtype})"
            )


def check_norms(model: nn.Module) -> None:
    """Raise ProblemError for a BatchNorm, in eval mode, whose outputs depend on the examples beside each other."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ProblemError(
                f"the BatchNorm layer {name!r} got the statistics of each batch in eval mode too, expected running "
                f"ones, because the loss must not depend on how examples are batched: let it follow eval(), with "
                f"track_running_stats=True"
            )


def wrong_classes(outputs: Any, targets: Any) -> int:
    """How many examples are not in the class of their largest output."""
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


def call_error(function: Callable[..., Any], model: nn.Module, batch: Examples, error: TypeError) -> Exception:
    """The error of a model that got other arguments than it takes, in terms of how data become arguments."""
    try:
        inspect.signature(function).bind(*batch.args, **batch.kwargs)
    except TypeError as mismatch:
        given = f"the keyword arguments {', '.join(batch.kwargs)}" if batch.kwargs else f"{len(batch.args)} arguments"
        return ProblemError(
            f"the model {type(model).__name__} got {given} ({mismatch}), expected those of its forward: a tuple of "
            f"inputs becomes positional arguments, a dict keyword arguments, and a batch that is one dict goes to the "
            f"model whole"
        )
    except ValueError:  # a function that tells no signature
        pass
    return error
