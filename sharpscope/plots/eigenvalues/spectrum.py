"""The top of a spectrum as bars: the height is the eigenvalue, the error bar its residual."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from sharpscope.analyzers.spectra.spectrum import Spectrum
from sharpscope.plots.style import INK, PALETTE, plain, styled, with_error

__all__ = ["EIGENVALUE", "ERROR_BAR", "draw_spectrum"]

EIGENVALUE = "eigenvalue (loss / weight²)"
ERROR_BAR = {"elinewidth": 0.8, "capthick": 0.8, "ecolor": INK}


@styled
def draw_spectrum(
    ax: Axes, spectrum: Spectrum, *, orientation: str = "vertical", color: str = PALETTE[0], values: bool = True
) -> Axes:
    """Draw lambda_1 ... lambda_k as bars with their residuals as error bars, the ratio with its error as title.

    Below it stands how many are certified, and with what probability, where the spectrum says so.

    A spectrum of both ends has the lowest ones to the right (below), lambda_n last; one of the low end has them alone.

    ``orientation`` is "vertical" or "horizontal" (lambda_1 on top); ``values=False`` leaves out the numbers.
    Returns the axes.  Raises ValueError for another orientation.

    >>> draw_spectrum(ax, spectrum(problem, k=5), orientation="horizontal")  # doctest: +SKIP
    """
    if orientation not in ("vertical", "horizontal"):
        raise ValueError(f"orientation= got {orientation!r}; expected 'vertical' or 'horizontal'")
    heights, errors, places, texts = _bars(spectrum)
    shown = np.arange(len(places))[:: max(1, -(-len(places) // 12))]
    names, ticks = [texts[index] for index in shown], places[shown]
    if orientation == "vertical":
        bars = ax.bar(places, heights, width=0.65, color=color, yerr=errors, capsize=2.5, error_kw=ERROR_BAR)
        ax.set_xticks(ticks, names)
        ax.set_ylabel(EIGENVALUE)
        ax.axhline(0.0, color=INK, linewidth=0.6)
        ax.margins(y=0.12)
    else:
        bars = ax.barh(places, heights, height=0.65, color=color, xerr=errors, capsize=2.5, error_kw=ERROR_BAR)
        ax.set_yticks(ticks, names)
        ax.invert_yaxis()
        ax.set_xlabel(EIGENVALUE)
        ax.axvline(0.0, color=INK, linewidth=0.6)
        ax.margins(x=0.2)
    if values and len(places) <= (10 if spectrum.lowest is None else 6):
        ax.bar_label(bars, labels=[plain(height) for height in heights], padding=2, fontsize=7.5)
    ax.set_title("\n".join(filter(None, (ratio_text(spectrum), certificate_text(spectrum)))))
    return ax


def _bars(spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Heights, errors, places and names of the bars, from the largest eigenvalue to the smallest."""
    count = len(spectrum.eigenvalues)
    top = [rf"$\lambda_{{{place + 1}}}$" for place in range(count)]
    low = [r"$\lambda_n$", *(rf"$\lambda_{{n-{place}}}$" for place in range(1, count))][::-1]
    if spectrum.which == "smallest":
        return spectrum.eigenvalues[::-1], spectrum.residuals[::-1], np.arange(count), low
    if spectrum.lowest is None or spectrum.lowest_residuals is None:
        return spectrum.eigenvalues, spectrum.residuals, np.arange(count), top
    thin = [low[0], *[""] * (count - 2), low[-1]] if count > 2 else low  # the names of the low end are long
    heights = np.append(spectrum.eigenvalues, spectrum.lowest[::-1])
    errors = np.append(spectrum.residuals, spectrum.lowest_residuals[::-1])
    return heights, errors, np.append(np.arange(count), count + 0.6 + np.arange(count)), top + thin


def certificate_text(spectrum: Spectrum) -> str:
    """How many eigenvalues are certified, and with what probability; nothing for a spectrum that does not know."""
    if not spectrum.confidence:
        return ""
    good, count = spectrum.certified, len(spectrum.eigenvalues)
    if spectrum.lowest is not None:
        good, count = good + spectrum.lowest_certified, 2 * count
    return f"{good} of {count} certified at {100.0 * spectrum.confidence:.6g} %"


def ratio_text(spectrum: Spectrum) -> str:
    """The ratio lambda_1 / lambda_k with its error, as a title; lambda_1 with its residual where k is 1."""
    last = len(spectrum.eigenvalues)
    if spectrum.which == "smallest":
        return rf"$\lambda_n$ = {with_error(float(spectrum.eigenvalues[0]), float(spectrum.residuals[0]))}"
    if last == 1:
        return rf"$\lambda_1$ = {with_error(float(spectrum.eigenvalues[0]), float(spectrum.residuals[0]))}"
    return rf"$\lambda_1 / \lambda_{{{last}}}$ = {with_error(spectrum.ratio, spectrum.ratio_error)}"
