"""Claims of the papers, decided by numbers: *seen*, *not seen here* or *not decided*.

Every rule is a one-sided test at 95 % over seeds, with Student's t for n - 1 degrees of freedom.  Methods are compared
seed by seed, because runs of one seed share their first weights, their split of the data and the order of their
batches.  m is the mean of the n numbers that a rule names, e their standard error, t the 95 % quantile:

============  ============================================================================================
less, more    of the differences: seen where m + t e < 0 (m - t e > 0)
close         seen where |difference| is below half of the gap between the reference and the baseline (SAM - SGD) of
              the same table: with h = |gap| / 2, both h - difference and h + difference have m - t e > 0
no-more       the same without the lower side: h - difference has m - t e > 0
above         of the distances from the number in the claim: seen where m - t e > 0
rises, falls  as more and less, of the slopes over the rows of a least-squares line, one per seed
on-line       of the root mean square distances of the rows from y = x, one per seed: seen where m + t e is below half
              of the mean spacing of the rows in x; times count from SGD's (0) to SAM's (1)
============  ============================================================================================

A claim against several rows is seen where it is seen against each.  Not decided are: one seed; a gap that is itself not
significant (two-sided, 95 %); a trend over equal x; and differences that are all the same where nothing says how finely
the measure tells.  Where that is known (one count of the test set, one optimizer step), their standard deviation is
taken as no smaller than it, so that equal numbers give no certainty.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from scipy.special import stdtrit

from sharpscope.recipes.numbers import TIMES, Mean
from sharpscope.recipes.read import Claim

__all__ = ["RULE", "RULES", "Values", "Verdict", "judged", "matching"]

RULES = {
    "less": "m + t e < 0",
    "more": "m - t e > 0",
    "close": "m - t e > 0 of h - difference and of h + difference",
    "no-more": "m - t e > 0 of h - difference",
    "above": "m - t e > 0 of the distance",
    "rises": "m - t e > 0 of the slope",
    "falls": "m + t e < 0 of the slope",
    "on-line": "m + t e < half the spacing in x",
}
RULE = (
    "Rules, one-sided at 95 %, over differences of equal seeds with mean m, standard error e (never below the "
    "resolution of the measure) and t the quantile of Student's t; h = half of the gap between the reference and the "
    "baseline SGD in this table. Seen where: "
    + "; ".join(f"{kind}: {rule}" for kind, rule in RULES.items())
    + ". Against several rows: seen against each. Not decided: one seed, a gap that is not significant (two-sided, "
    "95 %), a trend over equal x, identical differences of a measure of unknown resolution."
)
Values = Mapping[str, Mapping[str, Mean]]  # row -> measure -> one value per seed


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One claim about one row (or about several, for a trend)."""

    claim: Claim
    row: str
    than: str  # what it is compared with; "" for nothing
    found: Mean  # of the differences, distances or slopes
    limit: float  # t e of what is tested: half-width of the one-sided 95 % interval
    half: float  # what |found| is to be below, for close, no-more and on-line; NaN else
    slack: float  # how far the test is passed, in units of the measure; negative where it is not
    why: str  # why it is not decided, "" where it is

    @property
    def seen(self) -> bool | None:
        """None where nothing is decided."""
        return None if self.why else self.slack > 0

    @property
    def of_time(self) -> bool:
        return self.claim.measure in TIMES or self.claim.x in TIMES

    @property
    def rule(self) -> str:
        return f"{self.claim.kind}: {RULES[self.claim.kind]}"

    @property
    def text(self) -> str:
        return f"not decided: {self.why}" if self.why else "seen" if self.seen else "not seen here"


