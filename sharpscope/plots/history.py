"""Training curves of one run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from sharpscope.core.history import History
from sharpscope.plots.style import PALETTE, prepare, say, styled

TRAINING_LOSS, TEST_ERROR = "training loss", "test error (%)"


@styled
def draw_history(ax: Axes, history: History, *, x: str = "epochs") -> Axes:
    """Draw the training loss (left, logarithmic) and the test error (right, in percent) over epochs or passes.

    ``x`` is "epochs" or "passes" (forward-backward pairs).  Returns the axes of the loss; the other axes are their
    twin.  Raises ValueError for another ``x``; a history without a finished epoch is drawn as a sentence.

    >>> draw_history(ax, history, x="passes")  # doctest: +SKIP
    """
    places = time_axis(ax, [history], x)
    if not len(places[0]):
        return say(ax, "no finished epoch")
    twin = prepare(ax.twinx())
    every = max(1, len(places[0]) // 8)
    ax.plot(places[0], finite(history.train_loss), "-o", color=PALETTE[0], markevery=every, label=TRAINING_LOSS)
    twin.plot(places[0], 100 * finite(history.test_error), "--s", color=PALETTE[1], markevery=every, label=TEST_ERROR)
    loss_axis(ax, [history.train_loss])
    ax.set_ylabel(TRAINING_LOSS, color=PALETTE[0])
    twin.set_ylabel(TEST_ERROR, color=PALETTE[1])
    twin.set_ylim(bottom=0.0)
    twin.spines["right"].set_visible(True)
    return ax


def time_axis(ax: Axes, histories: Sequence[History], x: str) -> list[np.ndarray]:
    """Label the x axis for "epochs" or "passes" and return the positions of every history's entries."""
    if x not in ("epochs", "passes"):
        raise ValueError(f"x= got {x!r}; expected 'epochs' or 'passes'")
    if x == "epochs":
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        return [np.arange(1, len(history.train_loss) + 1) for history in histories]
    ax.set_xlabel("forward-backward passes")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
    return [np.asarray(history.passes) for history in histories]


def loss_axis(ax: Axes, losses: Sequence[np.ndarray]) -> None:
    """Make the y axis logarithmic where the losses differ by more than a factor of 3."""
    shown = [loss[np.isfinite(loss) & (loss > 0)] for loss in losses]
    shown = [loss for loss in shown if len(loss)]
    if shown and max(loss.max() for loss in shown) > 3.0 * min(loss.min() for loss in shown):
        ax.set_yscale("log", nonpositive="mask")
    ax.set_ylabel(TRAINING_LOSS)


def finite(values: np.ndarray) -> np.ndarray:
    """The values as float64 with a gap (nan) where they are not finite."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
