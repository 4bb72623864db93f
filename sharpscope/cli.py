"""The command line: each command checks its arguments, calls one function and prints what came of it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sharpscope.demo import PLANS, demo
from sharpscope.figures import draw_run, members, table
from sharpscope.runs import ANALYSES, USUAL, Analysis, Experiment, analyze_run, leaves, train_run
from sharpscope.store import Run, open_run
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
    """


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake ends in one sentence and exit status 1, an interrupt in status 130; never in a traceback."""

    @functools.wraps(function)
    def wrapped(**options: Any) -> None:
        sys.path.insert(0, "")  # --model module:function is looked up where the user stands
        try:
            function(**options)
        except (ValueError, TypeError, ArithmeticError, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except KeyboardInterrupt:
            click.echo(_progress_of(options), err=True)
            sys.exit(130)

    return wrapped


def _progress_of(options: dict[str, Any]) -> str:
    place = options.get("out") or options.get("run")
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
    click.echo(table(run))
    Path(pictures, "table.md").write_text(table(run) + "\n")
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
    **settings: Any,
) -> None:
    """Train a network under a rule and keep curves, masks and checkpoints in RUN.

    \b
    Example: sharpscope train --data digits --model convnet \\
                 --rule "ssam_f(rho=0.1, sparsity=0.5)" --epochs 20 --seed 0 --out runs/ssam
    """
    experiment = Experiment(Settings(**settings), data, root, model, train_images, test_images)
    run = train_run(experiment, out, resume=resume, keep=keep)
    click.echo(table(run))


@main.command("analyze")
@click.argument("run")
@click.option("--spectrum", is_flag=True, help="Top Hessian eigenvalues.")
@click.option("--density", is_flag=True, help="Density of all eigenvalues; takes probes x steps Hessian products.")
@click.option("--layers", is_flag=True, help="Top eigenvalue and trace of every layer, share of eigenvectors.")
@click.option("--track", is_flag=True, help="Top Hessian eigenvalues at every checkpoint (train --keep-checkpoints).")
@click.option("--surface", is_flag=True, help="Filter-normalised loss surface.")
@click.option("--ratio", is_flag=True, help="SAM-vs-SGD gradient ratio r.")
@click.option("--masks", is_flag=True, help="Overlap of the masks over training.")
@click.option(
    "--examples", default=_ANALYSIS.examples, show_default=True, help="First so many training images; 0 for all."
)
@click.option("--k", default=_ANALYSIS.k, show_default=True, help="Eigenvalues.")
@click.option("--tol", default=_ANALYSIS.tol, show_default=True, help="Relative residual of the eigenvalues.")
@click.option(
    "--resolution", default=_ANALYSIS.resolution, show_default=True, help="Points along each axis of the surface."
)
@click.option("--span", default=_ANALYSIS.span, show_default=True, help="Half-width of the surface, in filter norms.")
@click.option("--rho", default=_ANALYSIS.rho, show_default=True, help="Radius of the perturbation behind r.")
@click.option("--probes", default=_ANALYSIS.probes, show_default=True, help="Random vectors of the density.")
@click.option("--steps", default=_ANALYSIS.steps, show_default=True, help="Lanczos steps of each.")
@click.option("--seed", default=_ANALYSIS.seed, show_default=True, help="Of starting vectors and directions.")
@click.option("--replace", is_flag=True, help="Compute again what the run holds already.")
@_command
def _analyze(run: str, examples: int, replace: bool, **options: Any) -> None:
    """Analyse the last weights of RUN (of each of its children).

    Without a choice: spectrum, surface, ratio and masks.  What was killed goes on where it stopped.

    \b
    Example: sharpscope analyze runs/ssam --spectrum --ratio
    """
    opened = open_run(run)
    chosen = [name for name in ANALYSES if options.pop(name)]
    how = Analysis(examples=examples or None, **options)
    analyze_run(opened, chosen or USUAL, how, replace=replace)
    click.echo(table(opened))


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
@click.argument("run")
@_command
def _show(run: str) -> None:
    """Print what RUN holds: settings, progress, parts with their sizes, results.

    \b
    Example: sharpscope show runs/demo-digits
    """
    opened = open_run(run)
    click.echo("\n".join(_described(opened)))


def _described(run: Run, indent: str = "") -> list[str]:
    children = run.children()
    status = run.status or (f"{len(children)} runs" if children else "not trained")
    lines = [f"{indent}{Path(run.path).name}: {status}"]
    lines += [f"{indent}  {name}: {value}" for name, value in leaves(run.config).items() if value is not None]
    lines += [f"{indent}  {size:>12,} B  {kind:<10}  {part}" for part, kind, size in run.tree()]
    lines += [f"{indent}  {name} = {run.results[name].summary()}" for name in run.result_names()]
    for child in children:
        lines += _described(run.child(child), indent + "    ")
    return lines
