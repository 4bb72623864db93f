"""Pictures of theorems: what is drawn is what was measured."""

import dataclasses

import numpy as np
import pytest

from sharpscope import plots
from sharpscope.core.convergence import Convergence


def make(problem="quadratic, 20 weights", power=True, direct=True):
    steps = np.unique(np.geomspace(1, 200, 15).round().astype(np.int64))
    noise = np.exp(0.2 * np.random.default_rng(0).standard_normal((6, len(steps))))
    mean = 0.2 * steps**-0.7 if power else 0.2 * 0.9**steps
    bound = steps**-0.4 if power else 0.95**steps
    return Convergence(
        steps, mean * noise, bound, 0.7 * bound, 0.5 * bound if direct else None, np.array([10, 200]), power,
        "SSAM Theorem 2", r"$\Vert\nabla f\Vert^2$", "sgd()", problem, {"L": 1.0},
    )  # fmt: skip


def test_one_result():
    one = make()
    ax = plots.plot(one)
    drawn = {line.get_label(): line for line in ax.get_lines()}
    assert drawn["measured, mean"].get_ydata() == pytest.approx(one.mean)
    assert drawn["bound, corrected"].get_ydata() == pytest.approx(one.bound)
    assert drawn["bound, as published"].get_ydata() == pytest.approx(one.published)
    assert drawn["bound, direct"].get_ydata() == pytest.approx(one.direct)
    fit = drawn["fitted rate"]
    steepness = np.diff(np.log(fit.get_ydata())[[0, -1]]) / np.diff(np.log(fit.get_xdata())[[0, -1]])
    assert steepness == pytest.approx(one.slope)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xlabel() == "steps $T$"


def test_an_exponential_rate_without_published_or_direct_bound():
    one = dataclasses.replace(make(power=False, direct=False), published=np.full(len(make().steps), np.nan))
    ax = plots.plot(one)
    assert ax.get_xscale() == "linear"
    assert {line.get_label() for line in ax.get_lines()} == {"measured, mean", "bound, corrected", "fitted rate"}


def test_several_results_share_axes_by_problem():
    found = {f"{method} on {name}": make(name) for name in ("quadratic", "logistic") for method in ("SGD", "SAM")}
    del found["SAM on logistic"]
    figure = plots.convergences(found)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 3
    assert [ax.get_title() for ax in figure.axes[:2]] == ["SGD", "SAM"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    with pytest.raises(ValueError, match=r"^convergences got nothing to compare"):
        plots.convergences({})
    with pytest.raises(ValueError, match=r"^convergences got results of several quantities"):
        plots.convergences({"a": make(), "b": make(power=False)})
