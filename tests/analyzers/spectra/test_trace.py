"""Traces, norms and diagonals of known matrices, and their standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sharpscope.analyzers.spectra.trace import part_traces, trace
from sharpscope.curvature.operators import Operator

N = 200


def matrix(name: str) -> torch.Tensor:
    random = np.random.default_rng(0)
    q, _ = np.linalg.qr(random.normal(size=(N, N)))
    values = {
        "flat": np.linspace(-1, 2, N),
        "decay": 100 * 0.8 ** np.arange(N),
        "outliers": np.append(random.normal(0, 0.1, N - 5), [50, 40, 30, 20, 10]),
    }[name]
    found = torch.as_tensor((q * values) @ q.T)
    return (found + found.T) / 2


@pytest.mark.parametrize(("name", "best"), [("flat", "hutchinson"), ("decay", "xtrace"), ("outliers", "xtrace")])
def test_auto_takes_the_better_method_and_errors_are_honest(name: str, best: str) -> None:
    a = matrix(name)
    operator, true = Operator.of(a), float(a.trace())
    spread = {}
    for method in ("hutchinson", "xtrace"):
        found = [trace(operator, 40, seed, method=method) for seed in range(40)]  # type: ignore[arg-type]
        distances = np.array([one.value - true for one in found])
        spread[method] = math.sqrt(np.mean(distances**2))
        assert abs(distances.mean()) < 4 * spread[method] / math.sqrt(40)  # unbiased
        claimed = math.sqrt(np.mean([one.stderr**2 for one in found]))
        assert 0.5 < spread[method] / claimed < 2
        assert {one.products for one in found} == {40}
        assert {one.method for one in found} == {method}
    assert min(spread, key=spread.__getitem__) == best
    assert {trace(operator, 40, seed).method for seed in range(5)} == {best}


def test_hutchinson_has_the_variance_of_theory() -> None:
    a = matrix("flat")
    theory = math.sqrt(2 * float((a**2).sum() - (a.diagonal() ** 2).sum()) / 40)
    found = [trace(Operator.of(a), 40, seed, method="hutchinson").stderr for seed in range(40)]
    assert abs(np.mean(found) / theory - 1) < 0.1


def test_norm_and_diagonal() -> None:
    a = matrix("outliers")
    found = trace(Operator.of(a), 400, diagonal=True, method="hutchinson")
    assert abs(found.frobenius - float(a.norm())) < 4 * found.frobenius_stderr
    assert found.diagonal is not None and found.diagonal_stderr is not None
    z = (found.diagonal - a.diagonal().numpy()) / found.diagonal_stderr
    assert 0.7 < z.std() < 1.4
    assert np.isclose(found.diagonal.sum(), found.value)


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_a_low_rank_is_exact(rank: int) -> None:
    values = torch.zeros(60)
    values[:rank] = torch.arange(1.0, rank + 1)
    found = trace(Operator.of(torch.diag(values)), 40)
    assert found.stderr == 0.0
    assert abs(found.value - values.sum()) < 1e-12
    assert found.products < 40


def test_parts_share_the_products_and_add_up() -> None:
    a = matrix("flat")
    operator, mask = Operator.of(a), torch.arange(N) % 3 == 0
    values, errors = part_traces(operator, [mask, ~mask], 200, 0)
    assert operator.products == 200
    assert np.isclose(values[0] + values[1], values[2])
    true = [a.diagonal()[mask].sum(), a.diagonal()[~mask].sum(), a.trace()]
    assert np.all(np.abs(values - np.array(true)) < 4 * errors)


def test_bad_arguments_are_refused() -> None:
    operator = Operator.of(torch.eye(3))
    with pytest.raises(ValueError, match="trace got products=1, expected at least 2, for an error: raise products"):
        trace(operator, 1)
    with pytest.raises(ValueError, match="trace got method='hutch', expected one of auto, hutchinson, xtrace"):
        trace(operator, method="hutch")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="trace got a Linear, expected a Problem or an Operator"):
        trace(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    bad = Operator(lambda v: v * math.nan, 3, dtype=torch.float64, text="thing")
    with pytest.raises(ArithmeticError, match="a product of the thing is not finite"):
        trace(bad)
