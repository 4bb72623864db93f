"""Tables and figures of the papers from runs that are there, without running anything.

python figures/draw.py ssam-figure5 rst-table3 --scale small --runs runs --out figures
python figures/draw.py all

Writes OUT/SCALE/RECIPE/: the figure as PDF and PNG, the numbers as Markdown (with the command that made the runs), CSV
and LaTeX, and the times.
"""

from __future__ import annotations

import argparse

from sharpscope import recipes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="RECIPE", help="a recipe such as ssam-figure5, or all")
    parser.add_argument("--scale", default="small", choices=("small", "paper"))
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--out", default="figures")
    given = parser.parse_args()
    names = recipes.names() if "all" in given.names else tuple(given.names)
    task = recipes.Task(names, given.scale, out=given.runs, figures=given.out)
    for path in recipes.report(task, say=print):
        print(path)


if __name__ == "__main__":
    main()
