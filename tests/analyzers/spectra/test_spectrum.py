"""The top of known spectra, of small nets against dense matrices and another tool, and of operators that lie."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharpscope.analyzers.spectra.spectrum import Spectrum, spectrum
from sharpscope.curvature.operators import Operator, fisher, ggn, hessian
from sharpscope.models.resnet import resnet20
from sharpscope.problem.problem import Problem, ProblemError
from tests.reference_curvature import CASES, TASKS, Dense, make_case, make_targets


def quadratic(values: Any, dtype: torch.dtype = torch.float64, seed: int = 0) -> Operator:
    """Q diag(values) Q^T with Q a product of three reflections: any size, any spectrum."""
    diagonal = torch.as_tensor(np.array(values, dtype=np.float64)).to(dtype)
    random = torch.Generator().manual_seed(seed)
    axes = [torch.randn(len(diagonal), generator=random, dtype=torch.float64) for _ in range(3)]
    axes = [(axis / axis.norm()).to(dtype) for axis in axes]

    def product(v: Tensor) -> Tensor:
        for axis in axes:
            v = v - 2 * axis * (axis @ v)
        v = diagonal * v
        for axis in reversed(axes):
            v = v - 2 * axis * (axis @ v)
        return v

    return Operator(product, len(diagonal), dtype=dtype)


def check(result: Spectrum, values: Any, rtol: float, epsilon: float = 2.3e-16) -> None:
    """The values, their order, and every residual as a bound (up to the rounding of the operator itself)."""
    k = len(result.eigenvalues)
    true = np.sort(np.asarray(values, dtype=np.float64))[::-1][: k + 1]
    scale = np.abs(np.asarray(values)).max()
    found = np.append(result.eigenvalues, result.guard)[: len(true)]
    residuals = np.append(result.residuals, result.guard_residual)[: len(true)]
    assert np.all(np.diff(found) <= 1e-12 * scale)
    assert np.all(np.abs(found[:k] - true[:k]) <= rtol * scale)
    assert np.all(np.abs(found - true) <= residuals + 20 * epsilon * scale)


BULK = np.linspace(-1, 1, 400)
SPECTRA: dict[str, np.ndarray] = {
    "spread": np.append(BULK, [2, 3, 4, 5, 6, 7]),
    "clustered": np.append(BULK, 5 + 1e-3 * np.arange(6)),
    "negative": np.append(np.linspace(-50, 0, 400), [1, 2, 3, 4, 5, 6]),
    "all-negative": np.append(np.linspace(-200, -100, 400), [-1, -2, -3, -4, -5, -6]),
    "low-rank": np.append(np.zeros(400), [1, 2, 3]),
    "low-rank-triple": np.append(np.zeros(400), [2, 2, 2]),
    "low-rank-pairs": np.append(np.zeros(400), [3, 3, 2, 2, 1, 1]),
    "zero": np.zeros(50),
    "identity": np.ones(300),
    "minus-identity": -np.ones(300),
    "triple": np.append(np.linspace(0, 1, 400), [10, 10, 10, 7, 6, 5]),
}


@pytest.mark.parametrize("basis", [None, 10])
@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("name", list(SPECTRA))
def test_known_spectra_at_any_scale(name: str, factor: float, basis: int | None) -> None:
    values = factor * SPECTRA[name]
    result = spectrum(quadratic(values), k=5, tol=1e-6, basis=basis)
    check(result, values, 1e-9)
    assert result.noise <= 1e-13 * max(np.abs(values).max(), 1e-300)


@pytest.mark.parametrize("name", ["spread", "negative", "low-rank", "low-rank-triple", "zero", "identity"])
def test_known_spectra_in_float32(name: str) -> None:
    result = spectrum(quadratic(SPECTRA[name], torch.float32), k=5)
    check(result, SPECTRA[name], 2e-5, 1.2e-7)
    assert result.noise <= 1e-5 * np.abs(SPECTRA[name]).max()


def test_a_multiple_eigenvalue_above_a_fast_spectrum() -> None:
    values = np.append(np.full(500, 1e-3), [2, 3, 4, 5, 6, 7, 8, 10, 10, 10])
    check(spectrum(quadratic(values)), values, 1e-5)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_million_coordinates(copies: int) -> None:
    values = np.append(
        np.random.default_rng(0).normal(0, 0.1, 10**6 - 6 * copies), np.repeat([5, 6, 7, 8, 9, 10], copies)
    )
    result = spectrum(quadratic(values), basis=10, starts=copies)
    check(result, values, 1e-5)
    assert result.size == 10**6
    assert result.products <= 30 * copies + 5  # of the probe


@pytest.mark.parametrize("seed", range(5))
def test_multiple_eigenvalues_take_two_starts(seed: int) -> None:
    values = np.append(np.linspace(0, 1, 400), [10, 10, 10, 7, 6, 6, 5, 4, 3, 2])
    check(spectrum(quadratic(values), seed=seed, starts=2), values, 1e-5)


@pytest.mark.parametrize("name", ["spread", "negative", "all-negative", "clustered", "low-rank", "zero"])
@pytest.mark.parametrize("basis", [None, 20])
def test_both_ends(name: str, basis: int | None) -> None:
    values = np.sort(SPECTRA[name])
    both = spectrum(quadratic(values), which="both", tol=1e-5, basis=basis, max_products=3000)
    low = spectrum(quadratic(values), which="smallest", tol=1e-5, basis=basis, max_products=3000)
    scale = np.abs(values).max()
    check(both, values, 1e-8)
    assert both.lowest is not None and both.lowest_residuals is not None
    for found, bounds in ((both.lowest, both.lowest_residuals), (low.eigenvalues, low.residuals)):
        np.testing.assert_allclose(found, values[:5], atol=1e-8 * scale)
        assert np.all(np.abs(found - values[:5]) <= bounds + 1e-14 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["ggn", "fisher"])
def test_a_lower_end_of_zeros(kind: str, dtype: torch.dtype) -> None:
    """What is 0 many times over is held to a tenth of the largest eigenvalue: 20 examples, 113 parameters."""
    model = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 5)).to(dtype)
    random = torch.Generator().manual_seed(1)
    data = (torch.randn(20, 12, generator=random).to(dtype), torch.randint(0, 5, (20,), generator=random))
    problem = Problem(model, nn.CrossEntropyLoss(), data)
    operator = ggn(problem) if kind == "ggn" else fisher(problem)
    values = np.sort(np.linalg.eigvalsh((operator @ torch.eye(operator.size, dtype=dtype)).double().numpy()))
    both, low = (spectrum(operator, k=3, which=which) for which in ("both", "smallest"))  # type: ignore[arg-type]
    np.testing.assert_allclose(both.eigenvalues, values[:-4:-1], rtol=1e-5)
    assert both.products < 2 * operator.size
    for found, bounds in ((both.lowest, both.lowest_residuals), (low.eigenvalues, low.residuals)):
        assert found is not None and bounds is not None
        assert np.all(np.abs(found) <= 2e-4 * values[-1]) and np.all(bounds <= 2e-4 * values[-1])


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_and_next_to_nothing(which: Any, dtype: torch.dtype) -> None:
    zero = spectrum(Operator(torch.zeros_like, 60, dtype=dtype), k=3, which=which)
    assert np.all(zero.eigenvalues == 0.0) and np.all(zero.residuals == 0.0) and zero.noise == 0.0
    assert zero.lowest is None or np.all(zero.lowest == 0.0)
    for values in (np.linspace(-1, 1, 60), np.append(np.zeros(57), [1.0, 2.0, 3.0])):
        tiny = spectrum(quadratic(1e-30 * values, dtype), k=3, which=which)
        true = np.sort(values)[:3] if which == "smallest" else np.sort(values)[:-4:-1]
        np.testing.assert_allclose(1e30 * tiny.eigenvalues, true, atol=2e-4)


def test_every_pair_is_confirmed_on_request() -> None:
    matrix = torch.diag(torch.as_tensor(SPECTRA["spread"]))
    each = spectrum(Operator.of(matrix), confirm="each", vectors=True)
    together = spectrum(Operator.of(matrix))
    assert each.products == together.products + 5
    assert np.array_equal(each.eigenvalues, together.eigenvalues)
    for value, bound, u in zip(each.eigenvalues, each.residuals, each.vectors, strict=True):
        assert abs(np.linalg.norm(matrix.numpy() @ u - value * u) - bound) < 1e-13
    assert np.all(each.residuals <= together.residuals)


@pytest.mark.parametrize("name", ["spread", "negative", "clustered"])
def test_errors_are_bounds_that_use_the_gaps(name: str) -> None:
    values = np.sort(SPECTRA[name])[::-1]
    for seed in range(10):
        result = spectrum(quadratic(values), seed=seed, tol=1e-3 if name != "clustered" else 1e-6)
        assert np.all(np.abs(result.eigenvalues - values[:5]) <= result.errors + 1e-14 * np.abs(values).max())
        assert np.all(result.errors <= result.residuals)
    assert result.errors.max() < 0.1 * result.residuals.max()


def test_a_warm_start_is_cheaper_and_agrees() -> None:
    values, random = np.append(BULK, [3, 4, 5, 6, 8, 12.0]), torch.Generator().manual_seed(3)
    first = quadratic(values)
    move = torch.randn(first.size, generator=random) / math.sqrt(first.size)
    second = Operator(lambda v: first @ v + 0.1 * move * (move @ v), first.size, dtype=torch.float64)
    before = spectrum(first, k=1, vectors=True)
    cold, warm = spectrum(second, k=1), spectrum(second, k=1, start=before)
    assert warm.products <= 0.8 * cold.products
    assert abs(warm.eigenvalues[0] - cold.eigenvalues[0]) <= warm.residuals[0] + cold.residuals[0]
    assert warm.guard + warm.guard_residual < warm.eigenvalues[0] - warm.residuals[0]
    with pytest.raises(ValueError, match="got start= with no vectors, expected a Spectrum with vectors of 406 entries"):
        spectrum(second, k=1, start=cold)
    with pytest.raises(ValueError, match=r"got start= with vectors of 406 entries, expected .* of 8 entries"):
        spectrum(quadratic(np.arange(8.0)), k=1, start=before)


def test_no_late_eigenvalue_is_missed_at_three_stages() -> None:
    """The 5th of close eigenvalues is the last to converge: random starts on a net early, midway and trained."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(120, 12, generator=random)
    y = (x @ torch.randn(12, 5, generator=random) + 0.5 * torch.randn(120, 5, generator=random)).argmax(1)
    model = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for step in range(61):
        if step in (2, 8, 60):
            op = hessian(Problem(model, nn.CrossEntropyLoss(), (x, y)))
            matrix = torch.stack([op @ row for row in torch.eye(op.size)])
            matrix = (matrix + matrix.T) / 2
            true = np.sort(np.linalg.eigvalsh(matrix.numpy()))[::-1][:5]
            dense = Operator.of(matrix.float())
            for seed in range(40):
                found = spectrum(dense, seed=seed)
                assert np.all(np.abs(found.eigenvalues - true) <= found.residuals + 1e-6 * true[0]), (step, seed)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def test_the_repr_tells_values_and_errors() -> None:
    text = repr(spectrum(quadratic(SPECTRA["spread"]), k=2, which="both"))
    assert text.startswith("Spectrum(eigenvalues=[7 +- ")
    assert ", lowest=[-1 +- " in text
    assert "ratio=1.16667 +- " in text


