"""From a recipe to the runs that it needs: rows x columns x seeds, each an Experiment with a folder of its own."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sharpscope import data
from sharpscope.core.expressions import check_count
from sharpscope.optimizers.parse import parse
from sharpscope.recipes.read import SCALES, Column, Recipe, RecipeError, Row, filled
from sharpscope.runs.analyze import Analysis
from sharpscope.runs.train import Experiment
from sharpscope.training.settings import Settings

__all__ = ["Cell", "folder", "plan", "selected", "shard", "unique"]

_SETTINGS = {field.name for field in dataclasses.fields(Settings)} - {"pieces"}
_EXPERIMENT = {field.name for field in dataclasses.fields(Experiment)} - {"settings"}


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One run of a recipe."""

    row: Row
    column: Column
    experiment: Experiment
    analyses: tuple[str, ...]
    analysis: Analysis
    examples: int  # in the training set
    scope: Mapping[str, Any]  # values of the row's variables

    @property
    def seed(self) -> int:
        return self.experiment.settings.seed

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        settings = self.experiment.settings
        return settings.total(-(-self.examples // settings.batch_size))

    @property
    def folder(self) -> str:
        return folder(self.experiment)


def selected(recipe: Recipe, scale: str) -> list[Row]:
    """The rows that a recipe runs at a scale."""
    return [row for row in recipe.rows if any(fnmatchcase(row.name, pattern) for pattern in recipe.only[scale])]


def plan(
    recipe: Recipe,
    scale: str,
    seeds: int | None = None,
    changes: Mapping[str, Any] | None = None,
    roots: Mapping[str, str] | None = None,
) -> list[Cell]:
    """Every run of a recipe, in the order of its table.

    Args:
        recipe: what to plan.
        scale: "small" or "paper".
        seeds: runs of each row and column, with the seeds 0, 1, ...; the recipe's own number by default.
        changes: fields of ``Experiment`` and ``Settings`` or variables to set otherwise.
        roots: folder of the files of each data set that is not built in.

    Raises RecipeError for an unknown scale or a change of something that there is not or that names the rows, and
    ValueError for a setting out of range.
    """
    if scale not in SCALES:
        raise RecipeError(f"got the scale {scale!r}, expected one of {', '.join(SCALES)}: choose one")
    if seeds is not None and seeds < 1:
        raise RecipeError(f"got {seeds} seeds, expected at least 1: change --seeds")
    changes = dict(changes or {})
    _check_changes(recipe, scale, changes)
    return [
        _cell(recipe, row, column, seed, changes, dict(roots or {}))
        for column in recipe.columns[scale]
        for row in selected(recipe, scale)
        for seed in range(seeds or column.seeds)
    ]


def _check_changes(recipe: Recipe, scale: str, changes: Mapping[str, Any]) -> None:
    """Refuse what is no setting, what tells the rows apart and what is out of range, before anything is planned."""
    own = {name for row in recipe.rows for name in row.variables}
    known = (_SETTINGS | _EXPERIMENT) - {"root", "rule", "seed", "keep_best"}
    known = known.union(*(column.variables for column in recipe.columns[scale])) - own
    for key in changes if recipe.columns[scale] else ():
        if key in {"rule", "seed"}:
            raise RecipeError(f"got --set {key}=..., expected another setting: rows are the rules, see --seeds")
        if key in own:
            raise RecipeError(
                f"{recipe.name} got --set {key}=..., expected a setting that all rows share: its rows are named after "
                f"their {key}, leave it out"
            )
        if key not in known:
            raise RecipeError(
                f"{recipe.name} got --set {key}=..., expected one of {', '.join(sorted(known))}: change the name"
            )
    for key, value in changes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{recipe.name} got --set {key}={value}, expected a finite number: change {key}")
    for key in ("train", "side"):
        check_count("training", key, changes.get(key), optional=True)
    if not isinstance(changes.get("model", ""), str):
        raise RecipeError(f"got --set model={changes['model']}, expected a name such as resnet18: change it")
    if changes.get("data", "digits") not in data.names():
        raise RecipeError(f"got --set data={changes['data']}, expected one of {', '.join(data.names())}: change it")
    for column in recipe.columns[scale]:
        for key in changes.keys() & column.variables.keys():
            if isinstance(column.variables[key], int | float) and not isinstance(changes[key], int | float):
                raise RecipeError(f"{recipe.name} got --set {key}={changes[key]}, expected a number: change {key}")
        given = {key: value for key, value in {**column.values, **changes}.items() if key in _SETTINGS}
        Settings(**{key: value for key, value in given.items() if not (isinstance(value, str) and "{" in value)})


def _cell(
    recipe: Recipe, row: Row, column: Column, seed: int, changes: Mapping[str, Any], roots: Mapping[str, str]
) -> Cell:
    known = _SETTINGS | _EXPERIMENT
    values = {**column.values, **row.changes, **{key: value for key, value in changes.items() if key in known}}
    size = values.pop("train_size", None)
    examples = int(values.get("train") or size or 0)
    scope: dict[str, Any] = {**column.values, **column.variables, **row.variables, **changes}
    scope["epoch"] = -(-examples // int(values["batch_size"]))
    scope["total"] = scope["epoch"] * int(values["epochs"])
    values = {key: filled(value, scope) for key, value in values.items()}
    strange = sorted(set(values) - known)
    if strange:
        raise RecipeError(f"{recipe.name} got the setting {strange[0]!r}, expected one of {', '.join(sorted(known))}")
    rule = _canonical(filled(row.rule, scope))
    settings = Settings(rule=rule, seed=seed, **{key: value for key, value in values.items() if key in _SETTINGS})
    rest = {key: value for key, value in values.items() if key in _EXPERIMENT}
    experiment = Experiment(settings, **{**rest, "root": roots.get(rest["data"])})
    how = dict(column.analysis)
    how["examples"] = how.get("examples", 2000) or None
    analysis = Analysis(**{**how, "rho": float(scope.get("rho", 0.1)), "seed": 0})
    return Cell(row, column, experiment, recipe.analyses, analysis, examples, scope)


@functools.cache
def _canonical(rule: str) -> str:
    """One text for one rule, however it was written."""
    return repr(parse(rule))


@functools.cache
def folder(experiment: Experiment) -> str:
    """The name of the folder of a run: equal experiments share it, and none other has it.

    It names what the run depends on, but for the folder of the data and for settings at their defaults, so that a
    setting that is added later moves no run.

    >>> folder(Experiment(Settings(rule="sam(rho=0.1)"))) == folder(Experiment(Settings(rule="Ascend(Ball(0.1))")))
    True
    """
    config = _told(experiment) | {"settings": _told(experiment.settings)}
    config["settings"]["rule"] = _canonical(experiment.settings.rule)
    config.pop("root", None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{experiment.data} {experiment.model} seed{experiment.settings.seed}")
    return f"{name}-{digest}"


def _told(piece: Any) -> dict[str, Any]:
    values = {field.name: (getattr(piece, field.name), field.default) for field in dataclasses.fields(piece)}
    return {name: value for name, (value, default) in values.items() if value != default and name != "settings"}


def unique(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells of the same run together, in the order of their first."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.folder, []).append(cell)
    return list(found.values())


def shard(groups: list[list[Cell]], share: str | None) -> list[list[Cell]]:
    """The i-th of n parts ("3/16"; counted from 1); the parts together are the whole and have nothing in common."""
    if share is None:
        return groups
    try:
        index, count = (int(number) for number in share.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 1 <= index <= count:
        raise RecipeError(f"got --shard {share}, expected I/N with 1 <= I <= N, such as 3/16: change it")
    return groups[index - 1 :: count]
