"""One look for every figure: sizes for a two-column page, colours that survive colour blindness and grey print.

The style is a dictionary used inside ``matplotlib.rc_context``, so that the caller's own settings are never touched.
A colour is never the only cue: methods also differ in line style, marker and hatch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

P = ParamSpec("P")
T = TypeVar("T")
Layout = Literal["constrained", "compressed"]

SINGLE_COLUMN = 3.4  # inches
DOUBLE_COLUMN = 7.0  # inches
SMALL = 7.0  # points, for notes
GREY = "#8c8c8c"
PALE = "#d0d0d0"
INK = "#222222"

STYLE: dict[Any, Any] = {  # matplotlib types the keys as one literal per setting
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.5,
    "axes.labelpad": 4.0,
    "axes.titlepad": 4.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "text.usetex": False,
    "mathtext.fontset": "dejavusans",
    "figure.dpi": 120.0,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "sharpscope",
}

# Okabe and Ito (2008), darkest contrasts first; yellow is too pale for thin lines and comes last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 2, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "||||", "++++")
_FIXED = ("SGD", "SAM", "SSAM-F", "SSAM-D", "RST", "ASAM", "G-RST", "GSAM")


@dataclass(frozen=True)
class MethodStyle:
    """How one method looks in every figure."""

    color: str
    linestyle: Any
    marker: str
    hatch: str


def method_styles(labels: Iterable[str]) -> dict[str, MethodStyle]:
    """Styles by method label; the usual methods look the same in every figure, other labels take the free places.

    Returns one :class:`MethodStyle` per label, in the order given.

    >>> method_styles(["SAM", "mine"])["SAM"].color
    '#D55E00'
    """
    names = list(labels)
    taken = {_FIXED.index(name) for name in names if name in _FIXED}
    free = [place for place in range(len(PALETTE)) if place not in taken]
    styles, spare = {}, 0
    for name in names:
        if name in _FIXED:
            place, turn = _FIXED.index(name), 0
        elif free:
            place, turn, spare = free[spare % len(free)], spare // len(free), spare + 1
        else:
            place, turn, spare = spare % len(PALETTE), 1 + spare // len(PALETTE), spare + 1
        shifted = (place + 3 * turn) % len(PALETTE)
        styles[name] = MethodStyle(PALETTE[place], _LINES[shifted], _MARKERS[shifted], _HATCHES[shifted])
    return styles


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function inside the style, and leave ``rcParams`` as they were."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return inside


def prepare(ax: Axes) -> Axes:
    """Fix the tick sizes of fresh axes: ticks are made late, when the style's context is long closed."""
    ax.tick_params(which="major", labelsize=STYLE["xtick.labelsize"], width=0.6, length=3.0, pad=2.5)
    ax.tick_params(which="minor", labelsize=STYLE["xtick.labelsize"], width=0.4, length=1.8, pad=2.5)
    return ax


def canvas(width: float, height: float, figure: Figure | None = None, layout: Layout = "compressed") -> Figure:
    """A figure of this size in inches: a new one unknown to pyplot, or the one given.

    "compressed" is constrained layout that also settles where axes have a fixed aspect and a colour bar.
    """
    if figure is None:
        figure = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(figure)
        return figure
    figure.set_layout_engine(layout)
    figure.set_size_inches(width, height)
    return figure


def axes_figure(ax: Axes) -> Figure:
    """The figure that holds these axes."""
    figure = ax.figure
    while isinstance(figure, SubFigure):
        figure = figure.figure
    if figure is None:
        raise ValueError("plot got axes without a figure; expected axes that belong to one, e.g. plt.subplots()[1]")
    return figure


def say(ax: Axes, text: str) -> Axes:
    """Write one sentence where there is nothing to draw."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize=8.0)
    return ax


def plain(value: float, form: str = ".3g") -> str:
    """A number as text with a real minus sign."""
    return format(value, form).replace("-", "−")


def with_error(value: float, error: float) -> str:
    """A number and its error as text, with no more digits than the error allows (four at most).

    >>> with_error(3.41234, 0.021)
    '3.41 ± 0.02'
    """
    if math.isinf(error):
        return f"{value:.3g} (error unbounded)"
    if not math.isfinite(value) or math.isnan(error) or error <= 0:
        return f"{value:.4g}"
    wanted = -math.floor(math.log10(error))
    allowed = 3 - (math.floor(math.log10(abs(value))) if value else 0)
    if abs(value) >= 1e5 or 0 < abs(value) < 1e-3:
        return f"{value:.3e} ± {error:.0e}"
    places = max(0, min(wanted, allowed))
    shown = f"{error:.{places}f}" if places == max(0, wanted) else f"{error:.0e}"
    return f"{value:.{places}f} ± {shown}"
