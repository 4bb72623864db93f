"""BatchNorm in eval mode is an affine map: folded into the convolution or linear layer before it, it costs nothing.

W' = s W and b' = beta + s (b - mean) with s = gamma / sqrt(var + eps), channel by channel: exact up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpscope.examples import Examples

__all__ = ["Fold", "find_folds", "fold", "folded_model", "private"]

_BEFORE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Fold:
    """A layer whose output goes to a BatchNorm and nowhere else, by the names of the two modules."""

    layer: str
    norm: str
    eps: float


def private(model: nn.Module) -> nn.Module | None:
    """A copy of the model that shares its parameters and nothing else; None for a model that cannot be copied."""
    shared = {id(p): p for p in model.parameters()}
    try:
        return copy.deepcopy(model, shared).eval()
    except Exception:  # whatever a user's attributes raise when they are copied
        return None


def find_folds(model: nn.Module, batch: Examples) -> list[Fold]:
    """Pairs that one forward pass of ``model`` (a private copy, in eval mode) shows; none where a module has hooks.

    That nothing else reads the layer's output is not seen here: the caller compares the folded model with this one.
    """
    modules = dict(model.named_modules())
    if any(m._forward_hooks or m._forward_pre_hooks for m in modules.values()):
        return []
    made: dict[int, tuple[str, Tensor, int]] = {}
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    handles = []

    def layer_hook(name: str) -> None:
        def after(module: nn.Module, args: object, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            made[id(output)] = name, output, output._version

        handles.append(modules[name].register_forward_hook(after))

    def norm_hook(name: str) -> None:
        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            layer, output, version = made.get(id(args[0]) if args else 0, ("", None, 0))
            if output is not None and output is args[0] and output._version == version:
                pairs.append((layer, name))

        handles.append(modules[name].register_forward_pre_hook(before))

    counts: dict[int, int] = {}
    for _, p in model.named_parameters(remove_duplicate=False):
        counts[id(p)] = counts.get(id(p), 0) + 1
    for name, module in modules.items():
        if type(module) in _BEFORE and all(counts[id(p)] == 1 for p in module.parameters()):
            layer_hook(name)
        elif type(module) in _NORMS and getattr(module, "running_mean", None) is not None:
            norm_hook(name)
    try:
        with torch.no_grad():
            model(*batch.args, **batch.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return [
        Fold(layer, norm, float(modules[norm].eps))
        for layer, norm in pairs
        if calls[layer] == calls[norm] == 1 and (type(modules[layer]) is not nn.Linear or made_flat(made, layer))
    ]


def made_flat(made: Mapping[int, tuple[str, Tensor, int]], layer: str) -> bool:
    """Whether a linear layer's output is (examples, channels), the only shape whose channels come last."""
    return all(output.dim() == 2 for name, output, _ in made.values() if name == layer)


def folded_model(model: nn.Module, folds: list[Fold]) -> nn.Module:
    """A private copy of the model without the BatchNorms of ``folds``; ``fold`` makes its parameters."""
    found = private(model)
    assert found is not None  # the model is such a copy itself
    modules = dict(found.named_modules())
    for pair in folds:
        owner, _, leaf = pair.norm.rpartition(".")
        setattr(modules[owner], leaf, nn.Identity())
        layer = modules[pair.layer]
        if layer.bias is None:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            layer.bias = nn.Parameter(weight.detach().new_zeros(len(weight)), requires_grad=False)
    return found


def fold(folds: list[Fold], values: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of ``folded_model``: ``values`` stand above the model's ``own`` parameters and buffers.

    Weights among ``values`` are changed in place, which saves a copy of them.
    """
    found = dict(values)
    for pair in folds:
        weight, shift = f"{pair.layer}.weight", f"{pair.layer}.bias"

        def get(name: str) -> Tensor | None:
            return values.get(name, own.get(name))

        mean, var = get(f"{pair.norm}.running_mean"), get(f"{pair.norm}.running_var")
        assert mean is not None and var is not None
        scale = torch.rsqrt(var + pair.eps)
        gamma, beta, bias = get(f"{pair.norm}.weight"), get(f"{pair.norm}.bias"), get(shift)
        if gamma is not None:
            scale = scale * gamma
        moved = -mean * scale if bias is None else (bias - mean) * scale
        found[shift] = moved if beta is None else moved + beta
        along = scale.view(-1, *[1] * (_of(get(weight)).dim() - 1))
        found[weight] = values[weight].mul_(along) if weight in values else own[weight] * along
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            found.pop(f"{pair.norm}.{name}", None)
    return found


def _of(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
