"""The verb that reproduces tables and figures of the papers."""

from __future__ import annotations

import ast
import math
from typing import Any

import click

from sharpscope import data, recipes
from sharpscope.cli.group import command, main
from sharpscope.recipes.listing import listing
from sharpscope.recipes.numbers import FLOPS
from sharpscope.recipes.read import SCALES, SHARED, families, unknown
from sharpscope.recipes.theorems import THEOREMS, describe, prove, split
from sharpscope.recipes.trial import trial


@main.command("reproduce")
@click.argument("names", nargs=-1, metavar="RECIPES...")
@click.option("--scale", type=click.Choice(SCALES), default="small", show_default=True, help="This machine, or GPUs.")
@click.option(
    "--list", "as_list", is_flag=True, help="RECIPES, or all, with runs, passes and estimated time; run nothing."
)
@click.option("--print", "as_text", is_flag=True, help="Print RECIPES as they are written; run nothing.")
@click.option("--seeds", type=int, help="Runs per row; the recipe's own number by default.")
@click.option("--shard", "share", metavar="I/N", help="Only the I-th of N parts of the runs, for array jobs.")
@click.option(
    "--steps", type=int, metavar="N", help="Try out: N steps of each rule on made-up images, in small batches."
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Another setting or variable, e.g. epochs=10.")
@click.option("--root", "roots", multiple=True, metavar="[DATA=]DIR", help="Folder of a data set: cifar10=data/cifar.")
@click.option("--flops", default="conventional", show_default=True, help=f"k of 2 - k s: {', '.join(FLOPS)}, a number.")
@click.option("--out", default="runs", show_default=True, metavar="DIR", help="Folder of all runs.")
@click.option("--figures", default="figures", show_default=True, metavar="DIR", help="Tables go to DIR/SCALE/RECIPE.")
@command
def _reproduce(
    names: tuple[str, ...],
    scale: str,
    as_list: bool,
    as_text: bool,
    seeds: int | None,
    share: str | None,
    steps: int | None,
    sets: tuple[str, ...],
    roots: tuple[str, ...],
    flops: str,
    out: str,
    figures: str,
) -> None:
    """Run what a table or figure of the papers needs, and write it; what is there already is not run again.

    \b
    Example: sharpscope reproduce --list
    Example: sharpscope reproduce ssam-table1 --scale small
    Example: sharpscope reproduce ssam-theorem rst-theorem
    Example: sharpscope reproduce all --root cifar10=data/cifar-10-batches-bin
    Example: sharpscope reproduce rst-table3 --scale paper --shard 3/16 --root cifar10=data/cifar10
    """
    known = (*recipes.names(), *THEOREMS)
    chosen = known if "all" in names or (as_list and not names) else names
    if not chosen:
        raise recipes.RecipeError(f"got no recipe, expected some of {families(known)}, or all: name one, see --list")
    for name in names:
        if name not in {*known, "all", *(SHARED if as_text else ())}:
            raise unknown(name, known)
    chosen, theorems = split(chosen)
    changes = dict(_change(one) for one in sets)
    words = [f"--seeds {seeds}"] if seeds else []
    words += [f"--set {one}" for one in sets] + ([f"--flops {flops}"] if flops != "conventional" else [])
    told = "".join(f" {word}" for word in words)
    task = recipes.Task(chosen, scale, seeds, out, figures, changes, _roots(roots), _k(flops), told)
    if as_text:
        click.echo("\n".join(recipes.text(name) for name in task.names))
    if as_list and chosen:
        click.echo(listing(task))
    if (as_text or as_list) and theorems:
        click.echo(f"{chr(10) if as_list and chosen else ''}{describe(theorems, task)}")
    if as_text or as_list:
        return
    if steps is not None and chosen:
        trial(task, steps, say=click.echo)
    elif chosen:
        for path in recipes.reproduce(task, share, say=click.echo):
            click.echo(str(path))
    for path in prove(theorems, task, share, steps, say=click.echo):
        click.echo(str(path))


def _change(given: str) -> tuple[str, Any]:
    key, equals, value = given.partition("=")
    if not equals or not key:
        raise recipes.RecipeError(f"got --set {given}, expected KEY=VALUE such as epochs=10: change it")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a word


def _roots(given: tuple[str, ...]) -> dict[str, str]:
    """Folders by data set; one without a name is that of every set that needs one."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if equals and (name not in data.FILED or not folder):
            raise recipes.RecipeError(
                f"got --root {one}, expected DIR or DATA=DIR with one of {', '.join(data.FILED)}: change it"
            )
        found |= {name: folder} if equals else dict.fromkeys(data.FILED, one)
    return found


def _k(given: str) -> float:
    try:
        k = FLOPS[given] if given in FLOPS else float(given)
    except ValueError:
        k = math.nan
    if not 0.0 <= k <= 1.0:
        raise recipes.RecipeError(
            f"got --flops {given}, expected {', '.join(FLOPS)} or a number from 0 to 1: change it"
        )
    return k
