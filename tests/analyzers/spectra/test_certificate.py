"""What is certified holds as often as it says, and copies of multiple eigenvalues are found at the defaults."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sharpscope.analyzers.spectra._certificate import certified, indexed, outer
from sharpscope.analyzers.spectra._lanczos import thick_restart
from sharpscope.analyzers.spectra.curvature import curvature
from sharpscope.analyzers.spectra.density import density
from sharpscope.analyzers.spectra.spectrum import Spectrum, spectrum
from sharpscope.analyzers.spectra.track import track
from sharpscope.analyzers.surfaces.curvature_map import curvature_map
from sharpscope.analyzers.surfaces.named_directions import hessian_directions
from sharpscope.curvature.operators import Operator, ggn, hessian
from sharpscope.problem.problem import Problem


def diagonal(values: Any) -> Operator:
    """Values on the diagonal: random starts make every basis alike."""
    held = torch.as_tensor(np.asarray(values, dtype=np.float64))
    return Operator(lambda v: held * v, len(held), dtype=torch.float64)


# -- the bound


def lanczos(values: np.ndarray, steps: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonals and what is beside them, each (draws, steps), of random starts, orthogonalised throughout."""
    q = np.random.default_rng(seed).normal(size=(draws, len(values)))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    basis, alphas, betas = [], [], []
    for _ in range(steps):
        basis.append(q)
        w = values * q
        alphas.append((w * q).sum(axis=1))
        for _ in range(2):
            for u in basis:
                w = w - u * (u * w).sum(axis=1, keepdims=True)
        betas.append(np.linalg.norm(w, axis=1))
        q = w / betas[-1][:, None]
    return np.stack(alphas, 1), np.stack(betas, 1)


MADE_UP: dict[str, np.ndarray] = {
    "one far out": np.append(np.random.default_rng(0).normal(size=299), 30.0),
    "one out": np.append(np.random.default_rng(1).normal(size=299), 6.0),
    "one just out": np.append(np.linspace(-1, 1, 299), 1.3),
    "flat": np.linspace(0, 1, 300),
    "a pair out": np.append(np.random.default_rng(2).normal(size=298), [8.0, 8.0]),
    "half and half": np.repeat([-1.0, 1.0], 150) + np.linspace(0, 1e-3, 300),
    "decay": np.geomspace(1e-6, 1, 300),
}


@pytest.mark.parametrize("name", list(MADE_UP))
@pytest.mark.parametrize("steps", [1, 3, 5, 8])
def test_the_bound_fails_no_more_often_than_it_says(name: str, steps: int) -> None:
    values, draws = MADE_UP[name], 1000
    for failure in (0.3, 0.05):
        for sign in (1.0, -1.0):
            alphas, betas = lanczos(sign * values, steps, draws, seed=steps)
            bounds = np.array([outer(a, b, len(values), failure) for a, b in zip(alphas, betas, strict=True)])
            failed = np.count_nonzero((sign * values).max() > bounds * (1 + 1e-9) + 1e-9)
            assert failed <= failure * draws + 4.0 * math.sqrt(failure * (1.0 - failure) * draws)


def test_the_bound_is_as_tight_as_its_probability() -> None:
    """One eigenvalue far out after two steps: it is missed as often as its share of the start is too small."""
    values, draws, failure = np.append(np.zeros(299), 1.0) + 1e-3 * np.random.default_rng(3).normal(size=300), 4000, 0.3
    alphas, betas = lanczos(values, 2, draws, seed=0)
    bounds = np.array([outer(a, b, 300, failure) for a, b in zip(alphas, betas, strict=True)])
    failed = np.count_nonzero(values.max() > bounds) / draws
    assert 0.2 < failed < failure + 4.0 * math.sqrt(failure * (1.0 - failure) / draws)


def test_the_bound_by_hand() -> None:
    """One step: p_1(x) = (x - alpha) / beta, in two dimensions, where the share of u is cos^2 of a uniform angle."""
    share = math.cos(0.5 * math.pi * (1.0 - 0.1)) ** 2
    expected = 2.0 + 3.0 * math.sqrt(1.0 / share - 1.0)
    assert outer(np.array([2.0]), np.array([3.0]), 2, 0.1) == pytest.approx(expected, abs=1e-5)
    assert 1e170 * outer(np.array([2.0]), np.array([3.0]), 2, 0.1) == pytest.approx(
        outer(np.array([2e170]), np.array([3e170]), 2, 0.1), rel=1e-5
    )