@pytest.mark.parametrize(
    ("values", "k"), [([3.0], 1), ([1.0, 2.0], 1), (range(1, 9), 8), (np.ones(8), 8), ([-1, 0], 2)]
)
def test_the_whole_spectrum(values: Any, k: int) -> None:
    result = spectrum(quadratic(list(values)), k=k)
    check(result, list(values), 1e-13)
    assert math.isnan(result.guard) == (k == len(values)) == math.isnan(result.guard_residual)
    assert result.products <= len(values) + 1


def test_outliers_of_a_spiked_wishart_matrix() -> None:
    n = 1500
    z = np.random.default_rng(0).normal(size=(n, n)) / math.sqrt(n)
    matrix = z @ z.T + np.diag(np.append([5.0, 4.0, 3.0], np.zeros(n - 3)))
    result = spectrum(Operator.of(torch.as_tensor(matrix)), k=3)
    np.testing.assert_allclose(result.eigenvalues, [t**2 / (t - 1) for t in (5, 4, 3)], rtol=0.02)
    assert 3.9 < result.guard < 4.1  # the edge of the bulk


# -- nets


@pytest.mark.parametrize("task", ["ce-weights", "mse"])
@pytest.mark.parametrize("case", CASES)
def test_small_nets_against_the_dense_hessian(case: str, task: str) -> None:
    model_case, given = make_case(case), TASKS[task]
    targets = make_targets(given.targets, torch.Generator().manual_seed(5))
    dense = Dense(model_case, given, targets)
    matrix = dense.hessian(dense.point).numpy()
    true = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    data = (model_case.inputs, targets)
    problem = Problem(model_case.model, given.loss, data, batch_size=3, denominator=given.denominator)
    fine = spectrum(problem, k=5, tol=1e-8, vectors=True)
    check(fine, true, 1e-10)
    np.testing.assert_allclose(fine.eigenvalues, true[::-1][:5], rtol=1e-6)
    coarse = spectrum(problem, k=5, tol=1e-3)
    check(coarse, true, 1e-3)
    for value, bound, u in zip(fine.eigenvalues, fine.residuals, fine.vectors, strict=True):
        assert np.linalg.norm(matrix @ u - value * u) <= bound + 1e-13 * abs(true).max()
    exact = true[-1] / true[-5]
    assert abs(coarse.ratio - exact) <= coarse.ratio_error
    assert abs(fine.ratio - exact) <= fine.ratio_error + 1e-12 * abs(exact)


