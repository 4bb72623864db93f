"""Calling a model with other weights than its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["call_with", "swapped"]


def call_with(model: nn.Module, values: Mapping[str, Tensor], args: Any, kwargs: Mapping[str, Any]) -> Any:
    """``torch.func.functional_call``, for models in which a module stands under several names as well.

    ``values`` are parameters and buffers by the name that ``named_parameters`` and ``named_buffers`` give them.  One
    that stands in several places is replaced in all.  torch's own way of doing so visits a module once per name, and
    the second visit takes the stranger for what is to be put back afterwards.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
        >>> model.append(model[0])[2] is model[0]
        True
        >>> call_with(model, {"0.weight": torch.tensor([[2.0]])}, (torch.ones(1, 1),), {}).item()
        4.0
    """
    places = {name: value for name, _, _, value in _places(model, values)}
    return functional_call(model, places, args, dict(kwargs), tie_weights=False)


@contextlib.contextmanager
def swapped(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """``values`` in the places of parameters and buffers, for several calls of a model that nobody else uses."""
    found: list[tuple[dict[str, Any], str, Tensor]] = [
        (module._parameters if name in module._parameters else module._buffers, name, value)
        for _, module, name, value in _places(model, values)
    ]
    own = [(holder, name, holder[name]) for holder, name, _ in found]
    try:
        for holder, name, value in found:
            holder[name] = value
        yield
    finally:
        for holder, name, before in own:
            holder[name] = before


def _places(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Every place once, by its full name, module and own name, with the value that belongs there."""
    known: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    replaced = {id(known[name]): value for name, value in values.items()}
    for prefix, module in model.named_modules():
        for name, own in (*module._parameters.items(), *module._buffers.items()):
            if own is not None and id(own) in replaced:
                yield f"{prefix}.{name}" if prefix else name, module, name, replaced[id(own)]
