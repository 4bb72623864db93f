"""The figure of a recipe, drawn from its finished runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpscope import plots
from sharpscope.core.expressions import resolve
from sharpscope.core.history import History
from sharpscope.core.schedules import value_at
from sharpscope.optimizers.parse import parse
from sharpscope.optimizers.rules import Sometimes
from sharpscope.plots import sweeps
from sharpscope.recipes._gather import Entry
from sharpscope.recipes.numbers import MEASURES
from sharpscope.recipes.read import Recipe
from sharpscope.recipes.verdicts import matching

__all__ = ["DRAWINGS", "draw"]

Figure = Any  # matplotlib's, which only the plots import


def draw(recipe: Recipe, found: Sequence[Entry], folder: Path) -> list[Path]:
    """Draw a recipe's figure, one per column, as PDF and PNG; returns the paths."""
    if not recipe.figure:
        return []
    columns = list(dict.fromkeys(entry.column.name for entry in found))
    written: list[Path] = []
    for column in columns:
        own = [entry for entry in found if entry.column.name == column]
        for part, figure in DRAWINGS[recipe.figure](recipe, own).items():
            names = ["figure", part, column if len(columns) > 1 else ""]
            name = re.sub(r"[^a-z0-9]+", "-", "-".join(filter(None, names)).lower())
            written += plots.save_figure(figure, folder, name)
    return written


def _label(recipe: Recipe, place: int = 0) -> str:
    return MEASURES[recipe.measures[place]].label


def _series(own: Sequence[Entry], rows: Sequence[str], x: str, measure: str) -> sweeps.Series:
    chosen = [entry for entry in own if entry.row in rows]
    return sweeps.Series(
        np.array([entry.variables[x] if x in entry.variables else entry.values[x].mean for entry in chosen]),
        np.array([entry.values[measure].mean for entry in chosen]),
        np.array([entry.values[measure].deviation for entry in chosen]),
    )


def _levels(own: Sequence[Entry], measure: str) -> dict[str, tuple[float, float]]:
    return {
        entry.row: (entry.values[measure].mean, entry.values[measure].deviation)
        for entry in own
        if entry.row in {"SGD", "SAM"}
    }


def _sweep(recipe: Recipe, own: Sequence[Entry]) -> dict[str, Figure]:
    options, measure = recipe.options, recipe.measures[0]
    figures = {"": _one_sweep(recipe, own, options, measure)}
    if "second" in options:
        figures["second"] = _one_sweep(recipe, own, {**options, **options["second"]}, measure)
    return figures


def _one_sweep(recipe: Recipe, own: Sequence[Entry], options: Mapping[str, Any], measure: str) -> Figure:
    names = [entry.row for entry in own]
    series = {}
    for pattern in options["rows"]:
        rows = matching(names, [pattern])
        if rows:
            series[pattern.rstrip("*=").strip() or pattern] = _series(own, rows, options["x"], measure)
    levels = _levels(own, measure) if options.get("ends") else {}
    return sweeps.sweep(
        series, options["label"], _label(recipe), levels=levels, log=options.get("log", False),
        slots=options.get("slots", False),
    )  # fmt: skip


def _sparsity(recipe: Recipe, own: Sequence[Entry]) -> dict[str, Figure]:
    names, measure = [entry.row for entry in own], recipe.measures[0]
    series = {
        label: _series(own, matching(names, [f"{label} s=*"]), "s", measure)
        for label in ("SSAM-F", "SSAM-D")
        if matching(names, [f"{label} s=*"])
    }
    return {"": sweeps.sweep(series, "sparsity s", _label(recipe), levels=_levels(own, measure))}


def _bars(recipe: Recipe, own: Sequence[Entry]) -> dict[str, Figure]:
    measure = recipe.measures[0]
    values = {entry.row: (entry.values[measure].mean, entry.values[measure].deviation) for entry in own}
    return {"": sweeps.bars(values, _label(recipe))}


