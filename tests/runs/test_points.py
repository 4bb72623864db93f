"""Surfaces that are killed go on where they were; what belongs to another surface is refused in words."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharpscope as ss
from sharpscope import Problem, StoreError
from sharpscope.analyzers.surfaces import _points as points

PROGRAM = textwrap.dedent(
    """
    import json, os, signal, sys, time
    from pathlib import Path
    import torch
    import sharpscope as ss
    from sharpscope.analyzers.surfaces import _points as points

    torch.set_num_threads(1)
    points.EVERY = 0.01
    folder, tolerance = Path(sys.argv[1]), float(sys.argv[2]) or None
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    problem = ss.Problem(model, torch.nn.CrossEntropyLoss(), (torch.randn(30, 3), torch.randint(2, (30,))))

    def work(file, out, deadline=-1, pause=0.0):
        calls = 0
        def metric(outputs, targets):
            nonlocal calls
            calls += 1
            time.sleep(pause)
            if calls == deadline:
                os.kill(os.getpid(), signal.SIGKILL)
            return outputs.argmax(1) == targets
        found = ss.surface(problem, 11, 0.8, metrics={"right": metric}, resume=folder / file, how="untimed",
                           tolerance=tolerance)
        ss.save(found, folder / out)
        (folder / f"calls-{out}").write_text(str(calls))

    def child(*arguments):
        pid = os.fork()
        if not pid:
            try:
                work(*arguments)
            finally:
                os._exit(0)
        return pid

    def end(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    codes = [end(child("whole.points", "whole.h5")), end(child("plane.h5", "first.h5", 40, 0.004))]
    first = (folder / "plane.h5").read_bytes()
    victim = child("plane.h5", "second.h5", -1, 0.05)
    while (folder / "plane.h5").read_bytes() == first:
        time.sleep(0.005)
    os.kill(victim, signal.SIGKILL)
    codes += [end(victim), end(child("plane.h5", "out.h5")), end(child("plane.h5", "again.h5"))]
    print(json.dumps(codes))
    """
)


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_a_killed_surface_goes_on(tmp_path: Path, tolerance: float) -> None:
    """Killed by itself in the midst of a point, then from outside; the end is that of the unbroken call."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(tolerance)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0]
    calls = {name: int((tmp_path / f"calls-{name}.h5").read_text()) for name in ("whole", "out", "again")}
    assert ss.load(tmp_path / "out.h5") == ss.load(tmp_path / "whole.h5") == ss.load(tmp_path / "again.h5")
    assert not (tmp_path / "first.h5").exists() and not (tmp_path / "second.h5").exists()
    assert calls["whole"] > (50 if tolerance else 121)
    assert calls["out"] < calls["whole"] - 25  # what was kept was not computed again
    assert calls["again"] <= 8  # the preflight and the centre
    assert list(tmp_path.glob(".tmp-*")) == []


def data(seed: int = 0, examples: int = 20) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(examples, 3, generator=rng), torch.randint(2, (examples,), generator=rng)


def problem_of(given: Any = None, loss: Any = None, scale: float = 1.0) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].bias.mul_(scale)
    return Problem(model, loss or nn.CrossEntropyLoss(), given or data())


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    ss.surface(problem_of(), 3, resume=tmp_path / "plane.h5")
    return tmp_path / "plane.h5"


def test_the_same_call_takes_it_all_from_the_file(kept: Path) -> None:
    before = kept.read_bytes()
    assert ss.surface(problem_of(), 3, resume=str(kept)) == ss.surface(problem_of(), 3)
    assert ss.surface(problem_of(), 3, resume=ss.PointFile(kept)) == ss.surface(problem_of(), 3)
    assert kept.read_bytes() == before


def buffers_moved() -> Problem:
    problem = problem_of()
    problem.model[1].running_mean.add_(1.0)
    return problem


@pytest.mark.parametrize(
    ("make", "options", "name"),
    [
        (lambda: problem_of(scale=1.001), {}, "weights"),
        (buffers_moved, {}, "weights"),
        (lambda: problem_of(data(1)), {}, "data"),
        (problem_of, {"seed": 1}, "directions"),
        (problem_of, {"directions": "layer"}, "directions"),
        (problem_of, {"resolution": 5}, "grid"),
        (problem_of, {"span": 0.5}, "grid"),
        (problem_of, {"metrics": "error"}, "metrics"),
        (problem_of, {"precision": "bfloat16", "bound": 1.0}, "precision"),
        (problem_of, {"examples": 7}, "problem"),
        (problem_of, {"batchnorm": "recompute"}, "problem"),
        (lambda: problem_of(loss=nn.CrossEntropyLoss(reduction="sum")), {}, "problem"),
    ],
)
def test_another_surface_s_file(kept: Path, make: Callable[[], Problem], options: dict[str, Any], name: str) -> None:
    before = kept.read_bytes()
    with pytest.raises(StoreError, match=rf"^{re.escape(str(kept))}: got points of another {name} \(.*\), expected"):
        ss.surface(make(), **{"resolution": 3, **options}, resume=kept)
    assert kept.read_bytes() == before


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(torch.tensor([1.0, 2.0], dtype=torch.float64)),
        nn.functional.nll_loss,
        functools.partial(nn.functional.cross_entropy, label_smoothing=0.0), lambda o, t: (o**2).mean(),
    ],
)  # fmt: skip
def test_another_loss_is_named(kept: Path, loss: Any) -> None:
    problem = problem_of(loss=loss)
    with pytest.raises(StoreError, match=r"got points of another (problem|loss) \(.*CrossEntropyLoss"):
        ss.surface(problem, 3, resume=kept)


