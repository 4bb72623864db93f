"""Curvature by parts, along training, and by other tools, against dense Hessians."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sharpscope.analyzers.spectra.cross_check import cross_check
from sharpscope.analyzers.spectra.curvature import curvature
from sharpscope.analyzers.spectra.spectrum import spectrum
from sharpscope.analyzers.spectra.track import track
from sharpscope.curvature.operators import Operator, hessian
from sharpscope.problem.problem import Problem


def net() -> tuple[nn.Module, Problem]:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    data = (torch.randn(50, 6), torch.randint(0, 4, (50,)))
    return model, Problem(model, nn.CrossEntropyLoss(), data, batch_size=20)


def dense(problem: Problem) -> np.ndarray:
    operator = hessian(problem)
    matrix = torch.stack([operator @ row for row in torch.eye(operator.size)]).numpy()
    return (matrix + matrix.T) / 2


def test_layers_against_the_dense_blocks(rng_guard: object) -> None:
    _, problem = net()
    rng_guard()  # type: ignore[operator]
    matrix = dense(problem)
    found = curvature(problem, k=3, tol=1e-6, trace_products=400)
    assert found.parts == ("0", "2")
    own = [np.arange(56), np.arange(56, 92)]
    assert found.sizes.tolist() == [56, 36]
    values, vectors = np.linalg.eigh(matrix)
    for place, rows in enumerate(own):
        inside = matrix[np.ix_(rows, rows)]
        assert abs(found.eigenvalues[place] - np.linalg.eigvalsh(inside)[-1]) <= found.residuals[place] + 1e-12
        assert abs(found.traces[place] - np.trace(inside)) < 4 * found.trace_stderr[place]
        np.testing.assert_allclose(found.captured[:, place], (vectors[rows, :][:, :-4:-1] ** 2).sum(axis=0), atol=1e-4)
    np.testing.assert_allclose(found.captured.sum(axis=1), 1.0)
    np.testing.assert_allclose(found.trace_share.sum(), 1.0)
    np.testing.assert_allclose(found.top, values[:-4:-1], rtol=1e-6)


def test_a_mask_and_its_complement() -> None:
    _, problem = net()
    mask = torch.rand(92) < 0.3
    found = curvature(problem, {"mask": mask, "rest": ~mask}, k=1)
    matrix = dense(problem)
    inside = matrix[np.ix_(mask.numpy(), mask.numpy())]
    np.testing.assert_allclose(found.eigenvalues[0], np.linalg.eigvalsh(inside)[-1], rtol=1e-4)
    assert found.sizes.sum() == 92
    top = spectrum(problem, 1, vectors=True)
    again = curvature(problem, {"mask": mask, "rest": ~mask}, k=1, top=top)
    assert again.products < found.products
    np.testing.assert_allclose(again.captured, found.captured)


def test_a_block_that_curves_downwards_has_a_negative_largest_eigenvalue() -> None:
    operator = Operator.of(torch.diag(torch.tensor([3.0, 2.0, -1.0, -2.0])))
    low = torch.tensor([False, False, True, True])
    assert curvature(operator, {"low": low}, k=1).eigenvalues[0] == pytest.approx(-1.0)


def test_bad_parts_are_refused() -> None:
    operator = Operator.of(torch.eye(4))
    with pytest.raises(ValueError, match="without parameter names, expected parts= or a Problem"):
        curvature(operator)
    with pytest.raises(ValueError, match="curvature got an empty part 'none', expected at least one coordinate"):
        curvature(operator, {"none": torch.zeros(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match="curvature got no part"):
        curvature(operator, {})
    with pytest.raises(ValueError, match="curvature got trace_products=1, expected 2 or more"):
        curvature(operator, {"all": torch.ones(4, dtype=torch.bool)}, trace_products=1)
    with pytest.raises(ValueError, match=r"got a mask of shape \(3,\), expected \(4,\)"):
        curvature(operator, {"odd": torch.ones(3, dtype=torch.bool)})


def test_track_agrees_with_cold_starts_and_is_cheaper() -> None:
    model, problem = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    def steps():  # type: ignore[no-untyped-def]
        for step in range(8):
            yield step, hessian(problem)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    x, y = problem.batches[0].args[0], problem.batches[0].targets
    operators = list(steps())
    warm, cold = track(operators), track(operators, warm=False)
    assert warm.steps.tolist() == list(range(8))
    assert np.all(np.abs(warm.eigenvalues - cold.eigenvalues) <= warm.residuals + cold.residuals)
    assert warm.products.sum() < 0.75 * cold.products.sum()
    assert len(set(cold.eigenvalues[:, 0])) == 8
    with pytest.raises(ValueError, match="track got no step"):
        track({})


def test_track_chooses_how_products_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def spy(problem: Problem, *, mode: str) -> Operator:
        asked.append(mode)
        return hessian(problem, mode="double-backward" if mode == "auto" else mode)

    monkeypatch.setattr("sharpscope.analyzers.spectra.track.hessian", spy)
    track((step, net()[1]) for step in range(3))
    assert asked == ["auto", "double-backward", "double-backward"]


@pytest.mark.parametrize("tool", ["pyhessian", "curvlinops"])
def test_cross_check(tool: str) -> None:
    pytest.importorskip(tool)
    model, problem = net()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cross_check(problem, tool, k=2, tol=1e-5)  # type: ignore[arg-type]
    true = np.linalg.eigvalsh(dense(problem))[::-1][:2]
    np.testing.assert_allclose(found.eigenvalues, true, rtol=1e-6)
    np.testing.assert_allclose(found.others, true, rtol=1e-3)
    assert np.all(np.abs(found.differences) < 1e-3)
    assert "lambda_2" in found.table() and found.tool.split()[0] in found.table()
    assert model.training and bool((model[0].weight.grad == 1).all()) and model[2].weight.grad is None


def test_cross_check_refuses_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    _, problem = net()
    monkeypatch.setitem(sys.modules, "curvlinops", None)  # as where it is not installed
    text = r"is not installed, expected curvlinops-for-pytorch: pip install 'sharpscope\[check\]'"
    with pytest.raises(ImportError, match=text):
        cross_check(problem)
    with pytest.raises(ValueError, match="got against='other', expected one of pyhessian, curvlinops"):
        cross_check(problem, "other")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cross_check got a Operator, expected a Problem"):
        cross_check(hessian(problem))  # type: ignore[arg-type]
