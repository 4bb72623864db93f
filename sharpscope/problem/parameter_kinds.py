"""What a parameter is: of a convolution, a linear layer, a norm, ...; and how deep it sits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

__all__ = ["KINDS", "depths_of", "kinds_of", "sums_over"]

KINDS = ("conv", "linear", "attention", "recurrent", "embedding", "norm", "bias", "other")
_TYPES: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("norm", (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)),
    ("conv", (_ConvNd,)),
    ("linear", (nn.Linear, nn.Bilinear)),
    ("attention", (nn.MultiheadAttention,)),
    ("recurrent", (nn.RNNBase, nn.RNNCellBase)),
    ("embedding", (nn.Embedding, nn.EmbeddingBag)),
)


def kinds_of(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """The kind of each parameter, one of ``KINDS``, by the innermost module around it whose type is known.

    What belongs to a norm layer is "norm", its bias too; any other parameter with "bias" in its name is "bias".  A
    module of a type that is not known, with "norm" in the name of its class, is a norm layer.

    Example:
        >>> kinds_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), ["0.weight", "0.bias", "1.weight", "1.bias"])
        ('conv', 'bias', 'norm', 'norm')
    """
    modules = dict(model.named_modules())
    return tuple(_kind(modules, name) for name in names)


def depths_of(model: nn.Module, names: Sequence[str]) -> np.ndarray:
    """(L,) int64: place of the parameter's module among those with parameters, in the order the model declares them."""
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in model.named_parameters()))
    place = {owner: index for index, owner in enumerate(owners)}
    return np.array([place[name.rpartition(".")[0]] for name in names], dtype=np.int64)


def sums_over(groups: Sequence[str], values: np.ndarray) -> dict[str, np.ndarray]:
    """Sums of (L, ...) values over the layers of each group, the groups in the order in which they first appear."""
    labels = np.array(groups, dtype=object)
    return {name: np.asarray(values[labels == name].sum(axis=0)) for name in dict.fromkeys(groups)}


def _kind(modules: dict[str, nn.Module], name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    found = ""
    while not found:
        module = modules[owner]
        found = next((kind for kind, types in _TYPES if isinstance(module, types)), "")
        if not found and "norm" in type(module).__name__.lower():
            found = "norm"
        if not owner:
            break
        owner = owner.rpartition(".")[0]
    if "bias" in leaf and found != "norm":
        return "bias"
    return found or "other"
