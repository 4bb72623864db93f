"""Sharpness on quadratics whose exact value is known, and on networks that must stay as they are."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from sharpscope import plots
from sharpscope.analyzers.measures.sharpness import sharpness
from sharpscope.ascent.perturbations import Ball
from sharpscope.ascent.probe import Probe
from sharpscope.core.vectors import add
from sharpscope.problem.problem import Problem
from sharpscope.store import load, save


class Bowl(nn.Module):
    """w^T A w / 2 + b^T w, the same for every example, plus shift^T w for an example's own shift."""

    def __init__(self, matrix, slope, at):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("slope", slope)
        self.w = nn.Parameter(at.clone())

    def forward(self, shifts):
        return 0.5 * self.w @ self.matrix @ self.w + self.slope @ self.w + shifts @ self.w


def bowl(values, slope=None, at=None, shifts=None):
    size = len(values)
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, size, generator=rng)).Q
    matrix = (basis * torch.tensor(values)) @ basis.T
    slope = torch.zeros(size) if slope is None else torch.tensor(slope)
    at = torch.zeros(size) if at is None else torch.tensor(at)
    shifts = torch.zeros(4, size) if shifts is None else shifts
    model = Bowl((matrix + matrix.T) / 2, slope, at)
    return Problem(model, lambda out, _: out.mean(), (shifts, torch.zeros(len(shifts)))), matrix


def ball_maximum(matrix, gradient, rho):
    """max over |e| <= rho of g^T e + e^T A e / 2 by its secular equation, |(m - A)^-1 g| = rho with m > lambda_1."""
    values, vectors = torch.linalg.eigh(matrix)
    inside = vectors.T @ gradient
    low, high = float(values[-1]), float(values[-1] + gradient.norm() / rho) + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((inside / (middle - values)).norm()) > rho else (low, middle)
    e = vectors @ (inside / (high - values))
    return float(gradient @ e + 0.5 * e @ matrix @ e)


def test_at_a_minimum_it_is_half_rho_squared_lambda_1() -> None:
    problem, _ = bowl([4.0, 1.0, 0.5, 0.1])
    found = sharpness(problem, rho=0.3, steps=40, pairs=0)
    assert found.worst == pytest.approx(0.5 * 0.3**2 * 4.0, rel=1e-10)
    assert found.first_order < found.worst
    assert (np.diff(found.course[:, 0]) >= 0).all()
    assert math.isnan(found.average)
    assert math.isnan(found.worst_stderr)


def test_away_from_a_minimum_it_is_the_maximum_over_the_ball() -> None:
    at = [0.3, -0.2, 0.5, 0.1]
    problem, matrix = bowl([4.0, 1.0, 0.5, 0.1], slope=[0.2, 0.1, -0.4, 0.3], at=at)
    gradient = problem.gradient()[0]
    found = sharpness(problem, rho=0.3, steps=60, pairs=0)
    assert found.worst == pytest.approx(ball_maximum(matrix, gradient, 0.3), rel=1e-9)
    probe = Probe([problem.model.w], problem.names)
    sam = problem.loss(add(problem.weights, Ball(0.3)([gradient], probe, {}).dense())) - problem.loss()
    assert found.first_order == pytest.approx(sam, rel=1e-12)


def test_what_is_found_is_never_above_the_maximum() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        problem, matrix = bowl(list(rng.normal(size=4)), slope=list(rng.normal(size=4)))
        exact = ball_maximum(matrix, problem.gradient()[0], 0.5)
        for steps in (1, 3, 10):
            assert sharpness(problem, rho=0.5, steps=steps, pairs=0).worst <= exact * (1 + 1e-12)


def test_average_of_a_quadratic_is_its_trace() -> None:
    problem, _ = bowl([4.0, 1.0, 0.5, 0.1], slope=[3.0, 1.0, -2.0, 1.0])
    found = sharpness(problem, rho=0.3, steps=1, pairs=400)
    exact = 0.3**2 * 5.6 / (2 * 4)
    assert abs(found.average - exact) < 4 * found.average_stderr
    assert found.average_stderr < 0.06 * exact  # pairs have no linear term, however steep


def test_adaptive_sharpness_is_that_of_the_scaled_problem_and_zeros_stay() -> None:
    """With T = |w| it is the plain one of u -> L(w + T u); a weight of exactly 0 does not move and spoils nothing."""
    at = [0.5, -2.0, 0.0, 1.0]
    problem, matrix = bowl([4.0, 1.0, 0.5, 0.1], slope=[0.2, 0.1, -0.4, 0.3], at=at)
    t = torch.tensor(at).abs()
    exact = ball_maximum(matrix * t * t[:, None], problem.gradient()[0] * t, 0.2)
    found = sharpness(problem, rho=0.2, steps=80, pairs=400, scaling="magnitude")
    assert found.worst == pytest.approx(exact, rel=1e-9)
    average = 0.2**2 * float((matrix.diag() * t**2).sum()) / (2 * 3)
    assert abs(found.average - average) < 4 * found.average_stderr
    moved = sharpness(problem, rho=0.2, steps=80, pairs=0, scaling="magnitude", eta=0.1)
    exact = ball_maximum(matrix * (t + 0.1) * (t + 0.1)[:, None], problem.gradient()[0] * (t + 0.1), 0.2)
    assert moved.worst == pytest.approx(exact, rel=1e-9)


