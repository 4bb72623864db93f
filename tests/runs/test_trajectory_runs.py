"""Weights along a training, in a run: the true ones, whatever interrupts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sharpscope.cli import main
from sharpscope.runs.train import Experiment, train_run
from sharpscope.store import Run, StoreError, open_run, pack_run
from sharpscope.training.loop import Settings, train

QUICK = Experiment(Settings("sam(0.1)", epochs=3, batch_size=32), train=96, test=32)  # 9 steps


def points(run: Run) -> dict[int, dict[str, torch.Tensor]]:
    return {step: run.trajectory()[step] for step in run.trajectory()}


def same(a: dict[int, dict[str, torch.Tensor]], b: dict[int, dict[str, torch.Tensor]]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[s][n], b[s][n]) for s in a for n in {**a[s], **b[s]})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(QUICK, tmp_path_factory.mktemp("recorded") / "whole", record_every=2)


def test_the_weights_are_those_of_the_training(whole: Run) -> None:
    images = QUICK.images()
    network = QUICK.network(images)
    seen = {0: {name: p.detach().clone() for name, p in network.named_parameters()}}

    def watch(step: int, *rest: float) -> None:
        seen[step] = {name: p.detach().clone() for name, p in network.named_parameters()}

    train(network, images, QUICK.settings, on_step=watch)
    assert list(whole.trajectory()) == [0, 2, 4, 6, 8, 9]
    assert same(points(whole), {step: seen[step] for step in whole.trajectory()})
    assert whole.trajectory().every == 2


def test_a_packed_run_has_them_too(whole: Run, tmp_path: Path) -> None:
    assert same(points(open_run(pack_run(whole, tmp_path / "packed.h5"))), points(whole))


def test_interrupted_and_resumed_is_unbroken(whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Run.add_weights

    def cut(run: Run, step: int, *rest: object, **more: object) -> None:
        kept(run, step, *rest, **more)  # type: ignore[arg-type]
        if step == 8:  # after the checkpoint of step 6: what came later is made again
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "add_weights", cut)
    with pytest.raises(KeyboardInterrupt):
        train_run(QUICK, tmp_path / "cut", record_every=2)
    monkeypatch.undo()
    assert list(open_run(tmp_path / "cut").trajectory()) == [0, 2, 4, 6, 8]
    assert same(points(train_run(QUICK, tmp_path / "cut", resume=True)), points(whole))  # as before, without saying so


SCRIPT = """
import sys
from sharpscope.runs.train import Experiment, train_run
from sharpscope.training.loop import Settings
experiment = Experiment(Settings('sgd()', epochs=12, batch_size=16), train=160, test=32)  # 120 steps
train_run(experiment, sys.argv[1], resume=True, record_every=5)
"""


def test_killed_and_resumed_is_unbroken(tmp_path: Path) -> None:
    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / name)], stderr=subprocess.DEVNULL)

    whole, killed = start("whole"), start("killed")
    until = time.monotonic() + 120
    while not (tmp_path / "killed" / "trajectory" / "000000025.h5").exists() and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert list(open_run(tmp_path / "killed").trajectory())[:6] == [0, 5, 10, 15, 20, 25]
    assert start("killed").wait() == whole.wait() == 0
    resumed = points(open_run(tmp_path / "killed"))
    assert list(resumed) == list(range(0, 121, 5))
    assert same(resumed, points(open_run(tmp_path / "whole")))


def test_another_distance_is_refused(whole: Run, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="was recorded with record_every=2, expected 3: use the same to resume it"):
        train_run(QUICK, whole.path, resume=True, record_every=3)
    with pytest.raises(ValueError, match="training got record_every=0, expected"):
        train_run(QUICK, tmp_path / "run", record_every=0)
    plain = train_run(QUICK, tmp_path / "plain")
    assert len(plain.trajectory()) == 0 and plain.trajectory().every is None
    with pytest.raises(StoreError, match="its first steps were not recorded"):
        train_run(QUICK, plain.path, resume=True, record_every=3)
    with pytest.raises(StoreError, match="got no weights at step 7, expected one of the steps 0, 2, 4, 6, 8, 9"):
        _ = whole.trajectory()[7]


def test_pruned_from_the_command_line(tmp_path: Path) -> None:
    words = f"train --epochs 1 --train 64 --test 32 --batch-size 32 --record-every 1 --out {tmp_path / 'run'}"
    assert CliRunner().invoke(main, words.split()).exit_code == 0
    assert list(open_run(tmp_path / "run").trajectory()) == [0, 1, 2]
    done = CliRunner().invoke(main, ["prune", str(tmp_path / "run"), "--trajectory"])
    assert "removed 0 checkpoints and 3 points of trajectories" in done.output
    assert list(open_run(tmp_path / "run").trajectory()) == []
