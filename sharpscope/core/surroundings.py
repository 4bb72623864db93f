"""What surrounds a call and must not change its numbers: autocast, and another default device than that of the data."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

__all__ = ["as_found", "undisturbed", "without_autocast"]

P = ParamSpec("P")
R = TypeVar("R")

_OUTSIDE = threading.local()  # the default device that the user has set, while ours is in force


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
    """The same function, whose own tensors are where and what they are meant to be whatever surrounds the call.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     undisturbed(lambda: (torch.ones(1, 1) @ torch.ones(1, 1)).dtype)()
    torch.float32
    """

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        found = torch.get_default_device()
        with contextlib.ExitStack() as stack:
            kinds = ["cuda"] if torch.cuda.is_available() else []
            stack.enter_context(without_autocast(*kinds))
            if found.type != "cpu":
                stack.callback(setattr, _OUTSIDE, "device", getattr(_OUTSIDE, "device", None))
                _OUTSIDE.device = found
                stack.enter_context(torch.device("cpu"))
            return verb(*args, **kwargs)

    return run


@contextlib.contextmanager
def as_found() -> Iterator[None]:
    """The user's own default device, for code that is the user's."""
    device = getattr(_OUTSIDE, "device", None)
    if device is None:
        yield
        return
    with torch.device(device):
        yield
