"""The theorems of the papers as recipes: bounds beside measurements instead of rows and columns of networks.

A suite is a list of cases; a case that its folder holds already is not run again, so that a suite that was cut off
goes on where it was.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tabulate import tabulate

from sharpscope import plots
from sharpscope.core.convergence import Convergence
from sharpscope.recipes.plan import shard
from sharpscope.recipes.read import RecipeError
from sharpscope.recipes.reproduce import Task
from sharpscope.store import load, save
from sharpscope.theory.assumptions import THEOREMS as TEXTS
from sharpscope.theory.suites import SUITES, cases, table

__all__ = ["THEOREMS", "describe", "prove", "rst_theorem", "run_suite", "split", "ssam_theorem"]

THEOREMS = tuple(SUITES)


def split(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of recipes, and those of theorems, each once and in the order given.

    >>> split(["rst-theorem", "ssam-table1", "rst-theorem"])
    (('ssam-table1',), ('rst-theorem',))
    """
    once = tuple(dict.fromkeys(names))
    return tuple(name for name in once if name not in SUITES), tuple(name for name in once if name in SUITES)


def describe(names: Sequence[str], task: Task) -> str:
    """A row per theorem: its methods and problems, each method on each problem being a case, and the cases missing."""
    rows = []
    for name in names:
        planned = cases(name, task.scale, task.seeds)
        for theorem in dict.fromkeys(case.theorem for case in planned):
            own = [case for case in planned if case.theorem == theorem]
            rows.append(
                {
                    "recipe": name,
                    "theorem": TEXTS[theorem][0],
                    "methods": "; ".join(dict.fromkeys(case.method for case in own)),
                    "problems": "; ".join(dict.fromkeys(case.problem for case in own)),
                    "cases": str(len(own)),
                    "missing": str(sum(not (_kept(task, name) / case.file).exists() for case in own)),
                    "steps": str(own[0].steps),
                    "seeds": str(own[0].seeds),
                }
            )
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def prove(
    names: Sequence[str],
    task: Task,
    share: str | None = None,
    steps: int | None = None,
    *,
    progress: bool | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> list[Path]:
    """Measure what is missing of the theorems ``names`` and write their tables and figures; returns the files.

    Results are in ``task.out``/NAME, tables and figures in ``task.place(NAME)``; ``share`` is "I/N", as of other
    recipes.  With ``steps`` every case is tried out for so many steps of one seed, and nothing is written.
    Raises RecipeError for changed settings, which a theorem does not have, where no other recipe is to use them.
    """
    if names and task.changes and not task.names:
        raise RecipeError(f"got --set for {names[0]}, expected none: a theorem has its own learning rate, leave it out")
    written: list[Path] = []
    for name in names:
        planned = cases(name, task.scale, task.seeds)
        if steps is not None:
            for case in planned:
                result = dataclasses.replace(case, steps=steps, seeds=1).run(progress)
                say(f"{name}: {case.theorem}, {case.label}: {result.mean[-1]:.3g} after {steps} steps")
            continue
        index, count = (1, 1) if share is None else _share(share)
        found = run_suite(
            name, task.place(name), task.scale, task.seeds, results=_kept(task, name), share=(index, count),
            progress=progress,
        )  # fmt: skip
        if len(found) < len(planned):
            say(f"{name}: {len(planned) - len(found)} of {len(planned)} cases are missing, no table yet")
            continue
        for key, one in found.items():
            say(f"{key}: {'under the bound' if one.holds else 'NOT under the bound'}, at most {one.closest:.3g} of it")
        written += sorted(path for path in task.place(name).iterdir() if path.name.startswith(name))
    return written


def run_suite(
    suite: str,
    folder: str | os.PathLike[str],
    scale: str = "small",
    seeds: int | None = None,
    *,
    results: str | os.PathLike[str] | None = None,
    share: tuple[int, int] = (1, 1),
    progress: bool | None = None,
) -> dict[str, Convergence]:
    """Run what is missing of a suite; write its tables (Markdown, CSV, LaTeX) and figures (PDF, PNG) into ``folder``.

    Results are kept in ``results``, ``folder``/results by default.  ``share`` = (i, n) runs only every n-th case from
    the i-th on; tables and figures are written when all are there.  Returns what is there by "THEOREM: METHOD on
    PROBLEM".  Raises ValueError for an unknown suite or scale.
    """
    place, kept = Path(folder), Path(folder) / "results" if results is None else Path(results)
    found: dict[str, Convergence] = {}
    planned = cases(suite, scale, seeds)
    place.mkdir(parents=True, exist_ok=True)
    kept.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(planned):
        path = kept / case.file
        result = load(path) if path.exists() else None
        if not isinstance(result, Convergence) and number % share[1] == share[0] - 1:
            result = case.run(progress)
            save(result, path, replace=True)
        if isinstance(result, Convergence):
            found[f"{case.theorem}: {case.label}"] = result
    if len(found) < len(planned):
        return found
    for style, ending in (("github", "md"), ("csv", "csv"), ("latex", "tex")):
        (place / f"{suite}.{ending}").write_text(table(found, style), encoding="utf-8")
    for quantity in dict.fromkeys(result.quantity for result in found.values()):
        shown = {key.partition(": ")[2]: one for key, one in found.items() if one.quantity == quantity}
        name = suite if suite == "ssam-theorem" else f"{suite}-{1 if next(iter(shown.values())).power else 2}"
        plots.save_figure(plots.convergences(shown), place, name)
    return found


def ssam_theorem(
    folder: str | os.PathLike[str], scale: str = "small", seeds: int | None = None
) -> dict[str, Convergence]:
    """Theorems 1 and 2 of Sparse SAM: SGD, SAM, SSAM-F and SSAM-D on a quadratic and on logistic regression."""
    return run_suite("ssam-theorem", folder, scale, seeds)


def rst_theorem(
    folder: str | os.PathLike[str], scale: str = "small", seeds: int | None = None
) -> dict[str, Convergence]:
    """Theorems 1 and 2 of RST: gradient descent, SAM, RST, G-RST and RST over SSAM-D on four problems."""
    return run_suite("rst-theorem", folder, scale, seeds)


def _share(share: str) -> tuple[int, int]:
    shard([], share)  # refuses what is none
    index, _, count = share.partition("/")
    return int(index), int(count)


def _kept(task: Task, name: str) -> Path:
    return Path(task.out, name)
