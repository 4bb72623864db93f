"""Drawings of one result: what is drawn is what the result holds."""

import dataclasses
import re

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from sharpscope import plots
from sharpscope.plots._layers import layer_blocks
from sharpscope.plots.landscapes._scale import loss_scale
from sharpscope.plots.masks.overlap import mask_axis
from sharpscope.plots.style import with_error


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture
def ax():
    return Figure(figsize=(5, 4)).subplots()


def every(make):
    return [
        make.spectrum(), make.surface(), make.line(), make.ratio(), make.overlap(), make.history(), make.series(),
        make.profile(), make.trace(),
    ]  # fmt: skip


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_plot_draws_on_the_axes_given_and_returns_them(make):
    for result in every(make):
        ax = Figure().subplots()
        assert plots.plot(result, ax) is ax
        ax.figure.draw_without_rendering()
    assert not pyplot.get_fignums()


def test_plot_without_axes_makes_one_pyplot_figure_with_labelled_axes(make):
    for count, result in enumerate(every(make), start=1):
        ax = plots.plot(result)
        assert len(pyplot.get_fignums()) == count and pyplot.gcf() is ax.figure
        assert ax.get_xlabel() or ax.get_ylabel()
        ax.figure.draw_without_rendering()


def test_rcparams_stay_as_they_were(make):
    with matplotlib.rc_context({"font.size": 13.0, "axes.spines.top": True}):
        pyplot.close(pyplot.figure())
        before = dict(matplotlib.rcParams)
        for result in every(make):
            plots.plot(result)
            plots.plot({"SAM": result})
        with pytest.raises(ValueError, match="orientation="):
            plots.plot(make.spectrum(), orientation="diagonal")
        assert dict(matplotlib.rcParams) == before


def test_a_result_is_not_changed_by_drawing(make):
    for result, again in zip(every(make), every(make), strict=True):
        plots.plot(result)
        assert result == again


def test_unknown_things_are_refused_in_words(make):
    with pytest.raises(TypeError, match=r"plot got int; expected one of Spectrum, Surface, .*or a mapping"):
        plots.plot(3)
    with pytest.raises(TypeError, match=r"plot \('b'\) got str; expected one of"):
        plots.plot({"a": make.spectrum(), "b": "no"})
    with pytest.raises(TypeError, match=r"several kinds \(History, Spectrum\); expected one kind"):
        plots.plot({"a": make.spectrum(), "b": make.history()})
    with pytest.raises(ValueError, match="empty mapping; expected at least one"):
        plots.plot({})
    with pytest.raises(ValueError, match="leave ax= out"):
        plots.plot({"a": make.spectrum()}, ax=Figure().subplots())
    assert not pyplot.get_fignums()


def test_a_refused_option_leaves_no_figure_behind(make):
    with pytest.raises(
        ValueError, match="expected one of 'heatmap', 'time', 'turnover', 'survival', 'union', 'layers', 'density'"
    ):
        plots.plot(make.overlap(), view="pie")
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("orientation", ["vertical", "horizontal"])
def test_spectrum_bars_are_eigenvalues_and_error_bars_residuals(make, ax, orientation):
    result = make.spectrum(eigenvalues=[9.0, 4.0, -1.0], residuals=[0.5, 0.25, 0.125])
    plots.draw_spectrum(ax, result, orientation=orientation)
    bars = ax.containers[-1]
    upright = orientation == "vertical"
    lengths = [bar.get_height() if upright else bar.get_width() for bar in bars]
    np.testing.assert_array_equal(lengths, result.eigenvalues)
    segments = np.array(bars.errorbar.lines[2][0].get_segments())[:, :, 1 if upright else 0]
    np.testing.assert_allclose((segments[:, 1] - segments[:, 0]) / 2, result.residuals)
    names = ax.get_xticklabels() if upright else ax.get_yticklabels()
    assert [name.get_text() for name in names] == [r"$\lambda_{1}$", r"$\lambda_{2}$", r"$\lambda_{3}$"]
    assert "eigenvalue" in (ax.get_ylabel() if upright else ax.get_xlabel())


