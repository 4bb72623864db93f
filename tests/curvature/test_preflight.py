"""What is checked before a curvature is used, how its mode is chosen, and what is refused in words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope.curvature import _preflight as preflight
from sharpscope.curvature._preflight import Plan, measure_noise
from sharpscope.curvature.operators import Operator, fisher, ggn, hessian
from sharpscope.curvature.products import MODES
from sharpscope.problem.problem import Problem, ProblemError
from tests.reference_curvature import make_case

LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 2, 0, 1, 1])


def problem_of(model: nn.Module, loss: Any = F.cross_entropy, **options: Any) -> Problem:
    return Problem(model, loss, (torch.randn(10, 4), LABELS), **options)


def small(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(6, 3))


class _Once(torch.autograd.Function):
    """A kernel of which the derivative has no derivative, as fused attention."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class _Wrong(torch.autograd.Function):
    """A kernel whose derivative forgets that it depends on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.detach())
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0].detach() ** 2 * g


class Apply(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Decide(nn.Module):
    """Looks at its values: works in every mode and cannot be played from a tape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * (1.0 if float(x.detach().sum()) > -1e9 else 2.0)


def dense(problem: Problem) -> Tensor:
    """By central differences of the gradient, which needs one derivative only."""
    weights = problem.weights
    flat = torch.cat([w.reshape(-1) for w in weights])

    def gradient(x: Tensor) -> Tensor:
        parts = x.split([w.numel() for w in weights])
        found = problem.gradient([p.view(w.shape) for p, w in zip(parts, weights, strict=True)])
        return torch.cat([g.reshape(-1) for g in found])

    h = 1e-5
    return torch.stack([(gradient(flat + h * e) - gradient(flat - h * e)) / (2 * h) for e in torch.eye(len(flat))])


# -- choice


def test_the_first_way_is_taken_where_it_works() -> None:
    operator = hessian(problem_of(small(nn.Tanh())), mode="untimed")
    assert operator.plan.mode == operator.plan.how == MODES[0]
    assert operator.plan.taped
    assert operator.plan.error < 1e-6
    assert math.isnan(operator.plan.cost)
    assert repr(operator).endswith("device=cpu, mode='reverse-over-forward')")


def test_a_timed_choice_says_its_cost() -> None:
    problem = problem_of(small(nn.Tanh()))
    operator = hessian(problem)
    assert operator.plan.mode in MODES[:-1]
    assert 0.1 < operator.plan.cost < 1000
    assert f"{operator.plan.cost:.2g} gradients a product" in repr(operator)


