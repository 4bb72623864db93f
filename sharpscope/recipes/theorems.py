"""The theorems of the papers as recipes: bounds beside measurements instead of rows and columns of networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from tabulate import tabulate

from sharpscope.recipes.plan import shard
from sharpscope.recipes.read import RecipeError
from sharpscope.recipes.reproduce import Task
from sharpscope.theory.assumptions import THEOREMS as TEXTS
from sharpscope.theory.suites import SUITES, cases, run_suite

__all__ = ["THEOREMS", "describe", "prove", "split"]

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


def _share(share: str) -> tuple[int, int]:
    shard([], share)  # refuses what is none
    index, _, count = share.partition("/")
    return int(index), int(count)


def _kept(task: Task, name: str) -> Path:
    return Path(task.out, name)
