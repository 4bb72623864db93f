"""What a function is, in words that differ when it does: so that points of two losses never share a file."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharpscope.core.vectors import content
from sharpscope.problem.examples import tensors_of
from sharpscope.problem.problem import Problem

__all__ = ["digest", "identified", "identity_of"]


def digest(tensors: Iterable[Tensor]) -> str:
    """``sha256:...`` over shapes, dtypes and values, in order."""
    state = hashlib.sha256()
    for x in tensors:
        state.update(f"{tuple(x.shape)} {x.dtype}\0".encode())
        state.update(content(x))
    return "sha256:" + state.hexdigest()


def identity_of(problem: Problem) -> dict[str, str]:
    """Weights and buffers, data and loss of a problem, each as a digest."""
    model, objective = problem.twin.module, problem.objective
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    parts = (x for b in problem.batches for x in tensors_of((b.args, b.kwargs, b.targets)))
    over = f" over {identified(objective.denominator)}" if objective.denominator else ""
    return {"weights": digest(state.values()), "data": digest(parts), "loss": identified(objective.loss) + over}


def identified(value: Any) -> str:
    """The qualified name of a callable, its options, and a digest of the code that is Python's.

    Numbers and texts are shown, tensors by their digest; of other objects only their type.  What a function encloses or
    reads from its module is not looked at: it may count its calls.  The code's digest is that of one version of Python.

    >>> identified(nn.CrossEntropyLoss(label_smoothing=0.1))
    "CrossEntropyLoss(ignore_index=-100, label_smoothing=0.1, reduction='mean')"
    >>> identified(lambda o, t: o.sum()) == identified(lambda o, t: o.mean())
    False
    """
    if isinstance(value, nn.Module):
        state = dict((*value.named_parameters(), *value.named_buffers()))
        plain = {name: x for name, x in vars(value).items() if not name.startswith("_") and name != "training"}
        own = "" if type(value).__module__.startswith("torch.") else _of_code(type(value).forward)
        return f"{type(value).__qualname__}({_options({**plain, **state})}){own}"
    if isinstance(value, functools.partial):
        shown = [_shown(x) for x in value.args] + ([_options(value.keywords)] if value.keywords else [])
        return f"partial({', '.join([identified(value.func), *shown])})"
    if isinstance(value, types.MethodType):
        return f"{identified(value.__func__)} of {_shown(value.__self__)}"
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return name + _of_code(value if isinstance(value, types.FunctionType) else type(value).__dict__.get("__call__"))
    return _shown(value)


def _options(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in sorted(given.items()))


def _shown(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)):
        return repr(value)
    if isinstance(value, Tensor):
        return digest([value])
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} sha256:{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_shown, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_shown(name)}: {_shown(item)}' for name, item in value.items())}}}"
    if isinstance(value, types.CodeType):
        return f"{value.co_code.hex()} {value.co_names} {_shown(value.co_consts)}"
    if isinstance(value, types.FunctionType):
        return f"{value.__qualname__} {_shown(value.__code__)}"
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__} {digest(value.state_dict().values())}"
    return type(value).__qualname__


def _of_code(function: Any) -> str:
    """Of a function of Python: its code and defaults; nothing of others."""
    if not isinstance(function, types.FunctionType) or function.__module__.startswith("torch."):
        return ""
    text = _shown([function.__code__, function.__defaults__, function.__kwdefaults__])
    return " sha256:" + hashlib.sha256(text.encode()).hexdigest()
