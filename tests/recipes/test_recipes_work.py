"""Recipes that run: shards, sharing, kills, tables, verdicts, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sharpscope import recipes
from sharpscope.cli import main
from sharpscope.recipes.numbers import Mean
from sharpscope.recipes.plan import folder, shard, unique
from sharpscope.recipes.read import Claim, filled
from sharpscope.recipes.verdicts import judged
from sharpscope.runs import Experiment
from sharpscope.settings import Settings

QUICK = {"epochs": 2, "train": 64, "test": 32}
WORDS = ["--seeds", "2", *(f"--set={key}={value}" for key, value in QUICK.items())]


def call(*words: str | Path) -> str:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # weights are drawn in it; the process that is killed has float32
    try:
        done = CliRunner().invoke(main, ["reproduce", *map(str, words)])
    finally:
        torch.set_default_dtype(before)
    assert done.exit_code == 0, done.output
    return done.output


def refusal(*words: str | Path) -> str:
    done = CliRunner().invoke(main, ["reproduce", *map(str, words)])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.output
    assert len(done.output.strip().splitlines()) == 1, done.output
    return done.output


def still(place: Path) -> dict[str, bytes]:
    """Every file that no clock has part in."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and "time" not in path.name
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    call("rst-table3", *WORDS, "--out", place / "runs", "--figures", place / "figures")
    return place


def test_table_holds_ours_and_the_papers(whole: Path) -> None:
    text = (whole / "figures/small/rst-table3/table.md").read_text()
    for words in (
        "test error (%)",
        "± ",
        "3.65 ± 0.10",
        "G-RST p=0.5",
        "0.500",
        "seen",
        "sharpscope reproduce rst-table3",
    ):
        assert words in text
    assert {path.name for path in (whole / "figures/small/rst-table3").iterdir()} == {
        "table.md", "table.csv", "table.tex", "time.md", "figure.pdf", "figure.png",
    }  # fmt: skip


