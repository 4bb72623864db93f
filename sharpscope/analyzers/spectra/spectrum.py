"""Outer eigenvalues of a symmetric operator, certified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.spectra._certificate import certified, indexed
from sharpscope.analyzers.spectra._lanczos import Ritz, thick_restart
from sharpscope.analyzers.spectra._probe import LEAST
from sharpscope.core.expressions import check_count, check_range, check_seed
from sharpscope.core.progress import bar
from sharpscope.core.results import Dims, Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import generator, length
from sharpscope.curvature.operators import Operator, hessian
from sharpscope.problem.problem import Problem

__all__ = ["Spectrum", "operator_of", "spectrum"]

Which = Literal["largest", "smallest", "both"]


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Result):
    """The k outermost (algebraic) eigenvalues of a symmetric operator, with the error of each.

    An interval ``eigenvalues[i] +- residuals[i]`` holds an eigenvalue of the operator (Weyl's bound for a unit Ritz
    vector), for i < ``certified`` the one of that rank: with the probability ``confidence``, over the random starts, no
    further copy of a multiple eigenvalue and no late one is missing there, as all eigenvalues but the k + 1 that were
    found are below ``beyond`` ("smallest": above).  ``errors`` are the smaller bounds that the gaps between the
    eigenvalues allow.

    The probability is that of Kuczynski and Wozniakowski (1992), with the polynomials of the run itself: if what is
    left has an eigenvalue x with the unit vector u, the Lanczos vectors v_j of a probe from a random start v_0 have
    u^T v_j = p_j(x) u^T v_0 with sum_j (u^T v_j)^2 <= 1, and (u^T v_0)^2, which is Beta(1/2, (d - 1)/2) distributed in
    d dimensions, is seldom small.  The i-th probe of a spectrum may fail with (1 - confidence) / (i (i + 1)), both ends
    in equal parts, so that all of them together fail with 1 - confidence at most.
    """

    dims: ClassVar[Dims] = {
        "eigenvalues residuals": "index",
        "vectors": "index coordinate",
        "guard_vector": "coordinate",
    }

    eigenvalues: np.ndarray  # (k,) float64, descending (which="smallest": ascending); loss per squared unit of weight
    residuals: np.ndarray  # (k,) float64, |H u - lambda u| of the unit Ritz vector u, same unit (or more)
    guard: float  # the next Ritz value inwards, converged too (nan where k is the whole spectrum)
    guard_residual: float  # its residual (nan likewise)
    noise: float  # what fresh products of the Ritz vectors added to the residuals: rounding of the product
    products: int  # operator products spent, the confirming ones included
    restarts: int  # how often the Krylov basis was condensed
    size: int  # n, the number of coordinates
    tol: float  # requested residual, relative to each eigenvalue
    seed: int  # of the random starting vector
    operator: str  # what was analysed, in words: operator, loss, examples, BatchNorm mode, dtype
    which: str = "largest"  # "largest", "smallest" or "both"
    lowest: np.ndarray | None = None  # which="both": (k,) float64 smallest eigenvalues, ascending
    lowest_residuals: np.ndarray | None = None  # which="both": (k,) float64, theirs
    vectors: np.ndarray | None = None  # (k, n) Ritz vectors of ``eigenvalues`` as rows, or None
    how: str = ""  # how products of a Problem were computed; hessian(problem, mode=how) repeats them
    guard_vector: np.ndarray | None = None  # (n,) Ritz vector of the guard beside ``vectors``: for a warm start
    confidence: float = 0.0  # of all that is certified; 0 where nothing is, as in files before version 0.3
    certified: int = 0  # so many of ``eigenvalues``, from the first, are those of their rank, within ``residuals``
    beyond: float = float("nan")  # all others but the guard are below ("smallest": above); nan where not known
    lowest_certified: int = 0  # which="both": so many of ``lowest``
    lowest_beyond: float = float("nan")  # which="both": all others are above

    @property
    def ratio(self) -> float:
        """lambda_1 / lambda_k: how far the sharpest direction stands out (papers quote k = 5)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.divide(self.eigenvalues[0], self.eigenvalues[-1]))

    @property
    def ratio_error(self) -> float:
        """Largest distance of the ratio from the true one that the residuals allow; inf where lambda_k may be 0.

        The ratio of the found ones: that of the k-th by rank only where ``separated``.
        """
        top, last = float(self.eigenvalues[0]), float(self.eigenvalues[-1])
        dtop, dlast = float(self.residuals[0]), float(self.residuals[-1])
        if abs(last) <= dlast:
            return float("inf")
        if len(self.eigenvalues) == 1:
            return 0.0
        ends = [(top + a) / (last + b) for a in (-dtop, dtop) for b in (-dlast, dlast)]
        return max(abs(end - self.ratio) for end in ends)

    @property
    def separated(self) -> bool:
        """Whether all k are certified, and so their ratio."""
        return self.certified == len(self.eigenvalues)

    @property
    def certificate(self) -> str:
        """What is certified and with what probability, in words."""
        if not self.confidence:
            return "not certified"
        k, side = len(self.eigenvalues), "above" if self.which == "smallest" else "below"
        text = f"certified={self.certified} of {k}, others {side} {self.beyond:.4g}"
        if self.which == "both":
            text += f", lowest {self.lowest_certified} of {k}, others above {self.lowest_beyond:.4g}"
        return f"{text} (at {100.0 * self.confidence:.6g} %)"

    @property
    def errors(self) -> np.ndarray:
        """(k,) float64: min(r, r^2 / gap + noise), the bound of Kato and Temple where no eigenvalue was missed.

        r is the residual, the gap that to the nearest other eigenvalue of the result, the guard among them.
        """
        values = np.append(self.eigenvalues, -np.inf if np.isnan(self.guard) else self.guard)
        slack = np.append(self.residuals, 0.0 if np.isnan(self.guard) else self.guard_residual)
        apart = np.abs(np.diff(values))
        below, above = apart - slack[1:], np.append(np.inf, apart[:-1] - slack[:-2])
        gaps = np.minimum(below, above)
        with np.errstate(divide="ignore", invalid="ignore"):
            sharp = np.where(gaps > 0, self.residuals * (self.residuals / gaps), np.inf) + self.noise
        return np.asarray(np.minimum(self.residuals, sharp))

    def summary(self) -> str:
        """One line of text: every eigenvalue with its residual, the ratio with its error, what was analysed."""
        parts = ["eigenvalues=[" + _with_errors(self.eigenvalues, self.residuals) + "]"]
        if self.lowest is not None and self.lowest_residuals is not None:
            parts.append("lowest=[" + _with_errors(self.lowest, self.lowest_residuals) + "]")
        apart = "" if self.separated else " (not separated)"
        parts.append(f"ratio={self.ratio:.6g} +- {self.ratio_error:.1g}{apart}")
        parts.append(self.certificate)
        parts += [f"products={self.products}", f"tol={self.tol:g}", f"operator={self.operator!r}"]
        return f"Spectrum({', '.join(parts)})"