def _image(recipe: Recipe, own: Sequence[Entry]) -> dict[str, Figure]:
    options, measure = recipe.options, recipe.measures[0]
    own = [entry for entry in own if entry.row in matching([e.row for e in own], options["rows"])]
    x = sorted({entry.variables[options["x"]] for entry in own})
    y = sorted({entry.variables[options["y"]] for entry in own})
    values = np.full((len(y), len(x)), np.nan)
    for entry in own:
        place = y.index(entry.variables[options["y"]]), x.index(entry.variables[options["x"]])
        values[place] = entry.values[measure].mean
    return {"": sweeps.image(x, y, values, (options["labels"][0], options["labels"][1], _label(recipe)))}


def _schedules(recipe: Recipe, own: Sequence[Entry]) -> dict[str, Figure]:
    """p as the rule has it, and the coin as the first run's passes tell it."""
    curves = {}
    for entry in own:
        if entry.row not in matching([entry.row], recipe.options["rows"]):
            continue
        steps = entry.runs[0].steps
        assert steps is not None
        coins = (np.diff(steps.passes, prepend=0.0) > 1.5).astype(float)
        curves[entry.row.removeprefix("RST ")] = (_probabilities(entry)[: len(coins)], coins)
    return {"": sweeps.schedules(curves)}


def _probabilities(entry: Entry) -> np.ndarray:
    steps = entry.cells[0].steps
    rule = resolve(parse(entry.cells[0].experiment.settings.rule), steps, steps)
    assert isinstance(rule, Sometimes)
    return np.array([value_at(rule.p, step) for step in range(steps)])


def _schedules_and_time(recipe: Recipe, own: Sequence[Entry]) -> dict[str, Figure]:
    by_name = {entry.row: entry for entry in own}
    low, high = (np.array(by_name[name].values["seconds"].values) for name in ("SGD", "SAM"))
    rows = [entry for entry in own if entry.row not in {"SGD", "SAM"}]
    extra = [(np.array(entry.values["seconds"].values) - low) / (high - low) for entry in rows]
    series = sweeps.Series(
        np.array([entry.values["expected"].mean for entry in rows]),
        np.array([one.mean() for one in extra]),
        np.array([one.std(ddof=1) if len(one) > 1 else np.nan for one in extra]),
    )
    time = sweeps.sweep(
        {"RST": series}, "Delta-eta expected", "extra time / extra time of SAM", scatter=True, diagonal=True
    )
    return {**_schedules(recipe, own), "time": time}


def _curves(recipe: Recipe, own: Sequence[Entry]) -> dict[str, Figure]:
    panels: dict[str, dict[str, sweeps.Series]] = {}
    for label, field, factor in (("training loss", "train_loss", 1.0), ("test error (%)", "test_error", 100.0)):
        panels[label] = {}
        for entry in own:
            curves = np.array([factor * getattr(_history(run), field) for run in entry.runs])
            spread = curves.std(axis=0, ddof=1) if len(curves) > 1 else np.full(curves.shape[1], np.nan)
            panels[label][entry.row] = sweeps.Series(np.arange(1, curves.shape[1] + 1), curves.mean(axis=0), spread)
    return {"": sweeps.courses(panels, "epoch", log=True)}


def _history(run: Any) -> History:
    history = run.history
    assert isinstance(history, History)
    return history


def _of_results(name: str, compare: Callable[..., Figure]) -> Callable[[Recipe, Sequence[Entry]], dict[str, Figure]]:
    """A comparison of one result of every method, that of the first seed."""

    def drawn(recipe: Recipe, own: Sequence[Entry]) -> dict[str, Figure]:
        return {"": compare({entry.row: entry.runs[0].results[name] for entry in own})}

    return drawn


DRAWINGS: dict[str, Callable[[Recipe, Sequence[Entry]], dict[str, Figure]]] = {
    "sweep": _sweep,
    "sparsity": _sparsity,
    "bars": _bars,
    "image": _image,
    "schedules": _schedules,
    "schedules-time": _schedules_and_time,
    "curves": _curves,
    "ratio": _of_results("ratio", plots.ratio_histograms),
    "surfaces": _of_results("surface", plots.surfaces),
    "spectra": _of_results("spectrum", plots.spectra),
}