def matching(rows: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The rows whose name one of the patterns matches, in their own order."""
    return [row for row in rows if any(fnmatchcase(row, pattern) for pattern in patterns)]


def judged(claim: Claim, values: Values, variables: Mapping[str, Mapping[str, float]]) -> Iterator[Verdict]:
    """The verdicts on one claim; none where its rows are not there.

    Args:
        claim: what is claimed.
        values: what was measured.
        variables: numbers that the rows stand for, for trends over them: row -> name -> number.
    """
    rows = [row for row in matching(list(values), claim.rows) if row not in claim.than]
    if claim.kind == "on-line":
        if rows:
            yield _on_line(claim, rows, values)
    elif claim.kind in {"rises", "falls"}:
        if len(rows) > 1:
            yield _trend(claim, rows, values, variables)
    elif claim.kind == "above":
        for row in rows:
            own = values[row][claim.measure]
            found = dataclasses.replace(own, values=tuple(value - claim.threshold for value in own.values))
            yield _decided(claim, row, f"{claim.threshold:g}", found, 1.0)
    elif all(than in values or than.startswith("=") for than in claim.than):
        for row in rows:
            yield _hardest([_compared(claim, row, than, values) for than in claim.than])


def _hardest(found: list[Verdict]) -> Verdict:
    """Of comparisons that must all be passed, the one that decides: a failed one, then an undecided one."""
    return min(found, key=lambda one: ({False: 0, None: 1, True: 2}[one.seen], one.slack))


def _compared(claim: Claim, row: str, than: str, values: Values) -> Verdict:
    own = values[row][claim.measure]
    other = values[row][than[1:]] if than.startswith("=") else values[than][claim.measure]
    label = than.removeprefix("=")
    if claim.kind not in {"close", "no-more"}:
        return _decided(claim, row, label, _minus(own, other), 1.0 if claim.kind == "more" else -1.0)
    if claim.baseline not in values:
        return _undecided(claim, row, label, _minus(own, other), f"no row {claim.baseline}")
    gap, found = _minus(other, values[claim.baseline][claim.measure]), _minus(own, other)
    _, limit, why = _interval(gap, 0.975)
    if why or abs(gap.mean) <= limit:
        return _undecided(claim, row, label, found, why or f"no significant gap to {claim.baseline}", gap.mean / 2)
    half = math.copysign(0.5, gap.mean)
    sides = [_decided(claim, row, label, found, -1.0, _scaled(gap, half))]
    if claim.kind == "close":
        sides.append(_decided(claim, row, label, found, 1.0, _scaled(gap, half)))
    return _hardest(sides)


def _decided(claim: Claim, row: str, than: str, found: Mean, sign: float, half: Mean | None = None) -> Verdict:
    """Whether sign * found (plus ``half``) is above 0."""
    tested = _scaled(found, sign) if half is None else _minus(half, _scaled(found, -sign))
    mean, limit, why = _interval(tested, 0.95)
    return Verdict(claim, row, than, found, limit, math.nan if half is None else half.mean, mean - limit, why)


def _undecided(claim: Claim, row: str, than: str, found: Mean, why: str, half: float = math.nan) -> Verdict:
    return Verdict(claim, row, than, found, math.nan, abs(half), math.nan, why)


def _interval(found: Mean, quantile: float) -> tuple[float, float, str]:
    """Mean, t e, and why nothing can be said."""
    count = len(found.values)
    if count < 2:
        return found.mean, math.nan, "one seed" if count else "no seed in common"
    rounding = 1e-12 * max(map(abs, found.values))
    deviation = max(found.deviation if found.deviation > rounding else 0.0, found.resolution)
    limit = float(stdtrit(count - 1, quantile)) * deviation / math.sqrt(count)
    return found.mean, limit, "" if deviation > 0 else "identical differences"


def _scaled(found: Mean, factor: float) -> Mean:
    values = tuple(factor * value for value in found.values)
    return Mean(values, found.seeds, abs(factor) * found.resolution)


def _minus(one: Mean, other: Mean) -> Mean:
    """Differences of equal seeds."""
    first, second = one.by_seed, other.by_seed
    seeds = tuple(seed for seed in first if seed in second)
    return Mean(tuple(first[s] - second[s] for s in seeds), seeds, max(one.resolution, other.resolution))


def _rows_by_seed(claim: Claim, rows: Sequence[str], values: Values) -> tuple[tuple[int, ...], np.ndarray]:
    """Seeds that all rows have, and (seeds, rows) of the measure."""
    found = [values[row][claim.measure].by_seed for row in rows]
    seeds = tuple(seed for seed in found[0] if all(seed in one for one in found))
    return seeds, np.array([[one[seed] for one in found] for seed in seeds]).reshape(len(seeds), len(rows))


def _x(claim: Claim, rows: list[str], values: Values, variables: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    named = [variables.get(row, {}) for row in rows]
    return np.array(
        [own[claim.x] if claim.x in own else values[row][claim.x].mean for row, own in zip(rows, named, strict=True)]
    )


def _trend(claim: Claim, rows: list[str], values: Values, variables: Mapping[str, Mapping[str, float]]) -> Verdict:
    x = _x(claim, rows, values, variables)
    seeds, y = _rows_by_seed(claim, rows, values)
    x = x - x.mean()
    squares, label = float(x @ x), f"{len(rows)} rows, slope over {claim.x}"
    if squares <= 1e-24 * float(np.abs(x).max() + 1.0):
        return _undecided(claim, label, "", Mean((), ()), f"equal {claim.x}")
    resolution = max(values[row][claim.measure].resolution for row in rows) / math.sqrt(squares)
    slopes = Mean(tuple(map(float, y @ x / squares)), seeds, resolution)
    return _decided(claim, label, "", slopes, 1.0 if claim.kind == "rises" else -1.0)


def _on_line(claim: Claim, rows: list[str], values: Values) -> Verdict:
    ends = ["SGD", "SAM"] if claim.measure in TIMES else []
    seeds, y = _rows_by_seed(claim, [*ends, *rows], values)
    if ends:
        y = (y[:, 2:] - y[:, :1]) / (y[:, 1:2] - y[:, :1])
    x = _x(claim, rows, values, {})
    places = np.unique(x.round(2))
    distances = np.sqrt(np.mean((y - x) ** 2, axis=1))
    found = Mean(tuple(map(float, distances)), seeds, max(values[row][claim.measure].resolution for row in rows))
    label = f"{len(rows)} rows, distance from y = x"
    if len(places) < 2:
        return _undecided(claim, label, "", found, f"equal {claim.x}")
    half = float(places[-1] - places[0]) / (len(places) - 1) / 2
    return _decided(claim, label, "", found, -1.0, Mean((half,) * len(seeds), seeds))