@undisturbed
def spectrum(
    problem: Problem | Operator,
    k: int = 5,
    tol: float = 1e-3,
    seed: int = 0,
    *,
    which: Which = "largest",
    vectors: bool = False,
    start: Spectrum | None = None,
    starts: int = 1,
    confidence: float = 0.99,
    probe: int = LEAST,
    confirm: Literal["together", "each"] = "together",
    basis: int | None = None,
    max_products: int = 1000,
    progress: bool | None = None,
) -> Spectrum:
    """The k largest algebraic eigenvalues of the Hessian of a problem (or of any Operator), with certified residuals.

    Lanczos runs until k + 1 pairs have a residual <= ``tol`` times their eigenvalue: the guard pair beyond the k-th
    keeps a late eigenvalue from being missed.  Then a fresh product with the sum of all Ritz vectors under random signs
    is compared with what the recurrence predicts; the discrepancy, ``noise``, is added to every residual.

    Residuals say nothing of copies: one start sees one vector of every eigenspace.  So what has converged is probed:
    five Lanczos steps from a fresh random start at right angles to all k + 1 vectors (at a lower end as many as the
    search took, unless fewer certify it).  Where they see more than the guard, the search goes on from there, and
    probes again until nothing is found.  What the last probe excludes is the certificate of the result.

    Args:
        problem: a Problem (its Hessian at the model's current weights) or an Operator.
        k: how many, 1 <= k <= n.
        tol: relative residual; an eigenvalue is then off by about tol^2.  Above 1e-3 a close neighbour may be missed.
            Near 0 it is relative to M / 1000, M the largest magnitude of all eigenvalues, and at the lower end never
            above M / 1e6.  A lower end that is 0 many times over, as that of a GGN, is found to tol M / 10 only; its
            residuals reach 0 then.
        seed: of the starting vector.
        which: "largest", "smallest", or "both" ends of the spectrum, k eigenvalues each, from the same products.
        vectors: keep the Ritz vectors of ``eigenvalues``, (k, n).
        start: an earlier result with ``vectors`` of a similar operator, where to begin, with a tenth of a random
            direction for what it does not hold.  The result is held to the same tolerances, the guard pair's included.
        starts: random directions that must agree before the probe: stronger than it, for two to three times the
            products, where many eigenvalues lie within 1e-2 of each other.
        confidence: of the certificate, in (0, 1).
        probe: most products of a probe, 5 or more.  It ends as soon as all k are certified.
        confirm: "together", or "each": one fresh product per pair gives its true residual.
        basis: most Krylov vectors held at once (memory: basis + 3 vectors, 8 more to probe where the basis is small or
            something was missed); 2 k + 20 by default; for a lower end, which
            takes longer, 2 k + 82 (4 k + 84 for both); at least k + 4.
        max_products: gives up beyond, in words.
        progress: show a progress bar; None shows it on a terminal only.

    Raises ValueError for bad arguments, ArithmeticError for products that are not finite, too many, or too noisy.

    Example:
        >>> spectrum(Operator.of(torch.diag(torch.arange(1.0, 41.0))), k=2).eigenvalues.round(2)
        array([40., 39.])
    """
    operator = operator_of(problem, "spectrum")
    check_seed("spectrum", seed)
    _check(operator, k, tol, basis, max_products, starts, which, confirm)
    check_count("spectrum", "probe", probe)
    if probe < LEAST:
        raise ValueError(f"spectrum got probe={probe}, expected at least {LEAST}, as fewer miss copies: raise probe")
    check_range("spectrum", "confidence", confidence, 0.0, 1.0, open_low=True, open_high=True)
    pairs, before, begin = min(k + 1, operator.size), operator.products, _begin(start, operator, seed)
    top, low = (0 if which == "smallest" else pairs), (0 if which == "largest" else pairs)
    with torch.no_grad(), bar(None, f"spectrum, {k} eigenvalues", progress) as shown:
        ritz = thick_restart(
            operator, top, tol, seed, basis or 2 * (top + low) + (80 if low else 18), max_products,
            lambda: shown.update(1), low=low, start=begin, starts=starts, confidence=confidence, probe=probe,
        )  # fmt: skip
        residuals, noise = _confirm(operator, ritz, seed, confirm == "each")
    _check_noise(operator, np.concatenate([ritz.scales[:k], ritz.scales[pairs : pairs + k]]), noise, tol)
    upper = _End.of(ritz, residuals, noise, slice(0, top), k, ritz.above)
    lower = _End.of(ritz, residuals, noise, slice(top, top + low), k, -ritz.below, -1.0)
    first = lower if which == "smallest" else upper
    guard = (float(first.values[k]), float(first.errors[k])) if pairs > k else (float("nan"), float("nan"))
    both = which == "both"
    return Spectrum(
        first.values[:k], first.errors[:k], guard[0], guard[1], noise, operator.products - before, ritz.restarts,
        operator.size, tol, seed, operator.text, which,
        lower.values[:k] if both else None, lower.errors[:k] if both else None,
        ritz.vectors[:k].cpu().numpy().copy() if vectors else None, operator.plan.how if operator.plan else "",
        ritz.vectors[k].cpu().numpy().copy() if vectors and pairs > k else None, confidence, first.certified,
        first.beyond, lower.certified if both else 0, lower.beyond if both else float("nan"),
    )  # fmt: skip