def test_an_all_ones_shift_of_the_last_bias_is_null() -> None:
    case, task = make_case("conv"), TASKS["ce-weights"]
    problem = Problem(case.model, task.loss, (case.inputs, torch.tensor([0, 1, 2, 2, 1, 0, 2])))
    operator = hessian(problem)
    shift = torch.zeros(operator.size)
    shift[-3:] = 1.0
    assert float((operator @ shift).norm()) < 1e-15
    u, v = torch.randn(2, operator.size)
    assert abs(float(u @ (operator @ v) - v @ (operator @ u))) < 1e-12


def test_a_pair_of_relu_layers_rescales() -> None:
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.randn(9, 4), torch.randint(0, 3, (9,))))
    (w1, w2), (g1, g2) = problem.weights, problem.gradient()
    product = hessian(problem) @ torch.cat([w1.reshape(-1), -w2.reshape(-1)])
    h1, h2 = product[:20].view(5, 4), product[20:].view(3, 5)
    assert float((h1 + g1).abs().max()) < 1e-14
    assert float((h2 - g2).abs().max()) < 1e-14


def test_weights_before_a_normalisation_rescale() -> None:
    """L(c w1, w2) = L(w1, w2) for weights before a LayerNorm without epsilon: H (w1, 0) = (-g1, 0)."""
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.LayerNorm(6, eps=0.0), nn.Tanh(), nn.Linear(6, 3))
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.randn(9, 4), torch.randint(0, 3, (9,))), batch_size=4)
    first = torch.arange(problem.size) < 24
    weights, gradient = (torch.cat([x.reshape(-1) for x in vec]) for vec in (problem.weights, problem.gradient()))
    for operator in (hessian(problem), hessian(problem, mode="double-backward")):
        assert float((operator @ (weights * first) + gradient * first).abs().max()) < 1e-13


