"""The group of all verbs, and what every verb shares: errors in one sentence, the place of data."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from sharpscope.runs.figures import members
from sharpscope.store import open_run

__all__ = ["ROOT", "command", "main"]


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
    sharpscope reproduce RECIPES                        tables and figures of the papers
    """


def command(function: Callable[..., None]) -> Callable[..., None]:
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


ROOT = click.option("--root", metavar="DIR", help="Folder of the data files, as they are unpacked.")
