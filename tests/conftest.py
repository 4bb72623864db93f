"""A strict session: float64, fixed seeds, warnings as errors (pyproject.toml), pictures drawn without a screen.

Helpers that test modules import: ``eps_tol`` for tolerances, ``devices`` to run a test on every device there is.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ["MPLBACKEND"] = "Agg"  # before anything imports matplotlib; programs that tests start inherit it
os.environ["OMP_NUM_THREADS"] = "1"  # small tensors gain nothing from threads; pytest-xdist uses the cores

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
SEED = 20260101


def eps_tol(dtype: torch.dtype, factor: float = 100.0) -> float:
    """A relative tolerance: ``factor`` times the rounding unit of the data type."""
    return factor * torch.finfo(dtype).eps


def devices() -> list[Any]:
    """Parameters for ``pytest.mark.parametrize("device", devices())``: the CPU always, CUDA where there is one."""
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
    return [pytest.param("cpu", id="cpu"), pytest.param("cuda", id="cuda", marks=missing)]


@pytest.fixture(params=devices())
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device there is, one after the other."""
    return torch.device(request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """New tensors of a test and its fixtures are float64: a tolerance speaks of mathematics and not of rounding."""
    torch.set_default_dtype(torch.float64)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """The examples in docstrings, which a worker may run next, see a user's float32."""
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Every test starts from the same seeds and the usual data type, and leaves no open figure behind."""
    torch.set_default_dtype(torch.float64)
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def random_states() -> dict[str, Any]:
    """Where every global random generator stands."""
    states: dict[str, Any] = {
        "random": random.getstate(),
        "numpy.random": str(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_available():
        states["torch.cuda"] = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return states


def touched_since(before: dict[str, Any]) -> list[str]:
    """Which global random generators have moved since ``before``."""
    return [name for name, state in random_states().items() if state != before[name]]


@pytest.fixture
def rng_guard() -> Iterator[Callable[[], None]]:
    """Fails the test when a global random generator moved.

    The guard looks from the start of the test to its end.  A test that draws its own data from global generators calls
    ``rng_guard()`` when it has done so; the guard then looks from there.
    """
    before = random_states()

    def restart() -> None:
        before.update(random_states())

    yield restart
    touched = touched_since(before)
    assert not touched, f"the global random state of {' and '.join(touched)} was changed; use a generator of your own"
