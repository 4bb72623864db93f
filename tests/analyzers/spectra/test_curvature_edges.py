"""Edges of the curvature analyzers: low ranks, lower ends, extreme scales, honest errors, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sharpscope as ss


def dense(values: np.ndarray, seed: int = 0) -> torch.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    found = torch.as_tensor((q * values) @ q.T)
    return (found + found.T) / 2


def test_a_lower_end_is_not_passed_over() -> None:
    values = np.r_[np.random.default_rng(5).standard_normal(300) * 0.01, np.geomspace(1, 100, 20)]
    for tol in (1e-2, 1e-3):
        found = ss.spectrum(ss.Operator.of(dense(values)), 5, tol, which="smallest")
        assert np.all(np.abs(found.eigenvalues - np.sort(values)[:5]) <= found.residuals + 1e-12)


def test_inference_mode_is_refused() -> None:
    problem = ss.Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(3, 2), torch.zeros(3, 1)))
    with torch.inference_mode():
        for call in (problem.gradient, lambda: ss.spectrum(problem, 1), lambda: ss.ggn(problem)):
            with pytest.raises(ss.ProblemError, match=r"under torch.inference_mode\(\), expected autograd"):
                call()


def test_density_of_low_rank_and_of_no_rest() -> None:
    low = ss.Operator.of(torch.diag(torch.tensor([0.0] * 95 + [1.0, 2, 3, 4, 5], dtype=torch.float64)))
    assert ss.density(low, 4, 30).mass(-0.5, 0.5)[0] == pytest.approx(0.95)
    centres, curve, *_ = ss.density(ss.Operator.of(torch.eye(4)), top=9).curve()
    assert curve.sum() * (centres[1] - centres[0]) == pytest.approx(1.0, abs=1e-5)


def test_tiny_scales() -> None:
    found = ss.spectrum(ss.Operator.of(dense(np.linspace(-1, 2, 60)) * 1e-200), 1)
    assert found.eigenvalues[0] / 1e-200 == pytest.approx(2.0)


def test_n_products_give_an_exact_trace() -> None:
    exact = ss.trace(ss.Operator.of(torch.diag(torch.arange(1.0, 6.0))), 40)
    assert (exact.value, exact.stderr) == (15.0, 0.0)


@pytest.mark.parametrize("name", ["flat", "outliers"])
def test_the_error_of_xtrace_is_calibrated(name: str) -> None:
    outliers = np.r_[np.random.default_rng(0).standard_normal(70) * 0.3, 3, 4, 5]
    values = np.linspace(-1, 2, 73) if name == "flat" else outliers
    matrix = dense(values)
    found = [ss.trace(ss.Operator.of(matrix), 40, seed, method="xtrace") for seed in range(200)]
    z = np.array([(one.value - values.sum()) / one.stderr for one in found])
    assert 0.90 <= np.mean(np.abs(z) < 2) <= 0.98


def test_refusals() -> None:
    operator = ss.Operator.of(torch.eye(3))
    problem = ss.Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(3, 2), torch.zeros(3, 1)))
    with pytest.raises(TypeError, match="got a mask of type int"):
        ss.hessian(problem).block([0, 1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="got a list, expected a tensor"):
        operator @ [1.0]  # type: ignore[operator]
    with pytest.raises(ValueError, match="expected ascending steps"):
        ss.track([(2, operator), (1, operator)])
    with pytest.raises(ValueError, match="got seed='a', expected a whole number"):
        ss.spectrum(operator, 1, seed="a")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["auto", "hutchinson", "xtrace"])
@pytest.mark.parametrize("factor", [1e-160, 1e170])
def test_traces_of_extreme_scales(method: str, factor: float) -> None:
    """Squares of products leave float64's range, the trace and its error do not."""
    matrix = dense(np.r_[np.linspace(-0.1, 0.2, 60), 3, 4])
    usual = ss.trace(ss.Operator.of(matrix), 20, method=method, diagonal=True)
    found = ss.trace(ss.Operator.of(matrix * factor), 20, method=method, diagonal=True)
    assert found.method == usual.method
    for name in ("value", "stderr", "frobenius", "frobenius_stderr", "diagonal", "diagonal_stderr"):
        assert getattr(found, name) / factor == pytest.approx(getattr(usual, name), rel=1e-9)


@pytest.mark.parametrize("factor", [1e-160, 1e170])
def test_traces_of_parts_of_extreme_scales(factor: float) -> None:
    matrix, first = dense(np.linspace(-1, 2, 40)), torch.arange(40) < 10
    parts = {"first": first, "rest": ~first}
    usual, found = (ss.curvature(ss.Operator.of(matrix * f), parts, k=1) for f in (1.0, factor))
    for name in ("traces", "trace_stderr", "total", "total_stderr"):
        assert getattr(found, name) / factor == pytest.approx(getattr(usual, name), rel=1e-9)


@pytest.mark.parametrize("seed", [1.5, True, "a"])
def test_seeds_are_whole_numbers(seed: object) -> None:
    problem = ss.Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(3, 2), torch.zeros(3, 1)))
    operator = ss.hessian(problem, mode="untimed")
    top = ss.spectrum(operator, 1, vectors=True)
    text = rf"got seed={seed!r}, expected a whole number: change seed"
    with pytest.raises(ValueError, match=f"curvature {text}"):
        ss.curvature(operator, k=1, seed=seed, top=top)
    for kind in ("empirical", "model"):
        with pytest.raises(ValueError, match=f"fisher {text}"):
            ss.fisher(problem, kind, seed=seed)


def test_weights_that_are_none_are_refused() -> None:
    problem = ss.Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(3, 2), torch.zeros(3, 1)))
    remedy = "give one tensor per trainable parameter, in their order"
    for at, name in ((3, "int"), ([1.0, 2.0], "float"), ({"weight": torch.ones(1, 2)}, "str")):
        for make in (ss.hessian, ss.ggn, ss.fisher):
            with pytest.raises(TypeError, match=f"at= got {name}, expected tensors: {remedy}"):
                make(problem, at=at)
    for at, text in (([torch.ones(1, 2)], "1 tensors, expected 2"), ([torch.ones(1, 2)] * 2, r"shape \(1, 2\), exp")):
        with pytest.raises(ValueError, match=f"at= got {text}.*: {remedy}"):
            ss.hessian(problem, at=at)