def test_spectrum_title_is_the_ratio_with_its_error(make, ax):
    plots.draw_spectrum(ax, make.spectrum(eigenvalues=[10.0, 5.0], residuals=[0.1, 0.05]))
    assert ax.get_title() == r"$\lambda_1 / \lambda_{2}$ = 2.00 ± 0.04"
    plots.draw_spectrum(ax, make.spectrum(eigenvalues=[10.0, 0.0], residuals=[0.1, 0.05]))
    assert "(error unbounded)" in ax.get_title()
    plots.draw_spectrum(ax, make.spectrum(eigenvalues=[10.0], residuals=[0.1]))
    assert ax.get_title() == r"$\lambda_1$ = 10.0 ± 0.1"


def test_spectrum_title_tells_what_is_certified(make, ax):
    one = dataclasses.replace(
        make.spectrum(eigenvalues=[10.0, 5.0], residuals=[0.1, 0.05]), confidence=0.99, certified=1
    )
    plots.draw_spectrum(ax, one)
    assert ax.get_title().splitlines()[1] == "1 of 2 certified at 99 %"
    both = dataclasses.replace(one, which="both", lowest=np.zeros(2), lowest_residuals=np.ones(2), lowest_certified=2)
    plots.draw_spectrum(ax, both)
    assert ax.get_title().splitlines()[1] == "3 of 4 certified at 99 %"
    figure = plots.spectra({"SGD": one, "SAM": dataclasses.replace(one, certified=2)})
    assert [text.endswith("separated") for text in texts(figure.axes[1])] == [True, False]


def test_trace_dots_are_the_probes_and_the_band_one_standard_error(make, ax):
    result = make.trace()
    plots.draw_trace(ax, result)
    dots, line = ax.lines
    np.testing.assert_array_equal(dots.get_ydata(), result.samples)
    assert line.get_ydata()[0] == result.value == pytest.approx(result.samples.mean())
    low, high = ax.patches[0].get_extents().transformed(ax.transData.inverted()).intervaly
    assert (low, high) == pytest.approx((result.value - result.stderr, result.value + result.stderr))
    assert "hutchinson, 40 products" in ax.get_xlabel() and ax.get_title() == "trace = 52 ± 2"
    exact = dataclasses.replace(result, samples=None, stderr=0.0, method="exact")
    other = plots.plot(exact)
    assert not len(other.lines[0].get_ydata()) and not other.patches
    bars = plots.plot({"SGD": result, "SAM": exact}).containers
    assert [bar[0].get_height() for bar in bars if len(bar) == 1] == [result.value] * 2
    with pytest.raises(ValueError, match="traces got nothing to compare"):
        plots.traces({})


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.41234, 0.021, "3.41 ± 0.02"),
        (152.0, 12.0, "152 ± 12"),
        (2.5, 1e-9, "2.500 ± 1e-09"),
        (1e6, 10.0, "1.000e+06 ± 1e+01"),
        (3.0, float("inf"), "3 (error unbounded)"),
        (3.0, 0.0, "3"),
        (float("nan"), 0.1, "nan"),
    ],
)
def test_numbers_show_the_digits_that_their_error_allows(value, error, text):
    assert with_error(value, error) == text


def test_surface_contours_cover_the_finite_range_on_a_log_scale(make, ax):
    result = make.surface()
    plots.draw_surface(ax, result)
    filled = ax.collections[0]
    assert isinstance(filled.norm, matplotlib.colors.LogNorm)
    assert (filled.norm.vmin, filled.norm.vmax) == pytest.approx((result.loss.min(), result.loss.max()))
    np.testing.assert_allclose(np.diff(np.log(filled.levels)), np.diff(np.log(filled.levels))[0])
    assert ax.get_xlim() == (-1, 1) and ax.get_xlabel() == r"$\alpha$ (filter norms)"
    assert ax.figure.axes[1].get_ylabel() == "loss (log scale)"
    assert any(list(line.get_xdata()) == [0] and list(line.get_ydata()) == [0] for line in ax.lines)


