"""Pieces of the user's own for ``--pieces module:Name``: what the user types is imported, what a file says never."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["imported"]


def imported(names: Iterable[str]) -> tuple[Callable[..., Any], ...]:
    """The classes or functions that are called "module:Name".  Raises ValueError for a name that leads to none."""
    return tuple(_imported(name) for name in names)


def _imported(name: str) -> Callable[..., Any]:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute.isidentifier()):
        raise ValueError(f"got --pieces {name}, expected module:Name, such as my_rules:MyMask: write it like that")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ValueError(
            f"got --pieces {name}, expected a module {module!r} that can be imported and got {type(error).__name__}: "
            f"{' '.join(str(error).split())}; correct it, or put its folder on PYTHONPATH"
        ) from error
    if not callable(found):
        kind = "no such name" if found is None else f"a {type(found).__name__}"
        raise ValueError(
            f"got --pieces {name}, expected a class {attribute!r} in module {module!r} and found {kind}: define it "
            f"there, or correct the name after the colon"
        )
    return found  # type: ignore[no-any-return]
