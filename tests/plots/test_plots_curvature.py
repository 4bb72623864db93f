"""Drawings of densities, of curvature by parts and along training, of both ends of a spectrum."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpscope import plots
from sharpscope.analyzers.spectra.curvature import Curvature
from sharpscope.analyzers.spectra.density import Density
from sharpscope.analyzers.spectra.track import Track


def make_density(scale=1.0, probes=5):
    rng = np.random.default_rng(0)
    nodes = np.sort(rng.normal(0, 0.3 * scale, (probes, 20)), axis=1)
    weights = rng.uniform(0.5, 1.5, (probes, 20))
    weights *= (995 / 1000) / weights.sum(axis=1, keepdims=True)
    top = scale * np.array([9.0, 7.0, 5.0, 4.0, 3.0])
    return Density(top, 1e-3 * top, nodes, weights, 1000, 116, 0, "Hessian of net")


def make_curvature(scale=1.0, parts=30):
    rng = np.random.default_rng(1)
    values = scale * rng.lognormal(0, 1, parts)
    shares = rng.dirichlet(np.ones(parts), 3)
    sizes = rng.integers(10, 1000, parts)
    return Curvature(
        tuple(f"layer{i // 6}.{i % 6}.conv" for i in range(parts)), sizes, values, 0.01 * values, 5 * values,
        0.5 * values, float(5 * values.sum()), 1.0, np.array([9.0, 5.0, 4.0]), np.full(3, 1e-3), shares,
        int(sizes.sum()), 300, 0, "Hessian of net",
    )  # fmt: skip


def make_track(scale=1.0, k=1):
    steps = np.arange(1, 11) * 79
    values = scale * (100 / np.sqrt(steps))[:, None] / (1 + np.arange(k))
    return Track(steps, values, 0.01 * values, np.full(10, 6), 1e-2, 0, True, "Hessian of net")


def test_density_has_a_band_and_a_tick_for_every_exact_value() -> None:
    density = make_density()
    ax = density.plot()
    line, ticks = ax.lines
    assert ax.get_yscale() == "log"
    assert np.array_equal(ticks.get_xdata(), density.eigenvalues)
    _, mean, stderr, _ = density.curve()
    seen = np.isfinite(line.get_ydata())
    np.testing.assert_allclose(line.get_ydata()[seen], mean[seen])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx((mean + stderr).max())
    assert "5 probes × 20 steps" in ax.get_title()
    wide = plots.plot(density, width=1.0)
    assert np.nanmax(wide.lines[0].get_ydata()) < mean.max()


def test_densities_share_one_width_and_one_probe_has_no_band() -> None:
    figure = plots.densities({"SGD": make_density(), "SAM": make_density(0.3, probes=1)})
    assert len(figure.axes[0].collections) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SGD", "SAM"]
    heights = [line.get_ydata()[0] for line in figure.axes[0].lines[1::2]]
    assert len(set(heights)) == 2  # ticks of two methods in two rows


def test_curvature_shares_and_eigenvalues() -> None:
    curvature = make_curvature()
    ax = curvature.plot()
    image = ax.images[0].get_array()
    assert image.shape == (5, 30)
    np.testing.assert_allclose(image[2:], curvature.captured)
    assert ax.images[0].get_clim() == (0.0, 1.0)
    bars = plots.plot(curvature, view="eigenvalues")
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], curvature.eigenvalues)
    with pytest.raises(ValueError, match="view= got 'pie'"):
        plots.plot(curvature, view="pie")


def test_curvatures_of_methods_share_a_scale() -> None:
    one, other = make_curvature(), make_curvature(5.0)
    negative = dataclasses.replace(one, eigenvalues=np.where(np.arange(30) == 3, -1.0, one.eigenvalues))
    figure = plots.curvatures({"SGD": negative, "SAM": other})
    image = figure.axes[0].images[0]
    assert image.get_array().shape == (2, 30)
    assert not np.isfinite(image.get_array().filled(np.nan)[0, 3])
    assert image.norm.vmax == other.eigenvalues.max()
    with pytest.raises(ValueError, match="curvatures got results of different parts"):
        plots.curvatures({"a": one, "b": make_curvature(parts=3)})


def test_track_and_tracks() -> None:
    ax = make_track(k=3).plot()
    texts = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert texts == [r"$\lambda_1$", r"$\lambda_{2}$", r"$\lambda_{3}$"]
    figure = plots.tracks({"SGD": make_track(), "SAM": make_track(0.3)})
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_ylim()[0] == 0.0


@pytest.mark.parametrize("orientation", ["vertical", "horizontal"])
def test_both_ends_of_a_spectrum(make, orientation: str) -> None:
    spectrum = dataclasses.replace(
        make.spectrum(), which="both", lowest=np.array([-3.0, -2.0, -1.5, -1.0, -0.5]), lowest_residuals=np.full(5, 0.1)
    )
    ax = plots.plot(spectrum, orientation=orientation)
    assert len(ax.patches) == 10
    size = "get_height" if orientation == "vertical" else "get_width"
    assert [getattr(bar, size)() for bar in ax.patches][-1] == -3.0
    names = ax.get_xticklabels() if orientation == "vertical" else ax.get_yticklabels()
    assert names[-1].get_text() == r"$\lambda_n$"
    low = plots.plot(dataclasses.replace(spectrum, which="smallest", lowest=None, lowest_residuals=None))
    assert low.get_title().startswith(r"$\lambda_n$ = ")


@pytest.mark.parametrize("draw", [plots.densities, plots.curvatures, plots.tracks])
def test_nothing_to_compare_is_refused(draw) -> None:
    with pytest.raises(ValueError, match="got nothing to compare"):
        draw({})
