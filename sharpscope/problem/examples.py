"""Data in every form that users have it, as batches of examples.

A batch is ``(inputs, targets)``, where inputs may be a tensor, a tuple (positional arguments) or a dict (keyword
arguments); or one dict, which goes to the model whole and to the loss as targets.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

__all__ = [
    "Examples", "ProblemError", "as_batches", "check_fixed", "count", "cut", "handed", "labelled", "merge", "moved",
    "on_tensors", "rows", "tensors_of",
]  # fmt: skip

_ENTRIES_PER_BATCH = 400_000  # inputs of a default batch: 130 CIFAR images, where a CPU's cache is used best

_READ_TWICE = (
    8  # examples of a data set that are read twice, to see augmentation; a flip of chance 1/2 hides in 1 of 256
)


class ProblemError(ValueError):
    """What is wrong with a model, a loss or data, in one sentence: got, expected, remedy."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Arguments of the model and targets of the loss for some examples."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any
    examples: int
    extra: Any = None  # what else belongs to every example, for those who put it there
    draw: int | None = None  # the seed of random numbers that the model draws


def as_batches(
    data: Any, batch_size: int | None, read: Callable[[Any], Examples] | None = None
) -> tuple[list[Examples], bool]:
    """The batches of ``data``, and whether it was handed over whole, to be cut as one likes.

    Tensors are cut into batches of ``batch_size`` (chosen by the size of an input if None).  ``read`` makes a batch of
    an item; everything that is no list, loader, data set or iterator is then one item.
    """
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise ProblemError(
            f"the problem got batch_size={batch_size!r}, expected a whole number >= 1: change batch_size"
        )
    make, whole = read or _as_batch, False
    if isinstance(data, Dataset):
        whole = batch_size is None
        data = DataLoader(data, batch_size=batch_size or 128)
    if isinstance(data, (DataLoader, list, Iterator)):
        return [make(item) for item in data], whole
    if read is None and (isinstance(data, Mapping) or (isinstance(data, tuple) and len(data) == 2)):
        one = make(data)
        step = batch_size or _suitable(one)
        pieces = [cut(one, slice(start, start + step)) for start in range(0, one.examples, step)]
        return pieces, batch_size is None
    if read is not None and data is not None and not isinstance(data, (str, bytes)):
        return [make(data)], False
    if read is None and isinstance(data, Iterable) and not isinstance(data, (Tensor, tuple, str, bytes)):
        return [make(item) for item in data], False
    raise ProblemError(
        f"the data got a {type(data).__name__}, expected (inputs, targets), a Dataset, a DataLoader or a list of "
        f"batches: wrap it in one of those"
    )


def handed(item: Any) -> Examples:
    """A batch of any form, for a function that takes it whole."""
    try:
        return Examples((item,), {}, item, count(item))
    except ProblemError:
        return Examples((item,), {}, item, 1)


def labelled(item: Any) -> Examples:
    """A batch for a model that returns its loss: keyword arguments, or positional ones."""
    if isinstance(item, Mapping):
        return Examples((), dict(item), dict(item), count(dict(item)))
    parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
    return Examples(parts, {}, parts, count(parts))


def moved(batch: Examples, device: torch.device) -> Examples:
    """The batch on another device; whatever has a method ``to`` is moved by it."""

    def move(value: Any) -> Any:
        if isinstance(value, (Tensor, Mapping, tuple, list)) or not hasattr(value, "to"):
            return on_tensors(value, lambda x: x.to(device))
        return value.to(device)

    args = tuple(move(x) for x in batch.args)
    same = len(batch.args) == 1 and batch.targets is batch.args[0]
    kwargs = {name: move(x) for name, x in batch.kwargs.items()}
    return dataclasses.replace(batch, args=args, kwargs=kwargs, targets=args[0] if same else move(batch.targets))


