"""Choosing entries by their scores: how many, from where, in which pattern."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from sharpscope.coordinates.bits import check_order, top
from sharpscope.core.vectors import Vec, flatten, unflatten

__all__ = ["check_choice", "choose", "perturbed_count"]


def perturbed_count(sparsity: float, size: int) -> int:
    """round((1 - s) d): the exact number of ones in a mask over ``size`` entries."""
    return round((1.0 - sparsity) * size)


def check_choice(owner: str, scope: str, pattern: str, sparsity: float) -> None:
    """Raise ValueError for a scope or pattern that is none, and for an n:m pattern of another sparsity."""
    if scope not in ("global", "layer"):
        raise ValueError(f"{owner} got scope={scope!r}, expected 'global' or 'layer': change scope")
    if pattern in ("entries", "tensors"):
        if pattern == "tensors" and scope == "layer":
            raise ValueError(f"{owner} got whole tensors in scope='layer', expected 'global': a layer has one tensor")
        return
    found = re.fullmatch(r"(\d+):(\d+)", pattern) if isinstance(pattern, str) else None
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise ValueError(
            f"{owner} got pattern={pattern!r}, expected 'entries', 'tensors' or n:m with 0 < n < m such as '2:4': "
            f"change pattern"
        )
    implied = 1.0 - int(found[1]) / int(found[2])
    if abs(sparsity - implied) > 1e-9:
        raise ValueError(
            f"{owner} got pattern={pattern!r} and sparsity={sparsity!r}, expected sparsity={implied:g}: "
            f"the pattern fixes the sparsity"
        )


def choose(scores: Vec, sparsity: float, scope: str, pattern: str) -> Vec:
    """Boolean tensors with ones at the largest scores; see ``Top``.  Raises ValueError on a NaN."""
    for x in scores:
        check_order(x)
    if pattern == "entries" and scope == "global":
        flat = flatten(scores)
        return unflatten(top(flat, perturbed_count(sparsity, flat.numel())), scores)
    if pattern == "entries":
        return [top(x.reshape(-1), perturbed_count(sparsity, x.numel())).view(x.shape) for x in scores]
    if pattern == "tensors":
        return _whole_tensors(scores, sparsity)
    keep, group = (int(part) for part in pattern.split(":"))
    return [_best_of_neighbours(x, keep, group) for x in scores]


def _whole_tensors(scores: Vec, sparsity: float) -> Vec:
    """The tensors of largest mean score, until the count is reached."""
    missing = perturbed_count(sparsity, sum(x.numel() for x in scores))
    means = [float(x.double().mean()) if x.numel() else float("-inf") for x in scores]
    chosen = [False] * len(scores)
    for index in sorted(range(len(scores)), key=lambda i: (-means[i], i)):
        if missing <= 0:
            break
        chosen[index], missing = True, missing - scores[index].numel()
    return [
        torch.full(x.shape, take, dtype=torch.bool, device=x.device) for x, take in zip(scores, chosen, strict=True)
    ]


def _best_of_neighbours(scores: Tensor, keep: int, group: int) -> Tensor:
    """The ``keep`` largest of every ``group`` neighbours along dim 1; the last group may be smaller."""
    if scores.dim() < 2 or not scores.numel():
        return torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    moved = scores.movedim(1, -1)
    width = moved.shape[-1]
    padded = torch.nn.functional.pad(moved, (0, -width % group), value=float("-inf"))
    groups = padded.reshape(*padded.shape[:-1], -1, group)
    order = groups.argsort(dim=-1, descending=True, stable=True)  # ties go to the lower index
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :keep], True)
    return mask.reshape(padded.shape)[..., :width].movedim(-1, 1).contiguous()
