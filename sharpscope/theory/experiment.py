"""A theorem measured: the real optimizer on a known problem, over seeds, beside the bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sharpscope.ascent.batch import Batch
from sharpscope.core.convergence import Convergence
from sharpscope.core.progress import bar
from sharpscope.core.schedules import Number, value_at
from sharpscope.optimizers.rules import Rule
from sharpscope.optimizers.sharpness_aware import SharpnessAware
from sharpscope.theory.assumptions import THEOREMS, Form, checked, learning_rate
from sharpscope.theory.bounds import direct_bound, rst_theorem_1, rst_theorem_2, ssam_theorem_1, ssam_theorem_2
from sharpscope.theory.problems import Known

__all__ = ["run_theorem"]


def run_theorem(
    theorem: str,
    known: Known,
    rule: Rule,
    *,
    steps: int = 1000,
    seeds: int = 20,
    rate: Number | None = None,
    batch: int = 8,
    points: int = 40,
    seed: int = 0,
    progress: bool | None = None,
) -> Convergence:
    """Train on a problem with known constants as a theorem has it, and set the measured quantity beside its bound.

    Every seed starts from the same weights; it stands for the batches, the coins and the masks.  For "ssam-1" and
    "ssam-2" each step takes ``batch`` examples drawn with replacement and eta_t, rho_t fall as 1 / sqrt(t); "rst-1" and
    "rst-2" take full gradients.  The quantities are (1/T) sum |grad f(w_t)|^2; sum alpha_t |grad L(theta_t)|^2 /
    sum alpha_t, which the proof bounds and which is at least the minimum that the theorem names; and
    L(theta_T) - min L.

    Args:
        theorem: "ssam-1" (SGD and SAM), "ssam-2" (masks too), "rst-1" or "rst-2".
        known: the problem, from ``sharpscope.theory.problems``.
        rule: any composition that the theorem speaks of, such as ``ssam_f(rho=InverseSqrt(0.1), sparsity=0.5,
            every=50)`` for "ssam-2" and ``rst(sam(rho=0.1), p=0.5)`` for "rst-1".
        steps: the largest T.
        seeds: runs.
        rate: the learning rate; ``InverseSqrt`` for SSAM, any schedule for RST; None for the largest that the theorem
            allows, 1 / L at the start.
        batch: examples per step, for SSAM.
        points: how many T to keep at most, evenly spaced in log T, for "rst-2" in T.
        seed: of the first run; run i has seed + i.
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError, before anything is run, where the rule, its schedules, the learning rate or the problem are not
    what the theorem assumes; ArithmeticError for weights that leave the region where the constants hold.

    Example:
        >>> from sharpscope.optimizers.methods import rst, sam
        >>> from sharpscope.theory.problems import least_squares
        >>> found = run_theorem("rst-2", least_squares(), rst(sam(rho=0.01), p=0.5), steps=20, seeds=2)
        >>> found.holds, found.measured.shape
        (True, (2, 20))
    """
    form, rule = checked(theorem, known, rule, steps, seeds, batch, points)
    rate = learning_rate(theorem, known, rate)
    kept = _kept(theorem, steps, max(points, 3))
    bounds = _bounds(theorem, known, form, rate, steps, batch)
    rows = []
    with bar(seeds, f"{THEOREMS[theorem][0]}, {rule!r}", progress) as shown:
        for number in range(seeds):
            losses, squares = _run(known, rule, rate, steps, batch if theorem.startswith("ssam") else 0, seed + number)
            rows.append(_quantity(theorem, losses - known.minimum, squares, rate)[kept - 1])
            shown.update()
    measured, (bound, published, direct) = np.stack(rows), bounds
    return Convergence(
        kept, measured, bound[kept - 1], published[kept - 1], None if direct is None else direct[kept - 1],
        _window(theorem, kept, bound[kept - 1], measured, _gap(known)), theorem != "rst-2",
        *THEOREMS[theorem], repr(rule), known.name, _constants(theorem, known, form, rate, steps, batch),
    )  # fmt: skip


def _constants(theorem: str, known: Known, form: Form, rate: Number, steps: int, batch: int) -> dict[str, float]:
    """What the bound was computed from, by its symbol."""
    constants = {"L": known.smoothness, "l": known.sample_smoothness, "gap": _gap(known)}
    if theorem.startswith("ssam"):
        constants |= {"G": known.gradient, "sigma^2": known.noise / batch, "eta_0": value_at(rate, 0)}
        return constants | {"rho_0": value_at(form.rho, 0), "batch": float(batch)}
    constants |= {"alpha_0": value_at(rate, 0), "rho": value_at(form.rho, 0), "weight": form.weight}
    constants |= {"p": float(np.mean([value_at(form.p, t) for t in range(steps)]))}
    return constants | ({"pl": known.pl} if known.pl is not None else {})


def _run(known: Known, rule: Rule, rate: Number, steps: int, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """f(w_2), ..., f(w_{T+1}) and |grad f(w_1)|^2, ..., |grad f(w_T)|^2 along one run (w_1 the start)."""
    model = known.make()
    (weight,) = model.parameters()
    base = torch.optim.SGD(model.parameters(), lr=value_at(rate, 0))
    optimizer = SharpnessAware(base, rule, known.problem(model), seed, model=model, total=steps)
    rng = torch.Generator().manual_seed(seed)
    losses, squares = np.empty(steps + 1), np.empty(steps + 1)
    for t in range(steps + 1):
        if not float((weight.detach() - known.center).norm()) <= known.radius:  # NaN too
            raise ArithmeticError(
                f"run_theorem got weights beyond {known.radius:g} of the centre of the {known.name} at step {t}, "
                f"expected them within, where its constants hold: lower the noise (a larger batch) or widen the region"
            )
        value = known.value(model)
        (gradient,) = torch.autograd.grad(value, weight)
        losses[t], squares[t] = float(value.detach()), float(gradient.square().sum())
        if t == steps:
            break
        inputs, targets = known.inputs, known.targets
        if batch:
            rows = torch.randint(len(inputs), (batch,), generator=rng, device="cpu")
            inputs, targets = inputs[rows], targets[rows]
        base.param_groups[0]["lr"] = value_at(rate, t)
        optimizer.step(Batch(model, known.loss, inputs, targets))
    return losses[1:], squares[:-1]


def _quantity(theorem: str, left: np.ndarray, squares: np.ndarray, rate: Number) -> np.ndarray:
    if theorem == "rst-2":
        return left
    if theorem == "rst-1":
        alpha = np.array([value_at(rate, t) for t in range(len(squares))])
        return np.asarray(np.cumsum(alpha * squares) / np.cumsum(alpha))
    return np.asarray(np.cumsum(squares) / np.arange(1, len(squares) + 1))


def _bounds(
    theorem: str, known: Known, form: Form, rate: Number, steps: int, batch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The bound, the published one (nan where its conditions do not hold), and the direct one for T = 1, ..., steps."""
    gap = _gap(known)
    if theorem.startswith("ssam"):
        shared: dict[str, Any] = {
            "eta": value_at(rate, 0), "rho": value_at(form.rho, 0), "smoothness": known.smoothness,
            "noise": math.sqrt(known.noise / batch), "gap": gap, "sample_smoothness": known.sample_smoothness,
        }  # fmt: skip
        one = ssam_theorem_1 if theorem == "ssam-1" else ssam_theorem_2
        both = {"gradient": known.gradient, **shared}
        return one(steps, **both), _or_nan(one, steps, **both), direct_bound(steps, **shared)
    alpha = np.array([value_at(rate, t) for t in range(steps)])
    p = np.array([value_at(form.p, t) for t in range(steps)])
    more: dict[str, Any] = {"rho": value_at(form.rho, 0), "smoothness": known.smoothness, "gap": gap}
    more["weight"] = form.weight
    if theorem == "rst-1":
        return rst_theorem_1(alpha, p, **more), _or_nan(rst_theorem_1, alpha, p, **more), None
    more["pl"] = known.pl
    return rst_theorem_2(alpha, p, unit=form.unit, **more), _or_nan(rst_theorem_2, alpha, p, **more), None


