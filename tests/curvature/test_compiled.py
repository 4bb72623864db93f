"""Compiled products are those of the tape, to rounding; where there is no compiling, it is said."""

from __future__ import annotations

import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope.curvature import _compiled as compiled
from sharpscope.curvature._preflight import Plan
from sharpscope.curvature._tape import Tape
from sharpscope.curvature.operators import fisher, ggn, hessian
from sharpscope.curvature.products import MODES
from sharpscope.problem.problem import Problem, ProblemError
from tests.conftest import eps_tol, random_states, touched_since
from tests.reference_curvature import make_case

LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 2])
ASKED = f"{MODES[0]}, compiled"
REMEDY = 'leave "compiled" out'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found that another program compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The stages of torch.compile before code is written, which take a second; the functions that came of them."""
    made: list[Any] = []
    kind = torch.compile

    def compile_(*args: Any, **options: Any) -> Any:
        made.append(kind(*args, **options))
        return made[-1]

    monkeypatch.setattr(compiled, "_BACKEND", "aot_eager")
    monkeypatch.setattr(torch, "compile", compile_)
    return made


def small(batches: tuple[int, ...] = (7,), loss: Any = F.cross_entropy) -> Problem:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    data = [(torch.randn(count, 4), torch.randint(0, 3, (count,))) for count in batches]
    return Problem(model, loss, data)


def agree(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).norm()) <= eps_tol(expected.dtype, 1e3) * float(expected.norm())


def test_compiled_products_are_those_of_the_tape() -> None:
    """Convolution and BatchNorm, by the compiler itself, which takes most of this file's time."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    images, targets = torch.randn(6, 1, 4, 4), torch.randint(0, 3, (6,))
    problem = Problem(model, nn.CrossEntropyLoss(), (images, targets), batch_size=3)
    plain, fused = hessian(problem, mode=MODES[0]), hessian(problem, mode=ASKED)
    states, filters = random_states(), list(warnings.filters)
    for _ in range(2):
        v = torch.randn(problem.size, generator=torch.Generator().manual_seed(1))
        found = fused @ v
        assert agree(found, plain @ v)
        assert found.equal(fused @ v)
    assert not touched_since(states)
    assert warnings.filters == filters
    assert fused.plan.how == ASKED
    assert "compiled" not in plain.plan.how
    assert repr(fused).endswith(f"mode='{ASKED}')")


@pytest.mark.parametrize(("name", "make"), [("conv", ggn), ("unused", hessian), ("tied", fisher)])
def test_every_kind_of_product(name: str, make: Any, traced: list[Any]) -> None:
    made = make_case(name)
    problem = Problem(made.model, nn.CrossEntropyLoss(), [(made.inputs, LABELS)])
    v = torch.randn(problem.size)
    assert agree(make(problem, mode=ASKED) @ v, make(problem, mode=MODES[0]) @ v)
    assert len(traced) == 1


def test_every_kind_of_operation(traced: list[Any]) -> None:
    """Writing in place and through views, several outputs, lists of outputs, constant results, and nothing at all."""
    matrix = torch.randn(5, 5)

    def product(vector: list[Tensor]) -> list[Tensor]:
        x = torch.tanh(matrix) @ vector[0]
        x += vector[1]
        x.view(5)[1:3].mul_(2.0)
        values, places = torch.sort(x)
        pair = torch.split(x, [2, 3])
        return [pair[0] * 2.0, torch.ones(2), values, x[places], pair[1] @ matrix[:3]]

    def nothing(vector: list[Tensor]) -> list[Tensor]:
        return [torch.zeros(5), matrix[0]]

    vector, other = ([torch.randn(5), torch.randn(5)] for _ in range(2))
    with torch.no_grad():
        for function in (product, nothing):
            tape = Tape.record(function, vector)[1]
            (fused,) = compiled.compiled([tape], vector, {})
            for found, expected in zip(fused(other), tape(other), strict=True):
                assert agree(found, expected)


def test_memory_is_given_back(traced: list[Any]) -> None:
    problem = small()
    operator = hessian(problem, mode=ASKED)
    operator @ torch.randn(problem.size)
    kept = [weakref.ref(x) for tape in operator._product.tapes for x in tape.constants.values()]
    del operator, problem
    traced.clear()
    gc.collect()
    assert kept
    assert not any(ref() is not None for ref in kept)