@dataclass(frozen=True)
class _End:
    """One end of the spectrum: values from the outermost inwards, the guard last, and what is certified of them."""

    values: np.ndarray
    errors: np.ndarray
    certified: int
    beyond: float

    @classmethod
    def of(
        cls, ritz: Ritz, residuals: np.ndarray, noise: float, where: slice, k: int, beyond: float, sign: float = 1.0
    ) -> _End:
        """``beyond`` is in the sense of the upper end; ``sign`` turns the lower one round."""
        values, own, cover = ritz.values[where], residuals[where], ritz.cover[where]
        errors = indexed(sign * values, np.where(cover > 0, np.maximum(own, cover + noise), own))
        good = certified(sign * values, own, errors, beyond + noise)[:k]
        return cls(values, errors, int(np.cumprod(good).sum()), sign * (beyond + noise))


def operator_of(problem: Problem | Operator, verb: str) -> Operator:
    """The operator itself, or the Hessian of a problem.

    Raises TypeError for anything else, ValueError for an operator without coordinates.
    """
    operator = hessian(problem) if isinstance(problem, Problem) else problem
    if not isinstance(operator, Operator):
        raise TypeError(
            f"{verb} got a {type(problem).__name__}, expected a Problem or an Operator: Problem(model, loss, data)"
        )
    if not operator.size:
        raise ValueError(f"{verb} got the {operator.text}, expected at least one coordinate: choose another mask")
    return operator


def _begin(start: Spectrum | None, operator: Operator, seed: int) -> Tensor | None:
    """The sum of the former Ritz vectors, the guard among them, and a tenth of a random direction."""
    if start is None:
        return None
    vectors = start.vectors if isinstance(start, Spectrum) else None
    if vectors is None or vectors.shape[1] != operator.size:
        got = "no vectors" if vectors is None else f"vectors of {vectors.shape[1]} entries"
        raise ValueError(
            f"spectrum got start= with {got}, expected a Spectrum with vectors of {operator.size} entries: "
            f"make it with spectrum(..., vectors=True) of the same parameters"
        )
    random = torch.randn(operator.size, generator=generator("warm start", seed), dtype=torch.float64, device="cpu")
    random = (0.1 / length(random) * random).to(operator.device, operator.dtype)
    held = vectors if start.guard_vector is None else np.vstack([vectors, start.guard_vector])
    return random.add_(torch.as_tensor(held.sum(0) / np.sqrt(len(held)), device=operator.device))


