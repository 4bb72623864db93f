"""Which coordinates a mask, a name pattern or a layer keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharpscope.core.vectors import flatten, mismatch

__all__ = ["Where", "mask_of", "words"]

Where = Tensor | np.ndarray | Sequence[Tensor] | Mapping[str, Tensor] | nn.Module | str


def mask_of(where: Where, text: str, size: int, layout: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """(n,) bool: which coordinates ``where`` keeps, of ``size`` of the operator ``text`` with parameters ``layout``.

    Raises ValueError for a mask of another shape or dtype and for names that hold nothing, TypeError for no mask.
    """
    if isinstance(where, (Tensor, np.ndarray)):
        parts: list[Tensor] = _tensors(text, [where])
        expected: list[tuple[int, ...]] = [(size,)]
    elif not layout:
        raise ValueError(
            f"the {text} got restrict({type(where).__name__}) and knows no parameter names, expected a "
            f"boolean tensor of shape ({size},): give it layout= or a mask"
        )
    elif isinstance(where, (nn.Module, str)):
        return _named(where, text, layout).to(device)
    else:
        tensors = list(layout.values())
        if isinstance(where, Mapping):
            if unknown := [name for name in where if name not in layout]:
                raise ValueError(
                    f"the {text} got a mask of {unknown[0]!r}, expected names among {_some(layout)}: change the name"
                )
            empty = {name: torch.zeros(p.shape, dtype=torch.bool, device="cpu") for name, p in layout.items()}
            parts = _tensors(text, {**empty, **where}.values())
        else:
            parts = _tensors(text, where)
        expected = [tuple(p.shape) for p in tensors]
    if wrong := mismatch(parts, expected):
        raise ValueError(
            f"the {text} got a mask of {wrong[0]}, expected {wrong[1]}: make it of the shapes of the parameters"
        )
    if other := [part.dtype for part in parts if part.dtype != torch.bool]:
        raise ValueError(f"the {text} got a mask of {other[0]}, expected torch.bool: use mask.bool()")
    return flatten(part.to(device) for part in parts)


def _tensors(text: str, masks: Any) -> list[Tensor]:
    """Masks as tensors.  Raises TypeError for what is none."""
    found = list(masks) if isinstance(masks, Iterable) else [masks]
    for mask in found:
        if not isinstance(mask, (Tensor, np.ndarray)):
            raise TypeError(
                f"the {text} got a mask of type {type(mask).__name__}, expected boolean tensors, a name "
                f"pattern or a layer: make it a tensor with torch.tensor(mask)"
            )
    return [mask if isinstance(mask, Tensor) else torch.from_numpy(np.ascontiguousarray(mask)) for mask in found]


def _named(where: nn.Module | str, text: str, layout: Mapping[str, Tensor]) -> Tensor:
    if isinstance(where, str):
        chosen = [fnmatchcase(name, where) for name in layout]
    else:
        inside = {id(p) for p in where.parameters()}
        chosen = [id(p) in inside for p in layout.values()]
    if not any(chosen):
        what = f"the pattern {where!r}" if isinstance(where, str) else f"a layer {type(where).__name__}"
        raise ValueError(
            f"the {text} got {what} that holds none of its parameters, expected some among "
            f"{_some(layout)}: change the {'pattern' if isinstance(where, str) else 'layer'}"
        )
    taken = zip(layout.values(), chosen, strict=True)
    return torch.cat([torch.full((p.numel(),), take, dtype=torch.bool, device="cpu") for p, take in taken])


def _some(layout: Mapping[str, Tensor]) -> str:
    names = list(layout)
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def words(where: Where, kept: int, size: int) -> str:
    """What is kept, for the text of an operator."""
    if isinstance(where, str):
        return f"{where} ({kept} of {size})"
    return f"{type(where).__name__} ({kept} of {size})" if isinstance(where, nn.Module) else f"{kept} of {size}"