def test_small_losses_never_mix(tmp_path: Path) -> None:
    """What a loss encloses is not looked at; the centre is, however small its loss."""

    def loss_of(power: int, size: float) -> Any:
        return lambda o, t: size * (o**power).mean()

    ss.line(problem_of(loss=loss_of(2, 1e-9)), 3, resume=tmp_path / "line.h5")
    with pytest.raises(ValueError, match=r"^the line got kept points around .* at the centre: the loss or a metric"):
        ss.line(problem_of(loss=loss_of(4, 3e-10)), 3, resume=tmp_path / "line.h5")


def test_statistics_belong_to_their_seed(tmp_path: Path) -> None:
    options = {"directions": ss.random_directions(problem_of()), "batchnorm": "recompute", "statistics": 9}
    ss.line(problem_of(), 3, resume=tmp_path / "line.h5", seed=0, **options)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"another statistics \(9 drawn with seed 0\), expected 9 drawn with seed 1"):
        ss.line(problem_of(), 3, resume=tmp_path / "line.h5", seed=1, **options)  # type: ignore[arg-type]


def test_a_line_and_a_surface_never_mix(kept: Path) -> None:
    with pytest.raises(StoreError, match=r"got points of another (directions|grid)"):
        ss.line(problem_of(), 3, resume=kept)


def test_files_that_are_no_points(tmp_path: Path, kept: Path) -> None:
    other, half, text = tmp_path / "other.h5", tmp_path / "half.h5", tmp_path / "text.h5"
    ss.save(ss.surface(problem_of(), 3), other)
    half.write_bytes(kept.read_bytes()[:-200])
    text.write_text("alpha,beta,loss\n")
    for path, words in ((other, "got a part of kind 'result', expected 'points'"), (half, ""), (text, "not HDF5")):
        before = path.read_bytes()
        with pytest.raises(StoreError) as caught:
            ss.surface(problem_of(), 3, resume=path)
        assert str(caught.value).startswith(str(path)) and words in str(caught.value)
        assert path.read_bytes() == before
    with pytest.raises(StoreError, match=r"got no folder .* expected one to write into: create it first"):
        ss.surface(problem_of(), 3, resume=tmp_path / "missing" / "plane.h5")


def test_a_full_disk_loses_nothing_that_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls = tmp_path / "plane.h5", 0

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return outputs.argmax(1) == targets

    def usage(folder: Any) -> Any:
        return SimpleNamespace(free=0 if calls > 10 else 1 << 40)

    monkeypatch.setattr(points, "EVERY", 0.0)
    expected = ss.surface(problem_of(), 3, metrics={"right": metric}, how="untimed")
    calls = 0
    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(StoreError, match=r"got 0 free bytes on the disk, expected at least \d+: free space"):
        ss.surface(problem_of(), 3, metrics={"right": metric}, how="untimed", resume=path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))
    done = calls
    assert ss.surface(problem_of(), 3, metrics={"right": metric}, how="untimed", resume=path) == expected
    assert calls - done < done


def test_an_interruption_keeps_what_is_finished(tmp_path: Path) -> None:
    path, calls, fuse = tmp_path / "plane.h5", 0, 14

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == fuse:
            raise KeyboardInterrupt
        return outputs.argmax(1) == targets

    with pytest.raises(KeyboardInterrupt):
        ss.surface(problem_of(), 5, metrics={"right": metric}, how="untimed", resume=path)
    tree = ss.PointFile(path)
    assert path.exists() and tree.path == path
    calls, fuse = 0, -1
    found = ss.surface(problem_of(), 5, metrics={"right": metric}, how="untimed", resume=path)
    assert found.loss.shape == (5, 5) and np.isfinite(found.loss).all()
    assert calls < 25 + 6


def test_results_of_before_load(tmp_path: Path) -> None:
    """A surface that was stored when it had no metrics, status and errors."""
    from sharpscope.store._parts import write_part

    result = ss.surface(problem_of(), 3)
    new = ("metrics", "status", "tolerance", "error", "how", "digest")
    old = {k: v for k, v in result.fields().items() if k not in new and not k.startswith("precision_")}
    write_part(tmp_path / "old.h5", "result", old, {"result": "Surface"})
    found = ss.load(tmp_path / "old.h5")
    assert isinstance(found, ss.Surface) and found.status is None and found.evaluated.all()
    assert np.array_equal(found.loss, result.loss) and found.metrics == {} and found.tolerance is None
