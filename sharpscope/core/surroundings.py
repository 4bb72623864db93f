"""What surrounds an analysis and must not change its numbers: autocast, and weights that move on meanwhile."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

__all__ = ["analysis", "undisturbed", "without_autocast"]

P = ParamSpec("P")
R = TypeVar("R")

_COUNT = itertools.count()
_NOW = threading.local()


@contextlib.contextmanager
def without_autocast(*kinds: str) -> Iterator[None]:
    """Outside autocast on these kinds of devices: an analysis is of the weights' own dtype.

    Flags rather than a nested context, which would keep the casts of an autocast inside the model from being dropped.
    """
    before = {kind: torch.is_autocast_enabled(kind) for kind in {"cpu", *kinds}}
    if not any(before.values()):
        yield
        return
    try:
        for kind in before:
            torch.set_autocast_enabled(kind, False)
        torch.clear_autocast_cache()
        yield
    finally:
        for kind, enabled in before.items():
            torch.set_autocast_enabled(kind, enabled)
        torch.clear_autocast_cache()


def undisturbed(verb: Callable[P, R]) -> Callable[P, R]:
    """The same function as one analysis: outside autocast, at one state of the weights.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     undisturbed(lambda: (torch.ones(1, 1) @ torch.ones(1, 1)).dtype)()
    torch.float32
    """

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        outer = analysis()
        _NOW.number = next(_COUNT) if outer is None else outer
        try:
            with without_autocast(*(["cuda"] if torch.cuda.is_available() else [])):
                return verb(*args, **kwargs)
        finally:
            _NOW.number = outer

    return run


def analysis() -> int | None:
    """The number of the analysis that this thread is in, None outside any: within one, weights do not move on."""
    found: int | None = getattr(_NOW, "number", None)
    return found
