"""The verbs that care for the files of runs: export, pack, verify, prune."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sharpscope.cli.group import command, main
from sharpscope.exchange.files import FORMATS, export
from sharpscope.runs.analyze import directions_of
from sharpscope.store import Run, load, open_run, pack_run, unpack_run, verify_run


@main.command("export")
@click.argument("source", metavar="RUN_OR_RESULT")
@click.option(
    "--result", "name", default="surface", show_default=True, help="Which of RUN, or directions (of surface)."
)
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), help="Told by the ending of FILE, unless said.")
@click.option("-o", "--out", required=True, metavar="FILE", help=f"Endings: {', '.join(FORMATS.values())}.")
@click.option("--replace", is_flag=True, help="Write over a file that is there.")
@command
def _export(source: str, name: str, kind: str | None, out: str, replace: bool) -> None:
    """Write a result of RUN, or one that was saved alone, for another program.

    \b
    li      files of Li et al.'s loss-landscape     csv     one row per point
    vtk     structured grid for ParaView            netcdf  xarray, MATLAB, ...
    html    a surface to turn in the browser
    Example: sharpscope export runs/ssam -o surface.vts
    Example: sharpscope export runs/ssam --result directions --format li -o directions.h5
    """
    alone = Path(source).is_file() and not _is_packed(source)
    if not alone and name == "directions":
        directions, problem = directions_of(open_run(source))
        path = export(directions, out, kind, replace=replace, problem=problem)
    else:
        path = export(load(source) if alone else open_run(source).results[name], out, kind, replace=replace)
    click.echo(f"{path}: {path.stat().st_size:,} B")


def _is_packed(path: str) -> bool:
    try:
        open_run(path)
    except ValueError:
        return False
    return True


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
@click.option("--quarantine", is_flag=True, help="Put damaged parts aside; the rest stays usable.")
@command
def _verify(run: str, quarantine: bool) -> None:
    """Read every part of RUN and name the damaged ones; exit status 1 if there are any left.

    With --quarantine the damaged parts of a folder move into RUN/quarantine. A packed file with damage is kept as
    NAME.damaged-....h5, and a new file of its sound parts takes its place. Where run.h5 itself, the configuration, is
    damaged, nothing is changed.

    \b
    Example: sharpscope verify runs/ssam --quarantine
    Example: sharpscope verify ssam.h5 --quarantine
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
@click.option("--trajectory", is_flag=True, help="Remove the recorded weights along training too.")
@command
def _prune(run: str, keep: int, trajectory: bool) -> None:
    """Remove old checkpoints of RUN and of its children; the last one of each always stays.

    \b
    Example: sharpscope prune runs/ssam --keep-checkpoints 3
    """
    opened = open_run(run)
    before = sum(size for _, _, size in opened.tree())
    removed, points = _pruned(opened, keep, trajectory)
    freed = before - sum(size for _, _, size in opened.tree())
    recorded = f" and {points} points of trajectories" if trajectory else ""
    click.echo(f"{run}: removed {removed} checkpoints{recorded}, {freed:,} B")


def _pruned(run: Run, keep: int, trajectory: bool) -> tuple[int, int]:
    with run.lock():
        removed = len(run.prune(keep))
        points = len(run.prune_trajectory(run.trajectory())) if trajectory else 0
    inside = [_pruned(run.child(name), keep, trajectory) for name in run.children()]
    return removed + sum(one for one, _ in inside), points + sum(other for _, other in inside)
