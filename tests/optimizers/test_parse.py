"""Rules as text: there and back, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

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
    Mask,
    Masked,
    Metric,
    Named,
    Perturbation,
    Piecewise,
    Probe,
    Proportional,
    RandomMask,
    RandomTensors,
    Reuse,
    RuleError,
    Schedule,
    Score,
    Sharpest,
    SharpnessAware,
    Shift,
    Sine,
    Sometimes,
    Surrogate,
    Top,
    Warmup,
    gradient_ratio,
    parse,
    rst,
    sam,
    sgd,
)
from sharpscope.ascent.scores import Gradient, Random, Weight
from sharpscope.core.schedules import Number
from sharpscope.core.vectors import Vec, scale
from sharpscope.optimizers.rules import Rule
from tests.optimizers.shared import everything, run, same
from tests.problems import MLP, RULES

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
        ("sams(0.1)", "the rule got the name 'sams' in 'sams(0.1)', expected one of asam, bsam, esam, fsam, "),
        ("sam(radius=1)", "sam got 'sam(radius=1)' (got an unexpected keyword argument 'radius'), expected rho"),
        ("rst()", "rst got 'rst()' (missing a required argument: 'rule'), expected rule, p: change its arguments"),
        ("Ball(0.1)", "the rule got 'Ball(0.1)', expected a rule such as asam, bsam, esam, fsam, functional_sam, "),
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


@dataclasses.dataclass(frozen=True)
class Sign(Perturbation):
    rho: Number = 0.01

    def __call__(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Shift:
        return Shift([x.sign() for x in g], probe.value(self.rho))


@dataclasses.dataclass(frozen=True, repr=False)
class Even(Mask):
    every: int = 0

    def refresh(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Vec:
        return [torch.arange(p.numel()).reshape(p.shape) % 2 == 0 for p in probe.params]


@dataclasses.dataclass(frozen=True)
class Twice(Rule):
    rule: Rule
    label: str = "x"
    bold: bool = False

    def __call__(self, probe: Probe, memory: dict[str, Any]) -> Vec:
        return scale(self.rule(probe, memory.setdefault("rule", {})), 2.0)


@dataclasses.dataclass(frozen=True)
class Halving(Schedule):
    start: float
    total: int | None = None

    def __call__(self, step: int, lr: float | None = None) -> float:
        return self.start / 2**step


@dataclasses.dataclass(frozen=True)
class Saliency(Score):
    needs_gradient = True

    def __call__(self, g: Vec, probe: Probe) -> Vec:
        return [(x * p.detach()).abs() for x, p in zip(g, probe.params, strict=True)]


@dataclasses.dataclass(frozen=True)
class Layerwise(Metric):
    def diagonal(self, probe: Probe) -> Vec:
        return [torch.full_like(p, float(p.detach().norm())) for p in probe.params]


class Bare(Twice):
    """Derived without a decorator."""


def signed(rho: Number = 0.02) -> Rule:
    return Ascend(Sign(rho))


OWN = [Sign, Even, Twice, Halving, Saliency, Layerwise, Bare, signed]
MINE = [
    Ascend(Sign()),
    Ascend(Sign(Halving(0.5, 9))),
    rst(Ascend(Masked(Sign(0.3), Even())), p=Halving(0.5)),
    Twice(sam(0.1), 'it\'s "x"', bold=True),
    Bare(Twice(Ascend(Ball(0.1, Layerwise()))), "é"),
    Ascend(Masked(Ball(0.1), Top(Saliency(), 0.5, 2))),
]


@pytest.mark.parametrize("rule", MINE, ids=repr)
def test_pieces_of_a_user_come_back(rule: Rule) -> None:
    found = parse(repr(rule), pieces=OWN)
    assert found == rule
    assert type(found) is type(rule)
    assert repr(found) == repr(rule)


@pytest.mark.parametrize("rule", MINE, ids=repr)
def test_pieces_of_a_user_train_as_text_and_resume(rule: Rule) -> None:
    def build(given: Rule | str) -> tuple[nn.Module, SharpnessAware]:
        model = MLP.model()
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, SharpnessAware(base, given, seed=3, total=50, model=model, pieces=OWN)

    model, optimizer = build(rule)
    run(MLP, model, optimizer, 0, 6)
    twin, first = build(repr(rule))
    run(MLP, twin, first, 0, 3)
    other, second = build(repr(rule))
    other.load_state_dict(twin.state_dict())
    second.load_state_dict(first.state_dict())
    run(MLP, other, second, 3, 6)
    assert same(everything(model, optimizer), everything(other, second))


def test_a_function_of_a_user_makes_a_piece() -> None:
    assert parse("rst(signed(0.1), p=0.5)", pieces=[signed, Sign]) == Sometimes(Ascend(Sign(0.1)), 0.5)


def test_a_name_that_is_not_handed_in_says_how() -> None:
    message = (
        r"the rule got the name .Sign. in .Ascend\(Sign\(0\.01\)\)., expected one of asam, .*: change the name, or "
        r"hand yours in with pieces=\[Sign\], or with --pieces module:Sign on the command line$"
    )
    with pytest.raises(RuleError, match=message):
        parse(repr(Ascend(Sign())))
    with pytest.raises(RuleError, match=message):
        SharpnessAware(torch.optim.SGD(MLP.model().parameters(), lr=0.1), "Ascend(Sign(0.01))", pieces=[Even])


def _named(name: str, kind: type) -> type:
    return type(name, (kind,), {"__module__": "mine"})


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([Sign()], "pieces got Sign(0.01), expected classes of yours (of a Rule, Perturbation, Metric, Mask, Score or"),
        (["Sign"], "pieces got 'Sign', expected classes of yours"),
        ([lambda rho: sam(rho)], "pieces got <function <lambda>"),
        ([dict], "pieces got <class 'dict'>, expected classes of yours"),
        ([_named("Ball", Sign)], "pieces got a Ball from mine, expected another name, as Ball is taken: rename it"),
        ([_named("Rule", Sign)], "pieces got a Rule from mine, expected another name, as Rule is taken: rename it"),
        ([_named("sam", Twice)], "pieces got a sam from mine, expected another name, as sam is taken: rename it"),
        ([Sign, _named("Sign", Sign)], "pieces got a Sign from mine, expected another name, as Sign is taken: rename"),
        ([Rule], "pieces got a Rule from sharpscope.optimizers.rules, expected another name, as Rule is taken"),
    ],
)
def test_what_cannot_be_handed_in_is_refused(pieces: list[Any], message: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse("sam(0.1)", pieces)
    assert str(caught.value).startswith(message)


def test_the_same_piece_may_be_handed_in_twice_and_own_ones_too() -> None:
    assert parse("Ascend(Sign(0.1))", [Sign, Sign, Ascend, sam]) == Ascend(Sign(0.1))


@dataclasses.dataclass(frozen=True)
class Exploding(Rule):
    size: float = 1.0

    def __post_init__(self) -> None:
        raise {1.0: KeyError("lost"), 2.0: ValueError("Exploding got size=2.0, expected 1: change size")}[self.size]


def test_a_piece_that_fails_is_named() -> None:
    with pytest.raises(RuleError, match=r"Exploding got 'Exploding\(\)', expected other arguments: 'lost'"):
        parse("Exploding()", [Exploding])
    with pytest.raises(ValueError, match=r"^Exploding got size=2\.0, expected 1: change size$"):
        parse("Exploding(2.0)", [Exploding])


class Undecorated(Rule):
    def __init__(self, factor: float) -> None:
        object.__setattr__(self, "factor", factor)

    def __call__(self, probe: Probe, memory: dict[str, Any]) -> Vec:
        return scale(probe.gradient(), self.factor)


@dataclasses.dataclass(frozen=True)
class Holding(Rule):
    kept: Any

    def __call__(self, probe: Probe, memory: dict[str, Any]) -> Vec:
        return probe.gradient()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            Undecorated(2.0),
            "the rule got a Undecorated with an __init__ of its own, expected a dataclass, whose fields",
        ),
        (rst(Undecorated(2.0)), "the rule got a Undecorated with an __init__ of its own, expected a dataclass"),
        (Holding([1, 2]), "the rule got a Holding with kept=[1, 2], expected a number, a text, None or a piece"),
        (Holding(len), "the rule got a Holding with kept=<built-in function len>, expected a number, a text"),
        (Holding({"a": 1}), "the rule got a Holding with kept={'a': 1}, expected a number, a text"),
    ],
    ids=["init", "init-inside", "list", "function", "dict"],
)
def test_a_piece_without_a_text_is_refused(rule: Rule, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        SharpnessAware(torch.optim.SGD(MLP.model().parameters(), lr=0.1), rule)
    assert str(caught.value).startswith(message)


def test_a_text_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for text in ("stranger:Mask()", "stranger.Mask()", "Ascend(stranger)", "stranger()"):
        with pytest.raises(RuleError):
            parse(text)
    assert "stranger" not in sys.modules


def test_tensors_serve_for_a_shift_wherever_it_goes() -> None:
    """eps itself in place of a Shift: in a climb, under a mask, in the gradient ratio."""

    @dataclasses.dataclass(frozen=True)
    class Dense(Perturbation):
        def __call__(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Any:
            return [0.01 * x.sign() for x in g]

    for around in (lambda inner: inner, lambda inner: Masked(inner, Even())):
        ends = []
        for inner in (Dense(), Sign(0.01)):
            model = MLP.model()
            optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), Ascend(around(inner)))
            run(MLP, model, optimizer, 0, 3)
            problem = MLP.problem(model)
            ends.append([*model.parameters(), torch.as_tensor(gradient_ratio(problem, around(inner)).tally)])
        for a, b in zip(*ends, strict=True):
            torch.testing.assert_close(a, b)
