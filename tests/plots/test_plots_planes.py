"""Surfaces with marked points, reliefs, trajectories, curvature maps, interactive pages: drawn is what is there."""

import dataclasses
import json
import re

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from sharpscope import plots
from sharpscope.analyzers.surfaces.curvature_map import CurvatureMap
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.plots.landscapes._relief import way_heights
from sharpscope.plots.landscapes._scale import loss_scale


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture
def marked(make):
    """A surface with points that were evaluated, interpolated, missing and not finite."""
    surface = make.surface(n=13)
    loss, status = surface.loss.copy(), np.ones(surface.loss.shape, np.uint8)
    status[1::2], status[0, :3], status[4, 5] = 0, 3, 2
    loss[0, :3], loss[4, 5] = np.nan, np.inf
    return dataclasses.replace(surface, loss=loss, status=status, digest="sha256:here")


def make_way(n=8, digest="sha256:here", residual=None, k=2):
    t = np.linspace(1, 0, n)
    coordinates = np.stack([0.8 * t, -0.5 * t**2, 0.1 * t][:k], axis=1)
    residual = np.linspace(0.3, 0.0, n) if residual is None else residual
    distance = np.hypot(np.linalg.norm(coordinates, axis=1), residual)
    explained = np.array([0.71, 0.13, 0.01][:k])
    return Trajectory(10 * np.arange(n), coordinates, residual, distance, explained, "principal", digest, 5.0)


def make_map(scale=1.0, n=5):
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n - 1))
    high = scale * (5 + 20 * (x**2 + y**2))
    low = -scale * (x**2 + 0.5 * y**2)
    high[0, 0] = low[0, 0] = np.nan
    return CurvatureMap(
        x[0].copy(), y[:, 0].copy(), high, low, 0.01 * high, 0.01 * high, 0.1 * high, "filter", "sha256:here", 0, 0.01,
        100, "problem",
    )  # fmt: skip


def test_dots_mark_evaluated_points_where_others_are_interpolated(make, marked):
    def dots(result, **options):
        ax = plots.draw_surface(Figure().subplots(), result, **options)
        return [line.get_xydata() for line in ax.lines if line.get_marker() == "."]

    (found,) = dots(marked)
    i, j = np.nonzero((marked.status == 1) | (marked.status == 2))
    np.testing.assert_array_equal(found, np.stack([marked.alpha[j], marked.beta[i]], axis=1))
    assert not dots(marked, points=False)
    assert not dots(make.surface())
    assert len(dots(make.surface(), points=True)[0]) == make.surface().loss.size


def test_clipped_cells_are_dotted_and_missing_ones_white(marked):
    ax = plots.draw_surface(Figure().subplots(), marked, vmax=1.0)
    hatches = [c.hatches for c in ax.collections if getattr(c, "hatches", [None]) != [None]]
    assert ["...."] in hatches
    mesh = next(c for c in ax.collections if type(c).__name__ == "QuadMesh")
    assert (~np.ma.getmaskarray(mesh.get_array())).sum() == 3
    whole = plots.draw_surface(Figure().subplots(), marked)
    assert ["...."] not in [c.hatches for c in whole.collections if hasattr(c, "hatches")]


def test_a_linear_scale(make):
    surface = make.surface()
    scale = loss_scale([surface], log=False)
    steps = np.diff(scale.levels)
    np.testing.assert_allclose(steps, steps[0])
    assert scale.label == "loss" and scale.offset == 0
    np.testing.assert_array_equal(scale.heights(surface.loss), surface.loss)
    negative = dataclasses.replace(surface, loss=surface.loss - 5)
    assert loss_scale([negative], log=False).levels[0] == negative.loss.min()
    ax = plots.draw_surface(Figure().subplots(), negative, log=False)
    ax.figure.draw_without_rendering()
    flat = dataclasses.replace(surface, loss=np.zeros_like(surface.loss))
    plots.draw_surface(Figure().subplots(), flat, log=False).figure.draw_without_rendering()


@pytest.mark.parametrize("log", [True, False])
def test_a_relief_has_the_heights_of_the_scale(marked, log):
    ax = plots.plot(marked, view="3d", log=log, vmax=2.0)
    scale = loss_scale([marked], vmax=2.0, log=log)
    low, high = scale.levels[[0, -1]]
    expected = (np.log10(low), np.log10(high)) if log else (low, high)
    np.testing.assert_allclose(ax.get_zlim(), expected)
    ax.figure.draw_without_rendering()
    heights = scale.heights(marked.loss)
    assert np.isnan(heights).sum() == 4
    assert np.nanmax(heights) == pytest.approx(expected[1])
    with pytest.raises(ValueError, match="view='3d' got flat axes"):
        plots.draw_surface(Figure().subplots(), marked, view="3d")
    with pytest.raises(ValueError, match="view= got 'side'; expected 'contour' or '3d'"):
        plots.plot(marked, view="side")


def test_reliefs_compared_share_their_scale(make):
    two = {"SGD": make.surface("SGD"), "SAM": make.surface("SAM")}
    figure = plots.surfaces(two, view="3d")
    limits = {ax.get_zlim() for ax in figure.axes if hasattr(ax, "get_zlim")}
    assert len(limits) == 1
    figure.draw_without_rendering()


def test_a_trajectory_lies_where_it_should(marked):
    way = make_way()
    ax = plots.draw_surface(Figure().subplots(), marked, trajectory=way)
    points = [c for c in ax.collections if isinstance(c, PathCollection)][-1]
    np.testing.assert_array_equal(points.get_offsets(), way.coordinates)
    sizes = np.sqrt(points.get_sizes())
    assert sizes.argmax() == way.residual.argmax() and sizes.argmin() == way.residual.argmin()
    share = (sizes - sizes.min()) / (sizes.max() - sizes.min())
    np.testing.assert_allclose(share, way.residual / way.residual.max(), atol=1e-12)
    assert ax.get_xlabel() == r"$\alpha$ (71 % of variance)"
    assert ax.get_ylabel() == r"$\beta$ (13 % of variance)"
    assert "0.3 from the plane" in [text.get_text() for text in ax.get_legend().get_texts()]
    plots.plot(marked, trajectory=way, view="3d").figure.draw_without_rendering()