def test_adaptive_sharpness_does_not_see_a_change_of_units() -> None:
    """Scaling the hidden units of a ReLU network up and their outgoing weights down changes |w| along with L."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight *= 5.0
        other[2].weight /= 5.0
    data = torch.randn(20, 3), torch.randint(0, 2, (20,))
    one, two = (Problem(net, nn.CrossEntropyLoss(), data) for net in (model, other))
    known = {"rho": 0.5, "steps": 5, "pairs": 3}
    adaptive = [sharpness(p, scaling="magnitude", **known) for p in (one, two)]
    assert adaptive[0].worst == pytest.approx(adaptive[1].worst, rel=1e-9)
    assert adaptive[0].average == pytest.approx(adaptive[1].average, rel=1e-9)
    assert sharpness(one, **known).worst != pytest.approx(sharpness(two, **known).worst, rel=0.1)


def test_m_sharpness_is_the_mean_over_shards() -> None:
    shifts = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    problem, matrix = bowl([4.0, 1.0, 0.5, 0.1], shifts=shifts)
    found = sharpness(problem, rho=0.3, steps=80, pairs=0, m=3)
    exact = [ball_maximum(matrix, shifts[i : i + 3].mean(dim=0), 0.3) for i in (0, 3)]
    assert found.course[-1] == pytest.approx(exact, rel=1e-9)
    assert found.worst == pytest.approx(np.mean(exact), rel=1e-9)
    assert found.worst_stderr == pytest.approx(np.std(exact, ddof=1) / math.sqrt(2), rel=1e-6)
    assert (found.sizes.tolist(), found.unused, found.m) == ([3, 3], 1, 3)
    whole = sharpness(problem, rho=0.3, steps=80, pairs=0)
    assert whole.worst < found.worst
    assert sharpness(problem, rho=0.3, steps=80, pairs=0, m=7).worst == pytest.approx(whole.worst, rel=1e-12)


def test_the_model_stays_as_it_was(rng_guard, tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)).train()
    data = torch.randn(20, 3), torch.randint(0, 2, (20,))
    model(data[0]).sum().backward()
    rng_guard()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters()]
    problem = Problem(model, nn.CrossEntropyLoss(), data)
    found = sharpness(problem, rho=0.1, m=5, scaling="magnitude", eta=0.01)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert model.training
    assert found == sharpness(problem, rho=0.1, m=5, scaling="magnitude", eta=0.01)
    assert load(save(found, tmp_path / "one.h5")) == found
    assert "worst=" in found.summary()


def test_flat_and_infinite_losses() -> None:
    flat, _ = bowl([0.0, 0.0])
    assert sharpness(flat, rho=0.1, pairs=2).worst == 0.0
    still = sharpness(flat, rho=0.1, pairs=2, scaling="magnitude")  # every weight is 0: none may move
    assert (still.worst, still.average) == (0.0, 0.0)
    broken, _ = bowl([1.0, 1.0], at=[math.inf, 0.0])
    with pytest.raises(ArithmeticError, match=r"^sharpness got a loss of (inf|nan) at w, expected a finite one"):
        sharpness(broken)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rho": 0.0}, "rho=0.0, expected"),
        ({"steps": 0}, "steps=0, expected a whole number"),
        ({"pairs": -1}, "pairs=-1, expected a whole number"),
        ({"m": 5}, "m=5, expected at most the 4 examples"),
        ({"scaling": "filter"}, "scaling='filter' and eta=0.0, expected 'none' with eta=0, or 'magnitude'"),
        ({"eta": 0.1}, "scaling='none' and eta=0.1"),
    ],
)
def test_mistakes(options, text) -> None:
    with pytest.raises(ValueError, match=f"^sharpness got {text}"):
        sharpness(bowl([1.0, 2.0])[0], **options)


def test_not_a_problem() -> None:
    with pytest.raises(TypeError, match=r"^sharpness got a Linear, expected a Problem"):
        sharpness(nn.Linear(1, 1))


def test_pictures() -> None:
    problem, _ = bowl([4.0, 1.0], shifts=torch.randn(6, 2, generator=torch.Generator().manual_seed(1)))
    one = sharpness(problem, rho=0.1, m=2)
    ax = plots.plot(one)
    assert ax.get_lines()[0].get_ydata() == pytest.approx(one.course.mean(axis=1))
    figure = plots.sharpnesses({"SGD": one, "SAM": one})
    for ax, value in zip(figure.axes, (one.worst, one.average), strict=True):
        assert [bar.get_height() for bar in ax.patches] == pytest.approx([value, value])
    with pytest.raises(ValueError, match=r"^sharpnesses got results of different rho"):
        plots.sharpnesses({"a": one, "b": sharpness(problem, rho=0.2, m=2)})
    with pytest.raises(ValueError, match=r"^sharpnesses got nothing to compare"):
        plots.sharpnesses({})
