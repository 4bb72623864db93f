"""Adaptive refinement: what it asks for, what it makes of it, and whether its error is honest.

The interpolant is checked against SciPy's, its leave-one-out predictions against literal refits, the estimate against
the same numbers found the long way round; planes of trained networks against their full grids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline, RBFInterpolator
from torch import nn

from sharpscope import data
from sharpscope.analyzers.surfaces import _rbf
from sharpscope.analyzers.surfaces._rbf import predict
from sharpscope.analyzers.surfaces.refine import EVALUATED, INTERPOLATED, NONFINITE, Refined, refine
from sharpscope.analyzers.surfaces.surface import surface
from sharpscope.problem.problem import Problem

X = np.linspace(-1.0, 1.0, 51)


class Plane:
    """A full grid that keeps what it was asked for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.asked: list[np.ndarray] = []

    def __call__(self, at: np.ndarray) -> np.ndarray:
        self.asked.append(at.copy())
        return self.values[at[:, 0], at[:, 1]]

    def refined(self, tolerance: float = 0.01, seed: int = 0, **settings: Any) -> Refined:
        beta, alpha = (np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1) for n in self.values.shape)
        return refine(self, alpha, beta, tolerance, seed, **settings)


def true_error(found: Refined, values: np.ndarray) -> float:
    told, true = found.loss[found.status == INTERPOLATED], values[found.status == INTERPOLATED]
    return float((np.abs(told - true) / np.maximum(np.abs(true), found.floor)).max(initial=0.0))


def grid(function: Callable[[np.ndarray, np.ndarray], np.ndarray], ny: int = 51, nx: int = 51) -> np.ndarray:
    """``function(x, y)`` on [-1, 1] x [-1, 1]."""
    x, y = np.meshgrid(np.linspace(-1, 1, nx), np.linspace(-1, 1, ny))
    return np.asarray(function(x, y), dtype=np.float64)


