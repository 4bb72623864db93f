"""The verbs that train: demo, train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sharpscope.cli._pieces import imported
from sharpscope.cli.demo import PLANS, demo
from sharpscope.cli.group import ROOT, command, main
from sharpscope.data import names as data_names
from sharpscope.models import names as model_names
from sharpscope.runs.figures import table
from sharpscope.runs.train import Experiment, train_run
from sharpscope.training.loop import Settings

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
@click.option("--data", default=_EXPERIMENT.data, show_default=True, help=f"One of {', '.join(data_names())}.")
@ROOT
@click.option(
    "--model",
    default=_EXPERIMENT.model,
    show_default=True,
    help=f'One of {", ".join(model_names())}, with options as in "resnet18(width=16)", or your module:function.',
)
@click.option(
    "--rule", default="sam(rho=0.05)", show_default=True, help='E.g. "rst(ssam_f(rho=0.1, sparsity=0.5), p=0.5)".'
)
@click.option("--pieces", multiple=True, metavar="MODULE:NAME", help="A piece of yours that --rule names; repeatable.")
@click.option("--epochs", default=_SETTINGS.epochs, show_default=True)
@click.option("--batch-size", default=_SETTINGS.batch_size, show_default=True)
@click.option("--lr", default=_SETTINGS.lr, show_default=True, help="After the warm-up; a cosine takes it to 0.")
@click.option("--optimizer", default=_SETTINGS.optimizer, show_default=True, help="The base: sgd, adam or adamw.")
@click.option("--momentum", default=_SETTINGS.momentum, show_default=True, help="Of sgd; beta_1 of adam and adamw.")
@click.option("--weight-decay", default=_SETTINGS.weight_decay, show_default=True)
@click.option("--schedule", default=_SETTINGS.schedule, show_default=True, help="cosine, step or constant.")
@click.option("--warmup", default=_SETTINGS.warmup, show_default=True, help="Epochs of rising learning rate.")
@click.option("--drop-every", default=_SETTINGS.drop_every, show_default=True, help="Epochs, of --schedule step.")
@click.option("--drop", default=_SETTINGS.drop, show_default=True, help="Factor of each of these drops.")
@click.option("--label-smoothing", default=_SETTINGS.label_smoothing, show_default=True)
@click.option("--mixup", default=_SETTINGS.mixup, show_default=True, help="Alpha of the Beta distribution; 0 for none.")
@click.option("--cutout", default=_SETTINGS.cutout, show_default=True, help="Side of the square in pixels; 0 for none.")
@click.option("--precision", default=_SETTINGS.precision, show_default=True, help="float32 or bfloat16 (autocast).")
@click.option("--steps", type=int, help="Stop after so many steps, to try something out.")
@click.option("--seed", default=_SETTINGS.seed, show_default=True)
@click.option("--side", type=int, help="Resize the images to so many pixels in height and width.")
@click.option("--train", "train_images", type=int, help="Only the first so many training images.")
@click.option("--test", "test_images", help="Only the first so many test images; rest: all that is not trained on.")
@click.option("--out", required=True, metavar="RUN", help="Where the run goes; must not exist, unless --resume.")
@click.option("--resume", is_flag=True, help="Go on where the run stopped.")
@click.option("--keep-checkpoints", "keep", default=1, show_default=True, help="Latest checkpoints to keep.")
@click.option("--record-every", type=int, metavar="STEPS", help="Keep the weights every so many steps: a trajectory.")
@click.option("--keep-best", is_flag=True, help="Keep the checkpoint of the lowest test error too.")
@command
def _train(
    data: str,
    root: str | None,
    model: str,
    train_images: int | None,
    test_images: str | None,
    side: int | None,
    out: str,
    resume: bool,
    keep: int,
    record_every: int | None,
    keep_best: bool,
    pieces: tuple[str, ...],
    **settings: Any,
) -> None:
    """Train a network under a rule and keep curves, masks and checkpoints in RUN.

    \b
    Example: sharpscope train --data digits --model convnet \\
                 --rule "ssam_f(rho=0.1, sparsity=0.5)" --epochs 20 --seed 0 --out runs/ssam
    """
    test = int(test_images) if test_images and test_images.isdecimal() else test_images
    experiment = Experiment(
        Settings(**settings, pieces=imported(pieces)), data, root, model, train_images, test, side, keep_best
    )
    run = train_run(
        experiment, out, resume=resume, keep_checkpoints=keep, record_every=record_every
    )  # fmt: skip
    click.echo(table(run))
