"""Trajectories against least squares of dense matrices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from sharpscope.analyzers.surfaces.directions import Directions, random_directions
from sharpscope.analyzers.surfaces.named_directions import pca_directions
from sharpscope.analyzers.surfaces.trajectory import TrajectoryRecorder, trajectory
from sharpscope.problem.problem import Problem
from sharpscope.store import create_run


def net(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Problem]:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)
    return model, Problem(model, nn.MSELoss(), (torch.randn(5, 3, dtype=dtype), torch.randn(5, 2, dtype=dtype)))


def walk(problem: Problem, steps: int = 9) -> dict[int, dict[str, torch.Tensor]]:
    found, at = {}, [w.clone() for w in problem.weights]
    for step in range(steps):
        at = [w + 0.3 * torch.randn_like(w) for w in at]
        found[10 * step] = dict(zip(problem.names, at, strict=True))
    return found


def flat(vector: list[torch.Tensor]) -> np.ndarray:
    return np.concatenate([x.detach().double().reshape(-1).numpy() for x in vector])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_coordinates_are_least_squares(count: int, dtype: torch.dtype) -> None:
    _, problem = net(dtype)
    points = walk(problem)
    directions = random_directions(problem, seed=3, count=count, include_1d=True)
    found = trajectory(problem, points, directions)
    basis = np.stack([flat(vector) for vector in directions.vectors], axis=1)
    x = np.stack([flat(list(point.values())) for point in points.values()]) - flat(problem.weights)
    wanted, *_ = np.linalg.lstsq(basis, x.T)
    np.testing.assert_allclose(found.coordinates, wanted.T, rtol=1e-12, atol=1e-13)
    rest = x - wanted.T @ basis.T
    np.testing.assert_allclose(found.residual, np.linalg.norm(rest, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.distance, np.linalg.norm(x, axis=1), rtol=1e-12)
    q, _ = np.linalg.qr(basis)
    centred = x - x.mean(0)
    shares = [np.sum((centred @ q[:, j]) ** 2) / np.sum(centred**2) for j in range(count)]
    np.testing.assert_allclose(found.explained, shares, rtol=1e-11)
    assert found.step.tolist() == list(points)
    assert found.digest == directions.digest


def test_a_walk_in_the_plane_has_no_residual() -> None:
    _, problem = net()
    directions = random_directions(problem, "none", seed=1, include_1d=True)
    path = np.array([[0.0, 0.0], [0.5, -1.0], [2.0, 0.25]])
    points = [
        [w + a * x + b * y for w, x, y in zip(problem.weights, *directions.vectors, strict=True)] for a, b in path
    ]
    found = trajectory(problem, points, directions)
    np.testing.assert_allclose(found.coordinates, path, atol=1e-13)
    assert found.residual.max() < 1e-12 * found.distance.max()
    assert found.explained.sum() == pytest.approx(1, abs=1e-12)
    assert found.step.tolist() == [0, 1, 2]


def test_principal_directions_are_the_default() -> None:
    _, problem = net()
    points = walk(problem)
    found = trajectory(problem, points)
    axes = pca_directions(problem, list(points.values()))
    assert found.digest == axes.digest
    np.testing.assert_allclose(found.explained, axes.explained, rtol=1e-10)


def test_nothing_moves() -> None:
    _, problem = net()
    found = trajectory(problem, [problem.weights], random_directions(problem))
    assert found.coordinates.tolist() == [[0.0, 0.0]]
    assert found.distance.tolist() == found.residual.tolist() == [0.0]
    assert np.isnan(found.explained).all()


def test_what_is_refused() -> None:
    _, problem = net()
    directions = random_directions(problem)
    with pytest.raises(ValueError, match="trajectory got no weights, expected those of at least one step"):
        trajectory(problem, {}, directions)
    twice = dataclasses.replace(directions, vectors=(directions.vectors[0], directions.vectors[0]))
    with pytest.raises(ValueError, match="that do not span 2 dimensions, expected independent ones"):
        trajectory(problem, walk(problem), twice)
    zero = Directions(directions.names, ([torch.zeros_like(w) for w in problem.weights],), "nothing")
    with pytest.raises(ValueError, match="that do not span 1 dimensions"):
        trajectory(problem, walk(problem), zero)
    broken = walk(problem)
    broken[20]["0.weight"] = broken[20]["0.weight"] * float("nan")
    with pytest.raises(ValueError, match="weights at step 20 that are not finite, expected numbers"):
        trajectory(problem, broken, directions)
    other = Problem(nn.Linear(3, 2).double(), nn.MSELoss(), (torch.randn(5, 3), torch.randn(5, 2)))
    with pytest.raises(ValueError, match=r"trajectory got directions .* make them for this architecture"):
        trajectory(problem, walk(problem), random_directions(other))
    with pytest.raises(ValueError, match="other weights got"):
        trajectory(problem, walk(other), directions)


def test_the_recorder_keeps_copies(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, _ = net()
    model[0].bias.requires_grad_(False)
    run = create_run(tmp_path / "run", {})
    memory, disk = TrajectoryRecorder(model, every=3), TrajectoryRecorder(model, every=3, run=run)
    seen = {}
    for step in range(8):
        memory(step)
        disk(step)
        seen[step] = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1)
    for recorder in (memory, disk):
        assert list(recorder.trajectory) == [0, 3, 6]
        for step, weights in recorder.trajectory.items():
            assert list(weights) == list(seen[step])
            assert all(torch.equal(weights[name], w) for name, w in seen[step].items())
    with pytest.raises(ValueError, match="TrajectoryRecorder got every=0"):
        TrajectoryRecorder(model, every=0)
