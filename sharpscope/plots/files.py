"""Figures on disk: the same figure gives the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sharpscope.plots.style import STYLE

# What would carry the time of saving or the version of a library that wrote the file.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


def save_figure(
    figure: Figure,
    folder: str | os.PathLike[str],
    name: str,
    formats: str | Sequence[str] = ("pdf", "png"),
    dpi: float = 200,
) -> list[Path]:
    """Save a figure as ``folder/name.format``, once per format, without times or versions inside.

    The folder is made where it is missing; older files of that name are replaced.  Returns the paths written, in the
    order of ``formats`` ("pdf", "png", "svg").  Raises ValueError for an unknown format or a name with a path in it,
    OSError where the folder cannot be made.

    >>> save_figure(figure, "figures", "surfaces", formats=("pdf",))  # doctest: +SKIP
    """
    wanted = [formats] if isinstance(formats, str) else list(formats)
    unknown = [kind for kind in wanted if kind not in _METADATA]
    if unknown or not wanted:
        raise ValueError(f"formats= got {unknown or wanted!r}; expected some of {', '.join(map(repr, _METADATA))}")
    if not name or Path(name).name != name:
        raise ValueError(f"name= got {name!r}; expected a plain file name without folder, give the folder as folder=")
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"save_figure cannot make the folder {str(place)!r} ({reason}); give another folder=") from error
    paths = [place / f"{name}.{kind}" for kind in wanted]
    with matplotlib.rc_context({key: STYLE[key] for key in _SAVING}), _settled(figure):
        for kind, path in zip(wanted, paths, strict=True):
            figure.savefig(path, format=kind, dpi=dpi, metadata=_METADATA[kind], bbox_inches=None)
    return paths


_SAVING: tuple[Any, ...] = ("pdf.fonttype", "svg.fonttype", "svg.hashsalt")


@contextmanager
def _settled(figure: Figure) -> Iterator[None]:
    # A layout engine moves the axes a little further at every drawing, so that two savings would differ.  Run it until
    # it rests, save without it, and put everything back: saving is then a function of the figure alone.
    engine = figure.get_layout_engine()
    before = [(ax, ax.get_position(original=True), ax.get_position()) for ax in figure.axes]
    for _ in range(5 if engine is not None else 0):
        old = [ax.get_position().bounds for ax in figure.axes]
        figure.draw_without_rendering()
        if np.allclose(old, [ax.get_position().bounds for ax in figure.axes], rtol=0.0, atol=1e-5):
            break
    try:
        if engine is not None:
            figure.set_layout_engine("none")
        yield
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)
        for ax, original, active in before:
            kept = ax.get_in_layout()  # set_position takes the axes out of the layout
            ax.set_position(original, which="original")
            ax.set_position(active, which="active")
            ax.set_in_layout(kept)
