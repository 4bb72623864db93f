"""The verbs that train: demo, train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sharpscope.cli.group import ROOT, command, main
from sharpscope.demo import PLANS, demo
from sharpscope.figures import table
from sharpscope.runs import Experiment, train_run
from sharpscope.training import Settings

_SETTINGS, _EXPERIMENT = Settings(), Experiment()


@main.command("demo")
@click.option("--data", "name", default="digits", show_default=True, help=f"One of {', '.join(PLANS)}.")
@ROOT
@click.option("--out", metavar="RUN", help="Where the run goes; runs/demo-<data> by default. Resumed if it is there.")
@click.option("--figures", metavar="DIR", help="Where the pictures go; figures/demo or figures/demo-<data> by default.")
@click.option("--seed", default=0, show_default=True, help="Of weights, batches, rules and analyses.")
@command
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
@ROOT
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
@command
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
    run = train_run(experiment, out, resume=resume, keep_checkpoints=keep)
    click.echo(table(run))
