"""What every analyzer returns: a small frozen dataclass, one per question.

A result holds plain numbers, texts and numpy arrays and nothing else, so that the store can write it, a notebook can
print it and a test can compare it without knowing which analyzer made it.  This module has no fields of its own.
"""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

__all__ = ["Result", "draw_with", "result_kinds"]

_KINDS: dict[str, type[Result]] = {}
_DRAWER: list[Callable[..., Any]] = []  # results know no pictures; the package that draws them registers here
_THUMBNAIL: list[Callable[[Any], bytes | None]] = []


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

    def tidy(self) -> dict[str, Any]:
        """The content as a tidy table, {name: column}, one row per quantity; by default the plain numbers and texts."""
        plain = {name: value for name, value in self.fields().items() if _is_plain(value)}
        return {"quantity": list(plain), "value": list(plain.values())}

    def to_frame(self) -> Any:
        """``tidy()`` as a pandas DataFrame.  Raises ImportError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_frame got no pandas, expected it to be installed: pip install 'sharpscope[frames]'"
            ) from error
        return pandas.DataFrame(self.tidy())

    def _repr_html_(self) -> str:
        """The summary and a small picture, for a notebook."""
        text = f"<div><code>{html.escape(self.summary())}</code></div>"
        picture = _THUMBNAIL[0](self) if _THUMBNAIL else None
        if picture is None:
            return text
        data = base64.b64encode(picture).decode()
        return f'{text}<img alt="{html.escape(type(self).__name__)}" src="data:image/png;base64,{data}">'

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


def draw_with(drawer: Callable[..., Any], thumbnail: Callable[[Any], bytes | None] | None = None) -> None:
    """Let ``result.plot(...)`` call ``drawer(result, ax=..., ...)``, and a notebook ``thumbnail(result) -> PNG``."""
    _DRAWER[:] = [drawer]
    _THUMBNAIL[:] = [] if thumbnail is None else [thumbnail]


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
