"""What every analyzer returns: a small frozen dataclass, one per question.

A result holds plain numbers, texts and numpy arrays and nothing else, so that the store can write it, a notebook can
print it and a test can compare it without knowing which analyzer made it.  This module has no fields of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

__all__ = ["Result", "draw_with", "result_kinds"]

_KINDS: dict[str, type[Result]] = {}
_DRAWER: list[Callable[..., Any]] = []  # results know no pictures; the package that draws them registers here


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Base of all results.

    Fields of a subclass are numbers, texts, ``None``, numpy arrays, tuples of texts, or flat dictionaries of those.
    Two results are equal when all their fields are equal bit for bit (a NaN equals a NaN).
    """

    kind: ClassVar[str] = "Result"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = cls.__name__
        _KINDS[cls.__name__] = cls

    def fields(self) -> dict[str, Any]:
        """Every field by name, in the order of declaration."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def summary(self) -> str:
        """One line of text: the name and every field that is a single number or text."""
        shown = [f"{name}={_short(value)}" for name, value in self.fields().items() if _is_plain(value)]
        return f"{type(self).__name__}({', '.join(shown)})"

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw this result; shorthand for ``sharpscope.plot(result, ax=None)``.  Returns the matplotlib axes."""
        return _DRAWER[0](self, ax=ax, **options)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Result):
            return False
        mine, theirs = self.fields(), other.fields()
        return all(_same(mine[name], theirs[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return self.summary()


def result_kinds() -> dict[str, type[Result]]:
    """Every result class by name: what a file may hold, and nothing else is ever built from a file."""
    return dict(_KINDS)


def draw_with(drawer: Callable[..., Any]) -> None:
    """Let ``result.plot(...)`` call ``drawer(result, ax=..., ...)``."""
    _DRAWER[:] = [drawer]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, np.generic))


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else repr(value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        left, right = np.asarray(a), np.asarray(b)
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        return bool(np.array_equal(left, right, equal_nan=left.dtype.kind in "fc"))
    if isinstance(a, float) and isinstance(b, float) and a != a and b != b:
        return True
    return type(a) is type(b) and bool(a == b)
