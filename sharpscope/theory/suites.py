"""All theorems of one paper, measured: the cases, and their table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tabulate import tabulate

from sharpscope.core.convergence import Convergence
from sharpscope.core.schedules import InverseSqrt
from sharpscope.optimizers.methods import grst, rst, sam, sgd, ssam_d, ssam_f
from sharpscope.optimizers.rules import Ascend, Rule
from sharpscope.theory.assumptions import Unnormalized
from sharpscope.theory.experiment import run_theorem
from sharpscope.theory.problems import Known, least_squares, logistic, quadratic, waves

__all__ = ["SCALES", "SUITES", "Case", "cases", "table"]

SCALES = {"small": (400, 150, 20), "paper": (10_000, 1000, 100)}  # steps of SSAM, of RST; seeds


@dataclass(frozen=True)
class Case:
    """One theorem, one rule, one problem."""

    theorem: str
    method: str
    problem: str
    make: Callable[[], Known]
    rule: Rule
    steps: int
    seeds: int
    rate: float | None = None  # the learning rate; None for the largest that the theorem allows

    @property
    def label(self) -> str:
        """The key of its result: "METHOD on PROBLEM"."""
        return f"{self.method} on {self.problem}"

    @property
    def file(self) -> str:
        """The name of its file: what determines the result."""
        words = f"{self.theorem} {self.method} {self.problem} {self.steps} steps {self.seeds} seeds".lower()
        return "".join(letter if letter.isalnum() else "-" for letter in words).replace("--", "-") + ".h5"

    def run(self, progress: bool | None = None) -> Convergence:
        """Measure it."""
        return run_theorem(
            self.theorem, self.make(), self.rule, steps=self.steps, seeds=self.seeds, rate=self.rate, progress=progress
        )


_SLOW = {"waves": 0.04}  # at 1 / beta it would be Newton's method near the minimum, and there in a few steps


def _ssam(steps: int, seeds: int) -> list[Case]:
    rho = InverseSqrt(0.2)
    methods = [
        ("ssam-1", "SGD", sgd()), ("ssam-1", "SAM", sam(rho)),
        ("ssam-2", "SSAM-F", ssam_f(rho, sparsity=0.5, samples=16, every=50)),
        ("ssam-2", "SSAM-D", ssam_d(rho, sparsity=0.5, every=50)),
    ]  # fmt: skip
    problems: dict[str, Callable[[], Known]] = {"quadratic": quadratic, "logistic regression": logistic}
    return [
        Case(theorem, method, problem, make, rule, steps, seeds)
        for problem, make in problems.items()
        for theorem, method, rule in methods
    ]


def _rst(steps: int, seeds: int) -> list[Case]:
    rho = 0.05
    methods = [
        ("GD", sgd()), ("SAM", sam(rho)), ("RST", rst(sam(rho), p=0.5)), ("G-RST", grst(sam(rho), p=0.5, weight=2.0)),
        ("RST over SSAM-D", rst(ssam_d(rho, sparsity=0.5, every=20), p=0.5)),
    ]  # fmt: skip
    along = ("RST, eps = rho g", rst(Ascend(Unnormalized(0.1)), p=0.5))  # Theorem 2's own iteration
    nonconvex: dict[str, Callable[[], Known]] = {
        "logistic regression": logistic,
        "waves": waves,
    }
    pl: dict[str, Callable[[], Known]] = {"quadratic": quadratic, "least squares": least_squares, "waves": waves}
    return [
        Case("rst-1", method, problem, make, rule, steps, seeds, _SLOW.get(problem))
        for problem, make in nonconvex.items()
        for method, rule in methods
    ] + [
        Case("rst-2", method, problem, make, rule, steps, seeds, _SLOW.get(problem))
        for problem, make in pl.items()
        for method, rule in [*methods[1:4], along]
    ]


SUITES: dict[str, Callable[[int, int], list[Case]]] = {"ssam-theorem": _ssam, "rst-theorem": _rst}


def cases(suite: str, scale: str = "small", seeds: int | None = None) -> list[Case]:
    """The cases of a suite ("ssam-theorem" or "rst-theorem") at a scale ("small" or "paper").

    Raises ValueError for an unknown suite or scale.

    >>> len(cases("ssam-theorem"))
    8
    """
    if suite not in SUITES:
        raise ValueError(f"cases got suite={suite!r}, expected one of {', '.join(SUITES)}: change suite")
    if scale not in SCALES:
        raise ValueError(f"cases got scale={scale!r}, expected one of {', '.join(SCALES)}: change scale")
    ssam, rst_, usual = SCALES[scale]
    return SUITES[suite](ssam if suite == "ssam-theorem" else rst_, usual if seeds is None else seeds)


def table(results: Mapping[str, Convergence], style: str = "github") -> str:
    """One row per result: measured at the last T, the bounds there, the largest share of each, rates, verdict.

    ``style`` is "csv" or any table format of tabulate.
    """
    rows = []
    for key, one in results.items():
        last = [one.bound[-1], one.published[-1], float("nan") if one.direct is None else one.direct[-1]]
        rows.append(
            {
                "theorem": one.theorem,
                "case": key.partition(": ")[2] or key,
                "seeds": str(one.seeds),
                "T": str(one.steps[-1]),
                "measured": _with_error(one.mean[-1], one.stderr[-1]),
                **dict(zip(("bound", "published", "direct"), map(_number, last), strict=True)),
                "measured / bound, largest": _number(one.closest),
                "measured / published, largest": _number(one.closest_published),
                "rate": _with_error(one.slope, one.slope_stderr),
                "bound's rate": _number(one.bound_slope),
                "under the bound": "yes" if one.holds else "no",
            }
        )
    if style == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True) + "\n"


def _number(value: float) -> str:
    return "" if value != value else f"{value:.3g}"


def _with_error(value: float, error: float) -> str:
    """A number and its error; one that is the same for all seeds, to rounding, has none."""
    return f"{value:.3g}" if not error > 1e-12 * abs(value) else f"{value:.3g} +- {error:.1g}"