def test_a_trajectory_of_another_plane_is_refused(marked):
    with pytest.raises(ValueError, match="trajectory= got coordinates along other directions"):
        plots.draw_surface(Figure().subplots(), marked, trajectory=make_way(digest="sha256:elsewhere"))
    with pytest.raises(ValueError, match="trajectory= got 1 coordinates; expected those of a plane"):
        plots.draw_surface(Figure().subplots(), marked, trajectory=make_way(k=1))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_trajectories_are_drawn(k):
    for way in (make_way(k=k), make_way(k=k, residual=np.full(8, np.nan)), make_way(k=k, residual=np.zeros(8))):
        ax = plots.plot(way)
        assert "% of variance" in ax.get_xlabel() + ax.get_ylabel()
        ax.figure.draw_without_rendering()
    figure = plots.plot({f"m{i}": make_way(k=k) for i in range(4)}).figure
    assert [ax.get_title() for ax in figure.axes] == ["m0", "m1", "m2", "m3", "", ""]


def test_heights_below_a_trajectory_are_bilinear(make):
    surface = make.surface()
    x, y = np.meshgrid(surface.alpha, surface.beta)
    plane = dataclasses.replace(surface, loss=1 + 0.2 * x - 0.3 * y + 0.1 * x * y)
    way = make_way()
    a, b = way.coordinates.T
    scale = loss_scale([plane], log=False)
    np.testing.assert_allclose(way_heights(plane, scale, way), 1 + 0.2 * a - 0.3 * b + 0.1 * a * b, rtol=1e-12)
    outside = dataclasses.replace(way, coordinates=way.coordinates + 3)
    assert np.isnan(way_heights(plane, scale, outside)).all()


@pytest.mark.parametrize("of", ["ratio", "highest", "lowest"])
def test_curvature_maps_show_their_values_on_one_scale(of):
    found = make_map()
    ax = plots.plot(found, of=of)
    mesh = ax.collections[0]
    values = getattr(found, of)
    np.testing.assert_array_equal(np.ma.getmaskarray(mesh.get_array()).reshape(4, 5), np.isnan(values))
    np.testing.assert_array_equal(mesh.get_array().filled(np.nan).reshape(4, 5), values)
    if of == "lowest":
        assert mesh.norm.vmin == -mesh.norm.vmax
    figure = plots.plot({"SGD": make_map(2.0), "SAM": make_map()}, of=of).figure
    norms = {(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in figure.axes[:2]}
    assert len(norms) == 1
    with pytest.raises(ValueError, match="of= got 'middle'; expected one of 'ratio', 'highest', 'lowest'"):
        plots.plot(found, of="middle")
    nothing = dataclasses.replace(found, highest=found.highest * np.nan, lowest=found.lowest * np.nan)
    assert [text.get_text() for text in plots.plot(nothing, of=of).texts] == ["no finite loss"]


def page_data(text):
    """The traces and the layout of a page, as its own script gets them."""
    start = re.search(r'Plotly\.newPlot\(\s*"sharpscope-surface",\s*', text).end()
    traces, end = json.JSONDecoder().raw_decode(text[start:])
    layout, _ = json.JSONDecoder().raw_decode(text[start + end :].lstrip().lstrip(",").lstrip())
    return traces, layout


def array_of(packed):
    return np.frombuffer(__import__("base64").b64decode(packed["bdata"]), packed["dtype"]).reshape(
        [int(n) for n in packed.get("shape", "-1").split(",")]
    )


def test_an_interactive_page_holds_the_surfaces(make, marked):
    two = {"SGD": marked, "SAM <b>": make.surface("SAM")}
    traces, layout = page_data(plots.interactive(two, vmax=2.0, standalone=False))
    scale = loss_scale(list(two.values()), vmax=2.0)
    assert [trace["type"] for trace in traces] == ["surface", "surface"]
    for trace, surface in zip(traces, two.values(), strict=True):
        np.testing.assert_array_equal(array_of(trace["x"]), surface.alpha)
        np.testing.assert_array_equal(array_of(trace["z"]), scale.heights(surface.loss))
        assert (trace["cmin"], trace["cmax"]) == pytest.approx(np.log10(scale.levels[[0, -1]]))
    assert traces[1]["name"] == "SAM &lt;b&gt;"
    assert traces[0]["text"][0][0] == "nan, missing" and "interpolated" in traces[0]["text"][1][0]
    buttons = layout["updatemenus"][0]["buttons"]
    assert [button["args"][0]["visible"] for button in buttons] == [[True, True], [True, False], [False, True]]


def test_an_interactive_page_needs_nothing_else(marked):
    text = plots.interactive(marked, trajectory=make_way(), title="a </script> & <b>")
    assert len(text) > 1e6
    assert not re.search(r"""<(script|link|img)[^>]*\b(src|href)\s*=\s*["']?http""", text)
    assert "<title>a &lt;/script&gt; &amp; &lt;b&gt;</title>" in text
    traces, _ = page_data(text)
    assert [trace["type"] for trace in traces] == ["surface", "scatter3d"]
    assert traces[1]["text"][0] == "step 0, 0.3 off the plane"
    assert plots.interactive(marked, title="same") == plots.interactive(marked, title="same")
    with pytest.raises(ValueError, match="interactive got an empty mapping"):
        plots.interactive({})
