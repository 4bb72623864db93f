"""The campaigns of ``make torture``, shortened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.campaigns import run_campaigns, strace


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what a killed process wrote outlives it there too, and fsync is free."""
    memory = Path("/dev/shm")
    folder = memory / f"sharpscope-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path / "run"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_short_campaigns(place: Path) -> None:
    # every 60th call of each kind, from a random one on
    faults = {} if strace() is None else {f"faults-{name}": 60 for name in ("checkpoint", "prune", "pack")}
    counts = {"training": 2, "surface": 1, "spectrum": 1, "pack": 2, "prune": 2, "readers": 10, "mutations": 20}
    found = run_campaigns(place, counts | faults)
    assert all(found[name]["kills"] == counts[name] for name in ("training", "surface", "spectrum", "pack", "prune"))
    assert found["readers"]["states seen"] > 2
    assert found["mutations"]["refused, by name"] > 8 and found["mutations"]["crashes of the child"] == 0
    assert not faults or sum(found[name]["refused, in one sentence"] for name in faults) > 0
