"""What a step may ask of its batch, and that nothing but the answer remains: weights, buffers, random states."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from sharpscope import Probe
from sharpscope.ascent.probe import coin
from tests.conftest import devices
from tests.problems import CASES, CONV, DROPOUT, MLP, Case


def probe_of(case: Case, model: nn.Module, closure: Callable[..., Any] | None = None, **options: Any) -> Probe:
    names, params = zip(*model.named_parameters(), strict=True)
    return Probe(params, names, closure=closure or case.closure(model, 0), **options)


def sphere(model: nn.Module, radius: float = 0.3) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [radius * torch.randn(p.shape, generator=rng) for p in model.parameters()]


def everything(model: nn.Module) -> list[Tensor]:
    """Weights, buffers and the global random state."""
    return [x.detach().clone() for x in model.state_dict().values()] + [torch.get_rng_state()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients_are_those_of_the_loss_at_the_place(case: Case) -> None:
    model = case.model()
    probe, eps = probe_of(case, model), sphere(case.model())
    at_w, away = probe.gradient(), probe.gradient_at(eps)
    x, y = case.batch(0)
    weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    for shift, found in ((None, at_w), (eps, away)):
        place = weights if shift is None else [w + e for w, e in zip(weights, shift, strict=True)]
        twin = case.model()
        values = dict(zip(names, place, strict=True))
        loss = F.cross_entropy(torch.func.functional_call(twin, values, x), y)
        expected = torch.autograd.grad(loss, weights)
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(found, expected, strict=True))
    assert probe.passes == 2.0
    assert probe.loss == F.cross_entropy(case.model()(x), y)
    assert not probe.loss.requires_grad


@pytest.mark.parametrize("device", devices())
def test_weights_come_back_bit_for_bit(device: str) -> None:
    model = MLP.model().to(device)
    with torch.no_grad():  # values for which w + e - e is not w
        for p in model.parameters():
            p.mul_(1e-9)
    x, y = (value.to(device) for value in MLP.batch(0))

    def closure() -> Tensor:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    before = [p.detach().clone() for p in model.parameters()]
    places = [p.data_ptr() for p in model.parameters()]
    probe = probe_of(MLP, model, closure)
    eps = [e.to(device) for e in sphere(model, 3e5)]
    for _ in range(5):
        probe.gradient_at(eps)
    assert same(before, list(model.parameters()))
    assert places == [p.data_ptr() for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("given", [True, False], ids=["model", "watched"])
def test_buffers_move_once_a_step(given: bool) -> None:
    model, twin = DROPOUT.model(), DROPOUT.model()
    torch.manual_seed(1)
    probe = probe_of(DROPOUT, model, modules=[model] if given else [])
    probe.gradient()
    probe.gradient_at(sphere(model))
    probe.losses()
    probe.losses(fresh=True)
    probe.gradient_at(sphere(model), lambda before, after: torch.arange(3))
    probe.gradient()
    after = everything(model)
    torch.manual_seed(1)
    F.cross_entropy(twin(DROPOUT.batch(0)[0]), DROPOUT.batch(0)[1]).backward()
    assert same(after, everything(twin))
    assert model[1].num_batches_tracked == 1


def test_losses_first_cost_no_second_look() -> None:
    """A rule that asks for losses before any gradient moves buffers and random states no more than another."""
    model, twin = DROPOUT.model(), DROPOUT.model()
    torch.manual_seed(1)
    probe = probe_of(DROPOUT, model)
    losses = probe.losses()
    g = probe.gradient()
    after = everything(model)
    torch.manual_seed(1)
    other = probe_of(DROPOUT, twin)
    assert same(g, other.gradient())
    assert same(after, everything(twin))
    assert torch.allclose(losses.mean(), probe.loss)
    assert probe.passes == other.passes == 1.0


def test_dropout_drops_the_same_units_in_every_pass() -> None:
    model = DROPOUT.model()
    dropped: list[Tensor] = []
    model[3].register_forward_hook(lambda _m, args, out: dropped.append((out == 0) & (args[0] != 0)))
    zero = [torch.zeros_like(p) for p in model.parameters()]
    probe = probe_of(DROPOUT, model)
    first = probe.gradient()
    away = probe.gradient_at(zero)
    probe.losses(fresh=True)
    again = probe.gradient()
    assert len(dropped) == 4
    assert dropped[0].any()
    assert all(torch.equal(dropped[0], other) for other in dropped)
    assert same(first, away)
    assert same(first, again)
    next_step = probe_of(DROPOUT, model)
    next_step.gradient()
    assert not torch.equal(dropped[0], dropped[4])


class Replacing(nn.Module):
    """A module that binds a new tensor to its buffer instead of changing the old one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * (self.weight * x).mean(0).detach()
        return (x - self.mean) @ self.weight


