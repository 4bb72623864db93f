"""The verb that analyses a run."""

from __future__ import annotations

from typing import Any

import click

from sharpscope.analyzers.surfaces.directions import SCALINGS
from sharpscope.analyzers.surfaces.request import PRECISIONS
from sharpscope.cli.group import command, main
from sharpscope.runs.analyze import USUAL, Analysis, analyze_run
from sharpscope.runs.figures import members, table
from sharpscope.store import open_run

_ANALYSIS = Analysis()

_FLAGS = {  # what each option of `analyze` computes
    "spectrum": ("spectrum",),
    "surface": ("surface",),
    "ratio": ("ratio", "ratio_course"),
    "masks": ("masks", "mask_profile"),
    "density": ("density",),
    "layers": ("layers",),
    "track": ("track",),
    "sharpness": ("sharpness",),
    "trajectory": ("trajectory",),
    "curvature_map": ("curvature_map",),
}


@main.command("analyze")
@click.argument("run")
@click.option("--spectrum", is_flag=True, help="Top Hessian eigenvalues.")
@click.option("--density", is_flag=True, help="Density of all eigenvalues; takes probes x steps Hessian products.")
@click.option("--layers", is_flag=True, help="Top eigenvalue and trace of every layer, share of eigenvectors.")
@click.option("--track", is_flag=True, help="Top Hessian eigenvalues at every checkpoint (train --keep-checkpoints).")
@click.option("--sharpness", is_flag=True, help="Rise of the loss: worst within rho, and mean under noise.")
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
@click.option(
    "--rho", default=_ANALYSIS.rho, show_default=True, help="Radius of the perturbation behind r, and of the sharpness."
)
@click.option("--probes", default=_ANALYSIS.probes, show_default=True, help="Random vectors of the density.")
@click.option("--steps", default=_ANALYSIS.steps, show_default=True, help="Lanczos steps of each.")
@click.option(
    "--diagonal-probes",
    default=_ANALYSIS.diagonal_probes,
    show_default=True,
    help="Products behind the Hessian's diagonal of --masks.",
)
@click.option("--seed", default=_ANALYSIS.seed, show_default=True, help="Of starting vectors and directions.")
@click.option("--root", metavar="DIR", help="Folder of the data files, where they have moved since the training.")
@click.option("--replace", is_flag=True, help="Compute again what the run holds already.")
@command
def _analyze(run: str, examples: int, root: str | None, replace: bool, **options: Any) -> None:
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
    analyze_run(opened, chosen or USUAL, how, replace=replace, root=root)
    click.echo(table(opened))
    for name, member in members(opened).items():
        missing = [analysis for analysis in chosen if analysis not in member.result_names()]
        if missing:
            click.echo(f"\n{name}: nothing to analyse for {', '.join(missing)} (no mask, or too few checkpoints)")
        if "mask_profile" in chosen and "mask_profile" in member.result_names():
            click.echo(f"\n{name}: {member.results['mask_profile'].summary()}")