def check_fixed(data: Any) -> None:
    """Raise ProblemError for data that are others every time they are read, as far as a few examples tell.

    The states of Python's and NumPy's random numbers, which transforms draw from, are left as found.
    """
    dataset = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(data, DataLoader) and data.drop_last and isinstance(data.sampler, RandomSampler):
        left = len(data.sampler) % (data.batch_size or 1)
        if left:
            raise ProblemError(
                f"the DataLoader shuffles and drops {left} examples of every pass, expected the same data every time: "
                f"use shuffle=False or drop_last=False"
            )
    if not isinstance(dataset, Dataset) or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  (transforms draw from it)
    try:
        for index in range(min(_READ_TWICE, len(dataset))):
            if not _same(dataset[index], dataset[index]):
                raise ProblemError(
                    f"the data set gave two different examples for index {index}, expected the same: take random "
                    f"augmentation out of its transforms"
                )
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(_same(a[name], b[name]) for name in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return not isinstance(a, (bool, int, float, str)) or a == b


def _as_batch(item: Any) -> Examples:
    if isinstance(item, Mapping):
        return Examples((), dict(item), dict(item), count(dict(item)))
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ProblemError(
            f"a batch got a {type(item).__name__}, expected (inputs, targets) or a dict of keyword arguments: "
            f"pack several inputs as ((a, b), targets)"
        )
    inputs, targets = (dict(part) if isinstance(part, Mapping) else part for part in item)
    if isinstance(inputs, dict):
        batch = Examples((), dict(inputs), targets, count(targets))
    else:
        batch = Examples(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}, targets, count(targets))
    if count(inputs) != batch.examples:
        raise ProblemError(
            f"a batch got {count(inputs)} inputs and {batch.examples} targets, expected as many: "
            f"check how they are paired"
        )
    return batch


def count(value: Any) -> int:
    """How many examples inputs or targets hold: the length of their first tensor."""
    while not isinstance(value, Tensor):
        if isinstance(value, Mapping):
            value = next(iter(value.values()), None)
        elif isinstance(value, (tuple, list)) and value:
            value = value[0]
        else:
            raise ProblemError(
                f"the data got a {type(value).__name__}, expected tensors: convert it with torch.as_tensor"
            )
    return len(value) if value.dim() else 1


def _suitable(batch: Examples) -> int:
    first = next(x for x in (*batch.args, *batch.kwargs.values()) if isinstance(x, Tensor))
    return max(16, min(1024, _ENTRIES_PER_BATCH // max(1, first[0].numel() if len(first) else 1)))


def on_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` (a tensor, Examples, or dicts, tuples and lists of those) with every tensor changed.

    Mappings and named tuples keep their kind, so that an output of a model that is a dict of a class of its own stays
    one.  The order of the tensors is that of the containers, always the same.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Examples):
        args, kwargs, targets = (on_tensors(part, change) for part in (value.args, value.kwargs, value.targets))
        return Examples(args, kwargs, targets, value.examples, on_tensors(value.extra, change), value.draw)
    if isinstance(value, MutableMapping):
        same = copy.copy(value)
        for name, item in value.items():
            same[name] = on_tensors(item, change)
        return same
    if isinstance(value, (tuple, list)):
        items = [on_tensors(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor of ``value``, in the order of its containers; see ``on_tensors``."""
    found: list[Tensor] = []

    def take(x: Tensor) -> Tensor:
        found.append(x)
        return x

    on_tensors(value, take)
    return found


def rows(value: Any, index: Any) -> Any:
    """Some examples of inputs, outputs or targets of any form; a tensor without dimensions belongs to all of them."""
    return on_tensors(value, lambda x: x[index] if x.dim() else x)


def cut(batch: Examples, index: Any) -> Examples:
    """Some rows of a batch, by slice or index tensor."""
    piece: Examples = rows(batch, index)
    return dataclasses.replace(piece, examples=count(piece.targets))


def merge(batches: list[Examples]) -> list[Examples]:
    """Batches as one where their tensors allow it, so that few examples out of many batches still run together."""
    tensors = [[*b.args, b.targets] for b in batches]
    if len(batches) < 2 or any(b.kwargs for b in batches) or not all(isinstance(x, Tensor) for t in tensors for x in t):
        return batches
    if any(x.shape[1:] != y.shape[1:] for t in tensors for x, y in zip(t, tensors[0], strict=True)):
        return batches
    *args, targets = (torch.cat(column) for column in zip(*tensors, strict=True))
    return [Examples(tuple(args), {}, targets, len(targets))]
