"""The base of everything that a method is composed of: schedules, masks, perturbations, rules.

A piece is a frozen dataclass without state.  Its ``repr`` is the text that builds it again, so one text serves as
configuration, command-line argument, attribute in a file and label of a figure.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

__all__ = ["Piece", "check_count", "check_piece", "check_range", "off", "parts", "resolve"]

P = TypeVar("P", bound="Piece")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Base class; equality and hash by value.

    ``repr`` shows every number, defaults too, because a text that is stored must mean the same when defaults change; it
    leaves out only what is absent by default (None, False, a piece without fields, an option that is ``off``).
    """

    varies: ClassVar[bool] = False  # whether it stands for a number that changes: a schedule

    def __init_subclass__(cls, **options: Any) -> None:
        """``@dataclass`` writes no ``repr`` of its own where a class holds one: that text would have no way back."""
        super().__init_subclass__(**options)
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        shown = []
        for position, field in enumerate(dataclasses.fields(self)):
            value = getattr(self, field.name)
            silent = value is None or value is False or _is_bare(value) or "off" in field.metadata
            if silent and value == field.default:
                continue
            text = repr(_plain(value))
            shown.append(text if position == 0 else f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python, whose text can be read back."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _is_bare(value: Any) -> bool:
    return isinstance(value, Piece) and not dataclasses.fields(value)


def off(value: Any) -> Any:
    """A field whose default switches an option off: left out of the text, as if the option were not there."""
    return dataclasses.field(default=value, metadata={"off": True})


def resolve(piece: P, epoch: int | None, total: int | None) -> P:
    """Fill in what depends on the data at hand: ``every=None`` becomes one epoch, ``total=None`` the whole training.

    ``epoch`` and ``total`` are in optimizer steps.  Raises ValueError when a piece needs one that is not known.
    """
    lacking = dict.fromkeys(_lacking(piece, {"every": epoch, "total": total}))
    if lacking:
        raise ValueError(
            f"the rule got {' and '.join(f'{name}=None' for name in lacking)}, expected "
            f"{' and '.join(_STEPS[name][1] for name in lacking)}: give {' and '.join(lacking)} in the rule, or tell "
            f"the optimizer: SharpnessAware(base, rule, {', '.join(_STEPS[name][0] + '=STEPS' for name in lacking)})"
        )
    return _filled(piece, {"every": epoch, "total": total})


_STEPS = {
    "every": ("epoch", "the optimizer steps of an epoch"),
    "total": ("total", "the optimizer steps of the whole training"),
}


def _lacking(piece: Piece, known: dict[str, int | None]) -> Iterator[str]:
    for field in dataclasses.fields(piece):
        value = getattr(piece, field.name)
        if isinstance(value, Piece):
            yield from _lacking(value, known)
        elif value is None and field.name in known and known[field.name] is None:
            yield field.name


def _filled(piece: P, known: dict[str, int | None]) -> P:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(piece):
        value = getattr(piece, field.name)
        if isinstance(value, Piece):
            changes[field.name] = _filled(value, known)
        elif value is None and field.name in known:
            changes[field.name] = known[field.name]
    return dataclasses.replace(piece, **changes) if changes else piece


def check_range(
    owner: str,
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    schedule: bool = False,
) -> None:
    """Raise ValueError unless ``value`` is a finite number in the range, or a ``schedule`` where it may be."""
    if schedule and isinstance(value, Piece) and value.varies:
        return
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if (
        number
        and _is_finite(value)
        and (low < value if open_low else low <= value)
        and (value < high if open_high else value <= high)
    ):
        return
    if high == math.inf:
        expected = "a finite number" if low == -math.inf else f"a finite number {'>' if open_low else '>='} {low:g}"
    else:
        expected = f"a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    raise ValueError(f"{owner} got {name}={value!r}, expected {expected}: change {name}")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float can hold
        return False


def check_count(owner: str, name: str, value: Any, *, optional: bool = False) -> None:
    """Raise ValueError unless ``value`` is a whole number >= 1 (or None where ``optional``)."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if (value is None and optional) or (whole and value >= 1):
        return
    kind = "a whole number >= 1 or None" if optional else "a whole number >= 1"
    raise ValueError(f"{owner} got {name}={value!r}, expected {kind}: change {name}")


def check_seed(owner: str, seed: Any) -> None:
    """Raise ValueError unless ``seed`` is a whole number."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise ValueError(f"{owner} got seed={seed!r}, expected a whole number: change seed")


def check_piece(owner: str, name: str, value: Any, kind: type[Piece]) -> None:
    """Raise TypeError unless ``value`` is a piece of the kind that the place needs."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        known = sorted(found.__name__ for found in kind.__subclasses__()) or [kind.__name__]
        raise TypeError(
            f"{owner} got {name}={value!r}, expected {article} {kind.__name__.lower()}: use one of {', '.join(known)}"
        )


def parts(piece: Piece) -> Iterator[Piece]:
    """The piece and all that it is composed of."""
    yield piece
    for value in vars(piece).values():
        if isinstance(value, Piece):
            yield from parts(value)