def test_a_finished_run_is_never_repeated(whole: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*.h5")}
    said = call("rst-table3", "rst-table1", *WORDS, "--out", whole / "runs", "--figures", tmp_path)
    assert "[1/" not in said  # Table 1 needs nothing but runs of Table 3
    assert {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*.h5")} == before
    assert still(tmp_path / "small/rst-table3") == still(whole / "figures/small/rst-table3")
    assert "SAM errs less than SGD" in (tmp_path / "small/verdicts.md").read_text()


def test_killed_and_begun_again_gives_the_same_table(whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sharpscope", "reproduce", "rst-table3", *WORDS]
    command += ["--out", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "runs").glob("*/history.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "figures").exists()
    call("rst-table3", *WORDS, "--out", tmp_path / "runs", "--figures", tmp_path / "figures")
    assert still(tmp_path / "figures") == still(whole / "figures")


def test_shards_make_the_same_table(whole: Path, tmp_path: Path) -> None:
    for part in ("2/2", "1/2"):
        said = call("rst-table3", *WORDS, "--shard", part, "--out", tmp_path / "runs", "--figures", tmp_path / "f")
        assert ("runs are missing, no table yet" in said) == (part == "2/2")
    assert still(tmp_path / "f") == still(whole / "figures")


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_shards_partition_exactly(count: int) -> None:
    groups = unique(cell for name in recipes.names() for cell in recipes.plan(recipes.read(name), "small"))
    parts = [shard(groups, f"{index}/{count}") for index in range(1, count + 1)]
    found = [group[0].folder for part in parts for group in part]
    assert sorted(found) == sorted(group[0].folder for group in groups)
    assert len(set(found)) == len(found)


def test_recipes_share_runs() -> None:
    one, two = (
        {cell.folder for cell in recipes.plan(recipes.read(name), "small")} for name in ("ssam-table1", "ssam-figure3")
    )
    assert one == two


def test_a_folder_names_all_that_a_run_depends_on() -> None:
    first = Experiment(Settings(rule="sam(rho=0.1)"), train=100)
    assert folder(first) == folder(Experiment(Settings(rule="Ascend(Ball(0.1))"), root="elsewhere", train=100))
    others = [
        Experiment(Settings(rule="sam(rho=0.2)"), train=100),
        Experiment(Settings(rule="sam(rho=0.1)", lr=0.05), train=100),
        Experiment(Settings(rule="sam(rho=0.1)"), train=99),
        Experiment(Settings(rule="sam(rho=0.1)"), train=100, model="resnet20"),
    ]
    assert len({folder(one) for one in (first, *others)}) == 5


@pytest.mark.parametrize("name", ["ssam-figure4", "rst-figure1"])
def test_a_trial_goes_to_the_table(name: str) -> None:
    said = call(name, "--steps", "2")
    assert "runs of 2 steps" in said


def test_a_trial_at_the_papers_shapes() -> None:
    assert "runs of 1 steps" in call("ssam-table4", "--scale", "paper", "--steps", "1")


def test_print_list_and_overrides(tmp_path: Path) -> None:
    assert 'item = "Table 1"' in call("ssam-table1", "--print")
    listed = call("rst-table1", "--list", "--out", tmp_path)
    assert "rst-table1" in listed and "training time" in listed
    planned = recipes.plan(recipes.read("rst-table1"), "small", 1, {"lr": 0.3, "rho": 0.7})
    assert planned[1].experiment.settings.lr == 0.3 and "0.7" in planned[1].experiment.settings.rule


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    out = ["--out", tmp_path]
    assert "got the recipe 'ssam-table10', expected one of ssam-table1" in refusal("ssam-table10", *out)
    assert "got no recipe" in refusal(*out)
    assert "expected I/N with 1 <= I <= N" in refusal("rst-table1", "--shard", "3/2", *out)
    assert "expected one of" in refusal("rst-table1", "--set", "speed=1", *out)
    assert "expected KEY=VALUE" in refusal("rst-table1", "--set", "speed", *out)
    assert "at least 1" in refusal("rst-table1", "--seeds", "0", *out)
    text = refusal("rst-table1", "--scale", "paper", *out)
    assert "got data set 'cifar10' without a root" in text
    assert "cifar-10-binary.tar.gz; unpack them and add --root cifar10=DIR" in text
    assert "is not a folder" in refusal("rst-table1", "--scale", "paper", "--root", tmp_path / "none", *out)
    assert "expected conventional, paper or a number" in refusal("rst-table1", "--flops", "all", *out)


def test_variables() -> None:
    scope = {"m": 0.7, "epoch": 7, "rho": 0.1}
    assert filled("Linear({2*m-1}, {1/rho})", scope) == "Linear(0.4, 10.0)"
    assert filled("{epoch}", scope) == 7
    for wrong in ("{nothing}", "{epoch.real}", "{__import__('os')}"):
        with pytest.raises(recipes.RecipeError, match="expected one of m, epoch, rho"):
            filled(wrong, scope)


def verdict(kind: str, first: list[float], second: list[float], margin: float = 0.0) -> bool | None:
    values = {"a": {"error": Mean(tuple(first))}, "b": {"error": Mean(tuple(second))}}
    claim = Claim("", kind, "error", ("a",), "b", margin)
    return next(judged(claim, values, {"a": {}, "b": {}})).seen


def test_verdicts_of_pairs() -> None:
    """Against scipy's own paired test, and by hand."""
    from scipy import stats

    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.normal(size=5), rng.normal(0.7, size=5)
        less = stats.ttest_rel(a, b, alternative="less").pvalue < 0.05
        more = stats.ttest_rel(a, b, alternative="greater").pvalue < 0.05
        assert verdict("less", list(a), list(b)) == less
        assert verdict("more", list(a), list(b)) == more
    assert verdict("less", [1.0], [2.0]) is None
    assert verdict("close", [1.0, 1.1, 0.9], [1.0, 1.0, 1.0], 1.0)
    assert not verdict("close", [1.0, 1.1, 0.9], [1.0, 1.0, 1.0], 0.1)
    assert verdict("no-more", [0.0, 0.1, 0.2], [5.0, 5.0, 5.0], 1.0)
    assert verdict("near", [1.1, 1.1, 1.1], [1.0, 1.0, 1.0], 0.25)
    assert not verdict("near", [1.4, 1.1, 1.1], [1.0, 1.0, 1.0], 0.25)


def test_verdicts_of_trends() -> None:
    values = {
        f"row {place}": {"error": Mean(tuple(-2.0 * place + noise for noise in (0.0, 0.1, -0.2)))} for place in range(4)
    }
    variables = {row: {"x": float(row[-1])} for row in values}
    falls, rises = (
        next(judged(Claim("", kind, "error", ("row*",), x="x"), values, variables)) for kind in ("falls", "rises")
    )
    assert falls.seen and not rises.seen
    assert falls.found.mean == pytest.approx(-2.0)
