"""The methods by name: each is the expression that the design says, with the defaults of its paper."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from sharpscope import (
    Ascend,
    Ball,
    Blend,
    Decay,
    Evolving,
    Fisher,
    Linear,
    Magnitude,
    Masked,
    Plain,
    RandomTensors,
    Reuse,
    Sharpest,
    Sometimes,
    Surrogate,
    Top,
    parse,
)
from sharpscope.optimizers import methods
from sharpscope.optimizers.methods import asam, esam, gnr, grst, gsam, looksam, rst, sam, sgd, ssam_d, ssam_f
from sharpscope.optimizers.rules import Rule

EXPRESSIONS = [
    (sgd(), Plain()),
    (sam(), Ascend(Ball(0.05))),
    (asam(), Ascend(Ball(0.5, Magnitude(0.01, "*weight*")))),
    (ssam_f(), Ascend(Masked(Ball(0.1), Top(Fisher(128), 0.5, None)))),
    (ssam_d(), Ascend(Masked(Ball(0.1), Evolving(0.5, Decay(0.5, None), None)))),
    (ssam_d(drop=Linear(0.3, 0.1, 9)), Ascend(Masked(Ball(0.1), Evolving(0.5, Linear(0.3, 0.1, 9), None)))),
    (gsam(), Surrogate(Ascend(Ball(0.05)), 0.4)),
    (looksam(), Reuse(Ascend(Ball(0.1)), 5, 0.7, "tensor")),
    (esam(), Ascend(Masked(Ball(0.05), RandomTensors(0.5)), Sharpest(0.5))),
    (gnr(), Blend(Ascend(Ball(0.1)), 0.8)),
    (rst(sam()), Sometimes(sam(), 0.5)),
    (grst(sam()), Sometimes(Blend(sam(), 2.0), 0.5)),
]


@pytest.mark.parametrize(("alias", "expression"), EXPRESSIONS, ids=lambda value: None)
def test_alias_is_its_expression(alias: Rule, expression: Rule) -> None:
    assert alias == expression
    assert hash(alias) == hash(expression)


@pytest.mark.parametrize("name", methods.__all__)
def test_docstring_has_equation_and_a_runnable_example(name: str) -> None:
    text = inspect.getdoc(getattr(methods, name))
    assert text is not None
    assert "20" in text or name == "sgd"  # the year of its paper
    assert "Departure" in text or name == "sgd"
    example = re.search(r"Example:\n +>>> (.+)\n +(.+)", text)
    assert example is not None
    assert parse(example[1]) == parse(example[2])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sam(-0.1), "Ball got rho=-0.1, expected a finite number >= 0: change rho"),
        (lambda: sam("0.1"), "Ball got rho='0.1', expected a finite number >= 0: change rho"),
        (lambda: asam(0.5, -1.0), "Magnitude got eta=-1.0, expected a finite number >= 0: change eta"),
        (lambda: ssam_f(sparsity=1.0), "Top got sparsity=1.0, expected a number in [0, 1): change sparsity"),
        (lambda: ssam_f(samples=0), "Fisher got samples=0, expected a whole number >= 1: change samples"),
        (lambda: ssam_f(every=-1), "Top got every=-1, expected a whole number >= 1 or None: change every"),
        (lambda: ssam_d(sparsity=-0.1), "Evolving got sparsity=-0.1, expected a number in [0, 1): change sparsity"),
        (lambda: ssam_d(drop=1.1), "Decay got alpha=1.1, expected a number in [0, 1]: change alpha"),
        (lambda: ssam_d(total=0), "Decay got total=0, expected a whole number >= 1 or None: change total"),
        (lambda: gsam(alpha=-0.4), "Surrogate got alpha=-0.4, expected a finite number >= 0: change alpha"),
        (lambda: looksam(every=0), "Reuse got every=0, expected a whole number >= 1: change every"),
        (lambda: looksam(projection="x"), "Reuse got projection='x', expected 'tensor' or 'global': change"),
        (lambda: esam(keep=1.5), "RandomTensors got keep=1.5, expected a number in [0, 1]: change keep"),
        (lambda: esam(fraction=-1), "Sharpest got fraction=-1, expected a number in (0, 1]: change fraction"),
        (lambda: gnr(weight=-1), "Blend got weight=-1, expected a finite number >= 0: change weight"),
        (lambda: rst(sam(), p=2), "Sometimes got p=2, expected a number in [0, 1]: change p"),
        (lambda: rst(0.1), "Sometimes got rule=0.1, expected a rule: use one of"),
        (lambda: grst(sam(), weight=-1), "Blend got weight=-1, expected a finite number >= 0: change weight"),
    ],
)
def test_every_argument_out_of_range_is_named(make: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value).startswith(text)
