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


def test_kills(place: Path) -> None:
    found = run_campaigns(place, training=4, surface=2, spectrum=2, pack=4, prune=4)
    assert {name: row["kills"] for name, row in found.items()} == {
        "training": 4, "surface": 2, "spectrum": 2, "pack": 4, "prune": 4,
    }  # fmt: skip


def test_readers_and_mutations(place: Path) -> None:
    found = run_campaigns(place, readers=40, mutations=90)
    assert found["readers"]["states seen"] > 5
    assert found["mutations"]["refused, by name"] > 45 and found["mutations"]["crashes of the child"] == 0


@pytest.mark.skipif(strace() is None, reason="strace cannot trace here")
def test_faults(place: Path) -> None:
    found = run_campaigns(place, faults=60)
    assert found["faults"]["refused, in one sentence"] > 20