def test_what_is_faster_by_far_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are made up, products are not."""
    times = {"reverse-over-forward": 3.0, "forward-over-reverse": 2.9, "double-backward": 1.0}
    trial = preflight._Trial

    def time_of(self: Any, run: Any, repeats: int, most: float = math.inf) -> float:
        arguments = getattr(run, "args", ())
        plan = next((x for x in arguments if isinstance(x, Plan)), Plan(MODES[0]))
        return times[plan.mode]

    monkeypatch.setattr(trial, "_time", time_of)
    assert hessian(problem_of(small(nn.Tanh()))).plan.mode == "double-backward"
    times["double-backward"] = 2.9
    assert hessian(problem_of(small(nn.Tanh()))).plan.mode == "reverse-over-forward"  # a close race has one winner


@pytest.mark.parametrize("function", [_Once.apply, _Wrong.apply, F.hardsigmoid])
@pytest.mark.parametrize("mode", ["auto", "untimed"])
def test_kernels_without_second_derivatives_are_differenced(function: Any, mode: str) -> None:
    problem = problem_of(small(Apply(function)))
    operator = hessian(problem, mode=mode)
    assert operator.plan.mode == "finite-differences"
    v = torch.randn(problem.size)
    expected = dense(problem) @ v
    assert float((operator @ v - expected).norm()) < 1e-5 * float(expected.norm())


UNLIKE = "got products unlike finite differences and every other mode, expected the same"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (F.hardsigmoid, r"got RuntimeError \(.*not implemented.*\), expected a model with such derivatives"),
        (_Once.apply, UNLIKE),  # torch itself says nothing: it stops at the kernel
        (_Wrong.apply, UNLIKE),
    ],
)
def test_a_mode_that_does_not_work_is_refused(function: Any, text: str) -> None:
    model = small(Apply(function))
    before = [p.clone() for p in model.parameters()]
    remedy = 'use mode="auto", or "finite-differences" for kernels without second derivatives'
    with pytest.raises(ProblemError, match=f"mode='double-backward' {text}: {remedy}"):
        hessian(problem_of(model), mode="double-backward")
    assert all(p.equal(q) and p.grad is None for p, q in zip(model.parameters(), before, strict=True))


def test_attention_kernels_are_replaced_by_plain_products() -> None:
    made = make_case("attention")
    problem = Problem(made.model, nn.CrossEntropyLoss(), (made.inputs, LABELS[:7]))
    for mode in MODES[:-1]:
        assert hessian(problem, mode=mode).plan.error < 1e-6


def test_a_kink_at_the_weights_does_not_mislead() -> None:
    """A ReLU at exactly 0: differences cross the kink at any step, the exact modes agree with one another."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    problem = problem_of(model)
    operator = hessian(problem, mode="untimed")
    assert operator.plan.mode == MODES[0]
    assert operator.plan.error > 1e-3
    v = torch.randn(problem.size)
    assert float((operator @ v - hessian(problem, mode="double-backward") @ v).norm()) < 1e-12


def test_a_model_that_looks_at_its_values_is_not_played() -> None:
    problem = problem_of(small(Decide()))
    operator = hessian(problem, mode="double-backward")
    v = torch.randn(problem.size)
    expected = dense(problem) @ v
    for _ in range(2):
        assert float((operator @ v - expected).norm()) < 1e-7 * float(expected.norm())


@pytest.mark.parametrize("make", [hessian, ggn, fisher])
def test_the_text_of_a_plan_brings_the_same_bits(make: Any) -> None:
    made = make_case("conv")
    problem = Problem(made.model, nn.CrossEntropyLoss(), (made.inputs, LABELS[:7]))
    first = make(problem)
    second = make(problem, mode=first.plan.how, memory=0)
    assert second.plan.how == first.plan.how
    v = torch.randn(first.size)
    assert (first @ v).equal(second @ v)
    assert (first @ v).equal(second @ v)


@pytest.mark.parametrize(
    "text", ["reverse-over-forward", "double-backward, channels_last", "forward-over-reverse, 3 examples at a time"]
)
def test_texts_of_plans(text: str) -> None:
    assert Plan.of(text, MODES).how == text


@pytest.mark.parametrize(
    "mode", ["fast", "", "double-backward,", "double-backward, 0 examples at a time", "double-backward, x", 3, None]
)
def test_other_modes_are_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match=r"got mode=.*, expected one of auto, untimed, reverse-over-forward, "):
        hessian(problem_of(small()), mode=mode)
    with pytest.raises(ValueError, match="got mode='forward-over-reverse', expected one of auto, untimed, rev"):
        ggn(problem_of(small()), mode="forward-over-reverse")


@pytest.mark.parametrize("memory", [-1, 1.5, True, "much"])
def test_bad_memory_is_refused(memory: Any) -> None:
    with pytest.raises(ValueError, match=r"got memory=.*, expected a whole number of bytes >= 0: change memory"):
        hessian(problem_of(small()), memory=memory)


def test_large_batches_are_cut() -> None:
    model = small(nn.Tanh())
    data = [(torch.randn(700, 4), torch.randint(0, 3, (700,)))]
    operator = hessian(Problem(model, nn.CrossEntropyLoss(), data), mode="untimed")
    assert operator.plan.how == "reverse-over-forward, 128 examples at a time"
    operator = hessian(Problem(model, nn.CrossEntropyLoss(), data), mode="untimed", memory=1)
    assert operator.plan.how == "reverse-over-forward, 32 examples at a time"


