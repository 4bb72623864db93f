"""Claims of the papers, decided by numbers: *seen* or *not seen here*.

Every rule is a one-sided test at 95 % over seeds, with Student's t for n - 1 degrees of freedom.  Two methods are
compared seed by seed, because runs of one seed share their first weights, their split of the data and the order of
their batches.  With mean m and standard error e of the n differences, and t the 95 % quantile:

============  =====================================================================================
less, more    seen where m + t e < 0 (m - t e > 0)
close         seen where |m| + t e < margin (two one-sided tests), in units of the measure
near          the same for the quotients minus 1
no-more       seen where m + t e < margin
above, below  the same as more and less, with the measure's distance from the margin
rises, falls  the same as more and less, with the slope over the rows of a least-squares line, one per seed
on-line       seen where the root mean square distance of the rows from y = x is below the margin
============  =====================================================================================

One seed decides nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from scipy import stats

from sharpscope.recipes.numbers import TIMES, Mean
from sharpscope.recipes.read import Claim

__all__ = ["RULE", "Values", "Verdict", "judged", "matching"]

RULE = (
    "Rule: differences of equal seeds, mean m, standard error e, t = 95 % quantile of Student's t; less (more): seen "
    "where m + t e < 0 (m - t e > 0); close: seen where |m| + t e < margin; rises and falls: the same for the slope of "
    "each seed's line over the rows."
)
Values = Mapping[str, Mapping[str, Mean]]  # row -> measure -> one value per seed


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One claim about one row (or about several, for a trend)."""

    claim: Claim
    row: str
    found: Mean  # of the differences, quotients or slopes
    limit: float  # half-width of the one-sided 95 % interval
    seen: bool | None  # None where one seed decides nothing
    of_time: bool

    @property
    def text(self) -> str:
        return "not decided: one seed" if self.seen is None else "seen" if self.seen else "not seen here"


def matching(rows: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The rows whose name one of the patterns matches, in their own order."""
    return [row for row in rows if any(fnmatchcase(row, pattern) for pattern in patterns)]


def judged(claim: Claim, values: Values, variables: Mapping[str, Mapping[str, float]]) -> Iterator[Verdict]:
    """The verdicts on one claim.

    Args:
        claim: what is claimed.
        values: what was measured.
        variables: numbers that the rows stand for, for trends over them: row -> name -> number.
    """
    rows = [row for row in matching(list(values), claim.rows) if row != claim.than]
    if claim.kind == "on-line":
        yield _on_line(claim, rows, values)
    elif claim.kind in {"rises", "falls"}:
        if len(rows) > 1:
            yield _trend(claim, rows, values, variables)
    elif claim.than in values or claim.than.startswith("=") or claim.kind in {"above", "below"}:
        for row in rows:
            yield _verdict(claim, row, _differences(claim, row, values))


def _differences(claim: Claim, row: str, values: Values) -> list[float]:
    own = values[row][claim.measure].values
    if claim.kind in {"above", "below"}:
        return [value - claim.margin for value in own]
    own_other = claim.than.startswith("=")
    other = values[row][claim.than[1:]].values if own_other else values[claim.than][claim.measure].values
    if claim.kind == "near":
        return [a / b - 1.0 for a, b in zip(own, other, strict=False)]
    return [a - b for a, b in zip(own, other, strict=False)]


def _trend(claim: Claim, rows: list[str], values: Values, variables: Mapping[str, Mapping[str, float]]) -> Verdict:
    x = [
        variables[row].get(claim.x, math.nan) if claim.x in variables[row] else values[row][claim.x].mean
        for row in rows
    ]
    seeds = min(len(values[row][claim.measure].values) for row in rows)
    slopes = [
        float(np.polyfit(x, [values[row][claim.measure].values[seed] for row in rows], 1)[0]) for seed in range(seeds)
    ]
    return _verdict(claim, f"{len(rows)} rows, slope over {claim.x}", slopes)


def _on_line(claim: Claim, rows: list[str], values: Values) -> Verdict:
    def y(row: str, seed: int) -> float:
        low, high = (values[name][claim.measure].values[seed] for name in ("SGD", "SAM"))
        return (values[row][claim.measure].values[seed] - low) / (high - low)

    seeds = min(len(values[row][claim.measure].values) for row in (*rows, "SGD", "SAM"))
    found = [
        math.sqrt(float(np.mean([(y(row, seed) - values[row][claim.x].values[seed]) ** 2 for row in rows])))
        for seed in range(seeds)
    ]
    return _verdict(claim, f"{len(rows)} rows", found)


def _verdict(claim: Claim, row: str, found: list[float]) -> Verdict:
    mean = Mean(tuple(found))
    count = len(found)
    limit = math.nan if count < 2 else float(stats.t.ppf(0.95, count - 1)) * mean.deviation / math.sqrt(count)
    m, margin = mean.mean, claim.margin
    seen = {
        "less": m + limit < 0,
        "below": m + limit < 0,
        "falls": m + limit < 0,
        "more": m - limit > 0,
        "above": m - limit > 0,
        "rises": m - limit > 0,
        "close": abs(m) + limit < margin,
        "near": abs(m) + limit < margin,
        "no-more": m + limit < margin,
        "on-line": m < margin,
    }[claim.kind]
    of_time = claim.measure in TIMES or claim.x in TIMES
    return Verdict(claim, row, mean, limit, None if count < 2 else bool(seen), of_time)
