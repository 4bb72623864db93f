"""Products are counted, shaped and typed; the Hessian is a symmetric, linear operator frozen at its weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sharpscope.curvature.operators import Operator, fisher, ggn, hessian
from sharpscope.problem.problem import Problem


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


# -- algebra


def matrix_of(operator: Operator) -> torch.Tensor:
    return operator @ torch.eye(operator.size)


def symmetric(seed: int, n: int = 6) -> torch.Tensor:
    a = torch.randn(n, n, generator=torch.Generator().manual_seed(seed))
    return a + a.T


def net() -> tuple[nn.Module, Problem]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return model, Problem(model, nn.MSELoss(), (torch.randn(6, 3), torch.randn(6, 2)), batch_size=4)


def test_sums_and_multiples() -> None:
    a, b = symmetric(1), symmetric(2)
    one, two = Operator.of(a, "A"), Operator.of(b, "B")
    v = torch.randn(6)
    for operator, dense, text in [
        (one + two, a + b, "A + B"),
        (one - two, a - b, "A + -1 * B"),
        (-one, -a, "-1 * A"),
        (2 * (one + two) * np.float32(0.5), a + b, "0.5 * (2 * (A + B))"),
        (one * 3, 3 * a, "3 * A"),
    ]:
        torch.testing.assert_close(operator @ v, dense @ v, rtol=1e-14, atol=1e-13)
        assert operator.text == text
        assert operator.products == 1
    assert (one.products, two.products) == (5, 3)


def test_blocks() -> None:
    _, problem = net()
    for operator in (Operator.of(symmetric(1)), hessian(problem), 2 * hessian(problem), ggn(problem).restrict("0.*")):
        block = torch.randn(operator.size, 3)
        columns = torch.stack([operator @ v.contiguous() for v in block.T], 1)
        torch.testing.assert_close(operator @ block, columns, rtol=1e-12, atol=1e-14)
        assert (operator @ block[:, :0]).shape == (operator.size, 0)
        assert operator.products == 6


def test_a_shift_of_the_curvature() -> None:
    _, problem = net()
    operator = hessian(problem) + 0.5 * fisher(problem) - ggn(problem)
    v = torch.randn(operator.size)
    expected = hessian(problem) @ v + 0.5 * (fisher(problem) @ v) - ggn(problem) @ v
    torch.testing.assert_close(operator @ v, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda a: a + Operator.of(torch.eye(3)), ValueError, r"a sum got the matrix of size 6 .* expected the same"),
        (lambda a: a + Operator.of(torch.eye(6).float()), ValueError, r"torch.float32, cpu\), expected the same"),
        (lambda a: a * float("nan"), ValueError, "the matrix got the factor nan, expected a finite number"),
        (lambda a: a + 1, TypeError, "unsupported operand"),
        (lambda a: a - 1, TypeError, "unsupported operand"),
        (lambda a: a * a, TypeError, "unsupported operand"),
        (lambda a: a * True, TypeError, "unsupported operand"),
    ],
)
def test_what_does_not_add_up_is_refused(make: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        make(Operator.of(symmetric(1)))


# -- restriction


def test_restriction_to_anything() -> None:
    model, problem = net()
    operator = hessian(problem)
    dense = matrix_of(operator)
    mask = torch.zeros(problem.size, dtype=torch.bool)
    mask[16:24] = True  # 2.weight
    weight = {"2.weight": torch.ones(2, 4, dtype=torch.bool)}
    parts = [torch.full(p.shape, name == "2.weight") for name, p in model.named_parameters()]
    for where, text in [(mask, "8 of 26"), ("2.w*", "2.w* (8 of 26)"), (weight, "8 of 26"), (parts, "8 of 26")]:
        restricted = operator.restrict(where)
        torch.testing.assert_close(matrix_of(restricted), dense * mask * mask[:, None], rtol=1e-12, atol=1e-14)
        assert restricted.text == f"{operator.text}, restricted to {text}"
        assert restricted.size == 26
    layer = operator.restrict(model[2])
    assert layer.text.endswith("restricted to Linear (10 of 26)")
    torch.testing.assert_close(matrix_of(layer)[16:, 16:], dense[16:, 16:], rtol=1e-12, atol=1e-14)
    assert not matrix_of(layer)[:16].any()
    twice = operator.restrict("2.*").restrict("*weight")
    torch.testing.assert_close(matrix_of(twice), dense * mask * mask[:, None], rtol=1e-12, atol=1e-14)
    rest = operator.restrict(mask) + operator.restrict(~mask)
    torch.testing.assert_close(matrix_of(rest)[mask][:, mask], dense[mask][:, mask], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [hessian, ggn, fisher, partial(fisher, kind="model")])
def test_blocks_of_parameters_are_those_of_the_dense_matrix(make: Any) -> None:
    """Derivatives are taken in the parameters of the block alone: layer by layer, and entry by entry."""
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    data = (torch.randn(7, 1, 3, 3), torch.randint(0, 3, (7,)))
    problem = Problem(model, nn.CrossEntropyLoss(weight=torch.rand(3) + 0.5), data, batch_size=4)
    rows = torch.arange(problem.size)
    scattered = (torch.rand(problem.size) < 0.3) & (rows >= 10)  # nothing of the convolution
    places = {"0.*": rows < 10, "4.weight": (rows >= 14) & (rows < 38), model[1]: (rows >= 10) & (rows < 14)}
    for operator in (make(problem, mode="untimed"), make(problem, mode="double-backward", memory=0)):
        dense, vector = matrix_of(operator), torch.randn(problem.size)
        for where, kept in [*places.items(), (scattered, scattered)]:
            block = operator.block(where)
            torch.testing.assert_close(matrix_of(block), dense[kept][:, kept], rtol=1e-12, atol=1e-15)
            whole = kept * (dense @ (kept * vector))
            torch.testing.assert_close(operator.restrict(where) @ vector, whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("memory", [0, None])
def test_a_block_of_the_last_layer_is_much_cheaper(memory: int | None) -> None:
    """Counted in operations: nothing is pushed forward through the layers before it, or pulled back."""
    width = nn.Sequential(*[nn.Sequential(nn.Linear(20, 20), nn.Tanh()) for _ in range(10)])
    problem = Problem(
        nn.Sequential(width, nn.Linear(20, 3)), nn.CrossEntropyLoss(), (torch.randn(9, 20), torch.arange(9) % 3)
    )
    operator = hessian(problem, mode="untimed", memory=memory)
    whole, last = torch.randn(problem.size), operator.block("1.*")
    small = torch.randn(last.size)
    operator @ whole, last @ small  # tapes are recorded
    with _Counter() as all_of_it:
        operator @ whole
    with _Counter() as one:
        last @ small
    assert one.count < (0.6 if memory == 0 else 0.3) * all_of_it.count
    assert operator.products == 4


class _Counter(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (torch.ones(25, dtype=torch.bool), r"got a mask of shape \(25,\), expected \(26,\): make it of the shapes"),
        (torch.ones(26, dtype=torch.float32), r"got a mask of torch.float32, expected torch.bool: use mask.bool\(\)"),
        ([torch.ones(4, 3, dtype=torch.bool)], "got a mask of 1 tensors, expected 4: make it of the shapes"),
        ({"2.weight": torch.ones(4, 2, dtype=torch.bool)}, r"got a mask of shape \(4, 2\), expected \(2, 4\)"),
        ({"3.weight": torch.ones(2, dtype=torch.bool)}, "got a mask of '3.weight', expected names among 0.weight, 0.b"),
        ("3.*", r"got the pattern '3.\*' that holds none of its parameters, expected some among 0.weight, .*pattern"),
        (
            nn.Linear(3, 4),
            "got a layer Linear that holds none of its parameters, expected some among .*change the layer",
        ),
    ],
)
def test_bad_restrictions_are_refused(where: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        hessian(net()[1]).restrict(where)


def test_names_need_a_layout() -> None:
    with pytest.raises(
        ValueError, match=r"got restrict\(str\) and knows no parameter names, expected a boolean tensor"
    ):
        Operator.of(torch.eye(2)).restrict("fc.*")


# -- SciPy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scipy_finds_the_eigenvalues(dtype: torch.dtype) -> None:
    dense = symmetric(3, 30).to(dtype)
    operator = Operator.of(dense)
    exported = operator.to_scipy()
    start = np.ones(30, exported.dtype)
    values = eigsh(exported, k=3, which="LA", v0=start)[0][::-1]
    expected = torch.linalg.eigvalsh(dense.double()).flip(0)[:3].numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-5 if dtype == torch.float32 else 1e-12)
    assert operator.products > 3
    np.testing.assert_allclose(exported @ np.eye(30, dtype=exported.dtype), dense.numpy(), atol=1e-6)
    np.testing.assert_allclose(exported.rmatvec(start), dense.numpy() @ start, rtol=1e-4)


# -- the curvatures of a problem


def test_curvature_at_other_weights_and_later_buffers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    problem = Problem(model, nn.MSELoss(), (torch.randn(6, 3), torch.randn(6, 2)))
    elsewhere = [w + 0.1 for w in problem.weights]
    v = torch.randn(problem.size)
    for make in (hessian, ggn, fisher):
        first = make(problem, at=elsewhere)
        early = first @ v
        own = make(problem) @ v
        assert float((early - own).norm()) > 1e-3
        with torch.no_grad():
            for p, w in zip(model.parameters(), elsewhere, strict=True):
                p.add_(0.1)
                assert p.equal(w)
        assert (make(problem) @ v).equal(early)
        model[1].running_var.mul_(3.0)
        assert (first @ v).equal(early)
        assert float((make(problem) @ v - early).norm()) > 1e-3
        model[1].running_var.div_(3.0)
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1)
        elsewhere = [w + 0.1 for w in problem.weights]


def test_the_ggn_is_the_hessian_of_a_linear_model() -> None:
    model = nn.Linear(3, 4)
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.randn(6, 3), torch.randint(0, 4, (6,))))
    torch.testing.assert_close(matrix_of(ggn(problem)), matrix_of(hessian(problem)), rtol=1e-12, atol=1e-15)
    assert ggn(problem).text == "GGN of Linear, CrossEntropyLoss(mean), 6 examples, eval mode, float64"
    assert fisher(problem).text.startswith("empirical Fisher of Linear, ")
