"""The table of a recipe as Markdown, CSV and LaTeX: ours with its spread, the paper's beside it, and the verdicts.

What a clock has measured stands in a file of its own, so that the table is the same, bit for bit, however often the
work was cut off and begun again.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from sharpscope.recipes._gather import Entry
from sharpscope.recipes.numbers import MEASURES, TIMES, Mean
from sharpscope.recipes.read import Recipe
from sharpscope.recipes.verdicts import RULE, Verdict

__all__ = ["verdict_table", "write_summary", "write_tables"]

Rows = list[dict[str, str]]
Judged = Sequence[tuple[str, Verdict]]


def write_tables(
    recipe: Recipe, found: Sequence[Entry], judged: Judged, folder: Path, command: str, scale: str, k: float
) -> list[Path]:
    """``table.md``, ``table.csv``, ``table.tex`` and ``time.md`` in a folder; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(recipe, found, scale, k)
    still = [pair for pair in judged if not pair[1].of_time]
    timed = [pair for pair in judged if pair[1].of_time]
    texts = {
        "table.md": _page(recipe, command, scale, k, _markdown(rows), verdict_table(still), found),
        "table.csv": _csv(recipe, found),
        "table.tex": tabulate(rows, headers="keys", tablefmt="latex_booktabs", disable_numparse=True) + "\n",
        "time.md": _times(recipe, found, verdict_table(timed)),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _rows(recipe: Recipe, found: Sequence[Entry], scale: str, k: float) -> Rows:
    rows: Rows = []
    several = len({entry.column.name for entry in found}) > 1
    for entry in found:
        row = {"setting": entry.column.name} if several else {}
        row["method"] = entry.row
        for name in recipe.measures:
            if name not in TIMES:
                row[MEASURES[name].label] = _shown(entry.values[name], MEASURES[name].form)
                row |= _beside(recipe, entry, name, scale, several)
        for _, quantity in recipe.published:
            if quantity == "formula":
                row |= _beside(recipe, entry, quantity, scale, several)
        row[f"FLOPs, k = {k:.3g}"] = f"{entry.values['flops'].mean:.2f}"
        row |= _beside(recipe, entry, "flops", scale, several)
        for name in ("expected", "extra"):
            if name not in recipe.measures:
                row[MEASURES[name].label] = f"{entry.values[name].mean:.3f}"
                row |= _beside(recipe, entry, name, scale, several)
        rows.append(row)
    return _filled(rows)


def _filled(rows: Rows) -> Rows:
    """Every row with every column, without columns that are empty throughout."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    used = [name for name in names if any(row.get(name) for row in rows)]
    return [{name: row.get(name, "") for name in used} for row in rows]


def _beside(recipe: Recipe, entry: Entry, quantity: str, scale: str, several: bool) -> dict[str, str]:
    """What the paper prints: of the same column, or at small scale of the columns that stand beside this one."""
    known = [column for column, what in recipe.published if what == quantity]
    chosen = [name for name in known if name in ("*", entry.column.name)]
    if scale != "paper" and not chosen:
        chosen = [name for name in known if name in entry.column.beside] if entry.column.beside else known[:4]
    label = {"error": "", "accuracy": "", "flops": " FLOPs", "expected": " Delta-eta"}.get(quantity, f" {quantity}")
    found = {}
    for column in chosen:
        name = "paper" if column in ("*", entry.column.name) else f"paper, {column}"
        found[name + label] = _printed(recipe, column, quantity, entry.row)
    return found


def _printed(recipe: Recipe, column: str, quantity: str, row: str) -> str:
    texts = recipe.published.get((column, quantity), {})
    return texts.get(row, "")


def _shown(value: Mean, form: str) -> str:
    if math.isnan(value.mean):
        return ""
    if math.isnan(value.deviation):
        return f"{value.mean:{form}}"
    return f"{value.mean:{form}} ± {value.deviation:{form}}"


def _markdown(rows: Rows) -> str:
    aligned = ["left" if name in {"setting", "method"} else "right" for name in rows[0]]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True, colalign=aligned)


def verdict_table(judged: Judged) -> str:
    """Claims with what was found and the verdict; "" where there is none."""
    rows = []
    several = len({column for column, _ in judged}) > 1
    for column, verdict in judged:
        about = {"setting": column} if several else {}
        here = {"here": verdict.row, "against": verdict.than}
        rows.append({"claim of the paper": verdict.claim.text, **about, **here, **_told_of(verdict)})
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True) if rows else ""


def _told_of(verdict: Verdict) -> dict[str, str]:
    """The numbers of a verdict and its rule."""
    found = "" if math.isnan(verdict.found.mean) else f"{verdict.found.mean:+.3g}"
    spread = "" if math.isnan(verdict.found.deviation) else f" ± {verdict.found.deviation:.2g}"
    return {
        "difference or slope": f"{found}{spread}",
        "half gap": "" if math.isnan(verdict.half) else f"{verdict.half:.3g}",
        "limit (t e)": "" if math.isnan(verdict.limit) else f"± {verdict.limit:.2g}",
        "rule": verdict.rule,
        "verdict": verdict.text,
    }


def _page(recipe: Recipe, command: str, scale: str, k: float, table: str, verdicts: str, found: Sequence[Entry]) -> str:
    counts = sorted({len(entry.cells) for entry in found})
    seeds = f"{' or '.join(map(str, counts))} seeds per row, mean ± standard deviation over them"
    seeds = "one seed: no deviation, no verdict" if counts == [1] else seeds
    notes = list(dict.fromkeys((*recipe.notes, *(note for entry in found for note in entry.column.notes))))
    first = found[0].cells[0].experiment
    parts = [
        f"# {recipe.paper}, {recipe.item}: {recipe.title}",
        f"Made by `{command}`. Scale: {scale}; {seeds}. Settings of the first run: {_told(first)}.",
        table,
        f"FLOPs: forward-backward pairs per step with 1 - k s of the first backward pass, k = {k:.4g} (2/3 is the "
        "convention, 12/17 gives the column that Sparse SAM prints); times stand in `time.md`.",
    ]
    if verdicts:
        parts += ["## Claims", verdicts, RULE]
    if notes:
        parts += ["## Departures and slips", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _told(experiment: object) -> str:
    config = experiment.config()  # type: ignore[attr-defined]
    own = {**config, **config["settings"]}
    hidden = {"settings", "root", "rule", "seed", "keep_best"}
    return ", ".join(f"{name} {value}" for name, value in own.items() if name not in hidden and value is not None)


def _csv(recipe: Recipe, found: Sequence[Entry]) -> str:
    """One line per row, column and measure: mean and deviation in full, the values of the seeds, and the paper's."""
    written = io.StringIO()
    sheet = csv.writer(written, lineterminator="\n")
    sheet.writerow(["setting", "method", "measure", "mean", "deviation", "seeds", "values", "paper"])
    for entry in found:
        for name, value in entry.values.items():
            if name in TIMES or math.isnan(value.mean):
                continue
            printed = _printed(recipe, entry.column.name, name, entry.row) or _printed(recipe, "*", name, entry.row)
            numbers = [repr(value.mean), repr(value.deviation), len(value.values), " ".join(map(repr, value.values))]
            sheet.writerow([entry.column.name, entry.row, name, *numbers, printed])
    return written.getvalue()


def _times(recipe: Recipe, found: Sequence[Entry], verdicts: str) -> str:
    rows = []
    several = len({entry.column.name for entry in found}) > 1
    for entry in found:
        row = {"setting": entry.column.name} if several else {}
        row["method"] = entry.row
        for name in dict.fromkeys(("seconds", *(name for name in recipe.measures if name in TIMES))):
            row[MEASURES[name].label] = _shown(entry.values[name], MEASURES[name].form)
            for column in (entry.column.name, "*"):
                if printed := _printed(recipe, column, name, entry.row):
                    row[f"paper, {name}"] = printed
        for column, quantity in recipe.published:
            if quantity == "minutes" and (column in {"*", entry.column.name} or not several):
                row[f"paper, {column}, minutes" if column != "*" else "paper, minutes"] = _printed(
                    recipe, column, quantity, entry.row
                )
        rows.append(row)
    parts = [
        f"# {recipe.paper}, {recipe.item}: time",
        "Wall time; it differs from call to call.",
        _markdown(_filled(rows)),
    ]
    return "\n\n".join([*parts, verdicts] if verdicts else parts) + "\n"


def write_summary(judged: Sequence[tuple[Recipe, str, Verdict]], folder: Path) -> list[Path]:
    """``verdicts.md`` and, for what a clock has measured, ``verdicts-of-time.md``: the claims of several recipes."""
    written = []
    for name, of_time in (("verdicts.md", False), ("verdicts-of-time.md", True)):
        rows = [
            {
                "table or figure": f"{recipe.paper}, {recipe.item}",
                "claim of the paper": verdict.claim.text,
                "here": f"{column}: {verdict.row}",
                "against": verdict.than,
                **_told_of(verdict),
            }
            for recipe, column, verdict in judged
            if verdict.of_time == of_time
        ]
        if rows:
            folder.mkdir(parents=True, exist_ok=True)
            text = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
            (folder / name).write_text(f"# Claims of the papers at this scale\n\n{text}\n\n{RULE}\n", encoding="utf-8")
            written.append(folder / name)
    return written
