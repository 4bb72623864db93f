"""Work that is killed between two products ends bit for bit where unbroken work ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from sharpscope import Operator, StoreError, load, resumable, spectrum

PROGRAM = textwrap.dedent(
    """
    import os, signal, sys
    import numpy as np, torch
    import sharpscope as ss
    torch.set_num_threads(1)
    folder, out, deadline = sys.argv[1], sys.argv[2], int(sys.argv[3])
    values = torch.linspace(0, 1, 300)
    values[:8] += torch.arange(8)
    def product(v):
        if base.products == deadline:
            os.kill(os.getpid(), signal.SIGKILL)
        return values * v + v.sum() / 300
    base = ss.Operator(product, 300, dtype=torch.float32)
    ss.save(ss.spectrum(ss.resumable(base, folder), basis=10, vectors=True), out)
    print(base.products)
    """
)


def start(folder: Path, out: Path, deadline: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(out), str(deadline)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_killed_twice_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    whole = start(tmp_path / "a", tmp_path / "whole.h5", -1)
    total = int(whole.stdout)
    assert total > 12
    for deadline in (4, 8):  # counts of one process: the second goes on where the first was killed
        assert start(tmp_path / "b", tmp_path / "broken.h5", deadline).returncode == -signal.SIGKILL
    assert 8 < len(list((tmp_path / "b").glob("*.h5"))) < total
    last = start(tmp_path / "b", tmp_path / "broken.h5", -1)
    assert int(last.stdout) < total
    assert load(tmp_path / "whole.h5") == load(tmp_path / "broken.h5")
    assert Path(tmp_path / "whole.h5").stat().st_size == Path(tmp_path / "broken.h5").stat().st_size


def test_other_settings_and_another_matrix_are_refused(tmp_path: Path) -> None:
    values = torch.arange(40.0)
    spectrum(resumable(Operator.of(torch.diag(values)), tmp_path), k=2)
    with pytest.raises(
        StoreError, match=r"got a product of another vector .* use the same settings to go on, or delete"
    ):
        spectrum(resumable(Operator.of(torch.diag(values)), tmp_path), k=2, seed=1)
    with pytest.raises(StoreError, match="got a product of another operator"):
        spectrum(resumable(Operator.of(torch.diag(values), "other"), tmp_path), k=2)
    with pytest.raises(StoreError, match=r"got a product that differs by .* the weights or the data have changed"):
        spectrum(resumable(Operator.of(torch.diag(2 * values)), tmp_path), k=2)
