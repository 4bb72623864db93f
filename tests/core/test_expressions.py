"""The text of a piece builds it again; what depends on the data is filled in; ranges are refused in words."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import numpy as np
import pytest

from sharpscope import Ascend, Ball, Constant, sam
from sharpscope.core import expressions
from sharpscope.core.expressions import Piece, check_count, check_piece, check_range, resolve


@dataclass(frozen=True, repr=False)
class Bare(Piece):
    pass


@dataclass(frozen=True, repr=False)
class Inner(Piece):
    value: float
    every: int | None = None


@dataclass(frozen=True, repr=False)
class Outer(Piece):
    inner: Piece
    total: int | None = None
    sync: bool = False
    kind: Piece = Bare()
    text: str = "a"


NAMES = {"Bare": Bare, "Inner": Inner, "Outer": Outer}
PIECES = [
    (Bare(), "Bare()"),
    (Inner(0.1), "Inner(0.1)"),
    (Inner(1), "Inner(1)"),
    (Inner(0.1, every=3), "Inner(0.1, every=3)"),
    (Outer(Inner(0.1)), "Outer(Inner(0.1), text='a')"),
    (Outer(Bare(), 5, True, Inner(2.0)), "Outer(Bare(), total=5, sync=True, kind=Inner(2.0), text='a')"),
    (Inner(np.float64(0.1), np.int64(3)), "Inner(0.1, every=3)"),
]


@pytest.mark.parametrize(("piece", "text"), PIECES)
def test_text_and_back(piece: Piece, text: str) -> None:
    assert repr(piece) == text
    again = eval(text, NAMES)
    assert again == piece
    assert hash(again) == hash(piece)


def test_pieces_are_values() -> None:
    assert Inner(0.1) != Inner(0.2)
    assert Inner(0.1, None) != Bare()
    with pytest.raises(FrozenInstanceError):
        Inner(0.1).value = 3  # type: ignore[misc]


def test_resolve_fills_in_at_any_depth() -> None:
    rule = Outer(Inner(0.1), kind=Outer(Inner(0.2, every=7), total=2))
    resolved = resolve(rule, epoch=10, total=300)
    assert resolved == Outer(Inner(0.1, 10), 300, kind=Outer(Inner(0.2, 7), 2))
    assert rule.total is None
    assert resolve(resolved, None, None) == resolved
    assert resolve(Bare(), None, None) is not None


@pytest.mark.parametrize(
    ("epoch", "total", "text"),
    [
        (
            None,
            5,
            "got every=None, expected the optimizer steps of an epoch: give every in .*, epoch=STEPS)",
        ),
        (5, None, "got total=None, expected the optimizer steps of the whole training: .*, rule, total=STEPS)"),
        (None, None, "got every=None and total=None, expected .* and .*: give .*, rule, epoch=STEPS, total=STEPS)"),
    ],
)
def test_resolve_says_all_that_is_missing(epoch: Any, total: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text.replace("(", r"\(").replace(")", r"\)")):
        resolve(Outer(Inner(0.1)), epoch, total)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.float64(1), np.int64(0)])
def test_in_range(value: Any) -> None:
    check_range("Inner", "value", value, 0, 1)


def test_a_schedule_where_it_may_be() -> None:
    check_range("Inner", "value", Constant(7.0), 0, 1, schedule=True)
    for value, allowed in ((Constant(0.5), False), (Bare(), True)):
        with pytest.raises(ValueError, match=r"Inner got value=.*, expected a number in \[0, 1\]"):
            check_range("Inner", "value", value, 0, 1, schedule=allowed)


def test_an_option_that_is_off_is_not_in_the_text() -> None:
    assert repr(sam(0.1)) == "Ascend(Ball(0.1))"
    assert repr(Ascend(Ball(0.1), rows=0.5)) == "Ascend(Ball(0.1), rows=0.5)"


@pytest.mark.parametrize("value", [-1e-9, 1.1, math.nan, math.inf, "1", None, True, 1j, [0.5]])
def test_out_of_range(value: Any) -> None:
    with pytest.raises(ValueError, match=r"Inner got value=.*, expected a number in \[0, 1\]: change value"):
        check_range("Inner", "value", value, 0, 1)


def test_open_and_unbounded_ranges() -> None:
    with pytest.raises(ValueError, match=r"got value=1, expected a number in \[0, 1\)"):
        check_range("Inner", "value", 1, 0, 1, open_high=True)
    with pytest.raises(ValueError, match="got value=inf, expected a finite number >= 0: change value"):
        check_range("Inner", "value", math.inf, 0)


@pytest.mark.parametrize("value", [0, -3, 1.0, True, "2", None])
def test_counts(value: Any) -> None:
    check_count("Inner", "every", 1)
    check_count("Inner", "every", np.int32(4))
    check_count("Inner", "every", None, optional=True)
    with pytest.raises(ValueError, match=r"Inner got every=.*, expected a whole number >= 1: change every"):
        check_count("Inner", "every", value)


def test_kinds() -> None:
    check_piece("Outer", "inner", Inner(1.0), Piece)
    with pytest.raises(TypeError, match="Outer got inner=3, expected an inner: use one of Inner"):
        check_piece("Outer", "inner", 3, Inner)
    with pytest.raises(TypeError, match=r"Outer got kind=Inner\(1.0\), expected a bare: use one of Bare"):
        check_piece("Outer", "kind", Inner(1.0), Bare)


def test_public_names() -> None:
    assert all(hasattr(expressions, name) for name in expressions.__all__)