def oracle(model: nn.Module, data: Any, k: int) -> np.ndarray:
    """Power iteration of another tool, whose own code warns."""
    pyhessian = pytest.importorskip("pyhessian")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = pyhessian.hessian(model, nn.CrossEntropyLoss(), data=data, cuda=False)
        found = np.array(other.eigenvalues(tol=1e-6, maxIter=5000, top_n=k)[0])
    for parameter in model.parameters():
        parameter.grad = None  # breaks the cycle of graph and gradient
    return found


def test_a_conv_net_against_pyhessian() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)).eval()
    data = (torch.randn(40, 1, 6, 6), torch.randint(0, 3, (40,)))
    result = spectrum(Problem(model, nn.CrossEntropyLoss(), data, batch_size=7), k=3, tol=1e-6)
    np.testing.assert_allclose(result.eigenvalues[:2], oracle(model, data, 2), rtol=1e-3)


def test_resnet20_in_float32_against_pyhessian() -> None:
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(3)
    model = resnet20(10).eval()
    data = (torch.randn(4, 3, 16, 16), torch.randint(0, 10, (4,)))
    result = spectrum(Problem(model, nn.CrossEntropyLoss(), data), k=1)
    np.testing.assert_allclose(result.eigenvalues, oracle(model, data, 1), rtol=1e-3)
    assert result.noise < 1e-4 * result.eigenvalues[0]


