"""BatchNorm in eval mode is an affine map: folded into the convolution or linear layer before it, it costs nothing.

W' = s W and b' = beta + s (b - mean) with s = gamma / sqrt(var + eps), channel by channel: exact up to rounding.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpscope.core.vectors import generator, slices
from sharpscope.problem._functional_call import call_with
from sharpscope.problem.examples import Examples, cut, on_tensors, tensors_of

__all__ = ["Fold", "displace", "find_folds", "fold", "folded_model", "private", "same"]

_BEFORE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_COMPARED = 16  # examples on which a folded model is compared with its model


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

    A module that is called more than once, or whose parameters another one shares, is in none of them.  That nothing
    but a BatchNorm reads the layer's output, or its weights, is not seen here: ``same`` tells.
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

    counts = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, module in modules.items():
        if any(counts[id(p)] > 1 for p in module.parameters(recurse=False)):
            continue
        if type(module) in _BEFORE:
            layer_hook(name)
        elif type(module) in _NORMS and getattr(module, "running_mean", None) is not None:
            norm_hook(name)
    try:
        with torch.inference_mode(False), torch.no_grad():  # tensors with versions
            model(*batch.args, **batch.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    readers = Counter(layer for layer, _ in pairs)
    return [
        Fold(layer, norm, float(modules[norm].eps))
        for layer, norm in pairs
        if calls[layer] == calls[norm] == readers[layer] == 1
        and (type(modules[layer]) is not nn.Linear or made_flat(made, layer))
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


def same(
    model: nn.Module,
    folded: nn.Module,
    folds: list[Fold],
    points: Sequence[Callable[[], Mapping[str, Tensor]]],
    batch: Examples,
) -> bool:
    """Whether the folded model has the outputs of its model, at ``points`` and at random.

    ``points`` give parameters and buffers by name.  At random, every parameter of the model and every statistic of its
    BatchNorms is displaced by about its own size: a weight that is read elsewhere, or an output, then differs in the
    leading digits, which a step along two directions from an untrained model need not show.  Compared are some examples
    of the batch, in float64 where the model can compute in it; outputs may differ by half of the dtype's digits,
    relative to the largest.  Both are private copies in eval mode.
    """
    some = cut(batch, slice(0, _COMPARED))
    own = {name: x.detach() for name, x in (*model.named_parameters(), *model.named_buffers())}
    moved = [name for name, _ in model.named_parameters()]
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            buffers = module.named_buffers(recurse=False)
            moved += [f"{name}.{leaf}" for leaf, x in buffers if x.is_floating_point()]
    trials: list[tuple[Callable[[], Mapping[str, Tensor]], int | None]] = [(point, None) for point in points]
    for wide in (True, False):
        try:
            with torch.no_grad():
                return all(
                    _same_at(model, folded, folds, _copied(own, point(), wide, seed, moved), some, wide)
                    for point, seed in [*trials, (dict, 0), (dict, 1)]
                )
        except Exception:  # a model that float64 does not suit, or one that looks at its own layers
            continue
    return False


def _copied(
    own: Mapping[str, Tensor], there: Mapping[str, Tensor], wide: bool, seed: int | None, moved: Sequence[str]
) -> dict[str, Tensor]:
    """The values of ``own`` below those of ``there``, displaced where there is a seed."""
    values = {
        name: x.to(torch.float64 if wide and x.is_floating_point() else x.dtype, copy=True)
        for name, x in {**own, **there}.items()
    }
    if seed is not None:
        displace({name: values[name] for name in moved}, seed)
    return values


def displace(values: Mapping[str, Tensor], seed: int) -> None:
    """Add Gaussian noise of half its root mean square (of 1/2 where that is 0) to every tensor, in place.

    Running variances are multiplied with the exponential of it, and stay positive.
    """
    for name, x in values.items():
        random, parts = generator("displaced", seed, name), slices(x)
        size = math.sqrt(sum(float(part.double().square().sum()) for part in parts) / max(x.numel(), 1))
        for part in parts:
            noise = torch.randn(part.shape, generator=random, dtype=torch.float64, device="cpu").to(part) / 2
            if name.endswith("running_var"):
                part.mul_(noise.exp_())
            else:
                part.add_(noise, alpha=size or 1.0)


def _same_at(
    model: nn.Module, folded: nn.Module, folds: list[Fold], values: dict[str, Tensor], batch: Examples, wide: bool
) -> bool:
    """``values`` are private; they are scratch afterwards."""

    def cast(x: Tensor) -> Tensor:
        return x.double() if wide and x.is_floating_point() else x

    args, kwargs = on_tensors((batch.args, batch.kwargs), cast)
    expected = tensors_of(call_with(model, values, args, kwargs))
    found = tensors_of(call_with(folded, fold(folds, values, {}), args, kwargs))
    return len(expected) == len(found) > 0 and all(_near(a, b) for a, b in zip(expected, found, strict=True))


def _near(a: Tensor, b: Tensor) -> bool:
    """Whether finite where the other is, somewhere, and there close relative to the largest."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    finite = a.isfinite()
    if not bool(finite.any()) or not torch.equal(finite, b.isfinite()):
        return False
    far = float((a[finite].double() - b[finite].double()).abs().max())
    return far <= math.sqrt(torch.finfo(a.dtype).eps) * float(a[finite].abs().max())