def _or_nan(theorem: Callable[..., np.ndarray], steps: Any, *arguments: Any, **named: Any) -> np.ndarray:
    """The published form; nan where a condition does not hold that the corrected form, computed before, has not."""
    try:
        return theorem(steps, *arguments, form="published", **named)
    except ValueError:
        return np.full(steps if isinstance(steps, int) else len(steps), np.nan)


def _gap(known: Known) -> float:
    """f(w_1) - min f."""
    return float(known.value(known.make()).detach()) - known.minimum


def _kept(theorem: str, steps: int, points: int) -> np.ndarray:
    """The T that are kept."""
    spread = np.linspace(1, steps, points) if theorem == "rst-2" else np.geomspace(1, steps, points)
    return np.unique(spread.round().astype(np.int64))


def _window(theorem: str, kept: np.ndarray, bound: np.ndarray, measured: np.ndarray, gap: float) -> np.ndarray:
    """Where rates are fitted: the last decade; for a linear rate, until bound or measurement near what they tend to."""
    if theorem != "rst-2":
        return np.array([max(1, kept[-1] // 10), kept[-1]])
    settled = max(4.0 * float(measured.max(axis=0)[len(kept) // 2 :].max()), 1e-12 * gap)
    far = (bound > 4.0 * bound[-1]) & (measured.min(axis=0) > settled)
    end = int(np.argmin(far)) if not far.all() else len(kept)
    return np.array([kept[0], kept[min(max(end, 3), len(kept)) - 1]])
