"""Every method against its equation, the identities between methods, the scale of the loss, the passes they cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sharpscope import (
    Ascend,
    Ball,
    Batch,
    Blend,
    Masked,
    Named,
    Plain,
    Proportional,
    RandomTensors,
    Reuse,
    Sharpest,
    SharpnessAware,
    Sometimes,
    Surrogate,
    delta_eta,
    esam,
    gnr,
    grst,
    gsam,
    looksam,
    parse,
    rst,
    sam,
    sgd,
    ssam_d,
    ssam_f,
)
from sharpscope.optimizers.rules import Rule
from tests import reference
from tests.problems import CASES, CONV, DROPOUT, INNER, METHODS, MLP, RULES, Case

EVERYWHERE = [*CASES, DROPOUT]
ids = [case.name for case in EVERYWHERE]


def optimizer_of(case: Case, model: nn.Module, rule: Rule | str, seed: int = 3, lr: float = 0.1) -> SharpnessAware:
    base = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)
    return SharpnessAware(base, rule, case.problem(model), seed=seed, model=model, epoch=3, total=50)


def trained(case: Case, rule: Rule | str, steps: int = 12) -> tuple[dict[str, Tensor], Tensor, list[Tensor], float]:
    """Weights and buffers, the global random state, losses and passes after some steps."""
    torch.manual_seed(5)
    model = case.model()
    optimizer = optimizer_of(case, model, rule)
    losses = [optimizer.step(case.closure(model, step)) for step in range(steps)]
    return dict(model.state_dict()), torch.get_rng_state(), losses, optimizer.passes


def assert_equal(case: Case, one: Rule | str, other: Rule | str, steps: int = 8) -> None:
    """The same weights, buffers, losses and random state, bit for bit."""
    (a, random_a, losses_a, _), (b, random_b, losses_b, _) = trained(case, one, steps), trained(case, other, steps)
    assert all(torch.equal(a[name], b[name]) for name in a), max(float((a[n] - b[n]).abs().max()) for n in a)
    assert torch.equal(random_a, random_b)
    assert torch.equal(torch.stack(losses_a), torch.stack(losses_b))


@pytest.mark.parametrize("case", EVERYWHERE, ids=ids)
@pytest.mark.parametrize("name", RULES)
def test_is_its_equation(case: Case, name: str) -> None:
    torch.manual_seed(4)
    model = case.model()
    optimizer = optimizer_of(case, model, RULES[name])
    for step in range(50):
        optimizer.step(case.closure(model, step))
    ours = dict(model.state_dict())
    after = torch.get_rng_state()
    torch.manual_seed(4)
    walk = reference.Walk(case, seed=3)
    walk.train(reference.RULES[name], 50)
    for key, value in walk.model.state_dict().items():
        assert (ours[key] - value).abs().max() <= 1e-12, key
    assert torch.equal(after, torch.get_rng_state())
    if "ssam" in name:
        expected = reference.masks(walk)
        assert all(torch.equal(mask, expected[key]) for key, mask in optimizer.masks().items())


def test_global_projection_is_its_equation() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, looksam(rho=0.1, every=3, alpha=0.7, projection="global"))
    for step in range(20):
        optimizer.step(MLP.closure(model, step))
    walk = reference.Walk(MLP, seed=3)
    walk.train(reference.looksam(0.1, 3, 0.7, per_tensor=False), 20)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert (flat - walk.w).abs().max() <= 1e-12


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_direction_goes_to_any_base(base: type[torch.optim.Optimizer]) -> None:
    model, twin = MLP.model(), MLP.model()
    optimizer = SharpnessAware(base(model.parameters(), lr=0.01), sam(0.1))
    plain = base(twin.parameters(), lr=0.01)
    loss = nn.CrossEntropyLoss()
    for step in range(10):
        optimizer.step(MLP.closure(model, step))
        x, y = MLP.batch(step)
        weights = list(twin.parameters())
        g = torch.autograd.grad(loss(twin(x), y), weights)
        length = torch.cat([d.reshape(-1) for d in g]).norm()
        with torch.no_grad():
            kept = [w.clone() for w in weights]
            for w, d in zip(weights, g, strict=True):
                w += 0.1 * d / length
        sharp = torch.autograd.grad(loss(twin(x), y), weights)
        with torch.no_grad():
            for w, k, d in zip(weights, kept, sharp, strict=True):
                w.copy_(k)
                w.grad = d
        plain.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p - q).abs().max() <= 1e-12


@pytest.mark.parametrize("case", EVERYWHERE, ids=ids)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (gnr(0.1, weight=1.0), sam(0.1)),
        (gnr(0.1, weight=0.0), sgd()),
        (looksam(0.1, every=1), sam(0.1)),
        (ssam_f(0.1, sparsity=0.0, samples=4), sam(0.1)),
        (ssam_d(0.1, sparsity=0.0), sam(0.1)),
        (gsam(0.1, alpha=0.0), sam(0.1)),
        (esam(0.1, keep=1.0, fraction=1.0), sam(0.1)),
        ("ssam_f(rho=0.1, sparsity=0.5, samples=4)", "Ascend(Masked(Ball(0.1), Top(Fisher(4), sparsity=0.5)))"),
    ],
    ids=str,
)
def test_limits_of_methods(case: Case, one: Rule | str, other: Rule | str) -> None:
    assert_equal(case, one, other)


@pytest.mark.parametrize("case", EVERYWHERE, ids=ids)
@pytest.mark.parametrize("inner", ["sam", *INNER])
def test_limits_of_randomised_rules(case: Case, inner: str) -> None:
    rule = parse(METHODS[inner])
    assert_equal(case, rst(rule, p=1.0), rule)
    assert_equal(case, rst(rule, p=0.0), sgd())
    assert_equal(case, grst(rule, p=1.0, weight=1.5), Blend(rule, 1.5))
    assert_equal(case, grst(rule, p=1.0, weight=1.0), rule)
    assert_equal(case, grst(rule, p=0.4, weight=0.0), sgd())
    assert_equal(case, grst(rule, p=0.4, weight=1.0), rst(rule, p=0.4))


@pytest.mark.parametrize("case", EVERYWHERE, ids=ids)
@pytest.mark.parametrize("name", RULES)
def test_radius_zero_is_the_base_optimizer(case: Case, name: str) -> None:
    text = RULES[name].replace("rho=0.1", "rho=0.0").replace("rho=0.2", "rho=0.0").replace("rho=0.5", "rho=0.0")
    assert text == "sgd()" or "rho=0.0" in text
    torch.manual_seed(5)
    model = case.model()
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for step in range(12):
        case.closure(model, step)()
        plain.step()
    expected, random = model.state_dict(), torch.get_rng_state()
    found, random_found, _, passes = trained(case, text)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert torch.equal(random_found, random)
    assert passes == 12.0


@pytest.mark.parametrize("weight", [0.3, 1.7, 7.3, 100.1])
def test_radius_zero_is_exact_at_any_weight(weight: float) -> None:
    assert_equal(DROPOUT, gnr(0.0, weight), sgd())
    assert_equal(DROPOUT, grst(gsam(0.0), p=0.7, weight=weight), sgd())
    assert_equal(DROPOUT, grst(looksam(0.0, every=3), p=0.7, weight=weight), sgd())


@pytest.mark.parametrize("case", [MLP, DROPOUT], ids=["mlp", "dropout"])
@pytest.mark.parametrize("name", RULES)
def test_scale_of_the_loss_does_not_matter(case: Case, name: str) -> None:
    scale = 65536.0

    def run(factor: float) -> Tensor:
        torch.manual_seed(6)
        model = case.model()
        base = torch.optim.SGD(model.parameters(), lr=0.1 / factor, momentum=0.9)
        optimizer = SharpnessAware(base, RULES[name], case.problem(model), model=model, epoch=3, total=50)
        cross = nn.CrossEntropyLoss(reduction="none")
        for step in range(10):
            optimizer.step(Batch(model, lambda out, y: factor * cross(out, y).mean(), *case.batch(step)))
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    one, scaled = run(1.0), run(scale)
    assert (one - scaled).norm() <= 1e-9 * one.norm()


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        ("sgd", 12.0),
        ("sam(0.1)", 24.0),
        ("asam(0.5)", 24.0),
        ("gsam(0.1)", 24.0),
        ("gnr(0.1)", 24.0),
        ("gnr(0.1, weight=0.0)", 12.0),
        ("ssam_f(0.1, samples=4)", 24.0),
        ("ssam_d(0.1)", 24.0),
        ("looksam(0.1, every=5)", 15.0),
        ("esam(0.1, keep=1.0, fraction=0.5)", 22.0),
        ("esam(0.1, keep=1.0, fraction=1.0)", 24.0),
        ("rst(sam(0.1), p=0.0)", 12.0),
        ("rst(sam(0.1), p=1.0)", 24.0),
        ("rst(sam(0.1), p=Piecewise(0.0, at=0.5, total=12))", 18.0),
        ("sam(rho=Warmup(0.0, steps=3))", 12.0),
    ],
)
def test_passes(rule: str, passes: float) -> None:
    assert trained(DROPOUT, rule)[3] == pytest.approx(passes, abs=1e-12)


def test_realised_passes_follow_the_coin() -> None:
    p = 0.3
    heads = sum(reference.coin(3, step) < p for step in range(12))
    assert trained(MLP, rst(sam(0.1), p))[3] == 12 + heads
    many = sum(reference.coin(3, step) < p for step in range(20000)) / 20000
    assert many == pytest.approx(delta_eta(p, 20000), abs=5 * (p * (1 - p) / 20000) ** 0.5)


def test_looksam_under_a_coin_counts_its_own_calls() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, rst(looksam(0.1, every=3), p=0.5))
    before, pattern = 0.0, []
    for step in range(40):
        optimizer.step(MLP.closure(model, step))
        pattern.append(optimizer.passes - before)
        before = optimizer.passes
    heads = [cost for step, cost in enumerate(pattern) if reference.coin(3, step) < 0.5]
    assert heads == [2.0 if call % 3 == 0 else 1.0 for call in range(len(heads))]
    assert sum(pattern) == 40 + sum(cost == 2.0 for cost in heads)


def test_a_schedule_is_read_at_every_step() -> None:
    model = MLP.model()
    base = torch.optim.SGD(model.parameters(), lr=0.2)
    optimizer = SharpnessAware(base, gsam(rho=Proportional(0.0, 0.1, 0.1, 0.2)), model=model)
    optimizer.step(MLP.closure(model, 0))
    base.param_groups[0]["lr"] = 0.1  # rho is 0 there
    optimizer.step(MLP.closure(model, 1))
    assert optimizer.passes == 3.0


def test_order_of_wrappers_has_a_meaning() -> None:
    a, *_ = trained(MLP, Sometimes(Reuse(sam(0.1), 3), 0.5))
    b, *_ = trained(MLP, Reuse(Sometimes(sam(0.1), 0.5), 3))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_esam_descends_on_the_examples_that_rose_most() -> None:
    before, after = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 1.0, 7.0, 3.0, 4.0])
    assert Sharpest(0.4)(before, after).tolist() == [0, 2]
    assert Sharpest(0.6)(before, after).tolist() == [0, 1, 2]  # ties by index
    assert len(Sharpest(0.01)(before, after)) == 1
    assert Sharpest(1.0)(before, after).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", [name for name in RULES if "esam" in name])
def test_selecting_rules_say_that_they_need_rows(name: str) -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, RULES[name].replace("p=0.6", "p=1.0"))
    before = [p.detach().clone() for p in model.parameters()]
    x, y = MLP.batch(0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with pytest.raises(TypeError, match=r"selects examples and got a closure that knows none.*sharpscope\.Batch"):
        optimizer.step(closure)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_esam_with_all_rows_takes_a_plain_closure() -> None:
    model = CONV.model()
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), esam(0.1, 0.5, fraction=1.0))
    batch = CONV.closure(model, 0)
    optimizer.step(lambda: batch())
    assert optimizer.passes == 2.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Ascend(sgd()), "Ascend got perturbation=Plain(), expected a perturbation"),
        (lambda: Ascend(Ball(0.1), select=0.5), "Ascend got select=0.5, expected a sharpest"),
        (lambda: Blend(Ball(0.1)), "Blend got rule=Ball(0.1), expected a rule"),
        (lambda: Blend(sam(), -0.1), "Blend got weight=-0.1, expected a finite number >= 0"),
        (lambda: Surrogate("sam"), "Surrogate got rule='sam', expected a rule"),
        (lambda: Surrogate(sam(), -1), "Surrogate got alpha=-1, expected a finite number >= 0"),
        (lambda: Reuse(sam(), 0), "Reuse got every=0, expected a whole number >= 1"),
        (lambda: Reuse(sam(), 2.0), "Reuse got every=2.0, expected a whole number >= 1"),
        (lambda: Reuse(sam(), 2, -0.1), "Reuse got alpha=-0.1, expected a finite number >= 0"),
        (lambda: Reuse(sam(), 2, 0.7, "row"), "Reuse got projection='row', expected 'tensor' or 'global'"),
        (lambda: Sometimes(sam(), 1.5), "Sometimes got p=1.5, expected a number in [0, 1]"),
        (lambda: Sometimes(0.5), "Sometimes got rule=0.5, expected a rule"),
        (lambda: Sharpest(-0.1), "Sharpest got fraction=-0.1, expected a number in (0, 1]"),
        (lambda: Sharpest(1.1), "Sharpest got fraction=1.1, expected a number in (0, 1]"),
    ],
)
def test_bad_arguments_are_named(make: object, text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("name", [*RULES, "everything"])
def test_all_zero_gradients_neither_move_nor_break_anything(name: str) -> None:
    rule = RULES.get(name, "grst(Surrogate(Reuse(asam(rho=8.0), every=2)), p=0.9)")
    model = MLP.model()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    text = rule.replace("rho=0.1", "rho=9.0")  # rho / smallest number overflows from 4 on
    optimizer = SharpnessAware(base, text, MLP.problem(model), model=model, epoch=3, total=50)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = MLP.batch(0)
    flat = Batch(model, lambda out, target: 0.0 * (out - 1.0).sum() / len(target), x, y)
    flat._objective = MLP.closure(model, 0)._objective
    for _ in range(6):
        optimizer.step(flat)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_masked_tensors_stay_put_during_the_climb() -> None:
    model = CONV.model()
    rule = Ascend(Masked(Ball(0.1), Named("1.*")))
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), rule, model=model)
    seen: list[dict[str, Tensor]] = []
    batch = CONV.closure(model, 0)

    def closure() -> Tensor:
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return batch()

    optimizer.step(closure)
    moved = {name for name in seen[0] if not torch.equal(seen[0][name], seen[1][name])}
    assert moved == {"1.weight", "1.bias"}


def test_the_vocabulary_is_small() -> None:
    """A rule is frozen and hashable, and equal by value."""
    assert {sam(0.1), sam(0.1), Plain(), Plain()} == {sam(0.1), Plain()}
    assert RandomTensors(0.5) == RandomTensors(0.5) != RandomTensors(0.6)
    with pytest.raises(AttributeError):
        sam(0.1).select = None  # type: ignore[attr-defined]
