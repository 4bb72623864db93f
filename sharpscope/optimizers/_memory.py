"""What a rule remembers from step to step: a nested dict of tensors and numbers, one sub-dict per wrapped piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sharpscope.optimizers.rules import Memory

__all__ = ["Memory", "copied", "packed_masks", "restructured"]


def packed_masks(memory: Memory) -> Iterator[Tensor]:
    """The packed bits of every mask in it."""
    for value in memory.values():
        if isinstance(value, dict):
            yield from packed_masks(value)
    if isinstance(memory.get("bits"), Tensor):
        yield memory["bits"]


def restructured(memory: Memory) -> Memory:
    """The dicts anew around the same tensors, which rules replace but never change."""
    return {name: restructured(value) if isinstance(value, dict) else value for name, value in memory.items()}


def copied(value: Any, device: torch.device | None = None) -> Any:
    """A deep copy of a memory, its tensors on ``device`` if one is given."""
    if isinstance(value, Tensor):
        return value.detach().clone() if device is None else value.detach().clone().to(device)
    if isinstance(value, dict):
        return {name: copied(item, device) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item, device) for item in value]
    return value
