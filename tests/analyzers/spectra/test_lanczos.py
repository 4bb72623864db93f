"""The iteration itself: its recurrence, its restarts, and what it does at the edges."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sharpscope.analyzers.spectra._lanczos import thick_restart
from sharpscope.curvature.operators import Operator


def dense(values: np.ndarray, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.normal(size=(len(values), len(values))))
    return torch.as_tensor((q * values) @ q.T)


@pytest.mark.parametrize("basis", [8, 12, 60])
def test_recurrence_and_orthonormality(basis: int) -> None:
    matrix = dense(np.linspace(-2, 2, 60))
    ritz = thick_restart(Operator.of((matrix + matrix.T) / 2), 4, 1e-6, 0, basis, 1000)
    u, theta = ritz.vectors, torch.as_tensor(ritz.values)
    assert float((u @ u.T - torch.eye(4)).abs().max()) < 1e-13
    assert float((u @ ritz.tail).abs().max()) < 1e-13
    # A u = theta u + slope * tail, also after restarts
    residue = u @ matrix - theta[:, None] * u - torch.as_tensor(ritz.slopes)[:, None] * ritz.tail
    assert float(residue.norm()) < 1e-12
    assert (np.abs(ritz.slopes) <= 1e-6 * np.abs(ritz.values)).all()
    assert (ritz.restarts > 0) == (basis < 30)


def test_ticks_once_per_product_and_keeps_to_the_basis() -> None:
    operator = Operator.of(torch.diag(torch.linspace(0, 1, 200)))
    ticks: list[int] = []
    ritz = thick_restart(operator, 3, 1e-3, 0, 7, 1000, lambda: ticks.append(1))
    assert len(ticks) == operator.products
    assert ritz.restarts > 3


@pytest.mark.parametrize("seed", [0, 1])
def test_same_seed_same_bits(seed: int, rng_guard: object) -> None:
    operator = Operator.of(torch.diag(torch.linspace(0, 1, 100)))
    first, second = (thick_restart(operator, 3, 1e-6, seed, 10, 1000) for _ in range(2))
    assert first.vectors.equal(second.vectors)
    assert first.values.tobytes() == second.values.tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_whole_spectrum_of_small_matrices(size: int) -> None:
    values = np.arange(1.0, size + 1) - 2
    ritz = thick_restart(Operator.of(torch.diag(torch.as_tensor(values))), size, 1e-8, 0, 30, 100)
    np.testing.assert_allclose(ritz.values, values[::-1], atol=1e-14)


def test_gives_up_in_words() -> None:
    operator = Operator.of(torch.diag(torch.linspace(0, 1, 500)))
    with pytest.raises(ArithmeticError, match=r"got 20 products without reaching tol=1e-06 for 3 pairs \(largest "):
        thick_restart(operator, 3, 1e-6, 0, 12, 20)
    assert operator.products == 20


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("when", [1, 4])
def test_a_product_that_is_not_finite_is_refused(bad: float, when: int) -> None:
    calls: list[int] = []

    def product(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.where(torch.arange(20) == 3, bad, v) if len(calls) >= when else v * torch.arange(20)

    with pytest.raises(ArithmeticError, match="a product of the thing is not finite, expected finite numbers"):
        thick_restart(Operator(product, 20, dtype=torch.float64, text="thing"), 3, 1e-6, 0, 12, 20)
    assert len(calls) == when


MEMORY = """
import re, torch
from pathlib import Path
from sharpscope.analyzers.spectra._lanczos import thick_restart
from sharpscope.curvature.operators import Operator

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
n = 4_000_000
d = torch.linspace(0, 1, n) ** 8
op = Operator(lambda v: d * v, n, dtype=torch.float32)
op @ torch.ones(n)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kilobytes("VmRSS")
try:
    thick_restart(op, 3, 1e-9, 0, 8, 20)
except ArithmeticError:
    print((kilobytes("VmHWM") - before) * 1024 / (4 * n))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells the peak of memory")
def test_memory_is_that_of_the_basis_and_three_vectors() -> None:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, env=environment, check=True)
    assert 8 < float(done.stdout) <= 8 + 3 + 0.25  # a quarter (4 MB) for chunks and the interpreter
