"""What every analyzer returns: a small frozen dataclass, one per question.

A result holds plain numbers, texts and numpy arrays and nothing else, so that the store can write it, a notebook can
print it and a test can compare it without knowing which analyzer made it.  This module has no fields of its own.
"""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sharpscope.core.frames import columns, frame, to_frame, to_xarray

if TYPE_CHECKING:
    from sharpscope.core.frames import DataFrame, Dataset

__all__ = ["Dims", "Result", "draw_with", "result_kinds"]

Dims = dict[str, str]  # names of array fields: names of their axes, both separated by spaces

_KINDS: dict[str, type[Result]] = {}
_DRAWER: list[Callable[..., Any]] = []  # results know no pictures; the package that draws them registers here
_THUMBNAIL: list[Callable[[Any], bytes | None]] = []


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Base of all results.

    Fields of a subclass are numbers, texts, ``None``, numpy arrays, tuples of texts, or flat dictionaries of those.
    Two results are equal when all their fields are equal bit for bit (a NaN equals a NaN).  ``dims`` names the axes of
    array fields, such as ``{"loss stderr": "beta alpha"}``; an axis that is called like a field has its values as
    coordinates, and a one-dimensional field that is not named there is an axis of its own.
    """

    kind: ClassVar[str] = "Result"
    dims: ClassVar[Dims] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = cls.__name__
        _KINDS[cls.__name__] = cls

    def fields(self) -> dict[str, Any]:
        """Every field by name, in the order of declaration."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def summary(self) -> str:
        """One line of text: the name, every number and text, fields or properties; shapes where there are none."""
        shown = {name: value for name, value in self.fields().items() if _is_plain(value)} | self._properties()
        shapes = {} if shown else {name: np.shape(value) for name, value in self.fields().items()}
        texts = [f"{name}={_short(value)}" for name, value in shown.items()]
        texts += [f"{name}: {' x '.join(map(str, shape))}" for name, shape in shapes.items()]
        return f"{type(self).__name__}({', '.join(texts)})"

    def scalars(self) -> dict[str, Any]:
        """What fits into one row of a table: numbers, texts, entries of short arrays, and properties that are numbers.

        >>> from sharpscope.analyzers.surfaces.surface import Line
        >>> end = np.ones(1)
        >>> Line(end, end, end, end, 1.0, 2.0, "filter", 0, "float32", 10, "quadratic").scalars()["loss[1.0]"]
        1.0
        """
        return columns(self.fields(), self.dims) | self._properties()

    def to_xarray(self) -> Dataset:
        """Arrays as variables over named axes (``dims``) with their ``units``, numbers and texts as attributes.

        Raises ImportError where xarray is not installed (``pip install 'sharpscope[frames]'``).
        """
        return to_xarray(type(self).__name__, self.fields(), self.dims, self.units())

    def units(self) -> dict[str, str]:
        """The unit of every array that has one, by the name of its field."""
        return {}

    def to_frame(self, of: str | None = None) -> DataFrame:
        """A tidy table: a result's own (``tidy``) where it has one, one row per entry of the array ``of`` otherwise.

        ``of`` is the array that ``dims`` names first, unless said; every array along the same axes is a column.  A
        result without arrays becomes one row.  Numbers and texts are in ``.attrs``.  Raises ValueError for an ``of``
        that is no array of this result, ImportError where pandas is not installed (``pip install
        'sharpscope[frames]'``).
        """
        own = self.tidy() if of is None else None
        return to_frame(type(self).__name__, self.fields(), self.dims, of) if own is None else frame(own)

    def tidy(self) -> dict[str, Any] | None:
        """The columns of a table of this result's own making, one row per layer and quantity; None for the usual."""
        return None

    def _properties(self) -> dict[str, Any]:
        """Public properties that are declared to be one number."""
        found = {}
        for kind in type(self).__mro__:
            for name, value in vars(kind).items():
                declared = getattr(value.fget, "__annotations__", {}) if isinstance(value, property) else {}
                if declared.get("return") in ("float", "int") and not name.startswith("_"):
                    found[name] = getattr(self, name)
        return found

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw this result; shorthand for ``sharpscope.plot(result, ax=None)``.  Returns the matplotlib axes."""
        return _DRAWER[0](self, ax=ax, **options)

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
