"""Recipes as text: one TOML file per table or figure of a paper, and two files of what they share.

A recipe has rows (methods, each a rule), columns (models and data) and two scales.  ``settings.toml`` holds the papers'
hyper-parameters and the small ones by name, ``rows.toml`` groups of rows.  ``{name}`` in a rule or a value stands for a
variable of the row, the column, the scale or the settings, in this order; ``{2*m-1}`` for what it comes to.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import itertools
import operator
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

__all__ = [
    "SCALES", "SHARED", "Claim", "Column", "Recipe", "RecipeError", "Row", "families", "filled", "names", "read",
    "settings", "text", "unknown",
]  # fmt: skip

SCALES = ("small", "paper")
SHARED = ("settings", "rows")  # files of what recipes share
_Table = Mapping[str, Any]


class RecipeError(ValueError):
    """A recipe that does not exist or cannot be read: what was got, what was expected, what to do."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One method: a rule, and what it sets otherwise than the rest."""

    name: str
    rule: str  # with {variables}
    changes: _Table = dataclasses.field(default_factory=dict)
    variables: _Table = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Column:
    """One model on one data set."""

    name: str
    values: _Table  # fields of an experiment and of its settings
    variables: _Table
    analysis: _Table
    beside: tuple[str, ...]  # columns of the paper shown beside this one
    seeds: int
    notes: tuple[str, ...]  # of the settings


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the paper says, in words and as a rule that numbers decide; see ``verdicts``."""

    text: str
    kind: str
    measure: str
    rows: tuple[str, ...]  # patterns of row names
    than: tuple[str, ...] = ()  # the rows to compare with; "=measure" for another measure of the same row
    threshold: float = 0.0  # the number that "above" names, in units of the measure
    x: str = ""  # a row variable or measure, for trends
    columns: tuple[str, ...] = ("*",)  # patterns of the columns that it is about
    baseline: str = "SGD"  # the row that "close" and "no-more" measure the gap to


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One table or figure of a paper, ready to be planned at either scale."""

    name: str
    paper: str
    item: str
    title: str
    measures: tuple[str, ...]
    analyses: tuple[str, ...]
    figure: str  # name of the drawing, "" for a table alone
    rows: tuple[Row, ...]
    columns: Mapping[str, tuple[Column, ...]]  # by scale
    only: Mapping[str, tuple[str, ...]]  # by scale: patterns of the rows that it runs
    published: Mapping[tuple[str, str], Mapping[str, str]]  # (column, quantity) -> {row: what the paper prints}
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]  # departures from the paper and its slips
    options: _Table  # of the drawing