def test_surface_rows_are_beta(make, ax):
    x, y = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 7))
    plots.draw_surface(ax, make.surface(loss=np.exp(x + 0 * y)), levels=3)
    low = ax.collections[0].get_paths()[0].get_extents()  # the least values are at the left, for every beta
    assert low.x0 == -1 and low.x1 < 0.1 and (low.y0, low.y1) == (-1, 1)


def test_surface_hatches_cells_that_are_not_finite(make, ax):
    loss = make.surface().loss.copy()
    loss[:4, :4], loss[-1, -1] = np.nan, np.inf
    plots.draw_surface(ax, make.surface(loss=loss))
    assert [patch.get_hatch() for patch in ax.patches] == ["//////"]
    assert ax.collections[0].norm.vmax == pytest.approx(loss[np.isfinite(loss)].max())
    clean = Figure().subplots()
    plots.draw_surface(clean, make.surface())
    assert not clean.patches


def test_surface_without_any_finite_value_says_so(make, ax):
    plots.draw_surface(ax, make.surface(loss=np.full((4, 4), np.nan)))
    assert texts(ax) == ["no finite loss"] and len(ax.figure.axes) == 1
    ax.figure.draw_without_rendering()


def test_constant_surface_has_one_colour_and_a_valid_scale(make, ax):
    plots.draw_surface(ax, make.surface(loss=np.full((5, 5), 0.3)))
    norm = ax.collections[0].norm
    assert norm.vmin < 0.3 < norm.vmax
    ax.figure.draw_without_rendering()


def test_loss_that_is_not_positive_is_shifted_by_a_stated_offset(make, ax):
    result = make.surface(loss=make.surface().loss - 1.0)
    scale = loss_scale([result])
    assert scale.offset > 0 and scale.levels[0] > 0
    np.testing.assert_allclose(scale.levels[[0, -1]] - scale.offset, [result.loss.min(), result.loss.max()])
    plots.draw_surface(ax, result)
    assert ax.figure.axes[1].get_ylabel() == f"loss + {scale.offset:.3g} (log scale)"


@pytest.mark.parametrize(
    ("limits", "extend"),
    [({}, "neither"), ({"vmax": 5.0}, "max"), ({"vmin": 0.1}, "min"), ({"vmin": 0.1, "vmax": 5.0}, "both")],
)
def test_clipped_values_extend_the_scale(make, ax, limits, extend):
    assert loss_scale([make.surface()], **limits).extend == extend
    plots.draw_surface(ax, make.surface(), **limits)
    assert ax.collections[0].extend == extend
    ax.figure.draw_without_rendering()


def test_surface_refuses_what_it_cannot_draw(make, ax):
    with pytest.raises(ValueError, match="got 1 x 5 points; expected at least 2 x 2"):
        plots.draw_surface(ax, make.surface(loss=np.ones((1, 5))))
    with pytest.raises(ValueError, match="got vmin=3 and vmax=2; expected vmin < vmax"):
        plots.draw_surface(ax, make.surface(), vmin=3, vmax=2)


def test_line_has_a_band_of_one_standard_error_and_marks_gaps(make, ax):
    loss = make.line().loss.copy()
    loss[-3:] = np.inf
    result = make.line(loss=loss)
    plots.draw_line(ax, result)
    vertices = ax.collections[0].get_paths()[0].vertices
    assert vertices[:, 1].max() == pytest.approx((result.loss + result.stderr)[:-3].max())
    np.testing.assert_array_equal(ax.lines[0].get_ydata()[:-3], loss[:-3])
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), result.alpha[-3:])
    plots.draw_line(Figure().subplots(), make.line(loss=np.full(41, np.nan)), log=True)


