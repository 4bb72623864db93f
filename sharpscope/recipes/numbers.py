"""What a run is worth in a table: errors, sharpness, and the papers' accounting of its cost."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from sharpscope.analyzers.gradients.ratio import GradientRatio
from sharpscope.analyzers.spectra.spectrum import Spectrum
from sharpscope.analyzers.surfaces.surface import Surface
from sharpscope.ascent.scores import Fisher
from sharpscope.core.expressions import Piece, resolve
from sharpscope.core.history import History
from sharpscope.core.schedules import delta_eta
from sharpscope.core.vectors import generator
from sharpscope.optimizers.parse import parse
from sharpscope.optimizers.rules import Ascend, Blend, Plain, Reuse, Rule, Sometimes
from sharpscope.recipes.plan import Cell
from sharpscope.runs.analyze import problem_of
from sharpscope.store import Run

__all__ = ["FLOPS", "MEASURES", "TIMES", "Mean", "expected_extra", "flops", "measure", "resolution", "sparsity"]

_IMAGES = 1_000_000  # no test set is larger
FLOPS = {"conventional": 2 / 3, "paper": 12 / 17}  # k of 2 - k s; see ``flops``


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean and standard deviation (of the sample, n - 1) of a measure over seeds."""

    values: tuple[float, ...]  # one per seed
    seeds: tuple[int, ...] = ()  # their seeds; 0, 1, ... where none are given
    resolution: float = 0.0  # the least difference that the measure tells, such as one test image; 0: not known

    @property
    def by_seed(self) -> dict[int, float]:
        """The value of each seed."""
        return dict(zip(self.seeds or range(len(self.values)), self.values, strict=True))

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """NaN for a single seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


def sparsity(rule: Piece) -> float:
    """Share of the parameters that a rule does not perturb; 0 for a rule without a mask."""
    own = getattr(rule, "sparsity", None)
    inner = [getattr(rule, field.name) for field in dataclasses.fields(rule)]
    return float(own) if own is not None else max((sparsity(p) for p in inner if isinstance(p, Piece)), default=0.0)


def flops(passes: float, s: float, k: float = FLOPS["conventional"]) -> float:
    """Work of a step in forward-backward pairs, if sparse products were as fast as their sparsity promises.

    SAM's step costs 2; with a share s of the parameters not perturbed its first backward pass needs 1 - s of the work:
    2 - k s, where k is the backward's share of a pair.  k = 2/3 (backward = 2 forward) is the convention; k = 12/17 is
    the only simple fraction that gives all six figures that Sparse SAM prints (Tables 1 to 3), which states no
    formula.  A step that climbs with probability p costs 1 + p (1 - k s).

    >>> round(flops(2.0, 0.5, FLOPS["paper"]), 2), round(flops(2.0, 0.5), 2)
    (1.65, 1.67)
    """
    return passes - k * s * (passes - 1.0)


def expected_extra(rule: Rule, steps: int) -> float:
    """Expected extra forward-backward pairs of a step, the RST paper's Delta-eta (its eq. 4): 0 for SGD, 1 for SAM.

    A climb that selects a share f of the batch (ESAM) takes a forward pass more, a third of a pair, and f of a pair.

    >>> expected_extra(parse("rst(sam(0.1), p=Linear(0, 1))"), 100)
    0.5
    >>> round(expected_extra(parse("esam(0.1, fraction=0.5)"), 100), 4)
    0.8333
    """
    if isinstance(rule, Plain):
        return 0.0
    inner = getattr(rule, "rule", None)
    extra = expected_extra(inner, steps) if isinstance(inner, Rule) else 1.0
    if isinstance(rule, Ascend) and rule.select is not None and rule.select.fraction < 1.0:
        extra = 1.0 / 3.0 + rule.select.fraction
    if isinstance(rule, Sometimes):
        return extra * delta_eta(resolve(rule, steps, steps).p, steps)
    return extra / rule.every if isinstance(rule, Reuse) and isinstance(rule.every, int) else extra


def _history(run: Run) -> History:
    history = run.history
    assert isinstance(history, History)
    return history


def _top5(run: Run) -> float:
    """nan for up to 100 classes, where it is not told."""
    found = _history(run).test_top5
    return math.nan if found is None else 100.0 * float(found[-1])


def _passes(run: Run, cell: Cell) -> float:
    return float(_history(run).passes[-1]) / cell.steps


def _spectrum(run: Run) -> Spectrum:
    found = run.results["spectrum"]
    assert isinstance(found, Spectrum)
    return found


def _share_below_zero(run: Run) -> float:
    found = run.results["ratio"]
    assert isinstance(found, GradientRatio)
    return 100.0 * found.share_below_zero


def _surface_loss(run: Run) -> float:
    found = run.results["surface"]
    assert isinstance(found, Surface)
    return float(np.median(found.loss))


def _jitter(run: Run) -> float:
    """Mean size of the test error's change from one epoch to the next, in points."""
    return 100.0 * float(np.mean(np.abs(np.diff(_history(run).test_error))))


