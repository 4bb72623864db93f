"""The demo, shortened: five methods, every picture, a table, and the same numbers twice."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sharpscope.cli.demo import METHODS, PLANS, Plan, demo
from sharpscope.runs.analyze import Analysis
from sharpscope.runs.figures import draw_run, members, table
from sharpscope.store import Run, StoreError, create_run

DIGITS = PLANS["digits"]
SHORT = Plan(
    replace(DIGITS.experiment, settings=replace(DIGITS.experiment.settings, epochs=2), train=256, test=64),
    Analysis(examples=128, tol=0.05, resolution=3),
)
PICTURES = ["mask_profiles", "masks", "r_ratio", "spectra", "surfaces", "training"]


def short_demo(folder: Path) -> Run:
    return demo(out=folder / "run", figures=folder / "figures", plan=SHORT)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return short_demo(tmp_path_factory.mktemp("demo"))


def test_five_methods_all_pictures(run: Run) -> None:
    assert list(members(run)) == list(METHODS)
    figures = Path(run.path).parent / "figures"
    assert sorted(path.name for path in figures.iterdir()) == [f"{p}.{end}" for p in PICTURES for end in ("pdf", "png")]
    for method in METHODS:
        names = set(run.child(method).result_names())
        assert names == {"ratio", "spectrum", "surface"} | (
            {"masks", "mask_profile"} if method.startswith("SSAM") else set()
        )
    rows = table(run).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == list(METHODS)
    assert rows[2].split("|")[7].strip() == "1.00" and rows[3].split("|")[7].strip() == "2.00"


def test_the_same_seed_gives_the_same_numbers(run: Run, tmp_path: Path) -> None:
    again = short_demo(tmp_path)
    for method in METHODS:
        mine, theirs = run.child(method), again.child(method)
        assert {name: mine.results[name] == theirs.results[name] for name in mine.result_names()} == dict.fromkeys(
            mine.result_names(), True
        )


def test_a_second_call_computes_nothing_anew(run: Run) -> None:
    folder = Path(run.path).parent
    before = {path: path.stat().st_mtime_ns for path in Path(run.path).rglob("*.h5")}
    pictures = {path: path.read_bytes() for path in (folder / "figures").iterdir()}
    short_demo(folder)
    assert {path: path.stat().st_mtime_ns for path in Path(run.path).rglob("*.h5")} == before
    assert {path: path.read_bytes() for path in (folder / "figures").iterdir()} == pictures


def test_surfaces_share_their_directions(run: Run) -> None:
    surfaces = [run.child(method).results["surface"] for method in METHODS]
    assert len({(s.seed, s.directions) for s in surfaces}) == 1  # type: ignore[attr-defined]


def test_refusals(tmp_path: Path, run: Run) -> None:
    with pytest.raises(ValueError, match="the demo got data 'mnist', expected one of digits, cifar10: choose one"):
        demo("mnist")
    other = create_run(tmp_path / "other", {"what": "else"})
    with pytest.raises(StoreError, match="holds another run"):
        demo(out=other.path, figures=tmp_path)
    with pytest.raises(StoreError, match="holds no curve and no result"):
        draw_run(other, tmp_path)


def test_the_cifar_demo_runs(tmp_path: Path) -> None:
    root = os.environ.get("SHARPSCOPE_CIFAR10", Path(__file__).parents[3] / "shared/data/cifar-10-batches-bin")
    if not Path(root).is_dir():
        pytest.skip("the CIFAR-10 files are not here")
    plan = PLANS["cifar10"]
    tiny = replace(plan.experiment, settings=replace(plan.experiment.settings, epochs=1), train=128, test=64)
    done = demo("cifar10", str(root), tmp_path / "run", tmp_path / "f", plan=Plan(tiny, Analysis(8, 1, 0.3, 2)))
    assert all(done.child(method).status == "finished 1 of 1 epochs" for method in METHODS)