def test_ratio_bars_sum_to_the_share(make, ax):
    result = make.ratio(zeros=False, edges=np.arange(-30 * 32, 30 * 32 + 1) / 32)
    plots.draw_ratio(ax, result)
    negative, positive, _ = ax.patches
    assert negative.get_data().values.sum() == pytest.approx(100 * result.share_below_zero)
    assert negative.get_data().values.sum() + positive.get_data().values.sum() == pytest.approx(100)
    assert negative.get_data().edges.max() <= 0 <= positive.get_data().edges.min()
    assert texts(ax) == [f"r < 0: {100 * result.share_below_zero:.1f} %"]
    assert r"\log_{10}" in ax.get_xlabel()
    low, high = ax.get_xlim()
    outside = result.counts.sum(axis=0)[(result.edges[:-1] < low) | (result.edges[:-1] >= high)].sum()
    assert -6 <= low <= -2 and 2 <= high <= 6 and outside < 2e-3 * result.sizes.sum()
    drawn = sum(int(word) for word in re.findall(r": (\d+)", ax.get_title(loc="right")))
    assert drawn == outside


def test_ratio_counts_what_no_bar_shows(make, ax):
    result = make.ratio(base="ln")
    plots.draw_ratio(ax, result)
    note = ax.get_title(loc="right")
    low, high = ax.get_xlim()
    bins = result.counts.sum(axis=0)
    below = result.below.sum() + bins[result.edges[:-1] < low].sum()
    above = result.above.sum() + bins[result.edges[:-1] >= high].sum()
    for count in (result.zero_numerators.sum(), result.zero_denominators.sum(), below, above):
        assert str(count) in note
    assert r"\ln" in ax.get_xlabel()


@pytest.mark.parametrize("view", ["layers", "kinds"])
def test_ratio_groups_show_their_quantiles(make, ax, view):
    result = make.ratio(layers=6)
    plots.draw_ratio(ax, result, view=view)
    groups = result.groups(view.removesuffix("s"))
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert medians == [result.quantiles_of(counts, (0.5,))[0] for counts in groups.values()]
    ends = [collection.get_segments()[0][:, 1].tolist() for collection in ax.collections[::2]]
    assert ends == [result.quantiles_of(counts, (0.05, 0.95)).tolist() for counts in groups.values()]


def test_ratio_sides_are_in_percent_of_each(make, ax):
    result = make.ratio(mask=True, zeros=False, edges=np.arange(-30 * 32, 30 * 32 + 1) / 32)
    plots.draw_ratio(ax, result, view="sides")
    assert [patch.get_data().values.sum() for patch in ax.patches] == pytest.approx([100, 100])
    share = result.share(result.groups("side")["inside"])
    assert f"inside the mask (r < 0: {100 * share:.1f} %)" in [text.get_text() for text in ax.get_legend().get_texts()]
    with pytest.raises(ValueError, match="there is no mask"):
        plots.draw_ratio(ax, make.ratio(), view="sides")
    with pytest.raises(ValueError, match="expected one of 'histogram', 'layers', 'kinds', 'sides'"):
        plots.draw_ratio(ax, make.ratio(), view="bars")


@pytest.mark.parametrize("axis", ["rho", "step", "perturbation"])
def test_ratio_series_show_median_and_share(make, ax, axis):
    result = make.series(axis=axis)
    plots.draw_series(ax, result)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), result.quantiles[:, 3])
    twin = ax.figure.axes[1]
    np.testing.assert_array_equal(twin.lines[0].get_ydata(), 100 * result.share_below_zero)
    assert ax.get_xscale() == ("log" if axis == "rho" else "linear")
    ax.figure.draw_without_rendering()


@pytest.mark.parametrize("measure", ["kappa", "jaccard", "overlap"])
def test_mask_heatmap_shows_a_measure_on_its_scale(make, ax, measure):
    result = make.overlap()
    plots.draw_masks(ax, result, measure=measure)
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array(), getattr(result, measure))
    assert image.get_clim() == ((-1, 1) if measure == "kappa" else (0, 1)) and image.origin == "upper"
    assert ("chance" in ax.figure.axes[1].get_ylabel()) == (measure == "kappa")
    with pytest.raises(ValueError, match="measure= got 'dice'; expected one of 'kappa', 'jaccard', 'overlap'"):
        plots.draw_masks(ax, result, measure="dice")


