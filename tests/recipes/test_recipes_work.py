"""Recipes that run: shards, sharing, kills, tables, verdicts, errors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats

from sharpscope import recipes
from sharpscope.cli import main
from sharpscope.recipes import _work as work
from sharpscope.recipes.listing import listing
from sharpscope.recipes.numbers import Mean
from sharpscope.recipes.plan import folder, shard, unique
from sharpscope.recipes.read import Claim, filled
from sharpscope.recipes.verdicts import RULE, RULES, Verdict, judged
from sharpscope.runs.train import Experiment
from sharpscope.store import open_run
from sharpscope.training.settings import Settings

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


def test_killed_and_finished_in_shards_gives_the_same_table(whole: Path, tmp_path: Path) -> None:
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
    assert not [path for path in (tmp_path / "figures").rglob("*") if path.is_file()]
    for part in ("2/2", "1/2"):
        words = ["--shard", part, "--out", tmp_path / "runs", "--figures", tmp_path / "figures"]
        said = call("rst-table3", *WORDS, *words)
        assert ("runs are missing, no table yet" in said) == (part == "2/2")
    assert still(tmp_path / "figures") == still(whole / "figures")


def test_shards_partition_exactly() -> None:
    groups = unique(cell for name in recipes.names() for cell in recipes.plan(recipes.read(name), "small"))
    whole = sorted(group[0].folder for group in groups)
    for count in (1, 2, 7, 16):
        found = [group[0].folder for i in range(1, count + 1) for group in shard(groups, f"{i}/{count}")]
        assert sorted(found) == whole and len(set(found)) == len(found)


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
    assert "runs of 1 steps" in call("rst-figure3", "--scale", "paper", "--steps", "1")


def test_print_list_and_overrides(tmp_path: Path) -> None:
    assert 'item = "Table 1"' in call("ssam-table1", "--print")
    listed = call("rst-table1", "--list", "--out", tmp_path)
    assert "rst-table1" in listed and "Training time: of the missing runs" in listed and "all of these" not in listed
    planned = recipes.plan(recipes.read("rst-table1"), "small", 1, {"lr": 0.3, "rho": 0.7})
    assert planned[1].experiment.settings.lr == 0.3 and "0.7" in planned[1].experiment.settings.rule


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    out = ["--out", tmp_path]
    assert "got the recipe 'ssam-tabel1', expected one of ssam-table1 ... ssam-table9, ssam-figure1 ..." in (
        refusal("ssam-tabel1", *out)
    )
    assert "rst-figure9, ssam-theorem, rst-theorem: take ssam-table1, or another" in refusal("ssam-tabel1", *out)
    assert "take one that --list tells, or `all`" in refusal("?", *out)
    assert "got no recipe" in refusal(*out)
    assert "expected I/N with 1 <= I <= N" in refusal("rst-table1", "--shard", "3/2", *out)
    text = refusal("rst-figure2", "--set", "speed=1", *out)
    listed = text.partition("expected one of ")[2].partition(":")[0].split(", ")
    assert {"epochs", "rho"} <= set(listed) and not {"rule", "seed", "root", "p"} & set(listed)
    assert "named after their p, leave it out" in refusal("rst-figure2", "--set", "p=0.3", *out)
    assert "training got epochs='abc', expected a whole number" in refusal("rst-table1", "--set", "epochs=abc", *out)
    assert "training got batch_size=0, expected a whole number" in refusal("rst-table1", "--set", "batch_size=0", *out)
    assert "got --set rho=abc, expected a number: change rho" in refusal("rst-table1", "--set", "rho=abc", *out)
    assert "training got train='x', expected a whole number" in refusal("rst-table1", "--set", "train=x", *out)
    assert "expected KEY=VALUE" in refusal("rst-table1", "--set", "speed", *out)
    assert "at least 1" in refusal("rst-table1", "--seeds", "0", *out)
    text = refusal("rst-table1", "--scale", "paper", *out)
    assert "got data set 'cifar10' without a root" in text
    assert "cifar-10-binary.tar.gz; unpack them and add --root cifar10=DIR" in text
    assert "is not a folder" in refusal("rst-table1", "--scale", "paper", "--root", tmp_path / "none", *out)
    for k in ("all", "nan", "-3", "1.5"):
        assert "expected conventional, paper or a number from 0 to 1" in refusal("rst-table1", "--flops", k, *out)
    for root in ("cifar=x", "cifar10="):
        assert f"got --root {root}, expected DIR or DATA=DIR with one of cifar10," in refusal("all", "--root", root)
    assert "mnist: got no train-images-idx3-ubyte" in refusal(
        "rst-table1", "--set", "data=mnist", "--root", tmp_path / "none", *out
    )
    for words in ([], ["--list"]):
        text = refusal("rst-table1", "--set", "data=none", *words, *out)
        assert "got --set data=none, expected one of cifar10," in text
    (tmp_path / "file").write_text("")
    text = refusal("rst-table1", *WORDS, *out, "--figures", tmp_path / "file")
    assert "(Not a directory), expected one that can be written: change --figures" in text
    assert not list(tmp_path.glob("digits*"))  # before anything was trained


def test_a_damaged_run_is_named_with_the_remedy(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "runs", tmp_path / "runs")
    out = [*WORDS, "--out", tmp_path / "runs", "--figures", tmp_path / "figures"]
    damaged = next((tmp_path / "runs").glob("*/history.h5"))
    damaged.write_bytes(damaged.read_bytes()[:500])
    for words in (["--list"], []):
        text = refusal("rst-table3", *out, *words)
        assert f"or remove {damaged.parent}: the run is then made again" in text
    shutil.rmtree(damaged.parent)
    assert "[1/1]" in call("rst-table3", *out)
    assert still(tmp_path / "figures") == still(whole / "figures")


def test_every_run_is_opened_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(work, "open_run", lambda path: opened.append(path) or open_run(path))
    settings = recipes.Task(("rst-table3", "rst-table1"), seeds=2, out=str(whole / "runs"), changes=QUICK)
    assert "| 0 " in listing(settings) and len(opened) == len(set(opened)) == 6


def test_draw_tells_what_is_missing(tmp_path: Path) -> None:
    script = [sys.executable, str(Path(__file__).parents[2] / "figures/draw.py"), "--out", str(tmp_path)]
    done = subprocess.run([*script, "rst-tabel1"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("Error: got the recipe 'rst-tabel1'"), done.stderr
    done = subprocess.run([*script, "rst-table1", "--runs", str(tmp_path / "none")], capture_output=True, text=True)
    assert done.returncode == 1 and "expected a folder of runs" in done.stderr, done.stderr
    done = subprocess.run([*script, "rst-table1", "--runs", str(tmp_path)], capture_output=True, text=True)
    assert "6 of 6 runs are missing, no table yet: reproduce makes them" in done.stdout


def test_variables() -> None:
    scope = {"m": 0.7, "epoch": 7, "rho": 0.1}
    assert filled("Linear({2*m-1}, {1/rho})", scope) == "Linear(0.4, 10.0)"
    assert filled("{epoch}", scope) == 7
    for wrong in ("{nothing}", "{epoch.real}", "{__import__('os')}"):
        with pytest.raises(recipes.RecipeError, match="expected one of m, epoch, rho"):
            filled(wrong, scope)


def verdict(
    kind: str, first: list[float], second: list[float], third: list[float] | None = None, resolution: float = 0.0
) -> bool | None:
    """Of row a against row b, with row SGD as the baseline."""
    rows = {"a": first, "b": second, "SGD": third}
    values = {name: {"error": Mean(tuple(row), (), resolution)} for name, row in rows.items() if row is not None}
    return next(judged(Claim("", kind, "error", ("a",), ("b",)), values, {})).seen


def test_verdicts_of_pairs() -> None:
    """Against scipy's own paired test."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.normal(size=5), rng.normal(0.7, size=5)
        less = stats.ttest_rel(a, b, alternative="less").pvalue < 0.05
        more = stats.ttest_rel(a, b, alternative="greater").pvalue < 0.05
        assert verdict("less", list(a), list(b)) == less
        assert verdict("more", list(a), list(b)) == more
    assert verdict("less", [1.0], [2.0]) is None