def test_a_buffer_that_is_replaced_comes_back_too() -> None:
    model = Replacing()
    x = torch.randn(5, 3)

    def closure() -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        return loss

    probe = probe_of(MLP, model, closure)
    probe.gradient()
    first = model.mean.clone()
    probe.gradient_at([torch.ones(3)])
    assert torch.equal(model.mean, first)
    probe.undo()
    assert torch.equal(model.mean, torch.zeros(3))


def test_submodules_called_one_by_one_are_guarded() -> None:
    model = CONV.model()
    x, y = CONV.batch(0)

    def closure() -> Tensor:
        hidden = x
        for layer in model:
            hidden = layer(hidden)
        loss = F.cross_entropy(hidden, y)
        loss.backward()
        return loss

    probe = probe_of(CONV, model, closure)
    probe.gradient()
    after = everything(model)
    probe.gradient_at(sphere(model))
    assert same(after, everything(model))
    probe.undo()
    assert same(everything(model), everything(CONV.model()))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["before", "forward", "backward"])
@pytest.mark.parametrize("bad", [1, 2, 3])
def test_an_interrupted_pass_leaves_nothing_behind(bad: int, moment: str, error: type[BaseException]) -> None:
    model = DROPOUT.model()
    x, y = DROPOUT.batch(0)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == bad and moment == "before":
            raise error("stop")
        loss = F.cross_entropy(model(x), y)
        if calls == bad and moment == "forward":
            raise error("stop")
        loss.backward()
        if calls == bad and moment == "backward":
            raise error("stop")
        return loss

    before = everything(model)
    probe = probe_of(DROPOUT, model, closure)
    for at in [None, sphere(model), sphere(model)][: bad - 1]:
        probe.gradient() if at is None else probe.gradient_at(at)
    with pytest.raises(error, match="stop"):
        probe.gradient() if bad == 1 else probe.gradient_at(sphere(model))
    probe.undo()
    assert same(before, everything(model))
    assert not torch_module._global_forward_pre_hooks


def test_gradients_that_are_missing_count_as_zeros() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    probe = Probe([used, unused], ["a", "b"], closure=lambda: used.square().sum().backward() or 1.0)
    assert torch.equal(probe.gradient()[1], torch.zeros(3))
    assert probe.used == [True, False]
    assert probe.loss == 1.0


def test_parameters_used_in_one_pass_only() -> None:
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    passes = 0

    def closure() -> Tensor:
        nonlocal passes
        passes += 1
        loss = (a * (b if passes == 1 else c)).sum()
        loss.backward()
        return loss

    probe = Probe([a, b, c], ["a", "b", "c"], closure=closure)
    probe.gradient()
    assert probe.used == [True, True, False]
    sharp = probe.gradient_at([torch.ones(2)] * 3)
    assert probe.used == [True, True, True]
    assert [float(g.sum()) for g in sharp] == [4.0, 0.0, 4.0]
    assert all(torch.equal(p, torch.ones(2)) for p in (a, b, c))


def test_sparse_gradients_are_taken() -> None:
    table = nn.Embedding(5, 2, sparse=True)

    def closure() -> Tensor:
        loss = table(torch.tensor([1, 1, 3])).square().sum()
        loss.backward()
        return loss

    probe = Probe([table.weight], ["weight"], closure=closure)
    found = probe.gradient()[0]
    assert not found.is_sparse
    assert torch.allclose(found[1], 4 * table.weight[1])
    assert torch.equal(found[0], torch.zeros(2))