SMOOTH = {
    "bowl": grid(lambda x, y: np.exp(3 * x**2 + 5 * y**2 + x * y)),
    "curved valley": grid(lambda x, y: 1e-3 * np.exp((x - y**2) ** 2 + y)),
    "rectangle": grid(lambda x, y: 1 + x**2 + np.sin(2 * y) ** 2, 31, 101),
    "from -2 through 0 to 2": grid(lambda x, y: 2 * np.sin(2 * x) * np.cos(y)),
    "one step high": grid(lambda x, y: 2 + x**2 + y, 2, 81),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("seed", range(3))
def test_smooth_planes_need_few_points_and_the_error_is_under_the_tolerance(name: str, seed: int) -> None:
    plane = Plane(SMOOTH[name])
    found = plane.refined(seed=seed)
    assert found.converged and found.error <= 0.01
    assert true_error(found, plane.values) <= min(0.01, 2 * found.error)
    assert found.evaluated == (found.status == EVALUATED).sum() <= 0.35 * plane.values.size
    assert found.evaluated <= 0.15 * plane.values.size or name not in ("bowl", "curved valley")
    np.testing.assert_array_equal(found.loss[found.status == EVALUATED], plane.values[found.status == EVALUATED])


def test_a_quadratic_that_is_zero_at_the_centre_is_bounded_by_the_floor() -> None:
    plane = Plane(grid(lambda x, y: x**2 + 2 * y**2))
    found = plane.refined()
    assert found.evaluated < 0.35 * plane.values.size and true_error(found, plane.values) <= 0.01
    coarse = plane.asked[0]
    assert len(coarse) == 49 and found.loss[25, 25] == 0
    assert found.floor == 1e-3 * np.median(plane.values[coarse[:, 0], coarse[:, 1]])


def test_points_are_asked_for_once_and_the_same_again_and_others_with_another_seed() -> None:
    first, again, other = (Plane(SMOOTH["bowl"]) for _ in range(3))
    results = [first.refined(), again.refined(), other.refined(seed=1)]
    asked = np.concatenate(first.asked)
    assert len(np.unique(asked, axis=0)) == len(asked) == results[0].evaluated
    assert [a.tolist() for a in first.asked] == [a.tolist() for a in again.asked]
    np.testing.assert_array_equal(results[0].loss, results[1].loss)
    assert first.asked[0].tolist() == other.asked[0].tolist() and first.asked[1].tolist() != other.asked[1].tolist()


def test_levels_are_shown_from_the_coarse_one_on() -> None:
    shown: list[Refined] = []
    found = Plane(SMOOTH["bowl"]).refined(show=shown.append)
    assert [s.evaluated for s in shown] == sorted({s.evaluated for s in shown}) and shown[0].evaluated == 49
    assert all(np.isfinite(s.loss).all() for s in shown) and shown[0].error == np.inf and not shown[0].converged
    np.testing.assert_array_equal(found.history, [(s.evaluated, s.error) for s in shown])
    assert shown[-1] is found


def test_a_grid_without_structure_is_evaluated_to_the_last_point_and_has_no_error() -> None:
    plane = Plane(np.random.default_rng(0).lognormal(size=(23, 17)))
    found = plane.refined()
    assert found.evaluated == plane.values.size and found.error == 0.0 and found.converged
    assert (found.status == EVALUATED).all()
    np.testing.assert_array_equal(found.loss, plane.values)


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0])
def test_a_constant_is_known_after_three_levels(value: float) -> None:
    found = Plane(np.full((51, 51), value)).refined()
    assert found.evaluated < 110 and found.error < 1e-9
    np.testing.assert_allclose(found.loss, value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_regions_that_are_not_finite_are_outlined_and_not_smeared(bad: float) -> None:
    smooth = grid(lambda x, y: np.exp(2 * x + y**2))
    values = np.where(grid(lambda x, y: (x - 0.5) ** 2 + (y + 0.4) ** 2) < 0.09, bad, smooth)
    plane = Plane(values)
    found = plane.refined()
    np.testing.assert_array_equal(found.status == NONFINITE, ~np.isfinite(values))
    np.testing.assert_array_equal(found.loss[found.status == NONFINITE], values[found.status == NONFINITE])
    for i, j in np.argwhere(~np.isfinite(values)):
        assert (found.status[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] != INTERPOLATED).all()
    finite = np.isfinite(values)
    assert np.isfinite(found.loss[finite]).all()
    missed = np.abs(found.loss[finite] - smooth[finite]) / smooth[finite]
    assert missed.max() <= 0.01 and found.evaluated < 0.3 * values.size


def test_an_outer_region_of_infinite_losses_and_a_clipped_top() -> None:
    bowl = grid(lambda x, y: np.exp(4 * (x**2 + y**2)))
    found = Plane(np.where(bowl > 60, np.inf, bowl)).refined()
    np.testing.assert_array_equal(found.status == NONFINITE, bowl > 60)
    assert true_error(found, np.where(bowl > 60, np.inf, bowl)) <= 0.01
    clipped = np.minimum(grid(lambda x, y: np.exp(4 * (x**2 + y**2)), 31, 31), 20.0)
    found = Plane(clipped).refined()
    assert true_error(found, clipped) <= 0.01


@pytest.mark.parametrize("finite", [0, 1, 2, 5])
def test_few_finite_points_are_found_by_evaluating_everything(finite: int) -> None:
    values = np.full((21, 21), np.nan)
    values[10, 10 : 10 + finite] = 1.5
    found = Plane(values).refined()
    assert found.evaluated == values.size and found.error == 0.0 and found.floor > 0
    np.testing.assert_array_equal(found.loss, values)


def test_losses_of_any_size_pass_without_a_warning() -> None:
    huge = grid(lambda x, y: np.exp(300 * (x + 1)), 9, 61)
    found = Plane(huge).refined()
    assert np.isfinite(found.loss).all() and true_error(found, huge) <= 0.01


@pytest.mark.parametrize("upright", [False, True])
def test_a_line_is_the_natural_cubic_spline_of_its_points(upright: bool) -> None:
    x = np.linspace(-1, 1, 201)
    values = np.exp(np.sin(4 * x) + 2 * x**2)
    plane = Plane(values[:, None] if upright else values[None])
    found = plane.refined()
    loss, status = found.loss.ravel(), found.status.ravel()
    assert true_error(found, plane.values) <= 0.01 and found.evaluated < 50
    at = np.flatnonzero(status == EVALUATED)
    bent = CubicSpline(x[at], np.arcsinh(values[at] / (2 * found.floor)), bc_type="natural")(x)
    np.testing.assert_allclose(loss, 2 * found.floor * np.sinh(bent), rtol=1e-6)  # of a system with condition 1e9


def test_the_estimate_is_the_largest_held_out_error_of_scipys_interpolant() -> None:
    plane = Plane(SMOOTH["bowl"])
    found = plane.refined(tolerance=0.05)

    def held_out(level: int) -> float:
        known, new = np.concatenate(plane.asked[:level]), plane.asked[level]
        values = np.arcsinh(plane.values[known[:, 0], known[:, 1]] / (2 * found.floor))
        told = RBFInterpolator(known.astype(float), values, kernel="cubic", degree=1)(new.astype(float))
        true = plane.values[new[:, 0], new[:, 1]]
        return float((np.abs(2 * found.floor * np.sinh(told) - true) / true).max())

    last = len(plane.asked) - 1
    safety = 1.4 * (1 + 180 / found.evaluated)
    expected = safety * max(held_out(last), 0.6 * held_out(last - 1), 0.4 * held_out(last - 2))
    assert found.error == pytest.approx(expected, rel=1e-6)


def scatter(count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places of a 25 x 40 grid, indices of known points in no order, their values, and the other indices."""
    places = np.stack(np.meshgrid(np.arange(25.0), np.arange(40.0), indexing="ij"), axis=-1).reshape(-1, 2)
    order = np.random.default_rng(1).permutation(len(places))
    known = order[:count]
    return places, known, np.sin(places[known, 0] / 8) * np.cos(places[known, 1] / 9), order[count:]


def test_prediction_is_scipys_cubic_interpolant_and_leaves_the_point_itself_out() -> None:
    places, known, values, others = scatter()
    expected = RBFInterpolator(places[known], values, kernel="cubic", degree=1)(places[others])
    np.testing.assert_allclose(predict(places, known, values, others), expected, atol=1e-9)
    alone = [
        float(RBFInterpolator(np.delete(places[known], i, 0), np.delete(values, i), kernel="cubic", degree=1)(
            places[known[i : i + 1]])[0])
        for i in range(len(known))
    ]  # fmt: skip
    mixed = np.random.default_rng(2).permutation(np.concatenate([known, others]))
    told = dict(zip(mixed.tolist(), predict(places, known, values, mixed), strict=True))
    np.testing.assert_allclose([told[i] for i in known.tolist()], alone, atol=1e-8)
    np.testing.assert_allclose([told[i] for i in others.tolist()], expected, atol=1e-9)


def test_many_points_are_solved_in_parts_that_agree_with_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    places, known, values, others = scatter(500)
    whole = predict(places, known, values, others)
    monkeypatch.setattr(_rbf, "_AT_ONCE", 120)
    parts = predict(places, known, values, others)
    assert 0 < np.abs(parts - whole).max() < 0.1 * np.abs(whole - np.sin(places[others, 0] / 8)).max()
    truth = np.sin(places[others, 0] / 8) * np.cos(places[others, 1] / 9)
    assert np.abs(parts - truth).max() < 2 * np.abs(whole - truth).max()


def test_noisy_evaluations_end_and_the_noise_is_in_the_error() -> None:
    smooth, noise = SMOOTH["bowl"], 0.005
    values = smooth * (1 + noise * np.random.default_rng(3).uniform(-1, 1, smooth.shape))
    found = Plane(values).refined(noise=noise)
    assert found.converged and found.evaluated < 0.2 * values.size
    assert 2 * noise <= found.error <= 0.01 + 2 * noise
    assert max(true_error(found, smooth), true_error(found, values)) <= 2 * found.error


class Small(nn.Sequential):
    def __init__(self, activation: type[nn.Module], seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Flatten(), nn.Linear(64, 32), activation(), nn.Linear(32, 10))


@pytest.mark.parametrize(
    ("activation", "epochs", "span"),
    [(nn.ReLU, 8, 1.0), (nn.ReLU, 2, 2.0), (nn.Tanh, 8, 1.0), (nn.Tanh, 20, 0.5), (nn.GELU, 8, 1.5), (nn.SiLU, 1, 0.5)],
)
def test_the_error_of_planes_of_trained_networks(activation: type[nn.Module], epochs: int, span: float) -> None:
    inputs, targets = data.load("digits").train
    inputs = inputs.double()
    model = Small(activation, seed=epochs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        for index in data.batches(len(inputs), 64, 0, epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[index]), targets[index]).backward()
            optimizer.step()
    problem = Problem(model, nn.CrossEntropyLoss(), (inputs[:200], targets[:200]))
    plane = Plane(surface(problem, resolution=33, span=span, progress=False).loss)
    for seed in range(2):
        found = plane.refined(tolerance=0.02, seed=seed)
        assert found.evaluated < 0.5 * plane.values.size and found.error <= 0.02
        assert true_error(found, plane.values) <= min(2 * found.error, 0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 0.0}, "refine got tolerance=0.0, expected a number > 0: 0.01 is usual"),
        ({"tolerance": np.nan}, "refine got tolerance=nan, expected a number > 0: 0.01 is usual"),
        ({"noise": -1.0}, "refine got noise=-1.0, expected a number >= 0: 0 for exact evaluations"),
        ({"alpha": X[::-1]}, r"refine got alpha of shape \(51,\), expected increasing finite coordinates: sort them"),
        ({"beta": X[None]}, r"refine got beta of shape \(1, 51\), expected increasing finite coordinates: sort them"),
        (
            {"evaluate": lambda at: np.zeros(3)},
            r"refine got float64 values of shape \(3,\) from evaluate, expected float64 of shape \(49,\): return one "
            r"loss for every row of indices",
        ),
    ],
)
def test_errors_say_what_to_do(change: dict[str, Any], message: str) -> None:
    settings = {"evaluate": Plane(SMOOTH["bowl"]), "alpha": X, "beta": X, **change}
    with pytest.raises(ValueError, match=f"^{message}$"):
        refine(**settings)