def test_close_is_half_of_the_gap_to_the_baseline() -> None:
    """Against two paired tests of scipy; the baseline itself never passes."""
    rng = np.random.default_rng(1)
    decided = []
    for _ in range(60):
        a, b, c = rng.normal(size=5), rng.normal(size=5), rng.normal(3.0, size=5)
        found, worse = verdict("close", list(a), list(b), list(c)), verdict("no-more", list(a), list(b), list(c))
        if stats.ttest_rel(b, c).pvalue >= 0.05:
            assert found is None and worse is None
            continue
        half = np.sign(np.mean(b - c)) * (b - c) / 2
        upper, lower = (stats.ttest_1samp(half + d, 0.0, alternative="greater").pvalue < 0.05 for d in (b - a, a - b))
        assert found == (upper and lower) and worse == upper
        assert not verdict("close", list(c), list(b), list(c))
        decided.append(found)
    assert len(decided) > 20 and {True, False} == set(decided)
    assert verdict("close", [1.0, 1.1, 0.9], [1.0, 1.0, 1.2]) is None  # no baseline


def test_equal_numbers_give_no_certainty() -> None:
    one, two = [1.0, 2.0, 3.0], [1.1, 2.1, 3.1]
    assert verdict("less", one, two) is None
    assert verdict("less", one, two, resolution=0.05) and not verdict("less", one, two, resolution=0.1)
    assert verdict("more", one, one) is None and not verdict("more", one, one, resolution=0.1)


