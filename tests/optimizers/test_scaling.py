"""Loss scaling, clipping and autocast: the climb needs no unscaling, an overflow in either pass skips the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import SharpnessAware

RULES = [
    "sgd()",
    "sam(0.1)",
    "asam(0.5)",
    "ssam_d(0.1, every=2, total=9)",
    "gsam(0.1)",
    "looksam(0.1, every=2)",
    "gnr(0.1)",
]


def model_of() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).float()


def data_of() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(12, 5, generator=rng, dtype=torch.float32), torch.randint(0, 3, (12,), generator=rng)


def closure_of(
    model: nn.Module, optimizer: SharpnessAware, scaler: torch.amp.GradScaler | None, bad: Callable[[], bool]
) -> Callable[[], Tensor]:
    x, y = data_of()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaled = loss if scaler is None else scaler.scale(loss)
        (scaled * float("inf") if bad() else scaled).backward()
        return loss

    return closure


def build(rule: str, scaler: torch.amp.GradScaler | None = None, **options: Any) -> tuple[nn.Module, SharpnessAware]:
    model = model_of()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    return model, SharpnessAware(base, rule, model=model, scaler=scaler, **options)


@pytest.mark.parametrize("rule", RULES)
def test_a_scaled_loss_gives_the_same_steps(rule: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    (plain, first), (scaled, second) = build(rule), build(rule, scaler)
    for _ in range(6):
        a = first.step(closure_of(plain, first, None, lambda: False))
        b = second.step(closure_of(scaled, second, scaler, lambda: False))
        scaler.update()
        assert torch.allclose(a, b, rtol=1e-5)
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "sgd()"])
@pytest.mark.parametrize("bad_pass", [1, 2])
def test_an_overflow_in_either_pass_skips_the_step(rule: str, bad_pass: int) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model, optimizer = build(rule, scaler)
    optimizer.step(closure_of(model, optimizer, scaler, lambda: False))
    scaler.update()
    if rule.startswith("looksam"):  # its second step has one pass
        optimizer.step(closure_of(model, optimizer, scaler, lambda: False))
        scaler.update()
    before = [p.detach().clone() for p in model.parameters()]
    calls = 0

    def bad() -> bool:
        nonlocal calls
        calls += 1
        return calls == bad_pass

    optimizer.step(closure_of(model, optimizer, scaler, bad))
    scaler.update()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert scaler.get_scale() == 512.0
    optimizer.step(closure_of(model, optimizer, scaler, lambda: False))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_clipping_is_of_the_final_direction_after_unscaling() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for given in (None, scaler):
        model = model_of()
        base = torch.optim.SGD(model.parameters(), lr=1.0)
        optimizer = SharpnessAware(base, "sam(0.1)", model=model, scaler=given, clip=0.01)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step(closure_of(model, optimizer, given, lambda: False))
        moved = torch.cat([(p - b).reshape(-1) for p, b in zip(model.parameters(), before, strict=True)])
        assert float(moved.detach().norm()) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ValueError, match="got clip=0, expected a positive number or None: change clip"):
        build("sam(0.1)", clip=0)


def test_autocast_trains() -> None:
    model, optimizer = build("sam(0.1)")
    x, y = data_of()

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure)) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())