# -- what is reported


def test_products_are_counted_and_shared_with_the_operator() -> None:
    operator = quadratic(SPECTRA["spread"])
    operator @ torch.zeros(operator.size)
    first = spectrum(operator)
    assert operator.products == 1 + first.products
    assert spectrum(operator).products == first.products


def test_same_seed_same_bits_and_another_seed_within_the_residuals(rng_guard: Any) -> None:
    first, second, other = (spectrum(quadratic(SPECTRA["spread"]), seed=s, vectors=True) for s in (0, 0, 1))
    assert first == second
    assert first != other
    assert np.all(np.abs(first.eigenvalues - other.eigenvalues) <= first.residuals + other.residuals)


def test_the_problem_is_left_as_found_and_may_move_on() -> None:
    case = make_case("mlp")
    problem = Problem(case.model, nn.CrossEntropyLoss(), (case.inputs, torch.tensor([0, 1, 2, 2, 1, 0, 2])))
    operator = hessian(problem)
    before = {name: x.clone() for name, x in case.model.state_dict().items()}
    first = spectrum(operator)
    assert all(x.equal(before[name]) for name, x in case.model.state_dict().items())
    with torch.no_grad():
        case.model[0].weight.add_(1.0)
    assert spectrum(operator) == first  # an operator keeps the weights at which it was made
    assert spectrum(problem) != first


def test_ratio_and_its_error() -> None:
    def of(values: Any, residuals: Any) -> Spectrum:
        return Spectrum(np.array(values), np.array(residuals), 0.0, 0.0, 0.0, 1, 0, 9, 1e-3, 0, "by hand")

    result = of([8.0, 4.0], [0.8, 0.4])
    assert result.ratio == 2.0
    assert math.isclose(result.ratio_error, 8.8 / 3.6 - 2)
    for top, last in np.random.default_rng(0).uniform([7.2, 3.6], [8.8, 4.4], (100, 2)):
        assert abs(top / last - 2) <= result.ratio_error
    assert of([8.0, 0.1], [0.1, 0.1]).ratio_error == math.inf
    assert of([8.0, -4.0], [0.8, 0.4]).ratio == -2.0
    assert of([8.0, 0.0], [0.1, 0.0]).ratio == math.inf
    assert math.isnan(of([0.0, 0.0], [0.0, 0.0]).ratio)
    assert of([8.0], [0.1]).ratio_error == 0.0


# -- operators that lie


@pytest.mark.parametrize("size", [1e-10, 1e-6, 1e-4])
def test_a_noisy_product_shows_in_the_noise(size: float) -> None:
    base, random = quadratic(SPECTRA["spread"]), torch.Generator().manual_seed(1)

    def product(v: Tensor) -> Tensor:
        exact = base @ v
        return exact + size * exact.norm() * torch.randn(len(v), generator=random) / math.sqrt(len(v))

    result = spectrum(Operator(product, base.size, dtype=torch.float64))
    assert size < result.noise < 1e3 * size
    true = np.sort(SPECTRA["spread"])[::-1][:5]
    assert np.all(np.abs(result.eigenvalues - true) <= result.residuals)


