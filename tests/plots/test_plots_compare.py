"""Figures of several methods, and figures on disk."""

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from sharpscope import plots
from sharpscope.plots.style import PALETTE


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def group(make, what, count, **options):
    return {label: getattr(make, what)(label, **options) for label in make.methods[:count]}


def every_figure(make, count):
    return {
        "curves": plots.training_curves(group(make, "history", count)),
        "ratios": plots.ratio_histograms(group(make, "ratio", count)),
        "surfaces": plots.surfaces(group(make, "surface", count)),
        "lines": plots.lines(group(make, "line", count)),
        "spectra": plots.spectra(group(make, "spectrum", count)),
        "masks": plots.mask_overlaps(group(make, "overlap", count)),
        "courses": plots.ratio_courses(group(make, "series", count)),
        "profiles": plots.mask_profiles(group(make, "profile", count)),
    }


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("count", [1, 5])
def test_figures_are_figures_unknown_to_pyplot(make, count):
    for figure in every_figure(make, count).values():
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()
        assert figure.get_figwidth() <= 7.0
    assert not pyplot.get_fignums()


def test_plot_of_a_mapping_draws_the_comparison_with_pyplot(make):
    ax = plots.plot(group(make, "spectrum", 3), log=True)
    assert pyplot.gcf() is ax.figure and len(ax.figure.axes) == 2 and ax.get_yscale() == "log"


COMPARISONS = ["training_curves", "ratio_histograms", "surfaces", "lines", "spectra", "mask_overlaps"]
COMPARISONS += ["ratio_courses", "mask_profiles"]


@pytest.mark.parametrize("draw", COMPARISONS)
def test_nothing_to_compare_is_refused(draw):
    with pytest.raises(ValueError, match=f"{draw} got nothing to compare; expected at least one"):
        getattr(plots, draw)({})


def test_training_curves_hold_the_histories(make):
    histories = group(make, "history", 5)
    left, right = plots.training_curves(histories).axes
    for line, other, (label, history) in zip(left.lines, right.lines, histories.items(), strict=True):
        assert line.get_label() == label
        np.testing.assert_array_equal(line.get_ydata(), history.train_loss)
        np.testing.assert_allclose(other.get_ydata(), 100 * history.test_error)
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in left.lines}) == 5
    assert len({line.get_marker() for line in left.lines}) == 5
    assert (left.get_yscale(), left.get_ylabel(), right.get_ylabel()) == ("log", "training loss", "test error (%)")
    assert legend(left.figure) == list(histories)


def test_training_curves_of_seeds_are_means_with_a_band(make):
    runs = [make.history("SAM", epochs=length, seed=seed) for seed, length in enumerate((9, 8, 9))]
    left, right = plots.training_curves({"SAM": runs}, x="passes", log_error=True).axes
    losses = np.stack([run.train_loss[:8] for run in runs])
    np.testing.assert_allclose(left.lines[0].get_ydata(), losses.mean(axis=0))
    np.testing.assert_array_equal(left.lines[0].get_xdata(), runs[0].passes[:8])
    top = (losses.mean(axis=0) + losses.std(axis=0, ddof=1)).max()
    assert left.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(top)
    assert right.get_yscale() == "log"


def test_empty_and_one_epoch_histories_can_stand_in_a_comparison(make):
    figure = plots.training_curves({"SGD": make.history(epochs=0), "SAM": make.history("SAM", epochs=1)})
    figure.draw_without_rendering()
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [0, 1]


def test_ratio_rows_share_axes_and_print_their_share(make):
    ratios = group(make, "ratio", 5)
    figure = plots.ratio_histograms(ratios)
    assert len({ax.get_xlim() for ax in figure.axes}) == len({ax.get_ylim() for ax in figure.axes}) == 1
    low, high = figure.axes[0].get_xlim()
    assert -6 <= low <= -3 and 3 <= high <= 5
    for ax, (label, ratio) in zip(figure.axes, ratios.items(), strict=True):
        words = [text.get_text().strip() for text in ax.texts]
        assert words == [label, f"r < 0: {100 * ratio.share_below_zero:.1f} %"]
        assert max(ax.patches[-1].get_data().values) < ax.get_ylim()[1]


def test_ratios_that_cannot_share_an_axis_are_refused(make):
    with pytest.raises(ValueError, match=r"logarithms 'log10' and 'ln' \(SAM\); expected one base"):
        plots.ratio_histograms({"SGD": make.ratio(), "SAM": make.ratio("SAM", base="ln")})
    with pytest.raises(ValueError, match="another bin width for 'SAM'"):
        plots.ratio_histograms(
            {"SGD": make.ratio(), "SAM": make.ratio("SAM", edges=np.arange(-6 * 16, 4 * 16 + 1) / 16)}
        )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_surfaces_share_one_norm_and_one_colour_bar(make, count):
    surfaces = group(make, "surface", count)
    figure = plots.surfaces(surfaces)
    panels = [ax for ax in figure.axes if ax.get_title()]
    norms = {ax.collections[0].norm for ax in panels}
    assert len(norms) == 1
    finite = np.concatenate([surface.loss.ravel() for surface in surfaces.values()])
    norm = norms.pop()
    assert (norm.vmin, norm.vmax) == pytest.approx((finite.min(), finite.max()))
    assert [ax.get_ylabel() for ax in figure.axes].count("loss (log scale)") == 1
    for ax, (label, surface) in zip(panels, surfaces.items(), strict=True):
        assert ax.get_title() == f"{label}  (centre {surface.center:.3g})"
    assert panels[-1].get_xlabel() and panels[0].get_ylabel()


