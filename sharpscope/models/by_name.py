"""Networks by name, built from a seed.  A new one is a function in a module here and a row in this table."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sharpscope.models.convnet import ConvNet
from sharpscope.models.pyramidnet import PyramidNet
from sharpscope.models.resnet import resnet18, resnet20, resnet50, resnet101
from sharpscope.models.vgg import vgg11_bn, vgg16_bn
from sharpscope.models.vit import vit_b, vit_s, vit_ti
from sharpscope.models.wideresnet import WideResNet

__all__ = ["ModelError", "build", "names", "options"]

Shape = tuple[int, int, int]

_MODELS: dict[str, Callable[..., nn.Module]] = {  # called with classes, in_channels, size and the options it has
    "convnet": ConvNet,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "wrn-28-10": WideResNet,
    "pyramidnet-164": PyramidNet,
    "vgg11-bn": vgg11_bn,
    "vgg16-bn": vgg16_bn,
    "vit-ti": vit_ti,
    "vit-s": vit_s,
    "vit-b": vit_b,
}
_OF_DATA = ("classes", "in_channels", "size")


class ModelError(ValueError):
    """A network that cannot be built; the text says what was got, what was expected and the remedy."""


def names() -> tuple[str, ...]:
    """The names that ``build`` knows, in alphabetical order."""
    return tuple(sorted(_MODELS))


def options(name: str) -> tuple[str, ...]:
    """The options of a network that ``build`` knows, e.g. ("width", "depth", "stem")."""
    return tuple(option for option in inspect.signature(_MODELS[name]).parameters if option not in _OF_DATA)


def build(name: str, shape: Shape, classes: int, seed: int = 0) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights, and the global RNG stays as it was.

    Args:
        name: one of ``names()``, with options in brackets if it is to differ from the published network:
            "resnet18(width=16)", "vit-ti(patch=8, depth=6)".  Or "module:function" for a function of your own, called
            as ``function(shape=shape, classes=classes)``, with the options if there are some; it returns a network.
        shape: (C, H, W) of one image.
        classes: number of outputs.
        seed: of the initial weights.

    Raises:
        ModelError: unknown name or option, impossible shape or class count, or a function of your own that cannot be
            imported, fails, or returns something else.

    Example:
        >>> model = build("convnet", shape=(1, 8, 8), classes=10, seed=0)
        >>> sum(p.numel() for p in model.parameters())
        24058
        >>> sum(p.numel() for p in build("wrn-28-10(width=16, depth=1)", (3, 32, 32), 10).parameters())
        77850
    """
    if len(shape) != 3 or min(shape) < 1 or classes < 1:
        raise ModelError(
            f"got shape {tuple(shape)} and {classes} classes, expected three positive numbers (channels, height, "
            f"width) and at least one class, so pass those of the data."
        )
    function, given = _read(name)
    if ":" not in function and function not in _MODELS:
        raise ModelError(
            f"got model {name!r}, expected one of {', '.join(names())} or module:function, "
            f"so choose one of these names or point to your own function."
        )
    with torch.random.fork_rng(devices=[]):
        make = _known(function) if function in _MODELS else _own(function)
        # Not torch.manual_seed, which would also seed every GPU, and those generators are not forked here.
        torch.default_generator.manual_seed(seed)
        return make(shape, classes, given)


def _read(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of "name(option=value, ...)"; the text is read, never run."""
    name, bracket, rest = text.partition("(")
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"name({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        if None in given or not all(type(value) in (int, float, str) for value in given.values()):
            raise ValueError
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise ModelError(
            f"got model {text[:200]!r}, expected a name and options that are numbers or texts, such as "
            f"resnet18(width=16), so write it like that."
        ) from None
    return name.strip(), {str(option): value for option, value in given.items()}


def _known(name: str) -> Callable[[Shape, int, dict[str, Any]], nn.Module]:
    """A row of the table, given what it takes of the data."""
    function, known = _MODELS[name], options(name)

    def called(shape: Shape, classes: int, given: dict[str, Any]) -> nn.Module:
        for option, value in given.items():
            if option not in known:
                raise ModelError(
                    f"got option {option!r} of model {name!r}, expected one of {', '.join(known)}, so correct the name."
                )
            if isinstance(value, int) and value < 1:
                raise ModelError(f"got {option}={value} of model {name!r}, expected at least 1, so raise it.")
        data = {"classes": classes, "in_channels": shape[0], "size": shape[1:]}
        taken = {key: value for key, value in data.items() if key in inspect.signature(function).parameters}
        try:
            return function(**taken, **given)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"got model {name!r} with {given} for images {shape}, expected sizes that fit: {_said(error)}"
            ) from error

    return called


def _own(name: str) -> Callable[[Shape, int, dict[str, Any]], nn.Module]:
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

    def called(shape: Shape, classes: int, given: dict[str, Any]) -> nn.Module:
        try:
            model = function(shape=shape, classes=classes, **given)
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
