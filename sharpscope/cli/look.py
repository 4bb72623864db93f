"""The verbs that look at runs: figures, show."""

from __future__ import annotations

import time

import click

from sharpscope.cli.group import command, main
from sharpscope.runs.figures import described, draw_run, members, overview
from sharpscope.store import Run, open_run


@main.command("figures")
@click.argument("run")
@click.option("--out", default="figures", show_default=True, metavar="DIR", help="Folder of the pictures.")
@click.option("--format", "formats", multiple=True, default=("pdf", "png"), show_default=True, help="pdf, png, svg.")
@command
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
@command
def _show(runs: tuple[str, ...], follow: bool, as_table: bool) -> None:
    """Print what RUNS hold: settings, progress, parts with their sizes, results.

    Parts that are damaged are named after the rest, and the exit status is 1.

    \b
    Example: sharpscope show runs/demo-digits
    Example: sharpscope show runs/ssam --follow
    Example: sharpscope show --table runs/sam-* runs/sgd-*
    """
    shown = ""
    while True:
        damaged: list[str] = []
        text = (
            overview(runs)
            if as_table
            else "\n".join(line for run in runs for line in described(open_run(run), damaged))
        )
        if text != shown:
            click.clear()  # on a terminal only
            click.echo(text)
            shown = text
        if damaged:
            raise click.ClickException("\n".join(f"damaged: {error}" for error in damaged))
        if not follow or all(_finished(open_run(run)) for run in runs):
            return
        try:
            time.sleep(1.0)
        except KeyboardInterrupt:
            return


def _finished(run: Run) -> bool:
    return all((member.status or "").startswith("finished") for member in members(run).values())
