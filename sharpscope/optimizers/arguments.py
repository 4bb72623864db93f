"""What ``SharpnessAware`` accepts: every argument is checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sharpscope.optimizers.rules import Rule
from sharpscope.optimizers.text import parse
from sharpscope.pieces import Piece, check_count
from sharpscope.problem import Problem

__all__ = ["as_rule", "check_arguments", "check_base", "check_parameters", "pieces"]


def check_base(base: Any, *refused: type) -> None:
    """Raise TypeError unless ``base`` is an optimizer that steps from dense gradients alone."""
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"SharpnessAware got a {type(base).__name__} as base, expected a torch optimizer: "
            f"SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), rule)"
        )
    if isinstance(base, (torch.optim.LBFGS, torch.optim.SparseAdam, *refused)):
        raise TypeError(
            f"SharpnessAware got a {type(base).__name__} as base, expected an optimizer that steps from dense "
            f"gradients alone: use torch.optim.SGD, Adam or the like"
        )


def check_arguments(
    problem: Any, seed: Any, epoch: Any, total: Any, model: Any, sync: Any, scaler: Any, clip: Any
) -> None:
    """Raise TypeError or ValueError for what ``SharpnessAware`` cannot work with."""
    _check_type("problem", problem, Problem, "Problem(model, loss, data), or model=model for a module")
    _check_type("model", model, nn.Module, "give the module that the closure calls")
    _check_type("scaler", scaler, torch.amp.GradScaler, 'scaler=torch.amp.GradScaler("cuda")')
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"SharpnessAware got seed={seed!r}, expected a whole number: change seed")
    check_count("SharpnessAware", "epoch", epoch, optional=True)
    check_count("SharpnessAware", "total", total, optional=True)
    if clip is not None and not (isinstance(clip, (int, float)) and clip > 0):
        raise ValueError(f"SharpnessAware got clip={clip!r}, expected a positive number or None: change clip")
    if sync and not isinstance(model, DistributedDataParallel):
        raise ValueError(
            "SharpnessAware got sync=True without a DistributedDataParallel model, expected one: "
            "SharpnessAware(base, rule, model=ddp_model, sync=True)"
        )


def check_parameters(groups: list[dict[str, Any]], model: nn.Module | None) -> None:
    """Raise ValueError for parameters on several devices, of complex numbers, or none of which is ``model``'s."""
    params = [p for group in groups for p in group["params"]]
    devices = sorted({str(p.device) for p in params if p.requires_grad})
    if len(devices) > 1:
        raise ValueError(
            f"the parameters are on {', '.join(devices)}, expected one device: use one SharpnessAware per device"
        )
    if any(p.is_complex() for p in params):
        raise ValueError("the parameters got complex numbers, expected real ones: hold real and imaginary parts apart")
    if model is None:
        return
    known = {id(p) for p in model.parameters()}
    if not any(id(p) in known for p in params):
        raise ValueError(
            f"SharpnessAware got a {type(model).__name__} as model that has none of the parameters of base, expected "
            f"the module that is trained: give base model.parameters() of that very module"
        )


def as_rule(rule: Any) -> Rule:
    """The rule, or the one that a text describes.  Raises TypeError for anything else."""
    found = parse(rule) if isinstance(rule, str) else rule
    if not isinstance(found, Rule):
        call = f": call it, {rule.__name__}()" if callable(rule) and hasattr(rule, "__name__") else ""
        raise TypeError(
            f"SharpnessAware got {rule!r} as rule, expected a rule such as sam(rho=0.05) or its text"
            f"{call or ': see help(sharpscope.parse)'}"
        )
    return found


def pieces(piece: Piece) -> Iterator[Piece]:
    """The piece and all that it is composed of."""
    yield piece
    for value in vars(piece).values():
        if isinstance(value, Piece):
            yield from pieces(value)


def _check_type(name: str, value: Any, kind: type, remedy: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"SharpnessAware got a {type(value).__name__} as {name}, expected a {kind.__name__}: {remedy}")
