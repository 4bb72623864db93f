"""Densities of known spectra: masses, moments, widths, and what a probe cannot know."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from sharpscope.analyzers.spectra._lanczos import quadrature
from sharpscope.analyzers.spectra.density import density
from sharpscope.analyzers.spectra.spectrum import spectrum
from sharpscope.curvature.operators import Operator
from tests.analyzers.spectra.test_spectrum import quadratic

VALUES = np.append(np.random.default_rng(0).normal(0, 0.2, 500), [3, 4, 5, 6, 7])


def test_quadrature_is_exact_for_polynomials() -> None:
    matrix = np.diag(np.linspace(-1, 2, 40)) + 0.1
    start = torch.randn(40)
    nodes, weights = quadrature(Operator.of(torch.as_tensor(matrix)), start, 6)
    z = start.numpy() / start.norm().item()
    for power in range(12):
        exact = z @ np.linalg.matrix_power(matrix, power) @ z
        assert abs(weights @ nodes**power - exact) < 1e-12 * max(1, abs(exact))


def test_top_values_are_exact_and_the_rest_adds_up() -> None:
    found = density(quadratic(VALUES), probes=20, steps=40)
    np.testing.assert_allclose(found.eigenvalues, [7, 6, 5, 4, 3], rtol=1e-5)
    np.testing.assert_allclose(found.weights.sum(axis=1), 500 / 505, rtol=1e-12)
    share, stderr = found.mass(2.5, 10)
    assert abs(share - 5 / 505) <= 1e-12
    assert stderr == 0.0
    share, stderr = found.mass(-10, 0.0)
    assert abs(share - (VALUES <= 0).mean()) <= 4 * stderr + 0.03  # nodes: a step of 1 / 40
    assert abs(found.trace - VALUES.sum()) <= 4 * found.trace_stderr
    assert np.nanmax(found.nodes) < 1.0  # no probe sees what was taken out
    assert found.products == 20 * 40 + spectrum(quadratic(VALUES)).products


def test_the_curve_is_the_smoothed_truth_within_its_band() -> None:
    found = density(quadratic(VALUES), probes=30, steps=60)
    x, mean, stderr, lost = found.curve()
    gaussians = np.exp(-((x[:, None] - VALUES) ** 2) / (2 * found.width**2)) / (found.width * math.sqrt(2 * math.pi))
    true = gaussians.mean(axis=1)
    outside = np.abs(mean - true) > 4 * stderr + 1e-3 * true.max()
    assert outside.mean() < 0.01
    assert 0 <= lost < 1e-6
    assert abs(np.sum(mean) * (x[1] - x[0]) + lost - 1) < 1e-9


def test_mass_outside_of_the_edges_is_told_and_not_spread() -> None:
    found = density(quadratic(VALUES), probes=3, steps=30)
    _, mean, _, lost = found.curve(edges=np.linspace(0.0, 10.0, 200))
    assert abs(mean.sum() * 10 / 199 + lost - 1) < 1e-9
    assert 0.3 < lost < 0.7


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scaling_the_matrix_scales_everything(factor: float) -> None:
    one, other = density(quadratic(VALUES), 3, 30), density(quadratic(factor * VALUES), 3, 30)
    np.testing.assert_allclose(other.width, factor * one.width, rtol=1e-9)
    for a, b, scale in zip(one.curve()[:3], other.curve()[:3], (factor, 1 / factor, 1 / factor), strict=True):
        np.testing.assert_allclose(b, a * scale, atol=1e-6 * np.abs(a * scale).max())


def test_a_new_width_and_more_probes_cost_what_they_should() -> None:
    operator = quadratic(VALUES)
    top = spectrum(operator, vectors=True)
    four = density(operator, 4, 30, top=top)
    before = operator.products
    wide, fine = four.curve(0.5)[1], four.curve(0.05)[1]
    assert wide.max() < fine.max()
    assert operator.products == before
    ten = density(operator, 10, 30, top=top, more=four)
    assert operator.products == before + 6 * 30
    assert np.array_equal(ten.nodes, density(operator, 10, 30, top=top).nodes)
    assert np.array_equal(ten.nodes[:4], four.nodes)
    with pytest.raises(ValueError, match="density got more= of seed 0, expected 1: leave more= out"):
        density(operator, 10, 30, 1, top=top, more=four)


def test_the_bulk_of_a_spiked_wishart_matrix() -> None:
    """Papyan (2020), figure 15a: outliers and the density sqrt((4 - x) / x) / (2 pi) of the bulk."""
    n = 1200
    z = np.random.default_rng(0).normal(size=(n, n)) / math.sqrt(n)
    matrix = torch.as_tensor(z @ z.T + np.diag(np.append([5.0, 4.0, 3.0], np.zeros(n - 3))))
    found = density(Operator.of(matrix), 10, 60, top=3)
    np.testing.assert_allclose(found.eigenvalues, [6.25, 16 / 3, 4.5], rtol=0.02)
    for low, high in ((0.5, 1.5), (1.0, 3.0), (2.0, 4.2)):
        exact = quad(lambda x: math.sqrt((4 - x) / x) / (2 * math.pi), low, min(high, 4))[0]
        share, stderr = found.mass(low, high)
        assert abs(share - exact) < 4 * stderr + 0.02


@pytest.mark.parametrize("values", [np.zeros(30), np.full(30, 2.0), np.append(np.zeros(20), [1, 2, 3])])
def test_few_different_values(values: np.ndarray) -> None:
    found = density(quadratic(values), 3, 20, top=2)
    np.testing.assert_allclose(found.weights.sum(axis=1), (len(values) - 2) / len(values))
    np.testing.assert_allclose(found.trace, values.sum(), atol=4 * found.trace_stderr + 1e-9)
    assert np.isfinite(found.curve()[1]).all()


def test_without_top_values_and_with_one_probe() -> None:
    found = density(quadratic(VALUES), 1, 20, top=0)
    assert found.eigenvalues.shape == (0,)
    assert np.isnan(found.curve()[2]).all() and math.isnan(found.trace_stderr)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"probes": 0}, "density got probes=0, expected a whole number >= 1"),
        ({"steps": 2.5}, "density got steps=2.5, expected a whole number >= 1"),
        ({"top": -1}, "density got top=-1, expected a whole number >= 1"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        density(quadratic(VALUES), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="density got top= without vectors of 505 entries"):
        density(quadratic(VALUES), top=spectrum(quadratic(VALUES)))
    with pytest.raises(ValueError, match="a density curve got width=0, expected a finite number"):
        density(quadratic(VALUES), 1, 5).curve(0)