def test_surfaces_with_gaps_and_clipping_keep_one_scale(make):
    loss = make.surface().loss.copy()
    loss[0] = np.inf
    bad = make.surface(loss=np.full((5, 5), np.nan))
    figure = plots.surfaces({"a": make.surface(loss=loss), "b": make.surface("SAM"), "c": bad}, vmax=3.0)
    figure.draw_without_rendering()
    assert figure.axes[1].collections[0].norm.vmax == 3.0
    plots.surfaces({"c": bad}).draw_without_rendering()


def test_spectra_bars_and_errors_are_the_results(make):
    spectra = group(make, "spectrum", 5) | {"mine": make.spectrum(eigenvalues=[5.0, 2.0], residuals=[0.1, 3.0])}
    left, right = plots.spectra(spectra).axes
    bars = [one for one in left.containers if hasattr(one, "patches")]
    ratios = [one for one in right.containers if hasattr(one, "patches")]
    for container, ratio, one in zip(bars, ratios, spectra.values(), strict=True):
        np.testing.assert_array_equal([bar.get_height() for bar in container], one.eigenvalues)
        segments = np.array(container.errorbar.lines[2][0].get_segments())[:, :, 1]
        np.testing.assert_allclose((segments[:, 1] - segments[:, 0]) / 2, one.residuals)
        assert ratio[0].get_height() == one.ratio
    assert any("unbounded" in text.get_text() for text in right.texts)
    assert right.get_ylabel() == r"$\lambda_1 / \lambda_{k}$"
    assert legend(left.figure) == list(spectra)


def test_mask_rows_share_the_scale_of_kappa(make):
    overlaps = {label: make.overlap(label, layers=10) for label in ("SSAM-F", "SSAM-D")}
    figure = plots.mask_overlaps(overlaps)
    squares = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in squares] == list(overlaps)
    assert {ax.images[0].get_clim() for ax in squares} == {(-1, 1)}
    for ax, one in zip(squares, overlaps.values(), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), one.kappa)
    names = [text.get_text() for text in figure.axes[5].get_xticklabels()]
    assert names == list(overlaps["SSAM-F"].layers)


def test_courses_of_unlike_axes_are_refused(make):
    with pytest.raises(
        ValueError, match=r"ratio_courses got rho in log10 and step in log10 \(SAM\); expected one axis"
    ):
        plots.ratio_courses({"SGD": make.series(), "SAM": make.series(axis="step")})


def test_profiles_share_their_scales(make):
    figure = plots.mask_profiles(group(make, "profile", 2))
    limits = [(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes]
    assert limits[0][0] == limits[2][0] and limits[1][1] == limits[3][1]


def test_masks_of_different_shapes_can_be_compared(make):
    overlaps = {"a": make.overlap(masks=3, layers=5), "b": make.overlap(masks=1, layers=62)}
    plots.mask_overlaps(overlaps).draw_without_rendering()


def test_methods_look_the_same_in_every_figure():
    alone, both = plots.method_styles(["SAM"]), plots.method_styles(["SGD", "SAM", "mine", "other"])
    assert alone["SAM"] == both["SAM"] and both["SGD"].color == PALETTE[0]
    assert len({style.color for style in both.values()}) == 4
    many = plots.method_styles([f"method {index}" for index in range(16)])
    assert len({(style.color, str(style.linestyle)) for style in many.values()}) == 16


@pytest.mark.parametrize("name", ["curves", "ratios", "surfaces", "lines", "spectra", "masks", "courses", "profiles"])
def test_a_figure_saved_twice_is_the_same_bytes(make, tmp_path, name):
    figure = every_figure(make, 2)[name]
    formats = ("pdf", "png", "svg")
    once = plots.save_figure(figure, tmp_path / "a" / "b", name, formats)
    layout = figure.get_layout_engine()
    twice = plots.save_figure(figure, tmp_path / "c", name, formats)
    rebuilt = plots.save_figure(every_figure(make, 2)[name], tmp_path / "d", name, formats)
    assert [path.name for path in once] == [f"{name}.{kind}" for kind in formats]
    for one, two, three in zip(once, twice, rebuilt, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()
    assert b"CreationDate" not in once[0].read_bytes() and b"Matplotlib" not in once[1].read_bytes()
    assert figure.get_layout_engine() is layout and all(ax.get_in_layout() for ax in figure.axes)


def test_pdf_text_stays_text(make, tmp_path):
    ax = plots.plot(make.spectrum())
    (path,) = plots.save_figure(ax.figure, tmp_path, "spectrum", "pdf")
    assert b"/Type3" not in path.read_bytes() and b"/Type0" in path.read_bytes()


def test_saving_refuses_in_words(make, tmp_path):
    figure = plots.spectra(group(make, "spectrum", 1))
    with pytest.raises(ValueError, match=r"formats= got \['jpeg'\]; expected some of 'pdf', 'png', 'svg'"):
        plots.save_figure(figure, tmp_path, "a", ("pdf", "jpeg"))
    with pytest.raises(ValueError, match="expected a plain file name"):
        plots.save_figure(figure, tmp_path, "a/b")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"save_figure cannot make the folder .*file.* give another folder="):
        plots.save_figure(figure, tmp_path / "file", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
