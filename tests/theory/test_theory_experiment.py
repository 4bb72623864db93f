"""Theorems measured in short runs: the expected iterates by hand, quantities under bounds, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sharpscope.ascent.perturbations import Ball, Magnitude
from sharpscope.core.convergence import Convergence
from sharpscope.core.schedules import Cosine, InverseSqrt
from sharpscope.optimizers.methods import asam, gnr, grst, looksam, rst, sam, sgd, ssam_d, ssam_f
from sharpscope.optimizers.rules import Ascend
from sharpscope.recipes.theorems import run_suite
from sharpscope.store import load, save
from sharpscope.theory.assumptions import Unnormalized
from sharpscope.theory.experiment import run_theorem
from sharpscope.theory.problems import least_squares, logistic, quadratic, waves
from sharpscope.theory.suites import cases, table

FALLING = InverseSqrt(0.2)
SSAM = {
    "SGD": ("ssam-1", sgd()),
    "SAM": ("ssam-1", sam(FALLING)),
    "SSAM-F": ("ssam-2", ssam_f(FALLING, sparsity=0.5, samples=4, every=20)),
    "SSAM-D": ("ssam-2", ssam_d(FALLING, sparsity=0.5, every=20)),
}
RST = {
    "GD": sgd(),
    "RST": rst(sam(0.05), p=0.5),
    "G-RST": grst(sam(0.05), p=0.5, weight=2.0),
    "RST over SSAM-D": rst(ssam_d(0.05, sparsity=0.5, every=20), p=0.5),
    "RST, p falls": rst(sam(0.05), p=Cosine(1.0, 0.0)),
}


@pytest.mark.parametrize("method", SSAM)
@pytest.mark.parametrize("make", [quadratic, logistic])
def test_ssam_theorems_hold(make, method: str) -> None:
    theorem, rule = SSAM[method]
    found = run_theorem(theorem, make(), rule, steps=40, seeds=3)
    assert found.holds
    assert 0.0 < found.closest < 1.0
    assert (found.mean <= found.direct).all()
    assert (found.direct <= found.bound).all()
    assert found.slope < 0.0
    assert found.slope_stderr > 0.0


@pytest.mark.parametrize("method", RST)
def test_rst_theorems_hold(method: str) -> None:
    for theorem, make in (("rst-1", logistic), ("rst-2", least_squares), ("rst-2", waves)):
        found = run_theorem(theorem, make(), RST[method], steps=30, seeds=3)
        assert found.holds
        assert 0.0 < found.closest < 1.0


def test_published_theorem_2_of_rst_does_not_hold_for_the_unit_climb() -> None:
    """The climb of fixed length keeps the loss above the linear rate; the climb along the gradient does not."""
    unit = run_theorem("rst-2", quadratic(), RST["RST"], steps=150, seeds=2)
    along = run_theorem("rst-2", quadratic(), rst(Ascend(Unnormalized(0.1)), p=0.5), steps=150, seeds=2)
    assert unit.holds
    assert unit.closest_published > 10.0
    assert along.holds
    assert along.closest_published < 1.0
    assert np.array_equal(along.published, along.bound)


def test_the_run_is_the_theorems_iteration_by_hand() -> None:
    """SAM with eta_t = eta / sqrt(t), rho_t = rho / sqrt(t) on batches drawn with replacement, literally."""
    known = quadratic(size=4, examples=10)
    found = run_theorem("ssam-1", known, sam(FALLING), steps=12, seeds=2, batch=3, points=12, seed=5)
    model = known.make()
    w, matrix, rng, squares = model.weight.detach().clone(), model.matrix, torch.Generator().manual_seed(6), []
    for t in range(1, 13):
        squares.append(float((matrix @ w - known.inputs.mean(dim=0)).square().sum()))
        mean = known.inputs[torch.randint(10, (3,), generator=rng)].mean(dim=0)
        g = matrix @ w - mean
        w = w - t**-0.5 * (matrix @ (w + 0.2 * t**-0.5 * g / g.norm()) - mean)
    expected = np.cumsum(squares) / np.arange(1, 13)
    assert found.measured[1] == pytest.approx(expected[found.steps - 1], rel=1e-10)


def test_rst_measures_by_hand() -> None:
    """Plain descent on the waves: losses after each step, and the weighted mean of the squared gradients."""
    known = waves(2)
    x, losses, squares = known.make().weight.detach().clone(), [], []
    for _ in range(10):
        g = 2 * x + 3 * (2 * x).sin()
        squares.append(float(g @ g))
        x = x - 0.05 * g
        losses.append(float((x**2 + 3 * x.sin() ** 2).sum()))
    second = run_theorem("rst-2", known, sgd(), steps=10, seeds=1, rate=0.05, points=10)
    first = run_theorem("rst-1", known, sgd(), steps=10, seeds=1, rate=0.05, points=10)
    assert second.measured[0] == pytest.approx(losses, rel=1e-10)
    means = np.cumsum(squares) / np.arange(1, 11)
    assert first.measured[0] == pytest.approx(means[first.steps - 1], rel=1e-10)
    assert np.isnan(second.stderr).all()


def test_seeds_are_repeatable_and_leave_no_trace(rng_guard) -> None:
    one = run_theorem("ssam-2", logistic(), SSAM["SSAM-D"][1], steps=15, seeds=2, seed=1)
    more = run_theorem("ssam-2", logistic(), SSAM["SSAM-D"][1], steps=15, seeds=3, seed=0)
    assert np.array_equal(one.measured, more.measured[1:])
    assert not np.array_equal(more.measured[0], more.measured[1])


def test_fitted_rates_of_known_curves() -> None:
    steps = np.array([1, 2, 5, 10, 20, 50, 100])
    noise = np.array([[1.0], [1.1], [0.9]])
    words = dict.fromkeys(("theorem", "quantity", "rule", "problem"), "")
    common = {**words, "published": 1.0 / steps, "direct": None, "constants": {}}
    power = Convergence(
        steps=steps, measured=noise * steps**-0.75, bound=3.0 / np.sqrt(steps), window=np.array([10, 100]), power=True,
        **common,
    )  # fmt: skip
    assert power.slope == pytest.approx(-0.75)
    assert power.slope_stderr == pytest.approx(0.0, abs=1e-14)
    assert power.bound_slope == pytest.approx(-0.5)
    assert power.holds
    assert power.closest == pytest.approx(1 / 3)
    assert power.closest_published == pytest.approx(100**0.25)
    linear = dataclasses.replace(power, power=False, measured=noise ** [[2.0]] * 0.9**steps, window=np.array([1, 100]))
    assert linear.slope == pytest.approx(np.log(0.9))
    assert not dataclasses.replace(power, bound=power.mean).holds  # within two standard errors of the bound


def test_stored_and_loaded(tmp_path) -> None:
    found = run_theorem("rst-1", logistic(), RST["RST"], steps=10, seeds=2)
    assert load(save(found, tmp_path / "one.h5")) == found


def test_a_suite_is_run_once_and_goes_on(tmp_path, monkeypatch) -> None:
    from sharpscope.theory import suites

    monkeypatch.setitem(suites.SCALES, "small", (12, 12, 2))
    some = {"rst-theorem": lambda steps, seeds: suites._rst(steps, seeds)[::20]}
    monkeypatch.setattr(suites, "SUITES", some)
    found = run_suite("rst-theorem", tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(
        ["results", *(f"rst-theorem.{kind}" for kind in ("md", "csv", "tex"))]
        + [f"rst-theorem-{number}.{kind}" for number in (1, 2) for kind in ("pdf", "png")]
    )
    assert len(found) == len(list((tmp_path / "results").iterdir())) == 2
    first = (tmp_path / "rst-theorem.md").read_bytes()
    done = next((tmp_path / "results").iterdir())
    done.unlink()
    ran = []
    monkeypatch.setattr(suites.Case, "run", lambda self, progress, run=suites.Case.run: ran.append(self) or run(self))
    again = run_suite("rst-theorem", tmp_path)
    assert [case.file for case in ran] == [done.name]
    assert again == found
    assert (tmp_path / "rst-theorem.md").read_bytes() == first
    assert first.decode().count("| yes") == 2


def test_table_of_both_suites_has_a_row_per_case() -> None:
    assert [len(cases(suite, seeds=2)) for suite in ("ssam-theorem", "rst-theorem")] == [8, 22]
    one = run_theorem("ssam-1", quadratic(), sgd(), steps=10, seeds=2)
    for style, line in (
        ("csv", "SSAM Theorem 1,SGD,2,10,"),
        ("github", "| SSAM Theorem 1 | SGD"),
        ("latex", "tabular"),
    ):
        assert line in table({"SGD": one}, style)
    with pytest.raises(ValueError, match=r"^cases got suite='x', expected one of ssam-theorem, rst-theorem"):
        cases("x")
    with pytest.raises(ValueError, match=r"^cases got scale='x', expected one of small, paper"):
        cases("rst-theorem", "x")


@pytest.mark.parametrize(
    ("theorem", "make", "rule", "options", "text"),
    [
        ("ssam-3", quadratic, sgd(), {}, "theorem='ssam-3', expected one of ssam-1, ssam-2, rst-1, rst-2"),
        ("ssam-1", quadratic, SSAM["SSAM-D"][1], {}, "expected a rule without a mask"),
        ("ssam-1", quadratic, sam(0.1), {}, r"expected a radius that falls as the theorem assumes: rho=InverseSqrt"),
        ("ssam-1", quadratic, sam(FALLING), {"rate": 0.1}, r"rate=0.1, expected InverseSqrt\(eta\)"),
        ("ssam-1", quadratic, sam(FALLING), {"rate": InverseSqrt(1.1)}, "eta=1.1, expected at most 1 / L = 1"),
        ("ssam-1", quadratic, rst(sam(FALLING), p=0.5), {}, "which the SSAM paper's theorems speak of"),
        ("ssam-1", least_squares, sgd(), {}, "expected bounded gradients and noise"),
        ("rst-1", logistic, sam(FALLING), {}, "expected a constant radius"),
        ("rst-1", logistic, rst(Ascend(Unnormalized(0.1)), p=0.5), {}, "expected a climb along the unit vector"),
        ("rst-1", logistic, sgd(), {"rate": 100.0}, "rates up to=100, expected at most 1 / beta"),
        ("rst-2", logistic, sgd(), {}, "expected a problem with a constant of Polyak and Lojasiewicz"),
        ("rst-2", waves, asam(0.1), {}, "expected a rule that the theorems speak of"),
        ("rst-2", waves, looksam(0.1), {}, "expected a rule that the theorems speak of"),
        ("rst-2", waves, rst(rst(sam(0.1))), {}, "expected a rule that the theorems speak of"),
        ("rst-2", waves, Ascend(Ball(0.1, Magnitude())), {}, "expected a rule that the theorems speak of"),
        ("rst-1", logistic, gnr(0.1, weight=FALLING), {}, "expected a rule that the theorems speak of"),
        ("rst-1", logistic, sgd(), {"steps": 0}, "steps=0, expected a whole number"),
    ],
)  # fmt: skip
def test_a_violated_assumption_is_refused(theorem, make, rule, options, text) -> None:
    with pytest.raises(ValueError, match=text):
        run_theorem(theorem, make(), rule, **{"steps": 5, "seeds": 1} | options)


def test_weights_that_leave_the_region_are_refused() -> None:
    with pytest.raises(
        ArithmeticError, match=r"weights beyond 1 of the centre of the quadratic, .* at step \d+, expected"
    ):
        run_theorem("ssam-1", quadratic(spread=5.0, region=1.0), sgd(), steps=50, seeds=1, batch=1)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_trial_of_few_steps_has_a_rate_window_within_them(steps: int) -> None:
    found = run_theorem("rst-2", quadratic(), sgd(), steps=steps, seeds=1)
    assert found.steps[-1] == steps and (found.window <= steps).all()
