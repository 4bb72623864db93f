"""Rules as text: there and back, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

import sharpscope.core.schedules as schedules
from sharpscope import (
    Ascend,
    Ball,
    Blend,
    Constant,
    Cosine,
    Decay,
    Evolving,
    Fisher,
    InverseSqrt,
    Linear,
    Magnitude,
    Masked,
    Named,
    Piecewise,
    Proportional,
    RandomMask,
    RandomTensors,
    Reuse,
    RuleError,
    Schedule,
    Sharpest,
    Sine,
    Sometimes,
    Surrogate,
    Top,
    Warmup,
    parse,
    sam,
    sgd,
)
from sharpscope.ascent.scores import Gradient, Random, Weight
from sharpscope.optimizers.rules import Rule
from tests.problems import RULES

NUMBERS: list[Schedule] = [
    Constant(0.1),
    Constant(1e-300),
    Linear(0.0, 1.0),
    Linear(1.0, 0.1, total=7),
    Piecewise(0.0, 0.25, 9),
    Cosine(1.0, 0.0, 3),
    Sine(0.0, 1.0),
    Decay(0.5, 100),
    InverseSqrt(0.3),
    Warmup(0.1, 5),
    Warmup(Cosine(0.2, 0.1, 8), 5),
    Proportional(0.0, 0.1, 1e-5, 0.3),
]
MASKS = [
    Top(Fisher(7), 0.123456789012345, 3),
    Top(Gradient(), 0.0),
    Top(Weight(), 0.9, None),
    Evolving(0.5, Decay(0.5), None),
    Evolving(0.5, 0.25, 4, drop_by=Weight(), grow_by=Gradient(), drop_largest=True),
    Evolving(drop_by=Random()),
    RandomMask(0.3, 0),
    RandomTensors(0.4, 2),
    Named("*norm*"),
    Named('it\'s "quoted" \\ é'),
]


@pytest.mark.parametrize("text", RULES.values())
def test_methods_come_back(text: str) -> None:
    rule = parse(text)
    assert parse(repr(rule)) == rule
    assert repr(parse(repr(rule))) == repr(rule)


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_schedules_come_back(number: Schedule) -> None:
    rule = Sometimes(Blend(Surrogate(sam(number), alpha=number), weight=number), p=number)
    assert parse(repr(rule)) == rule


def test_no_schedule_is_forgotten() -> None:
    every = {getattr(schedules, name) for name in schedules.__all__} - {Schedule}
    assert {kind for kind in every if dataclasses.is_dataclass(kind)} == {type(number) for number in NUMBERS}


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_masks_come_back(mask: Masked) -> None:
    rule = Ascend(Masked(Ball(0.1, Magnitude(0.0, "*")), mask), Sharpest(0.25))
    assert parse(repr(rule)) == rule


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-17, 5e-324, 1.7976931348623157e308, 0.0, 3, 0.1 + 0.2])
def test_numbers_come_back_to_the_last_bit(value: float) -> None:
    rule = parse(repr(sam(value)))
    assert isinstance(rule, Ascend)
    assert isinstance(rule.perturbation, Ball)
    assert rule.perturbation.rho == value


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("sgd", sgd()),
        (" sam ( 0.1 ) \n", sam(0.1)),
        ("sam(rho=+0.1)", None),
        ("gsam", parse("gsam()")),
        ("rst(sam, p=.5)", Sometimes(sam(), 0.5)),
        ("Reuse(sam(rho=1e-1), every=2)", Reuse(sam(0.1), 2)),
        ("sam(rho=Linear(--0.1, 0.0, 5))", sam(Linear(0.1, 0.0, 5))),
    ],
)
def test_ways_to_write(text: str, rule: Rule | None) -> None:
    if rule is None:
        with pytest.raises(RuleError):
            parse(text)
    else:
        assert parse(text) == rule


def test_repr_shows_every_number() -> None:
    assert repr(parse("rst(ssam_f(rho=0.1, sparsity=0.5), p=0.5)")) == (
        "Sometimes(Ascend(Masked(Ball(0.1), mask=Top(Fisher(128), sparsity=0.5))), p=0.5)"
    )
    assert repr(parse("looksam(rho=0.1)")) == "Reuse(Ascend(Ball(0.1)), every=5, alpha=0.7, projection='tensor')"


HOSTILE = [
    "__import__('os')",
    "__import__('os').system('true')",
    "sam.__init__()",
    "sam.rho",
    "lambda: 1",
    "(lambda: sam())()",
    "sam(rho=lambda step: 0.1)",
    "sam(**{'rho': 0.1})",
    "sam(*[0.1])",
    "sam(rho=[0.1])",
    "sam(rho={'a': 1})",
    "sam(rho=(0.1,))",
    "sam(rho=f'{1}')",
    "sam(rho=0.1 + 0.1)",
    "sam(rho=2 ** 9999999999)",
    "sam(rho=0.1 if 1 else 2)",
    "sam(rho=0.1j)",
    "sam(rho=b'x')",
    "sam(rho=...)",
    "sam(rho=not 1)",
    "sam(rho=-True)",
    "sam(rho=-'x')",
    "sam(rho=(y := 1))",
    "[sam() for _ in '12']",
    "sam() or sgd()",
    "sam(rho=open('x'))",
    "eval('1')",
    "sam()()",
    "'sam'",
    "0.1",
    "None",
    "Piece()",
    "Rule()",
    "Mask()",
    "Schedule()",
    "Ball(0.1)",
    "Constant(0.1)",
    "Fisher",
    "sam(",
    "sam)",
    "sam(rho=0.1, rho=0.2)",
    "sam(rho=)",
    "",
    "   ",
    "sam();sgd()",
    "import os",
    "sam(rho=0.1) = 3",
    "sam\x00",
    "sam\ud800",
    "sams(rho=0.1)",
    "SAM",
    "sam(radius=0.1)",
    "sam(0.1, 0.2)",
    "rst()",
    "rst(0.5)",
    "rst(Ball(0.1))",
    "rst(sam(), 'x', 3)",
    "Ascend(sam())",
    "Ascend(Ball(0.1), select=0.5)",
    "sam(rho=" + "9" * 5000 + ")",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:40]))
def test_everything_else_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("code was run"))
    with pytest.raises(RuleError, match=r"got[\s\S]*expected") as caught:
        parse(text)
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("depth", [150, 900, 3000, 100_000])
@pytest.mark.parametrize(
    ("left", "middle", "right"),
    [
        ("rst(", "sam", ")"),
        ("(", "sam", ")"),
        ("sam(rho=" + "-", "1", ""),
        ("", "sam", ".x"),
        ("", "sam", "()"),
        ("", "1", "+1"),
        ("[", "", "]"),
        ("not ", "1", ""),
        ("lambda:", "1", ""),
    ],
    ids=["calls", "parentheses", "minus", "attributes", "call-chain", "sum", "lists", "not", "lambda"],
)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of the compiler, about such texts
def test_deep_nesting_is_refused_or_read(left: str, middle: str, right: str, depth: int) -> None:
    signs = left.startswith("sam(")
    text = "sam(rho=" + "-" * depth + "1)" if signs else left * depth + middle + right * depth
    with contextlib.suppress(RuleError):  # and no RecursionError, no MemoryError
        assert isinstance(parse(text), Rule)


@pytest.mark.parametrize("value", [None, 3, 0.1, sam(), b"sam", ["sam"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(RuleError, match=r"the rule got .*, expected a text such as 'sam\(rho=0\.05\)': give it"):
        parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sams(0.1)", "the rule got the name 'sams' in 'sams(0.1)', expected one of asam, esam, gnr, grst, gsam, "),
        ("sam(radius=1)", "sam got 'sam(radius=1)' (got an unexpected keyword argument 'radius'), expected rho"),
        ("rst()", "rst got 'rst()' (missing a required argument: 'rule'), expected rule, p: change its arguments"),
        ("Ball(0.1)", "the rule got 'Ball(0.1)', expected a rule such as asam, esam, gnr, grst, gsam, looksam, rst, "),
        ("sam(rho=[1])", "the rule got '[1]' in 'sam(rho=[1])', expected a number, a text or a call such as sam("),
        ("sam(", "the rule got 'sam(', expected a text such as 'sam(rho=0.05)': mend its syntax ('(' was"),
        (
            "rst(0.5)",
            "rst got 'rst(0.5)', expected other arguments: Sometimes got rule=0.5, expected a rule: use one of",
        ),
    ],
)
def test_messages(text: str, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


def test_a_number_out_of_range_keeps_its_own_message() -> None:
    with pytest.raises(ValueError, match=r"Ball got rho=-1, expected a finite number >= 0: change rho"):
        parse("rst(sam(rho=-1), p=0.5)")


def test_a_number_beyond_what_a_float_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Ball got rho=1+, expected a finite number >= 0: change rho"):
        parse("sam(rho=" + "1" * 400 + ")")
