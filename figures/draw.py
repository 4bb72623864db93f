"""Tables and figures of the papers from runs that are there, without running anything.

python figures/draw.py ssam-figure5 rst-table3 --scale small --runs runs --out figures
python figures/draw.py all

Writes OUT/SCALE/RECIPE/: the figure as PDF and PNG, the numbers as Markdown (with the command that made the runs), CSV
and LaTeX, and the times.  The theorems' are written by `sharpscope reproduce ssam-theorem rst-theorem`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sharpscope import recipes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="RECIPE", help="a recipe such as ssam-figure5, or all")
    parser.add_argument("--scale", default="small", choices=("small", "paper"), help="of the runs (default: small)")
    parser.add_argument("--seeds", type=int, help="of the runs, if they are not as many as the recipe asks for")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where the runs are (default: runs)")
    parser.add_argument(
        "--out", default="figures", metavar="DIR", help="where figures and tables go (default: figures)"
    )
    given = parser.parse_args()
    names = recipes.names() if "all" in given.names else tuple(given.names)
    told = f" --seeds {given.seeds}" if given.seeds else ""
    task = recipes.Task(names, given.scale, given.seeds, out=given.runs, figures=given.out, command=told)
    try:
        task.cells()  # says which names there are
        if not Path(given.runs).is_dir():
            raise recipes.RecipeError(
                f"got --runs {given.runs}, expected a folder of runs: name one, or make them (reproduce)"
            )
        for path in recipes.report(task, say=print):
            print(path)
    except (ValueError, OSError) as error:  # RecipeError and what cannot be read or written
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
