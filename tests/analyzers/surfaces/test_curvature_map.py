"""Eigenvalues over a plane against dense Hessians at displaced weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from sharpscope.analyzers.surfaces.curvature_map import curvature_map
from sharpscope.analyzers.surfaces.directions import Directions, random_directions
from sharpscope.problem.problem import Problem


def net() -> tuple[nn.Module, Problem, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = torch.randn(11, 3), torch.randint(3, (11,))
    return model, Problem(model, nn.CrossEntropyLoss(), (x, y)), x, y


def test_both_ends_everywhere() -> None:
    model, problem, x, y = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    directions = random_directions(problem, seed=4, include_1d=True)
    found = curvature_map(problem, (3, 2), ((-1.0, 2.0), (-0.5, 0.5)), directions, tol=1e-6)
    assert found.highest.shape == (2, 3)
    assert found.digest == directions.digest
    shapes = [w.shape for w in problem.weights]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
        weights = dict(zip(problem.names, parts, strict=True))
        return nn.functional.cross_entropy(functional_call(model, weights, (x,)), y)

    center, d1, d2 = (
        torch.cat([part.reshape(-1) for part in vector]) for vector in (problem.weights, *directions.vectors)
    )
    for i, b in enumerate(found.beta):
        for j, a in enumerate(found.alpha):
            at = center + a * d1 + b * d2
            values = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, at).numpy())
            assert abs(found.highest[i, j] - values[-1]) <= found.highest_error[i, j] + 1e-10
            assert abs(found.lowest[i, j] - values[0]) <= found.lowest_error[i, j] + 1e-10
            assert found.highest_error[i, j] <= 2e-6 * abs(values[-1])
            assert found.loss[i, j] == pytest.approx(float(loss(at)), rel=1e-12)
            assert found.ratio[i, j] == pytest.approx(max(0.0, -values[0]) / values[-1], rel=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_points_without_a_finite_loss_are_nan() -> None:
    class Log(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).log()

    model = Log(5, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    problem = Problem(model, nn.MSELoss(), (torch.eye(5), torch.zeros(5, 1)))
    way = Directions(problem.names, ([torch.ones(1, 5)], [torch.eye(5)[:1]]), "by hand")
    found = curvature_map(problem, (3, 2), ((-2.0, 2.0), (0.0, 0.01)), way)
    bad = found.alpha < -1
    assert bad.tolist() == [True, False, False]
    assert np.isnan(found.highest[:, bad]).all() and np.isnan(found.lowest[:, bad]).all()
    assert np.isfinite(found.highest[:, ~bad]).all()


def test_what_is_refused() -> None:
    _, problem, _, _ = net()
    with pytest.raises(ValueError, match="the curvature map got resolution=1, expected a whole number >= 2"):
        curvature_map(problem, 1)
    with pytest.raises(ValueError, match="the curvature map got one direction, expected two"):
        curvature_map(problem, 3, directions=random_directions(problem, count=1))
    with pytest.raises(ValueError, match="scaling='filters', expected one of filter"):
        curvature_map(problem, 3, directions="filters")


def test_a_direction_of_length_0() -> None:
    problem = Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    with pytest.raises(
        ValueError, match=r"^the curvature map got a direction of length 0 \(.*\), expected one that mov"
    ):
        curvature_map(problem, 2, directions=random_directions(problem).on({}))
