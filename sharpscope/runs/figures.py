"""From a run to its pictures, its table and its description."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from tabulate import tabulate

from sharpscope import plots
from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries
from sharpscope.analyzers.masks.overlap import MaskOverlap
from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.analyzers.measures.sharpness import Sharpness
from sharpscope.analyzers.spectra.curvature import Curvature
from sharpscope.analyzers.spectra.density import Density
from sharpscope.analyzers.spectra.spectrum import Spectrum
from sharpscope.analyzers.spectra.track import Track
from sharpscope.analyzers.surfaces.curvature_map import CurvatureMap
from sharpscope.analyzers.surfaces.surface import Surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory
from sharpscope.core.history import History
from sharpscope.core.results import Result
from sharpscope.store import Run, StoreError, collected, leaves

__all__ = ["described", "draw_run", "members", "overview", "table"]

T = TypeVar("T")

_OUTCOMES = {"history", "spectrum", "surface", "ratio", "masks"}
_MAIN = (
    "history.epochs",
    "history.test_error",
    "history.test_stderr",
    "spectrum.eigenvalues[0]",
    "spectrum.residuals[0]",
    "spectrum.ratio",
    "spectrum.ratio_error",
    "ratio.share_below_zero",
    "masks.first_to_last",
)

_FIGURES: dict[str, tuple[type[Result], Callable[..., Any]]] = {
    "training": (History, plots.training_curves),
    "r_ratio": (GradientRatio, plots.ratio_histograms),
    "r_ratio_course": (RatioSeries, plots.ratio_courses),
    "surfaces": (Surface, plots.surfaces),
    "spectra": (Spectrum, plots.spectra),
    "sharpnesses": (Sharpness, plots.sharpnesses),
    "densities": (Density, plots.densities),
    "layers": (Curvature, plots.curvatures),
    "tracks": (Track, plots.tracks),
    "trajectories": (Trajectory, plots.trajectories),
    "curvature_maps": (CurvatureMap, plots.curvature_maps),
    "masks": (MaskOverlap, plots.mask_overlaps),
    "mask_profiles": (MaskProfile, plots.mask_profiles),
}


def members(run: Run) -> dict[str, Run]:
    """The runs to compare: the children by name, or the run itself."""
    return {name: run.child(name) for name in run.children()} or {Path(run.path).name: run}


def draw_run(run: Run, folder: str | Path, formats: tuple[str, ...] = ("pdf", "png")) -> list[Path]:
    """Draw every figure that the results of a run allow into ``folder``; returns the files.

    Raises StoreError for a run with nothing to draw.
    """
    compared = {name: _everything(member) for name, member in members(run).items()}
    written: list[Path] = []
    for figure, (kind, draw) in _FIGURES.items():
        found = {name: result for name, results in compared.items() for result in results if isinstance(result, kind)}
        if found:
            written += plots.save_figure(draw(found), folder, figure, formats)
    if not written:
        raise StoreError(
            f"the run {run.path} holds no curve and no result, expected some: run `sharpscope analyze` on it"
        )
    return written


def table(run: Run, style: str = "github") -> str:
    """One row per method: test error, sharpness with its error, share of r < 0, cost.

    ``style`` is any table format of tabulate: "github", "latex", "plain", ...
    """
    rows, reference, last = [], math.nan, 5
    for name, member in members(run).items():
        results = _everything(member)
        history = next((r for r in results if isinstance(r, History)), None)
        spectrum = next((r for r in results if isinstance(r, Spectrum)), None)
        ratio = next((r for r in results if isinstance(r, GradientRatio)), None)
        top = float(spectrum.eigenvalues[0]) if spectrum else math.nan
        reference = top if math.isnan(reference) else reference
        last = len(spectrum.eigenvalues) if spectrum else last
        rows.append(
            {
                "method": name,
                "test error (%)": f"{100 * history.test_error[-1]:.2f} +- {100 * history.test_stderr[-1]:.2f}"
                if history
                else "",
                "lambda_1": _with_error(top, float(spectrum.residuals[0])) if spectrum else "",
                "lambda_1 / first row's": f"{top / reference:.2f}" if spectrum else "",
                f"lambda_1/lambda_{last}": _with_error(spectrum.ratio, spectrum.ratio_error) if spectrum else "",
                "share of r < 0 (%)": f"{100 * ratio.share_below_zero:.1f}" if ratio else "",
                "passes per step": f"{_passes_per_step(history):.2f}" if history else "",
                "seconds": f"{history.seconds[-1]:.1f}" if history else "",
            }
        )
    rows = _without_empty(rows)
    aligned = ["left", *["right"] * (len(rows[0]) - 1)]
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=aligned)


def described(run: Run, damaged: list[str], indent: str = "", name: str | None = None) -> list[str]:
    """What a run holds, line by line: settings, progress, parts with their sizes, results; then its children.

    What cannot be read is left out, and an error for each goes into ``damaged``.
    """

    def look(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except StoreError as error:
            damaged.extend({str(error)}.difference(damaged))
            return None

    def inside(child: str) -> list[str]:
        return described(run.child(child), damaged, indent + "    ", child)

    children = run.children()
    status = look(lambda: run.status) or (f"{len(children)} runs" if children else "not trained")
    steps = look(lambda: run.steps)
    at = f", step {steps.step[-1]}: loss {steps.loss[-1]:.4g}" if steps is not None else ""
    lines = [f"{indent}{name or Path(run.path).name}: {status}{at}"]
    config = look(lambda: leaves(run.config)) or {}
    lines += [f"{indent}  {name}: {value}" for name, value in config.items() if value is not None]
    passed: list[StoreError] = []
    lines += [f"{indent}{line}" for line in _parts(run, passed)]
    damaged.extend(dict.fromkeys(str(error) for error in passed if str(error) not in damaged))
    for result in run.result_names():
        summary = look(partial(_summary, run, result))
        lines += [] if summary is None else [f"{indent}  {result} = {summary}"]
    for child in children:
        lines += look(partial(inside, child)) or []
    return lines


def _summary(run: Run, name: str) -> str:
    return run.results[name].summary()


def _parts(run: Run, passed: list[StoreError]) -> list[str]:
    """One line per part of the run itself, and one for all parts of a folder of numbered ones."""
    lines, children = [], set(run.children())
    own = [part for part in run.tree(passed) if part[0].split("/")[0] not in children]
    for drawer, group in groupby(own, key=lambda part: part[0].rpartition("/")[0]):
        parts = list(group)
        numbered = drawer and drawer != "results" and len(parts) > 1
        names = [f"{drawer}/ ({len(parts)} of them, {_end(parts[0])} to {_end(parts[-1])})"] if numbered else [
            name for name, _, _ in parts
        ]  # fmt: skip
        sizes = [sum(size for _, _, size in parts)] if numbered else [size for _, _, size in parts]
        lines += [f"  {size:>12,} B  {parts[0][1]:<10}  {name}" for name, size in zip(names, sizes, strict=True)]
    return lines


def _end(part: tuple[str, str, int]) -> str:
    return part[0].rpartition("/")[2]


def overview(paths: Iterable[str | os.PathLike[str]], style: str = "github") -> str:
    """Many runs as a table: one row each, with what differs between them and what came out; see ``ss.collect``."""
    rows = collected(paths)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shown = []
    for name in columns:
        values = [row.get(name) for row in rows]
        said = name == "run" or name in _MAIN or name.split(".")[0] not in _OUTCOMES
        if said and (name == "run" or len(rows) == 1 or len({repr(value) for value in values}) > 1 or name in _MAIN):
            shown.append(name)
    table = [[_cell(row.get(name)) for name in shown] for row in rows]
    return tabulate(table, headers=shown, tablefmt=style, disable_numparse=True)


def _without_empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Leave out columns that say nothing, and the comparison with the first row where there is no other."""
    kept = [name for name in rows[0] if any(row[name] for row in rows) and (len(rows) > 1 or "first row" not in name)]
    return [{name: row[name] for name in kept} for row in rows]


def _everything(run: Run) -> list[Result]:
    history = run.history
    return ([] if history is None else [history]) + [run.results[name] for name in run.result_names()]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _passes_per_step(history: History) -> float:
    return float(history.passes[-1]) / (len(history.passes) * history.steps_per_epoch)


def _with_error(value: float, error: float) -> str:
    """A number with as many digits as its error supports, at least three significant ones, and the error."""
    if not math.isfinite(value) or not math.isfinite(error) or value == 0.0:
        return f"{value:.3g} +- {error:.1g}"
    least = 2 - math.floor(math.log10(abs(value)))
    digits = max(0, least)
    return f"{value:.{digits}f} +- {error:.0e}"