def _confirm(operator: Operator, ritz: Ritz, seed: int, each: bool) -> tuple[np.ndarray, float]:
    """Residuals of all pairs, and what fresh products add to those of the recurrence.

    Together: the norm of A x - (what the recurrence says A x is), x the sum of the Ritz vectors with random signs, is
    added to all.  Each: a product per pair.
    """
    if not each:
        count = len(ritz.values)
        signs = torch.randint(0, 2, (count,), generator=generator("confirm", seed), device="cpu").numpy() * 2.0 - 1.0
        noise = length(_discrepancy(operator, ritz, signs))
        return np.abs(ritz.slopes) + ritz.lost + noise, noise
    residuals, noise = np.zeros(len(ritz.values)), 0.0
    for place in range(len(ritz.values)):
        rest = _discrepancy(operator, ritz, np.eye(len(ritz.values))[place])
        noise = max(noise, length(rest))
        for tail, slopes in [(ritz.tail, ritz.slopes), *ritz.left]:
            rest.add_(tail, alpha=float(slopes[place]))
        residuals[place] = length(rest)
    return residuals, noise


def _discrepancy(operator: Operator, ritz: Ritz, weights: np.ndarray) -> Tensor:
    """A x minus what the recurrence says it is, for x the weighted sum of the Ritz vectors."""

    def sent(numbers: np.ndarray) -> Tensor:
        return torch.as_tensor(numbers, dtype=operator.dtype, device=operator.device)

    product = (operator @ (sent(weights) @ ritz.vectors)).clone()
    product.addmv_(ritz.vectors.T, sent(weights * ritz.values), alpha=-1.0)
    for tail, slopes in [(ritz.tail, ritz.slopes), *ritz.left]:
        product.add_(tail, alpha=-float(weights @ slopes))
    return product


def _check_noise(operator: Operator, scales: np.ndarray, noise: float, tol: float) -> None:
    """Raise ArithmeticError where fresh products differ by more than residuals may be."""
    least = float(scales.min())
    if noise > tol * least:
        raise ArithmeticError(
            f"the spectrum got tol={tol:g}, expected at least {noise / least if least else 1.0:.2g}: fresh products of "
            f"the {operator.text} differ by {noise:.3g} from those before, beside an eigenvalue of {least:.6g}; "
            f"raise tol, lower k, or make the loss more exact (float64, no TF32, nothing random)"
        )


def _check(
    operator: Operator, k: int, tol: float, basis: int | None, most: int, starts: int, which: str, confirm: str
) -> None:
    check_count("spectrum", "k", k)
    check_count("spectrum", "max_products", most)
    check_count("spectrum", "starts", starts)
    if basis is not None:
        check_count("spectrum", "basis", basis)
    if k > operator.size:
        raise ValueError(
            f"spectrum got k={k}, expected at most the {operator.size} coordinates of the operator: lower k"
        )
    if not isinstance(tol, (int, float)) or not 0.0 < tol < 1.0:
        raise ValueError(f"spectrum got tol={tol!r}, expected a number in (0, 1): 1e-3 gives eigenvalues to about 1e-6")
    if tol < (epsilon := 4.0 * float(torch.finfo(operator.dtype).eps)):
        raise ValueError(
            f"spectrum got tol={tol:g}, expected at least {epsilon:.1e}, the rounding of {operator.dtype}: "
            f"raise tol or use float64"
        )
    if operator.noise is not None and tol < operator.noise.floor:
        raise ValueError(
            f"spectrum got tol={tol:g}, expected at least {operator.noise.floor:.2g}, the noise of the products of the "
            f"{operator.text}: raise tol, or make the loss more exact (float64, no TF32)"
        )
    for name, value, allowed in (
        ("which", which, ("largest", "smallest", "both")), ("confirm", confirm, ("together", "each")),
    ):  # fmt: skip
        if value not in allowed:
            raise ValueError(f"spectrum got {name}={value!r}, expected one of {', '.join(allowed)}: choose one")
    least = 2 * k + 5 if which == "both" else k + 4
    if basis is not None and basis < least:
        words = "2 k + 5" if which == "both" else "k + 4"
        raise ValueError(f"spectrum got basis={basis}, expected at least {words} = {least}: raise basis")


def _with_errors(values: np.ndarray, errors: np.ndarray) -> str:
    return ", ".join(f"{value:.6g} +- {error:.1g}" for value, error in zip(values, errors, strict=True))
