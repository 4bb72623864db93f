"""The command line: each command checks its arguments, calls one function and prints what came of it."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sharpscope.analyses import USUAL, Analysis, analyze_run, directions_of
from sharpscope.analyzers.directions import SCALINGS
from sharpscope.analyzers.plane import PRECISIONS
from sharpscope.demo import PLANS, demo
from sharpscope.exchange.files import FORMATS, export
from sharpscope.figures import described, draw_run, members, overview, table
from sharpscope.runs import Experiment, train_run
from sharpscope.store import Run, load, open_run, pack_run, unpack_run, verify_run
from sharpscope.training import Settings

__all__ = ["main"]

_SETTINGS, _EXPERIMENT, _ANALYSIS = Settings(), Experiment(), Analysis()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sharpscope")
def main() -> None:
    """How sharp is the minimum that my optimizer found, and why?

    \b
    sharpscope demo                                     five optimizers on real images, compared
    sharpscope train --rule "sam(rho=0.1)" --out RUN    train one
    sharpscope analyze RUN                              spectrum, loss surface, r-ratio, masks
    sharpscope figures RUN --out figures                draw them
    sharpscope show RUN                                 what a run holds
    sharpscope show --table RUNS...                     many runs side by side
    sharpscope export RUN -o FILE                       a surface for ParaView, a browser, loss-landscape, ...
    sharpscope pack | verify | prune RUN                one file of it; look for damage; remove old checkpoints
    """


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake ends in one sentence and exit status 1, an interrupt in status 130; never in a traceback."""

    @functools.wraps(function)
    def wrapped(**options: Any) -> None:
        sys.path.insert(0, "")  # --model module:function is looked up where the user stands
        try:
            function(**options)
        except (ValueError, TypeError, ArithmeticError, OSError, ImportError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except KeyboardInterrupt:
            click.echo(_progress_of(options), err=True)
            sys.exit(130)

    return wrapped


def _progress_of(options: dict[str, Any]) -> str:
    place = options.get("run") or options.get("out")
    try:
        run = open_run(place) if place else None
    except ValueError:
        run = None
    if run is None:
        return "interrupted before anything was written"
    states = [f"{name} {member.status or 'not trained yet'}" for name, member in members(run).items()]
    return (
        f"interrupted; {place} holds: {'; '.join(states) or 'no method yet'}. Run the same command again to go on"
        + (" (with --resume)." if "resume" in options else ".")
    )


_ROOT = click.option("--root", metavar="DIR", help="Folder of the data files (cifar-10-batches-bin for cifar10).")


@main.command("demo")
@click.option("--data", "name", default="digits", show_default=True, help=f"One of {', '.join(PLANS)}.")
@_ROOT
@click.option("--out", metavar="RUN", help="Where the run goes; runs/demo-<data> by default. Resumed if it is there.")
@click.option("--figures", metavar="DIR", help="Where the pictures go; figures/demo or figures/demo-<data> by default.")
@click.option("--seed", default=0, show_default=True, help="Of weights, batches, rules and analyses.")
@_command
def _demo(name: str, root: str | None, out: str | None, figures: str | None, seed: int) -> None:
    """Train SGD, SAM, SSAM-F, SSAM-D and RST with equal epochs, analyse each minimum, draw and compare.

    \b
    Example: sharpscope demo
    Example: sharpscope demo --data cifar10 --root data/cifar-10-batches-bin
    """
    place = out or f"runs/demo-{name}"
    pictures = figures or ("figures/demo" if name == "digits" else f"figures/demo-{name}")
    run = demo(name, root, place, pictures, seed=seed, say=click.echo)
    click.echo()
    text = table(run)
    click.echo(text)
    Path(pictures, "table.md").write_text(text + "\n")
    click.echo(f"\nPictures in {pictures}, the run in {place} (sharpscope show {place}).")


@main.command("train")
@click.option("--data", default=_EXPERIMENT.data, show_default=True, help="digits or cifar10.")
@_ROOT
@click.option(
    "--model", default=_EXPERIMENT.model, show_default=True, help="A network's name, or your module:function."
)
@click.option(
    "--rule", default="sam(rho=0.05)", show_default=True, help='E.g. "rst(ssam_f(rho=0.1, sparsity=0.5), p=0.5)".'
)
@click.option("--epochs", default=_SETTINGS.epochs, show_default=True)
@click.option("--batch-size", default=_SETTINGS.batch_size, show_default=True)
@click.option("--lr", default=_SETTINGS.lr, show_default=True, help="At the first step; a cosine takes it to 0.")
@click.option("--momentum", default=_SETTINGS.momentum, show_default=True)
@click.option("--weight-decay", default=_SETTINGS.weight_decay, show_default=True)
@click.option("--seed", default=_SETTINGS.seed, show_default=True)
@click.option("--train", "train_images", type=int, help="Only the first so many training images.")
@click.option("--test", "test_images", type=int, help="Only the first so many test images.")
@click.option("--out", required=True, metavar="RUN", help="Where the run goes; must not exist, unless --resume.")
@click.option("--resume", is_flag=True, help="Go on where the run stopped.")
@click.option("--keep-checkpoints", "keep", default=1, show_default=True, help="Latest checkpoints to keep.")
@click.option("--record-every", type=int, metavar="STEPS", help="Keep the weights every so many steps: a trajectory.")
@_command
def _train(
    data: str,
    root: str | None,
    model: str,
    train_images: int | None,
    test_images: int | None,
    out: str,
    resume: bool,
    keep: int,
    record_every: int | None,
    **settings: Any,
) -> None:
    """Train a network under a rule and keep curves, masks and checkpoints in RUN.

    \b
    Example: sharpscope train --data digits --model convnet \\
                 --rule "ssam_f(rho=0.1, sparsity=0.5)" --epochs 20 --seed 0 --out runs/ssam
    """
    experiment = Experiment(Settings(**settings), data, root, model, train_images, test_images)
    run = train_run(experiment, out, resume=resume, keep_checkpoints=keep, record_every=record_every)
    click.echo(table(run))


_FLAGS = {  # what each option of `analyze` computes
    "spectrum": ("spectrum",),
    "surface": ("surface",),
    "ratio": ("ratio", "ratio_course"),
    "masks": ("masks", "mask_profile"),
    "density": ("density",),
    "layers": ("layers",),
    "track": ("track",),
    "trajectory": ("trajectory",),
    "curvature_map": ("curvature_map",),
}


@main.command("analyze")
@click.argument("run")
@click.option("--spectrum", is_flag=True, help="Top Hessian eigenvalues.")
@click.option("--density", is_flag=True, help="Density of all eigenvalues; takes probes x steps Hessian products.")
@click.option("--layers", is_flag=True, help="Top eigenvalue and trace of every layer, share of eigenvectors.")
@click.option("--track", is_flag=True, help="Top Hessian eigenvalues at every checkpoint (train --keep-checkpoints).")
@click.option(
    "--trajectory", is_flag=True, help="The way of the weights in its principal plane (train --record-every)."
)
@click.option("--curvature-map", is_flag=True, help="Both ends of the Hessian's spectrum over a coarse plane.")
@click.option("--surface", is_flag=True, help="Filter-normalised loss surface.")
@click.option("--ratio", is_flag=True, help="SAM-vs-SGD gradient ratio r, of every checkpoint that RUN keeps.")
@click.option("--masks", is_flag=True, help="Overlap of the masks over training; does the last select what is sharp?")
@click.option(
    "--examples", default=_ANALYSIS.examples, show_default=True, help="First so many training images; 0 for all."
)
@click.option("--k", default=_ANALYSIS.k, show_default=True, help="Eigenvalues.")
@click.option("--tol", default=_ANALYSIS.tol, show_default=True, help="Relative residual of the eigenvalues.")
@click.option(
    "--resolution", default=_ANALYSIS.resolution, show_default=True, help="Points along each axis of the surface."
)
@click.option("--span", default=_ANALYSIS.span, show_default=True, help="Half-width of the surface, in filter norms.")
@click.option(
    "--directions",
    default=_ANALYSIS.directions,
    show_default=True,
    type=click.Choice(SCALINGS),
    help="What the surface's random directions are scaled by.",
)
@click.option(
    "--precision",
    default=_ANALYSIS.precision,
    show_default=True,
    type=click.Choice(PRECISIONS),
    help="Of the surface; the error of bfloat16 is measured and stored.",
)
@click.option(
    "--tolerance", type=float, help="Relative error up to which the surface may be interpolated, such as 0.01."
)
@click.option("--rho", default=_ANALYSIS.rho, show_default=True, help="Radius of the perturbation behind r.")
@click.option("--probes", default=_ANALYSIS.probes, show_default=True, help="Random vectors of the density.")
@click.option("--steps", default=_ANALYSIS.steps, show_default=True, help="Lanczos steps of each.")
@click.option(
    "--diagonal-probes",
    default=_ANALYSIS.diagonal_probes,
    show_default=True,
    help="Products behind the Hessian's diagonal of --masks.",
)
@click.option("--seed", default=_ANALYSIS.seed, show_default=True, help="Of starting vectors and directions.")
@click.option("--replace", is_flag=True, help="Compute again what the run holds already.")
@_command
def _analyze(run: str, examples: int, replace: bool, **options: Any) -> None:
    """Analyse the last weights of RUN (of each of its children).

    Without a choice: spectrum, surface, ratio and masks.  What was killed goes on where it stopped.

    \b
    Example: sharpscope analyze runs/ssam --spectrum --ratio
    Example: sharpscope analyze runs/ssam --masks --ratio
    Example: sharpscope analyze runs/ssam --surface --resolution 51 --tolerance 0.01 --precision bfloat16
    """
    opened = open_run(run)
    chosen = [name for flag, names in _FLAGS.items() if options.pop(flag) for name in names]
    how = Analysis(examples=examples or None, **options)
    analyze_run(opened, chosen or USUAL, how, replace=replace)
    click.echo(table(opened))
    for name, member in members(opened).items():
        if "mask_profile" in chosen and "mask_profile" in member.result_names():
            click.echo(f"\n{name}: {member.results['mask_profile'].summary()}")


@main.command("figures")
@click.argument("run")
@click.option("--out", default="figures", show_default=True, metavar="DIR", help="Folder of the pictures.")
@click.option("--format", "formats", multiple=True, default=("pdf", "png"), show_default=True, help="pdf, png, svg.")
@_command
def _figures(run: str, out: str, formats: tuple[str, ...]) -> None:
    """Draw every figure that RUN's results allow.

    \b
    Example: sharpscope figures runs/demo-digits --out figures/demo
    """
    for path in draw_run(open_run(run), out, formats):
        click.echo(str(path))


@main.command("show")
@click.argument("runs", nargs=-1, required=True)
@click.option("--follow", is_flag=True, help="Print again when something changed, until training is finished.")
@click.option("--table", "as_table", is_flag=True, help="One row per run: the settings that differ, curves, results.")
@_command
def _show(runs: tuple[str, ...], follow: bool, as_table: bool) -> None:
    """Print what RUNS hold: settings, progress, parts with their sizes, results.

    \b
    Example: sharpscope show runs/demo-digits
    Example: sharpscope show runs/ssam --follow
    Example: sharpscope show --table runs/sam-* runs/sgd-*
    """
    shown = ""
    while True:
        text = overview(runs) if as_table else "\n".join(line for run in runs for line in described(open_run(run)))
        if text != shown:
            click.clear()  # on a terminal only
            click.echo(text)
            shown = text
        if not follow or all(_finished(open_run(run)) for run in runs):
            return
        try:
            time.sleep(1.0)
        except KeyboardInterrupt:
            return


@main.command("export")
@click.argument("source", metavar="RUN_OR_RESULT")
@click.option(
    "--result", "name", default="surface", show_default=True, help="Which of RUN, or directions (of surface)."
)
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), help="Told by the ending of FILE, unless said.")
@click.option("-o", "--out", required=True, metavar="FILE", help=f"Endings: {', '.join(FORMATS.values())}.")
@click.option("--replace", is_flag=True, help="Write over a file that is there.")
@_command
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
@_command
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
@_command
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
@click.option("--trajectory", is_flag=True, help="Remove the recorded weights along training too.")
@_command
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


def _finished(run: Run) -> bool:
    return all((member.status or "").startswith("finished") for member in members(run).values())
