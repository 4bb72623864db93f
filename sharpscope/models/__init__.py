"""Networks by name, built from a seed.

A new network is one function in a module here and one row in the table below; a user's own needs neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import nn

from sharpscope.models.convnet import ConvNet
from sharpscope.models.resnet import BasicBlock, ResNet, resnet18, resnet20

__all__ = ["BasicBlock", "ConvNet", "ModelError", "ResNet", "build", "names", "resnet18", "resnet20"]

Shape = tuple[int, int, int]

_MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {  # (shape of one image, classes) -> network
    "convnet": lambda shape, classes: ConvNet(shape[0], classes),
    "resnet20": lambda shape, classes: resnet20(classes, shape[0]),
    "resnet18": lambda shape, classes: resnet18(classes, shape[0]),
}


class ModelError(ValueError):
    """A network that cannot be built; the text says what was got, what was expected and the remedy."""


def names() -> tuple[str, ...]:
    """The names that ``build`` knows, in alphabetical order."""
    return tuple(sorted(_MODELS))


def build(name: str, shape: Shape, classes: int, seed: int = 0) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights, and the global RNG stays as it was.

    Args:
        name: "convnet", "resnet18", "resnet20", or "module:function" for a function of your own, which is called as
            ``function(shape=shape, classes=classes)`` and returns an ``nn.Module``.
        shape: (C, H, W) of one image.
        classes: number of outputs.
        seed: of the initial weights.

    Raises:
        ModelError: unknown name, impossible shape or class count, or a function of your own that cannot be imported,
            fails, or returns something else.

    Example:
        >>> model = build("convnet", shape=(1, 8, 8), classes=10, seed=0)
        >>> sum(p.numel() for p in model.parameters())
        24058
    """
    if len(shape) != 3 or min(shape) < 1 or classes < 1:
        raise ModelError(
            f"got shape {tuple(shape)} and {classes} classes, expected three positive numbers (channels, height, "
            f"width) and at least one class, so pass those of the data."
        )
    if ":" not in name and name not in _MODELS:
        raise ModelError(
            f"got model {name!r}, expected one of {', '.join(names())} or module:function, "
            f"so choose one of these names or point to your own function."
        )
    with torch.random.fork_rng(devices=[]):
        function = _MODELS[name] if name in _MODELS else _own(name)
        # Not torch.manual_seed, which would also seed every GPU, and those generators are not forked here.
        torch.default_generator.manual_seed(seed)
        return function(shape, classes)


def _own(name: str) -> Callable[[Shape, int], nn.Module]:
    """The user's "module:function" in the form of the table's rows."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ModelError(
            f"got model {name!r}, expected an importable module {module_name!r} but importing it raised "
            f"{_said(error)}, so correct it or put its folder on PYTHONPATH."
        ) from error
    function = getattr(module, attribute, None) if attribute else None
    if not callable(function):
        kind = "no such name" if function is None else type(function).__name__
        raise ModelError(
            f"got model {name!r}, expected a function {attribute!r} in module {module_name!r} but found {kind}, "
            f"so define it there or correct the name after the colon."
        )

    def called(shape: Shape, classes: int) -> nn.Module:
        try:
            model = function(shape=shape, classes=classes)
        except Exception as error:
            raise ModelError(
                f"got model {name!r}, expected a network from {attribute}(shape={shape}, classes={classes}) but it "
                f"raised {_said(error)}, so correct the function."
            ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"got a {type(model).__name__} from model {name!r}, expected a torch.nn.Module, "
                f"so return the network itself."
            )
        return model

    return called


def _said(error: Exception) -> str:
    """Type and first line of an exception."""
    first = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__, *first])
