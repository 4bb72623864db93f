"""What the theorems assume of a rule, its schedules and the problem, and what they read off a rule."""

from __future__ import annotations

import dataclasses
import math
from typing import Never

import torch

from sharpscope.ascent.perturbations import Ball, Masked, Memory, Metric, Perturbation
from sharpscope.ascent.probe import Probe
from sharpscope.ascent.shift import Shift
from sharpscope.core.expressions import check_count, check_piece, check_range, resolve
from sharpscope.core.schedules import Constant, InverseSqrt, Number, Schedule
from sharpscope.core.vectors import Vec
from sharpscope.optimizers.rules import Ascend, Blend, Plain, Rule, Sometimes
from sharpscope.theory.problems import Known

__all__ = ["THEOREMS", "Form", "Unnormalized", "checked", "learning_rate"]

THEOREMS = {
    "ssam-1": ("SSAM Theorem 1", r"$\frac{1}{T}\sum_{t \leq T} \Vert\nabla f(w_t)\Vert^2$"),
    "ssam-2": ("SSAM Theorem 2", r"$\frac{1}{T}\sum_{t \leq T} \Vert\nabla f(w_t)\Vert^2$"),
    "rst-1": (
        "RST Theorem 1",
        r"$\sum_t \alpha_t \Vert\nabla L(\theta_t)\Vert^2 / \sum_t \alpha_t$",
    ),
    "rst-2": ("RST Theorem 2", r"$L(\theta_T) - L_*$"),
}


@dataclasses.dataclass(frozen=True, repr=False)
class Unnormalized(Perturbation):
    """eps = rho g, along the gradient itself: the iteration of the RST paper's appendix (eq. 10).

    For its Theorem 2 alone.  Unlike ``Ball`` it depends on the scale of the loss, so that it does not go with a
    GradScaler.
    """

    rho: Number

    def __post_init__(self) -> None:
        check_range("Unnormalized", "rho", self.rho, 0, schedule=True)

    def __call__(self, g: Vec, probe: Probe, memory: Memory) -> Shift | None:
        rho = probe.value(self.rho, 0)
        return Shift(g, torch.tensor(rho, dtype=g[0].dtype, device=g[0].device)) if rho else None


@dataclasses.dataclass(frozen=True)
class Form:
    """What a theorem has to know of a rule."""

    rho: Number  # the radius
    p: Number = 1.0  # the probability of a climb
    weight: float = 1.0  # of G-RST
    unit: bool = True  # whether the climb is along the unit vector
    masked: bool = False


def learning_rate(theorem: str, known: Known, rate: Number | None) -> Number:
    """The learning rate, as the theorem has it."""
    ssam = theorem.startswith("ssam")
    if rate is None:
        return InverseSqrt(1.0 / known.smoothness) if ssam else 1.0 / known.smoothness
    check_range("run_theorem", "rate", rate, 0, open_low=True, schedule=True)
    if ssam and not isinstance(rate, InverseSqrt):
        raise ValueError(
            f"run_theorem got rate={rate!r}, expected InverseSqrt(eta), as the theorem assumes: give one, or None"
        )
    return rate


def checked(
    theorem: str, known: Known, rule: Rule, steps: int, seeds: int, batch: int, points: int
) -> tuple[Form, Rule]:
    """What the theorem reads off the rule, and the rule with its horizon filled in.

    Raises ValueError where an assumption does not hold.
    """
    if theorem not in THEOREMS:
        raise ValueError(f"run_theorem got theorem={theorem!r}, expected one of {', '.join(THEOREMS)}: change theorem")
    for name, value in {"steps": steps, "seeds": seeds, "batch": batch, "points": points}.items():
        check_count("run_theorem", name, value)
    check_piece("run_theorem", "rule", rule, Rule)
    rule = resolve(rule, None, steps)
    form = _read(rule)
    if form is None:
        _refuse(rule, "a rule that the theorems speak of: sgd(), sam, ssam_f or ssam_d, within rst or grst")
    ssam = theorem.startswith("ssam")
    if ssam and (form.p != 1.0 or form.weight != 1.0 or not form.unit):
        _refuse(rule, "sgd(), sam, ssam_f or ssam_d, which the SSAM paper's theorems speak of")
    if theorem == "ssam-1" and form.masked:
        _refuse(rule, "a rule without a mask, which Theorem 1 speaks of (take theorem='ssam-2')")
    if ssam and form.rho != 0 and not isinstance(form.rho, InverseSqrt):
        _refuse(rule, "a radius that falls as the theorem assumes: rho=InverseSqrt(0.1)")
    if not ssam and isinstance(form.rho, Schedule) and not isinstance(form.rho, Constant):
        _refuse(rule, "a constant radius, as the RST paper's theorems have it: rho=0.1")
    if theorem == "rst-1" and not form.unit:
        _refuse(rule, "a climb along the unit vector, which Theorem 1 of the RST paper speaks of: sam(rho)")
    if theorem == "rst-2" and known.pl is None:
        raise ValueError(
            f"run_theorem got the {known.name}, expected a problem with a constant of Polyak and Lojasiewicz, which "
            f"Theorem 2 of the RST paper assumes: take quadratic(), least_squares() or waves()"
        )
    if ssam and not (math.isfinite(known.gradient) and math.isfinite(known.noise)):
        raise ValueError(
            f"run_theorem got the {known.name}, expected bounded gradients and noise, which Assumptions 1 and 2 of the "
            f"SSAM paper are: take quadratic() or logistic()"
        )
    return form, rule


def _refuse(rule: Rule, expected: str) -> Never:
    raise ValueError(f"run_theorem got rule={rule!r}, expected {expected}: change the rule")


def _read(rule: Rule) -> Form | None:
    """The radius, probability and weight of a rule; None for one that the theorems do not know."""
    if isinstance(rule, Plain):
        return Form(0.0)
    if isinstance(rule, Sometimes):
        inside = _read(rule.rule)
        return None if inside is None or inside.p != 1.0 else dataclasses.replace(inside, p=rule.p)
    if isinstance(rule, Blend):
        inside = _read(rule.rule)
        plain = inside is not None and inside.p == inside.weight == 1.0 and not isinstance(rule.weight, Schedule)
        return dataclasses.replace(inside, weight=float(rule.weight)) if inside and plain else None  # type: ignore[arg-type]
    if not isinstance(rule, Ascend) or rule.select is not None or rule.rows != 1.0:
        return None
    climb, masked = rule.perturbation, False
    while isinstance(climb, Masked) and climb.norm == "full":
        climb, masked = climb.perturbation, True
    if isinstance(climb, Ball) and climb.metric == Metric():
        return Form(climb.rho, masked=masked)
    return Form(climb.rho, unit=False, masked=masked) if isinstance(climb, Unnormalized) else None
