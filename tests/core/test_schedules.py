"""Every schedule against its formula, and the closed forms of the mean probability."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sharpscope.core.schedules import (
    Constant,
    Cosine,
    Decay,
    InverseSqrt,
    Linear,
    Piecewise,
    Proportional,
    Sine,
    Warmup,
    delta_eta,
    value_at,
)

T = 40
FORMULAS: list[tuple[Any, Any]] = [
    (Constant(0.3), lambda t: 0.3),
    (Linear(0.2, 0.8, total=T), lambda t: 0.2 + 0.6 * (t + 0.5) / T),
    (Piecewise(0.0, 0.25, total=T), lambda t: 0.0 if t < 10 else 1.0),
    (Piecewise(0.9, total=T), lambda t: 0.9 if t < 20 else 0.1),
    (Cosine(1.0, 0.0, total=T), lambda t: 0.5 + 0.5 * math.cos(math.pi * (t + 0.5) / T)),
    (Cosine(0.0, 1.0, total=T), lambda t: 0.5 - 0.5 * math.cos(math.pi * (t + 0.5) / T)),
    (Sine(0.0, 1.0, total=T), lambda t: math.sin(math.pi * (t + 0.5) / T)),
    (Sine(1.0, 0.0, total=T), lambda t: 1 - math.sin(math.pi * (t + 0.5) / T)),
    (Decay(0.5, total=T), lambda t: 0.25 * (1 + math.cos(math.pi * t / T))),
    (InverseSqrt(0.1), lambda t: 0.1 / math.sqrt(t + 1)),
    (Warmup(0.1, 5), lambda t: 0.1 * min((t + 1) / 5, 1)),
    (Warmup(Linear(0.0, 1.0, total=T), 5), lambda t: (t + 0.5) / T * min((t + 1) / 5, 1)),
]


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=lambda x: repr(x) if not callable(x) else "")
def test_formulas(schedule: Any, formula: Any) -> None:
    for step in range(T):
        assert schedule(step) == pytest.approx(formula(step), abs=1e-15)
        assert value_at(schedule, step) == schedule(step)
    assert math.isfinite(schedule(10 * T))  # beyond the end the last value stays


def test_beyond_the_end() -> None:
    assert [s(99) for s in (Linear(0.0, 1.0, total=T), Cosine(1.0, 0.0, total=T), Decay(0.5, total=T))] == [
        1.0,
        0.0,
        0.0,
    ]
    assert Sine(0.0, 1.0, total=T)(99) == pytest.approx(0.0, abs=1e-15)


# Zhao et al. 2023: the mean over a training of p
@pytest.mark.parametrize(
    ("schedule", "mean", "tolerance"),
    [
        *[(Constant(a / 10), a / 10, 1e-15) for a in range(1, 10)],
        *[(Piecewise(0.0, b / 10, total=1000), 1 - b / 10, 1e-15) for b in range(1, 10)],
        *[(Piecewise(1.0, b / 10, total=1000), b / 10, 1e-15) for b in range(1, 10)],
        *[(Piecewise(a / 10, 0.5, total=1000), 0.5, 1e-15) for a in range(1, 10)],
        (Piecewise(0.2, 0.3, total=1000), 1 + 2 * 0.2 * 0.3 - 0.3 - 0.2, 1e-15),
        *[(Linear(0.0, 2 * m / 10, total=1000), m / 10, 1e-15) for m in range(1, 6)],
        *[(Linear(2 * m / 10 - 1, 1.0, total=1000), m / 10, 1e-15) for m in range(5, 10)],
        *[(Linear(b / 10, 1 - b / 10, total=1000), 0.5, 1e-15) for b in range(11)],
        (Cosine(1.0, 0.0, total=1000), 0.5, 1e-15),
        (Cosine(0.0, 1.0, total=1000), 0.5, 1e-15),
        (Sine(0.0, 1.0, total=1000), 2 / math.pi, 1e-6),
        (Sine(1.0, 0.0, total=1000), 1 - 2 / math.pi, 1e-6),
    ],
)
def test_mean_probabilities(schedule: Any, mean: float, tolerance: float) -> None:
    assert delta_eta(schedule, 1000) == pytest.approx(mean, abs=tolerance)


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_a_linear_mean_is_exact_at_any_length(steps: int) -> None:
    assert delta_eta(Linear(0.0, 1.0, total=steps), steps) == pytest.approx(0.5, abs=1e-15)


def test_proportional() -> None:
    follow = Proportional(0.1, 0.3, 0.0, 0.2)
    assert [follow(0, lr) for lr in (0.0, 0.1, 0.2)] == pytest.approx([0.1, 0.2, 0.3])
    assert value_at(follow, 3, 0.1) == pytest.approx(0.2)
    assert Warmup(follow, 2)(0, 0.2) == pytest.approx(0.15)
    assert value_at(0.5, 3) == 0.5


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Constant(math.inf), "Constant got value=inf, expected a finite number"),
        (lambda: Constant("high"), "Constant got value='high', expected a finite number"),
        (lambda: Linear(0.0, 1.0, total=0), "Linear got total=0, expected a whole number >= 1 or None: change total"),
        (lambda: Cosine(0.0, 1.0, total=2.5), "Cosine got total=2.5, expected a whole number >= 1 or None"),
        (lambda: Sine(0.0, 1.0, total=True), "Sine got total=True, expected a whole number >= 1 or None"),
        (lambda: Piecewise(0.0, 1.5), r"Piecewise got at=1.5, expected a number in \[0, 1\]: change at"),
        (lambda: Decay(-0.1), r"Decay got alpha=-0.1, expected a number in \[0, 1\]"),
        (lambda: Warmup(0.1, 0), "Warmup got steps=0, expected a whole number >= 1: change steps"),
        (lambda: Proportional(0, 1, 0.1, 0.1), "expected lr_low < lr_high: swap or change them"),
        (lambda: Proportional(0, 1, 0.0, 0.1)(3), "Proportional got no learning rate, expected an optimizer to follow"),
        (lambda: Linear(0.0, 1.0)(3), "the schedule got total=None, expected its length in steps"),
        (lambda: Decay(0.5)(3), "Decay got total=None, expected its length in steps"),
        (lambda: delta_eta(0.5, 0), "delta_eta got steps=0, expected a whole number >= 1"),
    ],
)
def test_bad_arguments(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
