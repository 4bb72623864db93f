"""The verbs that care for the files of runs: pack, verify, prune."""

from __future__ import annotations

import sys

import click

from sharpscope.cli.group import command, main
from sharpscope.store import Run, open_run, pack_run, unpack_run, verify_run


@main.command("pack")
@click.argument("run")
@click.option("-o", "--out", required=True, metavar="FILE", help="The packed run; with --unpack the folder.")
@click.option("--unpack", is_flag=True, help="Make a folder of a packed run.")
@click.option("--skip-damaged", is_flag=True, help="With --unpack: leave out parts that are damaged.")
@click.option("--replace", is_flag=True, help="Write over a packed run that is there.")
@command
def _pack(run: str, out: str, unpack: bool, skip_damaged: bool, replace: bool) -> None:
    """Make one file of RUN, for mail and archives; every command takes it in place of the folder.

    \b
    Example: sharpscope pack runs/ssam -o ssam.h5
    Example: sharpscope pack ssam.h5 --unpack -o runs/copy
    """
    opened = open_run(run)
    if unpack:
        made = unpack_run(opened, out, skip_damaged)
        click.echo(f"{made.path}: {len(made.tree())} of {len(opened.tree())} parts")
    else:
        path = pack_run(opened, out, replace)
        click.echo(f"{path}: {len(opened.tree())} parts, {path.stat().st_size:,} B")


@main.command("verify")
@click.argument("run")
@click.option("--quarantine", is_flag=True, help="Move damaged parts into RUN/quarantine; the rest stays usable.")
@command
def _verify(run: str, quarantine: bool) -> None:
    """Read every part of RUN and name the damaged ones; exit status 1 if there are any left.

    \b
    Example: sharpscope verify runs/ssam --quarantine
    """
    damaged = verify_run(run, quarantine)
    for damage in damaged:
        click.echo(f"damaged: {damage.part}: {damage.error}" + (f"; moved to {damage.moved}" if damage.moved else ""))
    left = sum(damage.moved is None for damage in damaged)
    click.echo(f"{run}: {len(damaged)} damaged parts" if damaged else f"{run}: every part is sound")
    if left:
        sys.exit(1)


@main.command("prune")
@click.argument("run")
@click.option("--keep-checkpoints", "keep", default=1, show_default=True, help="Latest checkpoints to keep.")
@command
def _prune(run: str, keep: int) -> None:
    """Remove old checkpoints of RUN and of its children; the last one of each always stays.

    \b
    Example: sharpscope prune runs/ssam --keep-checkpoints 3
    """
    opened = open_run(run)
    before = sum(size for _, _, size in opened.tree())
    removed = _pruned(opened, keep)
    freed = before - sum(size for _, _, size in opened.tree())
    click.echo(f"{run}: removed {removed} checkpoints, {freed:,} B")


def _pruned(run: Run, keep: int) -> int:
    with run.lock():
        removed = len(run.prune(keep))
    return removed + sum(_pruned(run.child(name), keep) for name in run.children())