def test_rows_restrict_a_pass() -> None:
    model = MLP.model()
    probe = probe_of(MLP, model)
    probe.gradient()
    rows = torch.tensor([0, 3])
    found = probe.gradient_at([torch.zeros_like(p) for p in model.parameters()], lambda before, after: rows)
    x, y = MLP.batch(0)
    expected = torch.autograd.grad(F.cross_entropy(model(x[rows]), y[rows]), list(model.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(found, expected, strict=True))
    assert probe.rows == 8
    assert probe.passes == pytest.approx(1.25 + 1 / 3)  # a forward pass is a third


def test_values_follow_step_and_learning_rate() -> None:
    from sharpscope import Constant, Linear, Proportional

    probe = Probe([torch.zeros(1)], ["w"], step=4, lr=0.1)
    assert probe.value(0.25) == 0.25
    assert probe.value(Constant(2.0)) == 2.0
    assert probe.value(Linear(0.0, 1.0, total=9)) == pytest.approx(0.5)
    assert probe.value(Proportional(1.0, 2.0, 0.0, 0.2)) == pytest.approx(1.5)


def test_the_coin_is_a_function_of_seed_and_step(rng_guard: Callable[[], None]) -> None:
    tosses = [coin(0, step) for step in range(2000)]
    assert tosses == [coin(0, step) for step in range(2000)]
    assert all(0.0 <= toss < 1.0 for toss in tosses)
    assert abs(sum(tosses) / 2000 - 0.5) < 0.03
    assert sum(coin(0, s) < 0.5 and coin(1, s) < 0.5 for s in range(2000)) / 2000 == pytest.approx(0.25, abs=0.04)
    assert sum(a < 0.5 and b < 0.5 for a, b in pairwise(tosses)) / 2000 == pytest.approx(0.25, abs=0.04)
    probe = Probe([torch.zeros(1)], ["w"], step=7, seed=2)
    assert probe.coin(1.0)
    assert not probe.coin(0.0)
    assert probe.coin(0.5) == (coin(2, 7, 2) < 0.5)
    assert Probe([torch.zeros(1)], ["w"], step=7, seed=2).coin(0.5) == (coin(2, 7) < 0.5)
    both = sum(coin(0, s) < 0.5 and coin(0, s, 1) < 0.5 for s in range(2000)) / 2000
    assert both == pytest.approx(0.25, abs=0.04)
    assert (coin(0, 0), coin(3, 7)) == (0.5006367747026691, 0.8276908298283683)  # runs on disk rely on them


def test_private_numbers_depend_on_seed_step_and_purpose(rng_guard: Callable[[], None]) -> None:
    def draw(seed: int, step: int, *salt: int | str) -> float:
        return float(torch.rand((), generator=Probe([torch.zeros(1)], ["w"], seed=seed, step=step).generator(*salt)))

    assert draw(1, 2, "a") == draw(1, 2, "a")
    assert len({draw(1, 2, "a"), draw(2, 2, "a"), draw(1, 3, "a"), draw(1, 2, "b"), draw(1, 2, "a", 1)}) == 5


def test_errors_name_what_was_got_and_what_helps() -> None:
    w = nn.Parameter(torch.ones(1))

    def no_backward() -> Tensor:
        return w.sum()

    with pytest.raises(TypeError, match=r"the probe got no closure, expected one that evaluates the batch"):
        Probe([w], ["w"]).gradient()
    with pytest.raises(ValueError, match=r"left no gradient on any of 1 parameters.*loss\.backward\(\)"):
        Probe([w], ["w"], closure=no_backward).gradient()
    with pytest.raises(TypeError, match="the closure returned None, expected the loss: end it with `return loss`"):
        Probe([w], ["w"], closure=lambda: no_backward().backward()).gradient()
    with pytest.raises(TypeError, match=r"knows none, expected one that does: optimizer\.step\(sharpscope\.Batch"):
        Probe([w], ["w"], closure=no_backward).losses()
    with pytest.raises(ValueError, match=r"per-example gradients and got no problem.*problem=sharpscope\.Problem"):
        _ = Probe([w], ["w"], closure=no_backward).problem


def test_wanted_parameters_that_the_loss_does_not_depend_on() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    def closure() -> Tensor:
        loss: Tensor = model[0](torch.ones(4, 2)).square().mean()
        torch.autograd.backward(loss)
        return loss

    names, params = zip(*model.named_parameters(), strict=True)
    g = Probe(params, names, closure=closure).gradient(only=[False, False, True, True])
    assert not any(bool(x.any()) for x in g[2:])
    assert all(p.requires_grad for p in params)


def test_undo_puts_the_weights_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C that comes just before the way back."""
    case = CASES[0]
    model = case.model()
    probe = probe_of(case, model)
    before = [p.detach().clone() for p in model.parameters()]
    with monkeypatch.context() as patch:
        patch.setattr(probe._way, "back", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            probe.gradient_at(sphere(model))
    assert not torch.equal(before[0], next(model.parameters()))
    probe.undo()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