def test_mask_time_shows_first_previous_and_chance(make, ax):
    result = make.overlap(masks=5)
    plots.draw_masks(ax, result, view="time")
    chance, previous, first = ax.lines
    np.testing.assert_array_equal(first.get_xdata(), 390 * np.arange(1, 5))
    np.testing.assert_array_equal(first.get_ydata(), result.kappa[0, 1:])
    np.testing.assert_array_equal(previous.get_ydata(), np.diag(result.kappa, 1))
    assert list(chance.get_ydata()) == [0, 0] and chance.get_linestyle() == "--" and ax.get_xlabel() == "mask at step"


def test_mask_courses_show_turnover_survival_and_union(make):
    result = make.overlap(masks=5)
    for view, curves in (
        ("turnover", [result.turnover, result.chance_turnover]),
        ("survival", [result.survival, 0.5 ** np.arange(5)]),
        ("union", [result.union_growth, result.chance_union_growth, result.always.sum(axis=0) / result.sizes.sum()]),
    ):
        ax = plots.draw_masks(Figure().subplots(), result, view=view)
        for line, curve in zip(ax.lines, curves, strict=True):
            np.testing.assert_allclose(line.get_ydata(), 100 * curve, rtol=0.02)
        assert "%" in ax.get_ylabel() and ax.get_xlabel()


@pytest.mark.parametrize("layers", [10, 62])
def test_mask_layers_show_first_against_last(make, ax, layers):
    result = make.overlap(layers=layers)
    plots.draw_masks(ax, result, view="layers")
    np.testing.assert_array_equal([bar.get_height() for bar in ax.containers[0]], result.layer_kappa[:, 0, -1])
    full = make.overlap(layers=4)
    full.selected[2], full.intersections[2] = full.sizes[2], full.sizes[2]
    other = plots.draw_masks(Figure().subplots(), full, view="layers")
    marks = next(line for line in other.lines if line.get_marker() == "x")
    assert marks.get_xdata().tolist() == [2] and "all or none" in other.get_title(loc="right")


def test_profile_capture_shows_shares_errors_and_chance(make, ax):
    result = make.profile()
    plots.draw_profile(ax, result)
    bars = [bar.get_width() for bar in ax.containers[0]] if len(ax.containers) == 2 else ax.containers[1]
    shown = [100 * value for value in result.captured if np.isfinite(value)] + [100 * result.top_share]
    widths = [bar.get_width() for container in ax.containers if hasattr(container, "patches") for bar in container]
    assert widths[: len(shown)] == pytest.approx(shown) and bars
    assert [text.get_text() for text in ax.get_yticklabels()][-3:] == [
        "trace(H)",
        "top eigenvector",
        r"$\lambda_1$ of the block",
    ]
    dashed = next(line for line in ax.lines if line.get_linestyle() == "--")
    assert dashed.get_xdata()[0] == pytest.approx(100 * result.density)


def test_profile_roc_and_map_and_groups(make):
    result = make.profile()
    roc = plots.draw_profile(Figure().subplots(), result, view="roc")
    assert len(roc.lines) == 1 + len(result.scores)
    labels = [text.get_text() for text in roc.get_legend().get_texts()]
    assert labels[0] == f"top eigenvector: {result.auc[-1]:.3f}"
    shown = plots.draw_profile(Figure().subplots(), result, view="map", columns=40).images[0].get_array()
    density = result.enrichment("channel")["density"]
    np.testing.assert_allclose(shown[0], 100 * density[:40])
    np.testing.assert_allclose(shown[1], 100 * np.repeat(density[40:60], 2))
    for view, by in (("layers", "layer"), ("kinds", "kind"), ("depths", "depth")):
        ax = plots.draw_profile(Figure().subplots(), result, view=view)
        np.testing.assert_allclose(ax.containers[-1].lines[0].get_ydata(), result.enrichment(by)["enrichment"])
    with pytest.raises(ValueError, match="expected one of 'capture', 'roc', 'layers', 'kinds', 'depths', 'map'"):
        plots.draw_profile(Figure().subplots(), result, view="pie")