def names() -> tuple[str, ...]:
    """Every recipe, those of a paper in the order of its pages: tables first.

    >>> "ssam-table1" in names() and "rst-figure9" in names()
    True
    """
    found = [file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml")]
    return tuple(sorted(set(found) - set(SHARED), key=_order))


def _order(name: str) -> tuple[bool, bool, str, int]:
    number = re.search(r"\d+$", name)
    kind = name[: number.start()] if number else name
    return (not name.startswith("ssam"), "figure" in name, kind, int(number[0]) if number else 0)


def text(name: str) -> str:
    """The TOML of a recipe.  Raises RecipeError for a name that is none."""
    if name not in (*names(), *SHARED):
        raise unknown(name, names())
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8")


def unknown(name: str, known: Sequence[str]) -> RecipeError:
    """The error of a name that is none of ``known``: it tells their families, and the name that is nearest.

    >>> print(unknown("ssam-tabel1", names()))  # doctest: +ELLIPSIS
    got the recipe 'ssam-tabel1', expected one of ssam-table1 ... ssam-table9, ssam-figure1 ...: take ssam-table1...
    """
    near = difflib.get_close_matches(name, known, 1)
    remedy = f"take {near[0]}, or another that --list tells" if near else "take one that --list tells, or `all`"
    return RecipeError(f"got the recipe {name!r}, expected one of {families(known)}: {remedy}")


def families(known: Sequence[str]) -> str:
    """Names in short: the first and the last of those that differ in a number alone.

    >>> families(["a-table1", "a-table2", "a-table3", "b-theorem"])
    'a-table1 ... a-table3, b-theorem'
    """
    groups = [list(group) for _, group in itertools.groupby(known, lambda name: name.rstrip("0123456789"))]
    return ", ".join(" ... ".join(dict.fromkeys((group[0], group[-1]))) for group in groups)


def _folder() -> Traversable:
    return resources.files("sharpscope") / "recipes"


@functools.cache
def settings() -> dict[str, _Table]:
    """The shared settings by name: hyper-parameters, ``variables`` and ``analysis``."""
    return tomllib.loads(text("settings"))


@functools.cache
def _groups() -> dict[str, list[_Table]]:
    return tomllib.loads(text("rows"))


@functools.cache
def read(name: str) -> Recipe:
    """The recipe of that name.

    >>> recipe = read("ssam-table1")
    >>> recipe.item, [column.name for column in recipe.columns["paper"]]
    ('Table 1', ['ResNet18 CIFAR10', 'ResNet18 CIFAR100'])

    Raises RecipeError for a name that is none.
    """
    found = tomllib.loads(text(name))
    rows = tuple(_rows(found.get("rows", [])))
    return Recipe(
        name=name,
        paper=found["paper_name"],
        item=found["item"],
        title=found["title"],
        measures=tuple(found.get("measures", ("error",))),
        analyses=tuple(found.get("analyses", ())),
        figure=found.get("figure", ""),
        rows=rows,
        columns={scale: tuple(_columns(found.get(scale, {}))) for scale in SCALES},
        only={scale: tuple(found.get(scale, {}).get("only", ("*",))) for scale in SCALES},
        published=_published(found.get("published", "")),
        claims=tuple(_claim(claim) for claim in found.get("claims", ())),
        notes=tuple(found.get("notes", ())),
        options=found.get("options", {}),
    )


def _published(given: str) -> dict[tuple[str, str], dict[str, str]]:
    """The paper's table, written as one: ``row | column: quantity | ...`` and a line per row; nothing where blank."""
    lines = [[cell.strip() for cell in line.split("|")] for line in given.strip().splitlines()]
    if not lines:
        return {}
    heads = [tuple(part.strip() for part in head.split(":")) for head in lines[0][1:]]
    return {
        (column, quantity): {cells[0]: cells[place] for cells in lines[1:] if cells[place]}
        for place, (column, quantity) in enumerate(heads, 1)
    }


def _claim(given: _Table) -> Claim:
    than = given.get("than", [])
    own: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    own["than"] = (than,) if isinstance(than, str) else tuple(than)
    return Claim(**own)


def _columns(scale: _Table) -> Iterator[Column]:
    shared = {key: value for key, value in scale.items() if key not in {"columns", "only"}}
    for given in scale.get("columns", ()):
        own = {**shared, **given}
        base = settings()[own.pop("settings")]
        values = {key: value for key, value in base.items() if key not in {"variables", "analysis", "seeds", "notes"}}
        variables = {**base.get("variables", {}), **own.pop("variables", {})}
        yield Column(
            name=own.pop("name"),
            variables=variables,
            analysis=base.get("analysis", {}),
            beside=tuple(own.pop("beside", ())),
            seeds=own.pop("seeds", base.get("seeds", 1)),
            notes=tuple(base.get("notes", ())),
            values={**values, **own},
        )


def _rows(given: list[Any]) -> Iterator[Row]:
    for one in given:
        if isinstance(one, str):
            yield from _rows(list(_groups()[one]))
            continue
        own = dict(one)
        loops = own.pop("each", {})
        name, rule = own.pop("name"), own.pop("rule")
        variables = own.pop("variables", {})
        for values in itertools.product(*loops.values()):
            scope = {**variables, **dict(zip(loops, values, strict=True))}
            yield Row(_named(name, scope), rule, own, scope)


def _named(name: str, scope: _Table) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: f"{scope[found[1]]:g}", name)


def filled(value: Any, scope: _Table) -> Any:
    """A text with its ``{variables}`` filled in; a text that is one variable becomes its value.

    >>> filled("ssam_f({rho}, every={T*epoch})", {"rho": 0.1, "T": 2, "epoch": 7})
    'ssam_f(0.1, every=14)'
    """
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\{([^{}]+)\}", value)
    if whole:
        return _value(whole[1], scope)
    return re.sub(r"\{([^{}]+)\}", lambda found: str(_value(found[1], scope)), value)


_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def _value(expression: str, scope: _Table) -> Any:
    """The worth of names and numbers joined by + - * /; a float without its last, rounded digits."""
    found = _worth(ast.parse(expression, mode="eval").body, expression, scope)
    return round(found, 12) if isinstance(found, float) else found


def _worth(node: ast.expr, expression: str, scope: _Table) -> Any:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_worth(node.left, expression, scope), _worth(node.right, expression, scope))
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in scope:
        return scope[node.id]
    raise RecipeError(
        f"a recipe got {ast.unparse(node)!r} in {{{expression}}}, expected one of {', '.join(scope)}: set it with "
        f"--set {ast.unparse(node)}=..."
    )
