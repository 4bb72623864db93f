"""Curvature of runs: density, layers, every checkpoint; interrupted work goes on and ends with the same bits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sharpscope.cli import main
from sharpscope.curvature.operators import Operator
from sharpscope.runs.analyze import Analysis, analyze_run, problem_of
from sharpscope.runs.train import Experiment, train_run
from sharpscope.store import Run, StoreError, open_run
from sharpscope.training.loop import Settings

QUICK = Experiment(Settings("sgd()", epochs=3, batch_size=100), train=150, test=40)
LIGHT = Analysis(examples=24, k=2, tol=0.05, probes=3, steps=8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(QUICK, tmp_path_factory.mktemp("runs") / "run", keep_checkpoints=5, progress=False)


def test_density_and_track_of_a_run(finished: Run) -> None:
    found = analyze_run(finished, ["density", "track"], LIGHT)
    density, track = found["density"], found["track"]
    assert density.nodes.shape == (3, 8)  # type: ignore[attr-defined]
    assert track.steps.tolist() == finished.checkpoints() == [2, 4, 6]  # type: ignore[attr-defined]
    assert track.eigenvalues.shape == (3, 2)  # type: ignore[attr-defined]
    np.testing.assert_allclose(density.eigenvalues[0], track.eigenvalues[-1, 0], rtol=0.05)  # type: ignore[attr-defined]
    assert analyze_run(finished, ["density", "track"], LIGHT) == found
    assert not (Path(finished.path) / ".tmp-products").exists()
    with pytest.raises(StoreError, match=re.escape("'density' with probes=3, expected 4")):
        analyze_run(finished, ["density"], replace(LIGHT, probes=4))
    assert problem_of(finished, 24, 2).loss() != problem_of(finished, 24, 6).loss()


def test_an_interrupted_density_goes_on(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analyze_run(finished, ["density"], LIGHT, replace=True)["density"]
    inner, made, limit = Operator.__matmul__, [0], [-1]

    def product(self: Operator, vector: object) -> object:
        made[0] += 1
        if made[0] == limit[0]:
            raise KeyboardInterrupt
        return inner(self, vector)  # type: ignore[arg-type]

    monkeypatch.setattr(Operator, "__matmul__", product)
    for number in (5, 40):
        made[0], limit[0] = 0, number
        with pytest.raises(KeyboardInterrupt):
            analyze_run(finished, ["density"], LIGHT, replace=True)
    assert open_run(finished.path).results["density"] == whole  # nothing half-done is in its place
    limit[0] = -1
    assert analyze_run(finished, ["density"], LIGHT, replace=True)["density"] == whole
    assert not (Path(finished.path) / ".tmp-products").exists()


def test_from_the_command_line_to_the_pictures(finished: Run, tmp_path: Path) -> None:
    small = ["--examples", "24", "--k", "2", "--tol", "0.05", "--probes", "3", "--steps", "8"]
    done = CliRunner().invoke(
        main, ["analyze", str(finished.path), "--density", "--layers", "--track", "--sharpness", *small]
    )
    assert done.exit_code == 0, done.output
    assert 0 < finished.results["sharpness"].first_order <= finished.results["sharpness"].worst  # type: ignore[attr-defined]
    layers = finished.results["layers"]
    assert layers.parts == ("features.0", "features.1", "features.3", "features.4", "features.6", "features.7", "head")  # type: ignore[attr-defined]
    drawn = CliRunner().invoke(main, ["figures", str(finished.path), "--out", str(tmp_path), "--format", "png"])
    assert drawn.exit_code == 0, drawn.output
    assert {"densities.png", "layers.png", "tracks.png", "sharpnesses.png"} <= {
        path.name for path in tmp_path.iterdir()
    }