def test_the_bound_is_the_ritz_value_where_all_was_seen() -> None:
    assert outer(np.array([2.0]), np.array([0.0]), 100, 0.01) == 2.0  # an invariant subspace
    assert outer(np.array([2.0, 2.0]), np.array([1.0, 0.5]), 2, 0.01) == pytest.approx(3.0)  # all dimensions
    assert outer(np.zeros(1), np.zeros(1), 100, 0.01) == 0.0


def test_errors_of_rank_reach_over_later_ones() -> None:
    values, residuals = np.array([5.0, 4.0, 3.999, 1.0]), np.array([1e-6, 1e-6, 0.01, 0.1])
    np.testing.assert_allclose(indexed(values, residuals), [1e-6, 0.009, 0.01, 0.1], rtol=1e-9)


def test_certified_against_dense_matrices() -> None:
    """Whatever is certified holds: values and residuals of random subspaces, the rest bounded by its true top."""
    random, good = np.random.default_rng(0), 0
    for _ in range(300):
        true = np.sort(np.append(random.uniform(-1, 1, 9), random.uniform(1, 3, 3)))[::-1]
        vectors, _ = np.linalg.qr(np.eye(12) + 10.0 ** random.uniform(-4, -1) * random.normal(size=(12, 12)))
        within = vectors[:, :3].T @ np.diag(true) @ vectors[:, :3]
        values, turn = np.linalg.eigh(within)
        u, values = vectors[:, :3] @ turn[:, ::-1], values[::-1]
        residuals = np.linalg.norm(true[:, None] * u - u * values, axis=0)
        away = np.eye(12) - u @ u.T
        beyond = float(np.linalg.eigvalsh(away @ np.diag(true + 10.0) @ away)[-1]) - 10.0
        errors = indexed(values, residuals)
        sure = certified(values, residuals, errors, beyond)
        assert np.all(np.abs(values - true[:3])[sure] <= errors[sure] + 1e-13)
        good += int(sure.sum())
        assert not certified(values, residuals, errors, 4.0).any()
    assert good > 600


# -- spectra with copies

BULK = np.abs(np.random.default_rng(0).normal(0, 1, 3000))
COPIES: dict[str, np.ndarray] = {
    "pairs over a bulk": np.append(BULK, np.repeat([200.0, 150, 120, 90, 80], 2)),
    "one pair over a bulk": np.append(BULK, [200.0, 200, 150, 130, 120, 100, 90, 85, 82, 80]),
    "one triple in the middle": np.append(BULK, [200.0, 150, 150, 150, 130, 120, 100, 90]),
    "decay in pairs": np.append(BULK, np.repeat(100 * np.arange(1, 51) ** -0.5, 2)),
    "each ten times": np.repeat(np.geomspace(1, 1e-4, 20), 10),
    "each twice": np.repeat(np.geomspace(1, 1e-4, 20), 2),
    "negative, in pairs": np.append(-50 - BULK, np.repeat([5.0, 4, 3, 2, 1], 2)),
}


@pytest.mark.parametrize("name", list(COPIES))
def test_no_copy_is_missed_at_the_defaults(name: str) -> None:
    true, operator = np.sort(COPIES[name])[::-1], diagonal(COPIES[name])
    for seed in range(20):
        found = spectrum(operator, seed=seed)
        assert np.all(np.abs(found.eigenvalues - true[:5]) <= found.residuals + 1e-13)
        assert abs(found.ratio - true[0] / true[4]) <= found.ratio_error
        assert true[6] <= found.beyond * (1 + 1e-12)
        assert found.separated == (found.certified == 5)
        assert np.all(found.residuals <= 4e-3 * true[:5])  # tol, and what later ones reach above


@pytest.mark.parametrize("which", ["smallest", "both"])
def test_no_copy_is_missed_at_the_lower_end(which: Any) -> None:
    values = np.append(BULK, [-40.0, -40, -40, -30, -30, -20, 60, 60, 50, 40, 30, 20])
    for seed in range(10):
        found = spectrum(diagonal(values), seed=seed, which=which)
        low, errors = (
            (found.eigenvalues, found.residuals) if which == "smallest" else (found.lowest, found.lowest_residuals)
        )
        assert low is not None and errors is not None
        assert np.all(np.abs(low - [-40, -40, -40, -30, -30]) <= errors + 1e-12)
        sure, beyond = (
            (found.certified, found.beyond) if which == "smallest" else (found.lowest_certified, found.lowest_beyond)
        )
        assert sure == 5 and -30 + 1e-3 <= beyond <= 0.0
        assert which == "smallest" or np.allclose(found.eigenvalues, [60, 60, 50, 40, 30], rtol=1e-5)


