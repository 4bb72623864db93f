"""Pictures of many runs."""

import numpy as np
import pytest
from matplotlib import pyplot

from sharpscope.plots.sweeps import Series, sweep


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def series(*x):
    return Series(np.array(x), np.arange(len(x), dtype=float), np.full(len(x), 0.1))


def test_points_of_one_value_stand_side_by_side_in_its_slot():
    drawn = sweep({"a": series(0.1, 0.5, 0.9), "b": series(0.5, 0.5, 0.5), "c": series(0.9, 0.1)}, "x", "y", slots=True)
    (ax,) = drawn.axes
    places = [list(bars.lines[0].get_xdata()) for bars in ax.containers]
    assert places == [[0, 3, 8], [4, 5, 6], [1, 9]]
    assert [list(bars.lines[0].get_ydata()) for bars in ax.containers][:2] == [[0, 1, 2], [0, 1, 2]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "0.5", "0.9"]
    assert list(ax.get_xticks()) == [0.5, 4.5, 8.5]
    assert all(bars.lines[0].get_linestyle() == "None" for bars in ax.containers)


def test_lines_stay_over_their_values():
    (ax,) = sweep({"a": series(0.1, 0.5, 0.9)}, "x", "y").axes
    assert list(ax.containers[0].lines[0].get_xdata()) == [0.1, 0.5, 0.9]
