"""From a run to the files of other programs, on the command line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.cli import main
from sharpscope.exchange.files import export
from sharpscope.exchange.li import read_li_directions, read_li_surface
from sharpscope.exchange.table import read_csv
from sharpscope.runs.analyze import directions_of
from sharpscope.store import Run, StoreError, open_run, pack_run, save


def call(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("exported") / "run"
    words = "train --epochs 1 --train 64 --test 32 --batch-size 8 --record-every 2 --rule sgd() --out"
    call(*words.split(), path)
    call("analyze", path, "--surface", "--trajectory", "--resolution", 3, "--examples", 16)
    return open_run(path)


def test_every_format(run: Run, tmp_path: Path) -> None:
    for ending in ("csv", "vts", "nc", "html"):
        assert f"surface.{ending}: " in call("export", run.path, "-o", tmp_path / f"surface.{ending}")
    surface = run.results["surface"]
    assert read_csv(tmp_path / "surface.csv") == surface
    call("export", run.path, "--format", "li", "-o", tmp_path / "surface.h5")
    assert np.array_equal(read_li_surface(tmp_path / "surface.h5").loss, surface.loss)  # type: ignore[attr-defined]
    call("export", pack_run(run, tmp_path / "packed.h5"), "--result", "trajectory", "-o", tmp_path / "way.csv")
    way = read_csv(tmp_path / "way.csv")
    assert isinstance(way, Trajectory) and way == run.results["trajectory"]
    assert way.step.tolist() == [0, 2, 4, 6, 8]
    assert way.coordinates[-1] == pytest.approx([0, 0], abs=1e-6)  # the last weights are the centre
    call("export", save(surface, tmp_path / "alone.h5"), "-o", tmp_path / "alone.csv")
    assert read_csv(tmp_path / "alone.csv") == surface


def test_directions_are_made_again(run: Run, tmp_path: Path) -> None:
    call("export", run.path, "--result", "directions", "--format", "li", "-o", tmp_path / "d.h5")
    made, problem = directions_of(run)
    assert made.digest == run.results["surface"].digest == read_li_directions(tmp_path / "d.h5", problem).digest  # type: ignore[attr-defined]


def test_mistakes_end_in_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("mine")
    cases = {
        ("export", run.path, "-o", tmp_path / "surface.txt"): "expected one of li, csv, vtk, netcdf, html: say format=",
        ("export", run.path, "--result", "plane", "-o", tmp_path / "s.csv"): "got no result 'plane', expected one of",
        ("export", run.path, "--result", "trajectory", "-o", tmp_path / "t.vts"): "expected a Surface",
        ("export", run.path, "-o", tmp_path / "there.csv"): "got a file that exists",
        ("export", tmp_path / "none", "-o", tmp_path / "s.csv"): "got no such folder or file",
        ("export", tmp_path / "there.csv", "-o", tmp_path / "s.csv"): "a file that is not HDF5",
    }
    for words, said in cases.items():
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 1
        assert "Traceback" not in done.output
        assert said in done.output, done.output
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["there.csv"]


@pytest.mark.parametrize("ending", ["csv", "vts", "nc", "h5"])
def test_a_full_disk_loses_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    surface = run.results["surface"]
    path = export(surface, tmp_path / f"s.{ending}", "li" if ending == "h5" else None)
    before = path.read_bytes()

    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="got 'No space left on device' while writing"):
        export(surface, path, "li" if ending == "h5" else None, replace=True)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_figures_of_a_trajectory(run: Run, tmp_path: Path) -> None:
    assert "trajectories.png" in call("figures", run.path, "--out", tmp_path, "--format", "png")