def test_the_certificate_of_whole_spectra_holds_as_often_as_it_says() -> None:
    """At a confidence of one half the copies that remain are above ``beyond`` in half of the runs at most."""
    values, draws = np.append(np.linspace(-1, 1, 200), [1.5, 1.5, 1.45, 1.4, 1.35, 1.3]), 300
    failed = wrong = 0
    for seed in range(draws):
        found = spectrum(diagonal(values), k=2, tol=1e-2, seed=seed, confidence=0.5)
        failed += found.beyond < np.sort(values)[-4]
        wrong += bool((np.abs(found.eigenvalues - 1.5) > found.residuals)[: found.certified].any())
    assert failed <= 0.5 * draws and wrong <= 0.5 * draws


def net(kind: str, outputs: int, seed: int, dtype: torch.dtype) -> Problem:
    random = torch.Generator().manual_seed(seed)
    if kind == "linear":
        model, x = nn.Linear(20, outputs), torch.randn(200, 20, generator=random) * torch.logspace(0, -1, 20)
    elif kind == "last layer":
        model = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, outputs))
        x = torch.randn(150, 10, generator=random)
        model[0].requires_grad_(False)
    else:
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, outputs))
        x = torch.randn(100, 1, 8, 8, generator=random)
        model[0].requires_grad_(False)
    y = torch.randn(len(x), outputs, generator=random)
    return Problem(model.to(dtype), nn.MSELoss(), (x.to(dtype), y.to(dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [2, 10])
@pytest.mark.parametrize("kind", ["linear", "last layer", "conv and pool"])
def test_every_eigenvalue_of_a_regression_is_as_multiple_as_its_outputs(
    kind: str, outputs: int, dtype: torch.dtype
) -> None:
    rounding = 20 * float(torch.finfo(dtype).eps)
    problem = net(kind, outputs, 0, dtype)
    operator = hessian(problem, mode="untimed")
    matrix = torch.stack([operator @ row for row in torch.eye(operator.size, dtype=dtype)]).double()
    true = np.linalg.eigvalsh(((matrix + matrix.T) / 2).numpy())[::-1]
    assert true[0] - true[outputs - 1] <= rounding * true[0] < true[0] - true[outputs]
    for seed in range(20):
        found = spectrum(operator, seed=seed)
        assert np.all(np.abs(found.eigenvalues - true[:5]) <= found.residuals + rounding * true[0])
        assert abs(found.ratio - true[0] / true[4]) <= found.ratio_error + 2 * rounding * found.ratio


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["smallest", "both"])
def test_zeros_of_a_low_rank_ggn_are_not_passed_over(which: Any, dtype: torch.dtype) -> None:
    """15 examples of three classes: at most 30 of 99 eigenvalues are not 0."""
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        model = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
        data = (torch.randn(15, 12, generator=random).to(dtype), torch.randint(0, 3, (15,), generator=random))
        operator = ggn(Problem(model, nn.CrossEntropyLoss(), data), mode="untimed")
        found = spectrum(operator, which=which, seed=seed)
        low, errors = (
            (found.eigenvalues, found.residuals) if which == "smallest" else (found.lowest, found.lowest_residuals)
        )
        assert low is not None and errors is not None
        assert np.all(np.abs(low) <= errors + 1e-6)


def test_every_consumer_is_right_on_copies() -> None:
    problem = net("linear", 2, 0, torch.float64)
    operator = hessian(problem, mode="untimed")
    matrix = torch.stack([operator @ row for row in torch.eye(operator.size)]).numpy()
    true = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1]
    np.testing.assert_allclose(density(operator, 2, 20).eigenvalues, true[:5], rtol=1e-5)
    blocks = {"all": torch.ones(operator.size, dtype=torch.bool)}
    whole = curvature(operator, blocks, k=5)
    np.testing.assert_allclose(whole.top, true[:5], rtol=1e-5)
    np.testing.assert_allclose(whole.eigenvalues, true[:1], rtol=1e-5)
    followed = track(dict.fromkeys(range(3), operator), k=4)
    np.testing.assert_allclose(followed.eigenvalues, np.tile(true[:4], (3, 1)), rtol=1e-3)
    directions = hessian_directions(problem)
    tops = [torch.cat([x.reshape(-1) for x in vector]).numpy() for vector in directions.vectors]
    np.testing.assert_allclose([v @ matrix @ v for v in tops], true[:2], rtol=1e-5)
    over = curvature_map(problem, resolution=2)
    np.testing.assert_allclose(over.highest, np.full((2, 2), true[0]), rtol=1e-3)