@pytest.mark.parametrize("density", [0.0, 1.0])
@pytest.mark.parametrize("view", ["capture", "roc", "layers", "kinds", "depths", "map"])
def test_profiles_of_empty_and_full_masks_can_be_drawn(make, view, density):
    empty = make.profile(density=density, curvature=False)
    ax = plots.draw_profile(Figure().subplots(), empty, view=view)
    ax.figure.draw_without_rendering()


def test_a_notebook_shows_a_small_picture(make):
    for result in every(make):
        page = result._repr_html_()
        assert 'src="data:image/png;base64,iVBOR' in page and len(page) < 100_000
        assert type(result).__name__ in page
    assert "<table>" in make.profile()._repr_html_()
    assert not pyplot.get_fignums()


def test_mask_density_shows_shares_per_layer(make, ax):
    result = make.overlap(layers=10)
    plots.draw_masks(ax, result, view="density")
    np.testing.assert_allclose([bar.get_height() for bar in ax.containers[0]], 100 * result.density[:, -1])


@pytest.mark.parametrize("view", ["heatmap", "time", "turnover", "survival", "union", "layers", "density"])
def test_one_mask_can_be_drawn(make, ax, view):
    plots.draw_masks(ax, make.overlap(masks=1, layers=4), view=view)
    assert texts(ax) == (
        ["one mask only: nothing to compare"] if view in ("time", "layers", "turnover", "survival") else []
    )
    ax.figure.draw_without_rendering()


def test_mask_labels_that_end_in_numbers_make_a_time_axis():
    places, name = mask_axis(("step 0", "step 10", "step 30"))
    assert places.tolist() == [0, 10, 30] and name == "step"
    assert mask_axis(("a", "b"))[1] is None
    assert mask_axis(("step 2", "step 1"))[1] is None
    assert mask_axis(("step 1", "epoch 2"))[1] is None


def test_layer_names_fall_back_to_their_blocks(make):
    names = make.overlap().layers
    assert [text for _, _, text in layer_blocks(names, 0.9)] == list(names)
    blocks = layer_blocks(names, 1.8)
    assert [text for _, _, text in blocks][:4] == ["conv1.weight", "bn1", "layer1.0", "layer1.1"]
    assert sum(size for _, size, _ in blocks) == len(names)
    assert [start for start, _, _ in blocks] == np.cumsum([0] + [size for _, size, _ in blocks])[:-1].tolist()


def test_history_shows_loss_and_error_over_epochs_or_passes(make, ax):
    result = dataclasses.replace(make.history(epochs=7), train_loss=np.geomspace(2.0, 0.01, 7))
    plots.draw_history(ax, result)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), result.train_loss)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(1, 8))
    twin = ax.figure.axes[1]
    np.testing.assert_allclose(twin.lines[0].get_ydata(), 100 * result.test_error)
    assert (ax.get_xlabel(), ax.get_yscale(), twin.get_ylabel()) == ("epoch", "log", "test error (%)")
    other = plots.draw_history(Figure().subplots(), result, x="passes")
    np.testing.assert_array_equal(other.lines[0].get_xdata(), result.passes)
    with pytest.raises(ValueError, match="got 'hours'; expected 'epochs' or 'passes'"):
        plots.draw_history(Figure().subplots(), result, x="hours")


def test_short_and_diverged_histories_are_drawn(make):
    for epochs in (0, 1, 2):
        ax = plots.draw_history(Figure().subplots(), make.history(epochs=epochs))
        ax.figure.draw_without_rendering()
        assert texts(ax) == ([] if epochs else ["no finished epoch"])
    for loss in ([np.nan, np.inf], [0.0, -1.0]):
        ax = plots.draw_history(Figure().subplots(), make.history(epochs=2, train_loss=loss))
        ax.figure.draw_without_rendering()
        assert ax.get_yscale() == "linear"
