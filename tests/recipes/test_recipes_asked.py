"""A table is a function of what was asked for: not of other runs, other analyses, or what a kill left behind."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sharpscope.cli import main

TINY = ["--seeds=1", "--set=epochs=2", "--set=train=64", "--set=test=16"]


def reproduce(place: Path, *words: str) -> tuple[int, str]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        done = CliRunner().invoke(
            main, ["reproduce", *words, "--out", str(place / "runs"), "--figures", str(place / "figures")]
        )
    finally:
        torch.set_default_dtype(before)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def numbers(place: Path, recipe: str, measure: str) -> dict[str, float]:
    with (place / "figures/small" / recipe / "table.csv").open() as sheet:
        return {row["method"]: float(row["mean"]) for row in csv.DictReader(sheet) if row["measure"] == measure}


def refusal(place: Path, *words: str) -> str:
    code, said = reproduce(place, *words)
    assert code == 1 and len(said.strip().splitlines()) == 1, said
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    assert reproduce(place, "rst-table3", *TINY, "--set=batch_size=32")[0] == 0
    return place


def test_a_folder_that_a_kill_left_empty_is_a_run_to_make(made: Path, tmp_path: Path) -> None:
    place = tmp_path / "again"
    shutil.copytree(made, place)
    table = (place / "figures/small/rst-table3/table.csv").read_bytes()
    emptied = min((place / "runs").iterdir())
    shutil.rmtree(emptied)
    emptied.mkdir()
    assert reproduce(place, "rst-table3", *TINY, "--set=batch_size=32")[0] == 0
    assert (place / "figures/small/rst-table3/table.csv").read_bytes() == table


def test_runs_with_exchanged_names_are_refused(made: Path, tmp_path: Path) -> None:
    place = tmp_path / "again"
    shutil.copytree(made, place)
    one, two = sorted((place / "runs").iterdir())[:2]
    one.rename(place / "aside")
    two.rename(one)
    (place / "aside").rename(two)
    said = refusal(place, "rst-table3", *TINY, "--set=batch_size=32")
    assert "was made with" in said and "rule=" in said and "use another --out, or remove" in said


def test_passes_are_those_of_the_steps_that_were_made(tmp_path: Path) -> None:
    assert reproduce(tmp_path, "rst-table3", *TINY, "--set=batch_size=16", "--set=steps=6")[0] == 0
    extra = numbers(tmp_path, "rst-table3", "extra")
    assert extra["SGD"] == 0.0 and extra["SAM"] == 1.0


def test_analyses_of_other_settings_are_refused(tmp_path: Path) -> None:
    words = ["ssam-figure1", *TINY, "--set=data=digits", "--set=model=convnet", "--set=batch_size=32"]
    assert reproduce(tmp_path, *words, "--set=rho=0.1")[0] == 0
    said = refusal(tmp_path, *words, "--set=rho=0.5")
    assert "holds the analysis 'ratio'" in said and "use another --out, or remove" in said


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("side=0", "side=0, expected"),
        ("side=x", "side='x', expected"),
        ("model=3", "got --set model=3, expected a name"),
        ("lr=1e400", "got --set lr=inf, expected a finite number"),
        ("momentum=2", "momentum=2, expected"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, word: str, text: str) -> None:
    assert text in refusal(tmp_path, "rst-table3", f"--set={word}")


def test_places_are_tried_before_anything_is_run(tmp_path: Path) -> None:
    (tmp_path / "figures/small").mkdir(parents=True)
    (tmp_path / "figures/small/rst-table3").write_text("a file")
    assert "expected one that can be written: change --figures" in refusal(tmp_path, "rst-table3", *TINY)
    (tmp_path / "figures/small/rst-table3").unlink()
    (tmp_path / "runs").write_text("a file")
    assert "expected one that can be written: change --out" in refusal(tmp_path, "rst-table3", *TINY)


def test_names_beside_all_and_seeds_of_a_trial(tmp_path: Path) -> None:
    assert "got the recipe 'nope'" in refusal(tmp_path, "all", "nope")
    assert "got 0 seeds, expected at least 1" in refusal(tmp_path, "rst-table3", "--seeds=0", "--steps=1")