def test_seeds_are_paired_by_number() -> None:
    claim = Claim("", "less", "error", ("a",), ("b",))
    a = {"error": Mean((0.0, 5.1, 9.0), (3, 1, 2))}
    b = {"error": Mean((6.0, 10.1, 50.0), (1, 2, 4))}
    found = next(judged(claim, {"a": a, "b": b}, {}))
    assert found.found.seeds == (1, 2) and found.found.values == pytest.approx((-0.9, -1.1))
    assert next(judged(claim, {"a": a, "b": {"error": Mean((1.0,), (7,))}}, {})).text.endswith("no seed in common")


def test_against_several_rows_means_against_each() -> None:
    values = {
        row: {"error": Mean(tuple(map(float, found)))} for row, found in {"a": "579", "b": "112", "c": "686"}.items()
    }
    both, one = (next(judged(Claim("", "more", "error", ("a",), than), values, {})) for than in (("b", "c"), ("b",)))
    assert one.seen and not both.seen and both.than == "c"


def test_verdicts_of_trends() -> None:
    values = {
        f"row {place}": {"error": Mean(tuple(-2.0 * place + noise * place for noise in (0.0, 0.1, -0.2)))}
        for place in range(4)
    }
    variables = {row: {"x": float(row[-1]), "same": 1.0} for row in values}

    def trend(kind: str, x: str) -> Verdict:
        return next(judged(Claim("", kind, "error", ("row*",), x=x), values, variables))

    assert trend("falls", "x").seen and not trend("rises", "x").seen
    assert trend("falls", "x").found.mean == pytest.approx(-2.0 - 0.1 / 3)
    assert trend("falls", "same").text == "not decided: equal same"


@pytest.mark.parametrize(("spread", "seen"), [(0.02, True), (0.4, False)])
def test_on_line_uses_the_interval(spread: float, seen: bool) -> None:
    """Rows 0.2 apart: the root mean square distance from y = x, and t e on top, must stay below 0.1."""
    values = {
        f"p={x}": {"extra": Mean(tuple(x + spread * off for off in (0.1, 0.2, 0.4))), "expected": Mean((x,) * 3)}
        for x in (0.2, 0.4, 0.6, 0.8)
    }
    found = next(judged(Claim("", "on-line", "extra", ("p=*",), x="expected"), values, {}))
    assert found.half == pytest.approx(0.1) and found.found.mean == pytest.approx(spread * 0.7 / 3)
    assert found.seen == seen and found.found.mean < found.half


def test_every_rule_is_told() -> None:
    kinds = {claim.kind for name in recipes.names() for claim in recipes.read(name).claims}
    assert kinds == set(RULES) and all(f"{kind}: {rule}" in RULE for kind, rule in RULES.items())


def test_one_seed_says_so(whole: Path, tmp_path: Path) -> None:
    words = [word for word in WORDS if word not in {"--seeds", "2"}]
    call("rst-table3", "--seeds", "1", *words, "--out", whole / "runs", "--figures", tmp_path)
    text = (tmp_path / "small/rst-table3/table.md").read_text()
    assert "one seed: no deviation, no verdict" in text and "standard deviation" not in text
    assert "not decided: one seed" in text
