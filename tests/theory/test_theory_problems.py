"""The constants of the known problems against brute force on random points."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call, vmap

from sharpscope.curvature.operators import hessian
from sharpscope.theory.problems import Known, least_squares, logistic, quadratic, waves

PROBLEMS = {
    "quadratic": lambda: quadratic(size=5, examples=30, condition=20.0),
    "logistic": lambda: logistic(size=4, examples=40),
    "least squares": lambda: least_squares(size=7, examples=4, condition=5.0),
    "waves": lambda: waves(size=3),
}


def points(known: Known, count: int = 60) -> torch.Tensor:
    """Random weights around the centre, within the region."""
    rng = torch.Generator().manual_seed(1)
    way = torch.randn(count, len(known.center), generator=rng)
    far = min(known.radius, 5.0) * torch.rand(count, 1, generator=rng)
    return known.center + far * way / way.norm(dim=1, keepdim=True)


def gradients(known: Known, weight: torch.Tensor) -> torch.Tensor:
    """(n, d): the gradient of every example's loss."""
    model = known.make()

    def one(w, x, y):
        return known.loss(functional_call(model, {"weight": w}, x[None]), y[None])

    return vmap(torch.func.grad(one), (None, 0, 0))(weight, known.inputs, known.targets)


def dense(known: Known) -> torch.Tensor:
    operator = hessian(known.problem())
    found = torch.stack([torch.as_tensor(operator @ row) for row in torch.eye(operator.size)])
    return (found + found.T) / 2


def loss(known: Known, weight: torch.Tensor) -> float:
    return float(known.loss(functional_call(known.make(), {"weight": weight}, known.inputs), known.targets))


@pytest.mark.parametrize("name", PROBLEMS)
def test_constants_hold_at_random_points(name: str) -> None:
    known, slack = PROBLEMS[name](), 1 + 1e-9
    places = points(known)
    each = torch.stack([gradients(known, w) for w in places])
    full = each.mean(dim=1)
    assert (full.norm(dim=1) <= known.gradient * slack).all()
    assert ((each - full[:, None]).square().sum(-1).mean(-1) <= known.noise * slack + 1e-12).all()
    for i, j in ((0, 1), (2, 3), (4, 5), (6, 6)):
        v = places[j] + (1e-4 * torch.ones_like(places[j]) if i == j else 0.0)  # near and far
        step = float((places[i] - v).norm())
        other = gradients(known, v)
        assert float((full[i] - other.mean(dim=0)).norm()) <= known.smoothness * step * slack
        assert float((each[i] - other).norm(dim=-1).max()) <= known.sample_smoothness * step * slack
    for w, g in zip(places, full, strict=True):
        left = loss(known, w) - known.minimum
        assert left >= -1e-12
        if known.pl is not None:
            assert 0.5 * float(g @ g) >= known.pl * left / slack


@pytest.mark.parametrize("name", ["quadratic", "least squares"])
def test_spectrum_of_the_hessian_is_certified(name: str) -> None:
    known = PROBLEMS[name]()
    values = torch.linalg.eigvalsh(dense(known))
    positive = values[values > 1e-10]
    assert float(values.max()) == pytest.approx(known.smoothness, rel=1e-10)
    assert float(positive.min()) == pytest.approx(known.pl, rel=1e-10)
    if name == "least squares":
        assert len(positive) == 4 < len(values)


def test_exact_minima() -> None:
    known = PROBLEMS["quadratic"]()
    assert loss(known, known.center) == pytest.approx(known.minimum, rel=1e-12)
    assert float(gradients(known, known.center).mean(dim=0).norm()) < 1e-12
    assert float((known.make().weight.detach() - known.center).norm()) == pytest.approx(1.0)
    known = PROBLEMS["logistic"]()
    assert float(gradients(known, known.center).mean(dim=0).norm()) < 1e-11
    assert loss(known, torch.zeros(4)) == pytest.approx(math.log(2.0))
    assert loss(PROBLEMS["least squares"](), PROBLEMS["least squares"]().center) < 1e-24
    assert loss(waves(2), torch.zeros(2)) == 0.0


def test_noise_of_a_quadratic_is_exact_and_the_logistic_smoothness_is_attained_at_zero() -> None:
    known = PROBLEMS["quadratic"]()
    each = gradients(known, known.center + 0.3)
    assert float((each - each.mean(dim=0)).square().sum(-1).mean()) == pytest.approx(known.noise, rel=1e-12)
    known = PROBLEMS["logistic"]()  # at w = 0 every p (1 - p) is 1/4
    assert float(torch.linalg.eigvalsh(dense(known)).max()) == pytest.approx(known.smoothness)


def test_constants_of_the_waves_on_a_fine_grid() -> None:
    """f'^2 / 2 - 0.17 f >= 0, certified: a grid with the Lipschitz bound of the left side, and the two ends by hand."""
    x = torch.linspace(0.5, 6.0, 200_001)
    f, slope = x**2 + 3 * x.sin() ** 2, 2 * x + 3 * (2 * x).sin()
    left, spacing = 0.5 * slope**2 - 0.17 * f, 5.5 / 200_000
    steepest = (2 * 6 + 3) * (8 + 0.17)  # |f'| |f'' - 0.17| on [0, 6]
    assert float(left.min()) > steepest * spacing / 2
    # beyond 6: f' >= 2x - 3 > x and f <= x^2 + 3 <= 1.1 x^2; below 1/2: f' >= (2 + 6 sin(1)) x and f <= 4 x^2
    assert 0.5 >= 0.17 * 1.1
    assert 0.5 * (2 + 6 * math.sin(1.0)) ** 2 >= 0.17 * 4
    assert float((0.5 * slope**2 / f).min()) == pytest.approx(0.1755, abs=1e-3)  # and no more than 0.1755 would hold


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"^least_squares got examples=9, expected at most size=8"):
        least_squares(size=8, examples=9)
    with pytest.raises(ValueError, match=r"^quadratic got condition=0.5, expected a finite number >= 1"):
        quadratic(condition=0.5)
    with pytest.raises(ArithmeticError, match=r"^logistic got labels without a minimum, expected"):
        logistic(size=10, examples=8)


def test_problems_leave_global_random_states_alone(rng_guard) -> None:
    for make in PROBLEMS.values():
        make().problem()