def test_a_probe_costs_five_products_and_leaves_the_result_as_it_was() -> None:
    values = np.append(np.random.default_rng(0).normal(size=500), [10.0, 20, 30, 40, 50, 60])
    found = spectrum(diagonal(values))
    bare = spectrum(diagonal(values), max_products=found.products - 6)  # none is left for the probe
    assert np.array_equal(found.eigenvalues, bare.eigenvalues) and bare.products == found.products - 5
    assert bare.certified == 0 and bare.beyond == math.inf and "not separated" in repr(bare)
    longer = spectrum(diagonal(values), probe=12)
    assert found.products <= longer.products <= found.products + 7
    assert longer.certified >= found.certified


def test_what_is_certified_is_said() -> None:
    values = np.append(np.zeros(300), [3.0, 5, 7])
    text = repr(spectrum(diagonal(values), k=2))
    assert "certified=2 of 2, others below " in text and "(at 99 %)" in text and "not separated" not in text
    assert "lowest 0 of 2, others above " in repr(spectrum(diagonal(values), k=2, which="both"))
    assert "others above " in repr(spectrum(diagonal(-values), k=2, which="smallest", confidence=0.999))
    old = Spectrum(np.array([2.0, 1.0]), np.array([0.1, 0.1]), 0.0, 0.0, 0.0, 1, 0, 9, 1e-3, 0, "of a former version")
    assert "(not separated), not certified," in repr(old)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"confidence": 1.0}, r"got confidence=1.0, expected a number in \(0, 1\)"),
        ({"confidence": 0.0}, r"got confidence=0.0, expected a number in \(0, 1\)"),
        ({"confidence": "sure"}, r"got confidence='sure', expected a number in \(0, 1\)"),
        ({"probe": 4}, "got probe=4, expected at least 5, as fewer miss copies: raise probe"),
        ({"probe": 5.0}, "got probe=5.0, expected a whole number >= 1"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], text: str) -> None:
    operator = diagonal(np.arange(12.0))
    with pytest.raises(ValueError, match=text):
        spectrum(operator, k=3, **options)
    assert operator.products == 0


def test_what_a_branch_leaves_is_resumed() -> None:
    """A u = theta u + what the result says, to rounding, after copies were missed and the basis was condensed."""
    values = COPIES["each ten times"]
    for basis in (12, 30):
        ritz = thick_restart(diagonal(values), 6, 1e-6, 0, basis, 2000)
        rest = torch.as_tensor(values) * ritz.vectors - torch.as_tensor(ritz.values)[:, None] * ritz.vectors
        for tail, slopes in [(ritz.tail, ritz.slopes), *ritz.left]:
            rest -= torch.as_tensor(slopes)[:, None] * tail
        assert float(rest.norm()) < 1e-9
        assert np.all(np.abs(ritz.slopes) + ritz.lost <= 1e-6 * ritz.scales)
        np.testing.assert_allclose(ritz.values, np.ones(6), rtol=1e-9)


MEMORY = """
import re, torch
from pathlib import Path
from sharpscope.analyzers.spectra._lanczos import thick_restart
from sharpscope.curvature.operators import Operator

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
n = 4_000_000
d = torch.cat([torch.linspace(0, 1, n - 6), torch.tensor(TOP)])
op = Operator(lambda v: d * v, n, dtype=torch.float32)
op @ torch.ones(n)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kilobytes("VmRSS")
thick_restart(op, 4, 1e-3, 0, 20, 200)
print((kilobytes("VmHWM") - before) * 1024 / (4 * n))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells the peak of memory")
@pytest.mark.parametrize(("top", "more"), [([9.0, 8, 7, 6, 5, 4], 3), ([9.0, 9, 8, 8, 7, 7], 7)])
def test_memory_of_a_probe_is_free_behind_the_basis(top: list[float], more: int) -> None:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000", "PYTHONPATH": os.pathsep.join(sys.path)}
    code = MEMORY.replace("TOP", str(top))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) <= 20 + more + 0.25