def coupled(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that compares the examples of its batch."""
    return (outputs @ outputs.T).logsumexp(1).mean()


def test_losses_that_couple_examples_keep_their_batches() -> None:
    data = [(torch.randn(300, 4), torch.zeros(300)), (torch.randn(5, 4), torch.zeros(5))]
    problem = Problem(small(nn.Tanh()), coupled, data)
    operator = hessian(problem, mode="untimed")
    assert operator.plan.size is None
    v = torch.randn(problem.size)
    expected = dense(problem) @ v
    assert float((operator @ v - expected).norm()) < 1e-6 * float(expected.norm())


# -- checks


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class Stubborn(nn.Dropout):
    def train(self, mode: bool = True) -> Stubborn:
        return super().train(True)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Noisy(), "a dropout or other random numbers act in eval mode; let them follow eval"),
        (Stubborn(0.5), r"the dropout layer '1' stays active in eval mode; let them follow eval\(\)"),
    ],
)
def test_a_random_loss_is_refused(layer: nn.Module, text: str) -> None:
    with pytest.raises(ProblemError, match=rf"the loss got .* and .* at the same weights, expected one value: {text}"):
        hessian(problem_of(small(layer)))


def test_batch_norm_of_batches_is_refused() -> None:
    class Training(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Training:
            return super().train(True)

    for layer in (Training(6), nn.BatchNorm1d(6, track_running_stats=False)):
        model = small(layer)
        before = {name: x.clone() for name, x in model.state_dict().items()}
        with pytest.raises(
            ProblemError, match=r"the BatchNorm layer '1' got the statistics of each batch in eval mode"
        ):
            hessian(problem_of(model))
        assert all(x.equal(before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(value: float) -> None:
    model = small()
    with torch.no_grad():
        model[1].bias[0] = value
    for make in (hessian, ggn, fisher):
        with pytest.raises(ProblemError, match=r"the loss got (nan|inf) at these weights, expected a finite number"):
            make(problem_of(model))


# -- noise


def test_noise_of_exact_products() -> None:
    for dtype in (torch.float64, torch.float32):
        made = make_case("conv")
        problem = Problem(made.model.to(dtype), nn.CrossEntropyLoss(), (made.inputs.to(dtype), LABELS[:7]))
        for make in (hessian, ggn, fisher):
            noise = make(problem, mode="untimed").noise
            assert noise.repeat == 0.0
            assert noise.floor < 100 * torch.finfo(dtype).eps


def test_noise_is_found() -> None:
    matrix = torch.diag(torch.arange(50.0)) / 49
    rng = torch.Generator().manual_seed(0)

    def noisy(v: Tensor) -> Tensor:
        error = torch.randn(50, generator=rng)
        return matrix @ v + 1e-4 * error / error.norm() * v.norm()

    noise = measure_noise(noisy, 50, torch.float64, torch.device("cpu"))
    assert 1e-5 < noise.repeat < 1e-3
    assert 1e-6 < noise.asymmetry < 1e-3
    assert noise.floor == max(noise.repeat, noise.asymmetry, noise.rounding)
    skew = matrix + torch.triu(torch.ones(50, 50), 1) * 1e-3
    found = measure_noise(lambda v: skew @ v, 50, torch.float64, torch.device("cpu"))
    assert found.repeat == 0.0
    assert 1e-4 < found.asymmetry < 1e-1
    zero = measure_noise(torch.zeros_like, 50, torch.float64, torch.device("cpu"))
    assert zero.floor == 0.0


def test_any_operator_can_measure_its_noise() -> None:
    operator = Operator.of(torch.diag(torch.arange(1.0, 9.0)))
    assert operator.noise is None
    assert operator.measure_noise().floor < 1e-14
    assert operator.products == 4
    assert operator.measure_noise() is operator.noise
    assert operator.products == 4
    assert (operator * 3).noise is operator.noise
