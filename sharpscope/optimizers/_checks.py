"""What the optimizer refuses, before anything is touched: got, expected, remedy."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sharpscope.core.expressions import check_count
from sharpscope.optimizers.parse import check_text, parse
from sharpscope.optimizers.rules import Rule
from sharpscope.problem.problem import Problem

__all__ = ["as_rule", "check_base", "check_groups", "check_model", "check_options"]


def check_base(base: Any, wrapper: type[Optimizer]) -> None:
    """Raise TypeError unless ``base`` is a torch optimizer that steps from dense gradients alone."""
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"SharpnessAware got a {type(base).__name__} as base, expected a torch optimizer: "
            f"SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), rule)"
        )
    if isinstance(base, (torch.optim.LBFGS, torch.optim.SparseAdam, wrapper)):
        raise TypeError(
            f"SharpnessAware got a {type(base).__name__} as base, expected an optimizer that steps from dense "
            f"gradients alone: use torch.optim.SGD, Adam or the like"
        )


def check_groups(groups: list[dict[str, Any]]) -> None:
    """Raise ValueError for parameters on several devices, complex ones, and a base that climbs the loss."""
    trained = [p for group in groups for p in group["params"] if p.requires_grad]
    devices = sorted({str(p.device) for p in trained})
    if len(devices) > 1:
        raise ValueError(
            f"the parameters are on {', '.join(devices)}, expected one device: use one SharpnessAware per device"
        )
    strange = next((p for p in trained if p.is_complex()), None)
    if strange is not None:
        raise ValueError(
            f"SharpnessAware got a parameter of {strange.dtype}, expected real ones: "
            f"train torch.view_as_real of it in the module"
        )
    if any(group.get("maximize") for group in groups):
        raise ValueError(
            "SharpnessAware got a base with maximize=True, expected one that minimises, as the climb is towards a "
            "larger loss: negate the loss in the closure"
        )


def check_options(
    problem: Any, seed: Any, epoch: Any, total: Any, model: Any, sync: Any, scaler: Any, clip: Any
) -> None:
    """Raise TypeError or ValueError for an argument of ``SharpnessAware`` that is of no use to it."""
    if problem is not None and not isinstance(problem, Problem):
        raise TypeError(
            f"SharpnessAware got a {type(problem).__name__} as problem, expected a Problem: "
            f"Problem(model, loss, data), or model=model for a module"
        )
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise ValueError(f"SharpnessAware got seed={seed!r}, expected a whole number: change seed")
    check_count("SharpnessAware", "epoch", epoch, optional=True)
    check_count("SharpnessAware", "total", total, optional=True)
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(
            f"SharpnessAware got a {type(model).__name__} as model, expected the module that the closure calls: "
            f"model=model, or leave it out"
        )
    if not isinstance(sync, bool):
        raise TypeError(f"SharpnessAware got sync={sync!r}, expected True or False: change sync")
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(
            f"SharpnessAware got a {type(scaler).__name__} as scaler, expected a torch.amp.GradScaler or None: "
            f"scaler=torch.amp.GradScaler()"
        )
    number = isinstance(clip, numbers.Real) and not isinstance(clip, bool)
    if clip is not None and not (number and clip > 0):
        raise ValueError(f"SharpnessAware got clip={clip!r}, expected a positive number or None: change clip")


def check_model(groups: list[dict[str, Any]], model: nn.Module | None) -> None:
    """Raise ValueError for a module that has none of the parameters."""
    if model is None:
        return
    known = {id(p) for p in model.parameters()}
    if not any(id(p) in known for group in groups for p in group["params"]):
        raise ValueError(
            f"SharpnessAware got a {type(model).__name__} as model that has none of the parameters of base, expected "
            f"the module that is trained: give base model.parameters() of that very module"
        )


def as_rule(rule: Any, pieces: Sequence[Callable[..., Any]] = ()) -> Rule:
    """The rule, or the one that a text describes.  Raises TypeError for anything else."""
    found = parse(rule, pieces) if isinstance(rule, str) else rule
    if not isinstance(found, Rule):
        call = f": call it, {rule.__name__}()" if callable(rule) and hasattr(rule, "__name__") else ""
        raise TypeError(
            f"SharpnessAware got {rule!r} as rule, expected a rule such as sam(rho=0.05) or its text"
            f"{call or ': see help(sharpscope.parse)'}"
        )
    check_text(found)
    return found