def test_a_drifting_product_is_refused_with_the_number() -> None:
    base = quadratic(SPECTRA["spread"])
    drifting = Operator(lambda v: (base @ v) * (1 + 1e-4 * base.products), base.size, dtype=torch.float64)
    with pytest.raises(
        ArithmeticError, match=r"got tol=0.001, expected at least 0.0\d+: fresh products of the operator"
    ):
        spectrum(drifting)
    result = spectrum(drifting, tol=0.1)
    assert result.noise > 1e-3
    assert np.all(result.residuals >= result.noise)


def test_a_matrix_that_is_not_symmetric_is_refused_with_the_number() -> None:
    matrix = torch.diag(torch.as_tensor(SPECTRA["spread"]))
    matrix[0, -1] += 0.1
    with pytest.raises(ArithmeticError, match=r"expected at least 0.0\d+: .* beside an eigenvalue of 3.0"):
        spectrum(Operator(matrix.mv, len(matrix), dtype=torch.float64))


def test_a_tolerance_below_rounding_is_refused_before_any_product() -> None:
    operator = quadratic(SPECTRA["spread"], torch.float32)
    with pytest.raises(ValueError, match=r"got tol=1e-07, expected at least 4.8e-07, the rounding of torch.float32"):
        spectrum(operator, tol=1e-7)
    assert operator.products == 0


# -- bad input, in words


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"k": 0}, "got k=0, expected a whole number >= 1: change k"),
        ({"k": True}, "got k=True, expected a whole number >= 1"),
        ({"k": 2.0}, "got k=2.0, expected a whole number >= 1"),
        ({"k": 9}, "got k=9, expected at most the 8 coordinates of the operator: lower k"),
        ({"tol": 0}, r"got tol=0, expected a number in \(0, 1\): 1e-3 gives"),
        ({"tol": 1.0}, r"got tol=1.0, expected a number in \(0, 1\)"),
        ({"tol": float("nan")}, r"got tol=nan, expected a number in \(0, 1\)"),
        ({"tol": "fine"}, r"got tol='fine', expected a number in \(0, 1\)"),
        ({"basis": 6}, r"got basis=6, expected at least k \+ 4 = 7: raise basis"),
        ({"basis": 9.5}, "got basis=9.5, expected a whole number >= 1"),
        ({"basis": 0}, "got basis=0, expected a whole number >= 1"),
        ({"max_products": 0}, "got max_products=0, expected a whole number >= 1"),
        ({"starts": 0}, "got starts=0, expected a whole number >= 1"),
        ({"which": "top"}, "got which='top', expected one of largest, smallest, both: choose one"),
        ({"confirm": "all"}, "got confirm='all', expected one of together, each: choose one"),
        ({"which": "both", "basis": 10}, r"got basis=10, expected at least 2 k \+ 5 = 11: raise basis"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], text: str) -> None:
    operator = quadratic(np.arange(8.0))
    with pytest.raises(ValueError, match=text):
        spectrum(operator, **{"k": 3, **options})
    assert operator.products == 0


def test_neither_problem_nor_operator() -> None:
    with pytest.raises(TypeError, match="spectrum got a Linear, expected a Problem or an Operator"):
        spectrum(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_too_few_products() -> None:
    with pytest.raises(ArithmeticError, match=r"got 7 products without reaching tol=0.001 for 6 pairs .*max_products"):
        spectrum(quadratic(SPECTRA["spread"]), max_products=7)


def test_a_loss_that_is_not_finite() -> None:
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.randn(4, 2), torch.tensor([0, 1, 2, 0])))
    with pytest.raises(ProblemError, match="the loss got nan at these weights, expected a finite number"):
        spectrum(problem)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_both_ends_of_a_small_matrix_may_overlap(size: int) -> None:
    values = np.arange(size, 0, -1.0)
    for k in range(1, size + 1):
        result = spectrum(quadratic(values), k, which="both")
        assert result.lowest is not None
        np.testing.assert_allclose(result.eigenvalues, values[:k], rtol=1e-12)
        np.testing.assert_allclose(result.lowest, values[::-1][:k], rtol=1e-12)