def test_batches_of_one_shape_share_a_function(traced: list[Any]) -> None:
    problem = small((6, 6, 6, 4))
    operator = hessian(problem, mode=ASKED)
    v = torch.randn(problem.size)
    for _ in range(3):
        assert agree(operator @ v, hessian(problem, mode=MODES[0]) @ v)
    assert len(traced) == 2
    at = [w + 1 for w in problem.weights]  # so do operators of one problem
    assert agree(hessian(problem, mode=ASKED, at=at) @ v, hessian(problem, mode=MODES[0], at=at) @ v)
    assert len(traced) == 2


def test_blocks_are_played(traced: list[Any]) -> None:
    problem = small()
    operator, plain = hessian(problem, mode=ASKED), hessian(problem, mode=MODES[0])
    v = torch.randn(problem.size)
    assert (operator.restrict("0.*") @ v).equal(plain.restrict("0.*") @ v)
    assert not traced


@pytest.mark.parametrize("policy", ["auto", "untimed"])
def test_a_policy_chooses_first(policy: str, traced: list[Any]) -> None:
    problem = small()
    plan = hessian(problem, mode=f"{policy}, compiled").plan
    assert plan.how == f"{hessian(problem, mode=policy).plan.how}, compiled"
    again = hessian(problem, mode=plan.how)
    v = torch.randn(problem.size)
    assert again.plan.how == plan.how
    assert (again @ v).equal(hessian(problem, mode=f"{policy}, compiled") @ v)


def test_texts() -> None:
    for text in (ASKED, "double-backward, channels_last, 3 examples at a time, compiled"):
        assert Plan.of(text, MODES).how == text
    for text in ("compiled", f"{ASKED}, compiled", f"{MODES[0]}, compiled, channels_last", "auto, compiled, compiled"):
        with pytest.raises(ValueError, match=r"is; ', compiled' may stand at its end: change mode"):
            hessian(small(), mode=text)


def test_float32(traced: list[Any]) -> None:
    made = make_case("conv")
    problem = Problem(made.model.float(), nn.CrossEntropyLoss(), (made.inputs.float(), LABELS))
    v = torch.randn(problem.size, dtype=torch.float32)
    assert agree(hessian(problem, mode=ASKED) @ v, hessian(problem, mode=MODES[0]) @ v)


# -- what cannot be compiled


def test_without_a_tape_it_is_refused() -> None:
    problem = small()
    with pytest.raises(
        ProblemError, match=rf"mode='{ASKED}' got memory=0, expected one that is .*: give memory, or {REMEDY}"
    ):
        hessian(problem, mode=ASKED, memory=0)
    with pytest.raises(ProblemError, match=rf"got a product that cannot be recorded, expected one .*: {REMEDY}"):
        hessian(problem, mode="finite-differences, compiled")


def test_memory_must_hold_all_batches(traced: list[Any]) -> None:
    problem = small((7, 7, 7))
    operator = hessian(problem, mode=ASKED, memory=5000)
    text = rf"a compiled product got memory=5000 bytes, which hold \d of 3 batches, expected room for all: .*{REMEDY}"
    for _ in range(2):
        with pytest.raises(ProblemError, match=text):
            operator @ torch.randn(problem.size)
    assert not traced


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as settings

    monkeypatch.setattr(settings.cpp, "cxx", ("/missing/compiler",))
    problem = small()
    before = [p.clone() for p in problem.model.parameters()]
    operator = hessian(problem, mode=ASKED)
    with pytest.raises(ProblemError, match=rf"torch.compile got \w+ \(.*\) from a product of \d+ .*compiler.*{REMEDY}"):
        operator @ torch.randn(problem.size)
    assert all(p.equal(q) for p, q in zip(problem.model.parameters(), before, strict=True))
    assert problem.model.training


def test_another_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, inputs: Any) -> Any:
        return lambda *values: [x * (1 + 1e-9) for x in graph.forward(*values)]

    monkeypatch.setattr(compiled, "_BACKEND", wrong)
    problem = small()
    with pytest.raises(ProblemError, match=rf"differs by 1e-09 from .*, expected at most 2.2e-13: {REMEDY} of mode="):
        hessian(problem, mode=ASKED) @ torch.randn(problem.size)
