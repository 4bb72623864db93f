"""Products are counted, shaped and typed; the Hessian is a symmetric, linear operator frozen at its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sharpscope.operators import Operator, hessian
from sharpscope.problem import Problem


def test_of_a_matrix() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    operator = Operator.of(matrix, "pair")
    assert (operator @ torch.tensor([1.0, 2.0])).equal(torch.tensor([4.0, 7.0]))
    assert (operator.products, operator.size, operator.dtype, operator.device.type) == (1, 2, torch.float64, "cpu")
    assert repr(operator) == "Operator(pair, size=2, dtype=torch.float64, device=cpu)"


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (torch.zeros(3), r"got shape \(3,\), expected \(n, n\)"),
        (torch.zeros(3, 2), r"got shape \(3, 2\), expected \(n, n\)"),
        (torch.eye(2, dtype=torch.long), "got dtype torch.int64, expected real floating point"),
        (torch.eye(2, dtype=torch.complex128), "got dtype torch.complex128, expected real floating point"),
        (torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]), "entries that are not finite"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), r"not symmetric, expected A = A\^T"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]) * 1e-12, r"not symmetric, expected A = A\^T"),
    ],
)
def test_of_anything_else_is_refused(matrix: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Operator.of(matrix)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 1, 1), ()])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    operator = Operator.of(torch.eye(2))
    with pytest.raises(
        ValueError, match=r"the matrix got a vector of shape \(.*\), expected \(2,\) or \(2, k\): flatten it"
    ):
        operator @ torch.zeros(shape)
    assert operator.products == 0


@pytest.mark.parametrize("product", [lambda v: v[:, None], lambda v: v.float(), lambda v: v[:2]])
def test_a_product_unlike_its_vector_is_refused(product: Any) -> None:
    with pytest.raises(ValueError, match=r"a product of the operator got torch\..*, expected torch.float64 of shape"):
        Operator(product, 3, dtype=torch.float64) @ torch.ones(3)


def test_the_hessian_is_linear_symmetric_and_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    problem = Problem(model, nn.MSELoss(), (torch.randn(6, 3), torch.randn(6, 2)), batch_size=4)
    operator = hessian(problem)
    u, v = torch.randn(2, operator.size)
    hu, hv = operator @ u, operator @ v
    assert float((operator @ (u - 2 * v) - hu + 2 * hv).norm()) < 1e-12
    assert abs(float(u @ hv - v @ hu)) < 1e-12
    with torch.no_grad():
        model[0].weight.add_(1)
    assert (operator @ u).equal(hu)
    assert operator.products == 4
    assert operator.text == "Hessian of Sequential, MSELoss(mean), 6 examples, eval mode, float64"


def test_linear_regression_in_closed_form() -> None:
    x, y = torch.randn(9, 4), torch.randn(9, 1)
    operator = hessian(Problem(nn.Linear(4, 1, bias=False), nn.MSELoss(), (x, y), batch_size=2))
    dense = torch.stack([operator @ e for e in torch.eye(4)])
    torch.testing.assert_close(dense, 2 / 9 * x.T @ x, rtol=1e-13, atol=1e-13)


def test_softmax_regression_in_closed_form() -> None:
    x, y = torch.randn(9, 4), torch.randint(0, 3, (9,))
    model = nn.Linear(4, 3, bias=False)
    operator = hessian(Problem(model, nn.CrossEntropyLoss(), (x, y), batch_size=2))
    dense = torch.stack([operator @ e for e in torch.eye(12)])
    p = torch.softmax(x @ model.weight.detach().T, 1)
    expected = sum(torch.kron(torch.diag(p[i]) - torch.outer(p[i], p[i]), torch.outer(x[i], x[i])) for i in range(9))
    torch.testing.assert_close(dense, expected / 9, rtol=1e-13, atol=1e-13)