def gamma(rule: Rule, steps: int) -> float:
    """Expected weight of the penalty of the gradient's norm in units of rho: 0 for SGD, 1 for SAM (RST, Table 5)."""
    if isinstance(rule, Plain):
        return 0.0
    inner = getattr(rule, "rule", None)
    own = gamma(inner, steps) if isinstance(inner, Rule) else 1.0
    if isinstance(rule, Blend) and isinstance(rule.weight, int | float):
        return own * rule.weight
    return own * delta_eta(resolve(rule, steps, steps).p, steps) if isinstance(rule, Sometimes) else own


def _fisher_seconds(run: Run, cell: Cell) -> float:
    """Time of one Fisher information on the rule's number of examples, at the run's last weights: the least of 3.

    NaN for a rule without one.
    """
    try:
        samples = int(_of_kind(parse(cell.experiment.settings.rule), Fisher).samples)
    except LookupError:
        return math.nan
    problem = problem_of(run, root=cell.experiment.root)

    def once(seed: int) -> float:
        began = time.perf_counter()
        problem.squared_gradients(samples, generator("time of the Fisher", seed))
        return time.perf_counter() - began

    return min(once(seed) for seed in range(3))


def _of_kind(piece: Piece, kind: type[Fisher]) -> Fisher:
    for field in dataclasses.fields(piece):
        value = getattr(piece, field.name)
        if isinstance(value, kind):
            return value
        if isinstance(value, Piece):
            with contextlib.suppress(LookupError):
                return _of_kind(value, kind)
    raise LookupError(f"{piece!r} has no {kind.__name__}")


@dataclasses.dataclass(frozen=True)
class _Measure:
    label: str
    form: str
    of: Callable[[Run, Cell], float]
    time: bool = False  # of the clock, so that it differs from run to run


MEASURES: dict[str, _Measure] = {
    "error": _Measure("test error (%)", ".2f", lambda run, cell: 100.0 * float(_history(run).test_error[-1])),
    "accuracy": _Measure(
        "test accuracy (%)", ".2f", lambda run, cell: 100.0 * (1.0 - float(_history(run).test_error[-1]))
    ),
    "top-5": _Measure("top-5 error (%)", ".2f", lambda run, cell: _top5(run)),
    "train_loss": _Measure("training loss", ".4f", lambda run, cell: float(_history(run).train_loss[-1])),
    "lambda_1": _Measure("lambda_1", ".3g", lambda run, cell: float(_spectrum(run).eigenvalues[0])),
    "lambda_ratio": _Measure("lambda_1/lambda_5", ".3g", lambda run, cell: _spectrum(run).ratio),
    "below_zero": _Measure("share of r < 0 (%)", ".1f", lambda run, cell: _share_below_zero(run)),
    "surface": _Measure("median loss of the surface", ".3f", lambda run, cell: _surface_loss(run)),
    "extra": _Measure("Delta-eta realised", ".3f", lambda run, cell: _passes(run, cell) - 1.0),
    "expected": _Measure(
        "Delta-eta expected",
        ".3f",
        lambda run, cell: expected_extra(parse(cell.experiment.settings.rule), cell.steps),
    ),
    "gamma": _Measure("gamma / rho", ".2f", lambda run, cell: gamma(parse(cell.experiment.settings.rule), cell.steps)),
    "jitter": _Measure("change of test error per epoch (points)", ".3f", lambda run, cell: _jitter(run)),
    "fisher": _Measure("seconds of one Fisher information", ".3f", _fisher_seconds, time=True),
    "passes": _Measure("passes per step", ".3f", lambda run, cell: _passes(run, cell)),
    "seconds": _Measure("seconds", ".2f", lambda run, cell: float(_history(run).seconds[-1]), time=True),
}


def resolution(name: str, runs: Sequence[Run], cells: Sequence[Cell]) -> float:
    """The least difference that a measure tells: one image of the test set, one optimizer step; 0 where not known.

    Test errors are counts over the test set, so that their common denominator is its size, or a divisor of it, which
    makes the resolution coarser.
    """
    if name in {"extra", "passes"}:
        return max((1.0 / cell.steps for cell in cells), default=0.0)
    if name not in {"error", "accuracy"}:
        return 0.0
    errors = [float(error) for run in runs for error in _history(run).test_error]
    return 100.0 / math.lcm(*(Fraction(error).limit_denominator(_IMAGES).denominator for error in errors))


TIMES = tuple(name for name, one in MEASURES.items() if one.time)


def measure(name: str, run: Run, cell: Cell) -> float:
    """One number of a run."""
    return MEASURES[name].of(run, cell)
