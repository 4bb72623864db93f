"""Methods of single papers: each is its paper's update, written out in ``established.py``, to rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sharpscope import (
    Batch,
    Linear,
    SharpnessAware,
    bsam,
    fsam,
    functional_sam,
    gcsam,
    gnr,
    msam,
    parse,
    rst,
    sam,
    tail,
    wsam,
)
from sharpscope.optimizers.rules import Rule
from tests.optimizers import established as literal

TOLERANCE = 1e-12


def trained(rule: Rule | str, momentum: float = 0.0, decay: float = 0.0, **options: Any) -> tuple[nn.Module, Any]:
    model = literal.network()
    base = torch.optim.SGD(model.parameters(), lr=literal.LR, momentum=momentum, weight_decay=decay)
    optimizer = SharpnessAware(base, rule, seed=5, total=literal.STEPS, **options)
    for x, y in literal.batches():
        optimizer.step(Batch(model, nn.CrossEntropyLoss(), x, y))
    return model, optimizer


def distance(a: nn.Module, b: nn.Module) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


CASES = {
    "fsam": (fsam(0.2), {}, lambda: literal.fsam(0.2, 1.0, 0.9), 16),
    "fsam-sigma": (fsam(0.2, sigma=0.6, decay=0.5), {}, lambda: literal.fsam(0.2, 0.6, 0.5), 16),
    "fsam-paper": (fsam(0.2), {}, lambda: literal.fsam_of_the_paper(0.2, 0.9), 16),
    "wsam": (
        wsam(0.2, 0.8),
        {"momentum": 0.9, "decay": 0.01},
        lambda: literal.wsam(0.2, 0.8, True, 0.9, 0.01),
        16,
    ),
    "wsam-coupled": (
        wsam(0.2, 0.8, decoupled=False),
        {"momentum": 0.9, "decay": 0.01},
        lambda: literal.wsam(0.2, 0.8, False, 0.9, 0.01),
        16,
    ),
    "bsam": (bsam(50, rho=0.05), {}, lambda: literal.bsam(50, 0.05, 0.9, 0.999, 1e-4, 0.1, 5)[0], 16),
    "bsam-else": (bsam(9, 0.2, 0.5, 0.6, 0.03, 0.2), {}, lambda: literal.bsam(9, 0.2, 0.5, 0.6, 0.03, 0.2, 5)[0], 16),
    "gcsam": (gcsam(0.2), {}, lambda: literal.gcsam(0.2, False), 16),
    "gcsam-descent": (gcsam(0.2, descent=True), {}, lambda: literal.gcsam(0.2, True), 16),
    "msam": (msam(0.3, 0.9), {"momentum": 0.9}, lambda: literal.msam(0.3, 0.9), 8),
    "tail": (tail(sam(0.2), 0.375), {}, lambda: literal.tail(0.2, 5), 11),
    "functional_sam": (functional_sam(0.2), {}, lambda: literal.functional_sam(0.2), 16),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_its_paper_s_update(name: str) -> None:
    rule, options, expected, passes = CASES[name]
    model, optimizer = trained(rule, **options)
    assert distance(model, expected()) < TOLERANCE
    assert optimizer.passes == passes
    assert distance(model, trained(sam(0.2), **options)[0]) > 1e-6  # and no other method's


@pytest.mark.parametrize("name", CASES)
def test_its_text_is_the_rule(name: str) -> None:
    rule, options, expected, _ = CASES[name]
    assert parse(repr(rule)) == rule
    assert distance(trained(repr(rule), **options)[0], expected()) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_training_is_the_unbroken_one(name: str) -> None:
    rule, options, _, _ = CASES[name]
    straight, finished = trained(rule, **options)
    model = literal.network()

    def build() -> SharpnessAware:
        base = torch.optim.SGD(
            model.parameters(), literal.LR, options.get("momentum", 0.0), 0.0, options.get("decay", 0)
        )
        return SharpnessAware(base, rule, seed=5, total=literal.STEPS)

    optimizer = build()
    for step, (x, y) in enumerate(literal.batches()):
        if step == 4:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = build()
            optimizer.load_state_dict(state)
        optimizer.step(Batch(model, nn.CrossEntropyLoss(), x, y))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), straight.parameters(), strict=True))
    assert optimizer.passes == finished.passes


@pytest.mark.parametrize("name", CASES)
def test_a_loss_scale_leaves_no_trace(name: str) -> None:
    """Powers of two round nothing; the scale doubles on the way, so what is remembered must not hold it."""
    rule, options, expected, _ = CASES[name]
    model = literal.network()
    base = torch.optim.SGD(model.parameters(), literal.LR, options.get("momentum", 0.0), 0.0, options.get("decay", 0.0))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    optimizer = SharpnessAware(base, rule, seed=5, total=literal.STEPS, scaler=scaler)
    for x, y in literal.batches():
        optimizer.step(Batch(model, nn.CrossEntropyLoss(), x, y, scaler=scaler))
        scaler.update()
    assert scaler.get_scale() == 2.0**14
    assert distance(model, expected()) < TOLERANCE


@pytest.mark.parametrize("name", ["wsam", "wsam-in-rst"])
def test_a_step_that_overflows_does_nothing_afterwards(name: str) -> None:
    rule = wsam(0.2, 0.8) if name == "wsam" else rst(wsam(0.2, 0.8), 1.0)
    model = literal.network()
    x, y = next(literal.batches())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), rule, scaler=scaler)
    before = [p.detach().clone() for p in model.parameters()]
    calls = 0

    def closure() -> torch.Tensor:  # finite at w, infinite at w + eps
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y) * (1.0 if calls == 1 else float("inf"))
        scaler.scale(loss).backward()
        return loss

    optimizer.step(closure)
    assert calls == 2
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_a_rule_does_afterwards_has_the_rate_of_every_group() -> None:
    """Two groups side by side with two optimizers' rates: the sharpness of each moves at its own."""
    x, y = next(literal.batches())
    model = literal.network()
    first, last = list(model.parameters())[:2], list(model.parameters())[2:]
    base = torch.optim.SGD([{"params": first, "lr": 0.0}, {"params": last, "lr": 0.2}], lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    g = literal.slope(model, x, y)
    s = literal.slope(model, x, y, literal.climb(g, 0.2))
    SharpnessAware(base, wsam(0.2, 0.75)).step(Batch(model, nn.CrossEntropyLoss(), x, y))
    for rate, p, old, a, b in zip([0, 0, 0.2, 0.2], model.parameters(), before, g, s, strict=True):
        torch.testing.assert_close(p.detach(), old - rate * a - 3 * rate * (b - a), rtol=0, atol=TOLERANCE)


def test_rst_around_what_acts_afterwards_acts_only_where_the_coin_says() -> None:
    plain, never = trained("sgd")[0], trained(rst(wsam(0.2, 0.8), 0.0))[0]
    always, whole = trained(rst(wsam(0.2, 0.8), 1.0))[0], trained(wsam(0.2, 0.8))[0]
    assert distance(plain, never) == 0.0
    assert distance(always, whole) == 0.0


def test_coupled_wsam_is_gnr() -> None:
    assert wsam(0.1, 0.5, decoupled=False) == gnr(0.1, 1.0)


def test_a_radius_of_zero_is_the_base() -> None:
    plain = trained("sgd", momentum=0.9)[0]
    for rule in (fsam(0.0), wsam(0.0), gcsam(0.0), msam(0.0), tail(sam(0.0)), functional_sam(0.0)):
        assert distance(trained(rule, momentum=0.9)[0], plain) == 0.0


def test_schedules_reach_the_numbers() -> None:
    ramp = Linear(0.0, 0.4, literal.STEPS)
    for make in (fsam, msam, functional_sam, gcsam, wsam, lambda rho: fsam(0.2, sigma=rho)):
        model = trained(make(ramp))[0]
        assert distance(model, trained(make(0.2))[0]) > 1e-8


def test_functional_sam_needs_a_batch() -> None:
    model = literal.network()
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), functional_sam())
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(TypeError, match=r"Functional got a function as closure, expected one .*sharpscope\.Batch"):
        optimizer.step(lambda: model(torch.zeros(1, 1, 5, 5)).sum())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_act_without_a_rate_is_refused() -> None:
    class Rateless(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> None:
            raise AssertionError("it must not step")

    model = literal.network()
    x, y = next(literal.batches())
    with pytest.raises(ValueError, match="the rule acts after the step and got a base without lr, expected one"):
        SharpnessAware(Rateless(model.parameters()), wsam()).step(Batch(model, nn.CrossEntropyLoss(), x, y))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fsam(sigma=-1.0), "Residual got sigma=-1.0, expected a finite number >= 0: change sigma"),
        (lambda: fsam(decay=2.0), "Residual got decay=2.0, expected a number in [0, 1]: change decay"),
        (lambda: wsam(gamma=1.0), "wsam got gamma=1.0, expected a number in [0, 1): change gamma"),
        (lambda: bsam(0), "Bayesian got examples=0, expected a whole number >= 1: change examples"),
        (lambda: bsam(5, damping=-1), "Bayesian got damping=-1, expected a finite number >= 0: change damping"),
        (lambda: msam(decay=1.0), "AlongMomentum got decay=1.0, expected a number in [0, 1): change decay"),
        (lambda: tail(sam(), 1.5), "tail got share=1.5, expected a number in [0, 1]: change share"),
        (lambda: tail(0.1), "Sometimes got rule=0.1, expected a rule: use one of"),
        (lambda: functional_sam(-1.0), "Ball got rho=-1.0, expected a finite number >= 0: change rho"),
    ],
)
def test_every_argument_out_of_range_is_named(make: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value).startswith(text)
