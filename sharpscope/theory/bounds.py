"""The convergence theorems of the two papers as functions: numbers in, the right-hand side out.

Sparse SAM (Mi et al. 2022, section 4.4 and appendix A) bounds the mean squared gradient of SAM and SSAM under step
sizes that fall as 1/sqrt(t); RST (Zhao et al. 2023, section 2.4 and appendix A) that of randomised SAM, and its loss
under a Polyak-Lojasiewicz condition.  Every function has two forms.  ``"published"`` is the formula as it is printed,
under the conditions as printed and those that only its proof states.  ``"corrected"`` is what the same proof gives when
its slips are mended; each docstring lists them.  Symbols, common to all: f or L the loss; L or beta its smoothness, the
Lipschitz constant of its gradient (loss / weight^2); G a bound on the gradient (loss / weight); sigma^2 a bound on the
variance of a stochastic gradient; gap = f(w_1) - min f (loss), an upper bound on the papers' f(w_0) - E f(w_T).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sharpscope.core.expressions import check_count, check_range

__all__ = [
    "direct_bound",
    "rst_corollary_1",
    "rst_corollary_2",
    "rst_theorem_1",
    "rst_theorem_2",
    "ssam_theorem_1",
    "ssam_theorem_2",
]

Form = Literal["corrected", "published"]
Floats = float | Sequence[float] | np.ndarray
_SLACK = 1.0 + 1e-12  # a condition that holds with equality must survive rounding


def ssam_theorem_1(
    steps: int,
    *,
    eta: float,
    rho: float,
    smoothness: float,
    gradient: float,
    noise: float,
    gap: float,
    sample_smoothness: float | None = None,
    form: Form = "corrected",
) -> np.ndarray:
    """SAM: the bound on (1/T) sum_{t=1}^T E|grad f(w_t)|^2 for T = 1, ..., steps, as a (steps,) float64 array.

    Step sizes eta_t = eta / sqrt(t) and radii rho_t = rho / sqrt(t), t counted from 1 (``InverseSqrt``).

    Published (Mi et al. 2022, eq. 10): C_1 / sqrt(T) + C_2 log(T) / sqrt(T), C_1 = 2 gap / eta,
    C_2 = 2 (L sigma^2 eta + L G rho), for rho <= G eta and, stated in the appendix alone, eta <= 1 / L.

    What does not follow from its proof: (a) sum_{t<=T} 1/t is bounded by log T, which it exceeds (by 1 at T = 1); at
    most 1 + log T.  (b) Lemma 2 bounds |u - v|^2 of two unit vectors by 2; it can be 4, so its L^2 rho^2 is 2 L^2 rho^2
    and rho <= G eta must be rho <= G eta / 2.  (c) Lemmas 2 and 3 use that every stochastic gradient is Lipschitz and
    unbiased, which Assumptions 1 to 3 do not say: ``sample_smoothness``, l below.  (d) Eq. 10 sums from t = 0, where
    eta_t is infinite; the proof from t = 1.  Corrected, Lemma 3 summed without further estimates and hence without a
    condition on rho:

        2 / (eta sqrt(T)) (gap + sum_{t<=T} L eta_t^2 sigma^2 + (1 - L eta_t) eta_t (L G rho_t + 2 l^2 rho_t^2)
        + L eta_t^2 l^2 rho_t^2);

    for rho <= G eta / 2 and l = L it is at most the published one with C_1 raised by C_2.

    Args:
        steps: the largest T.
        eta: eta_0, the first step size (weight^2 / loss).
        rho: rho_0, the first radius (weight); 0 gives SGD's bound.
        smoothness: L.
        gradient: G, on the region that the iterates visit.
        noise: sigma, not squared (loss / weight).
        gap: f(w_1) - min f.
        sample_smoothness: l, the Lipschitz constant of every stochastic gradient, >= L; None for L.  Published: L.
        form: "corrected" or "published".

    Raises ValueError for numbers out of range and for a condition of the theorem that does not hold.

    Example:
        >>> bound = ssam_theorem_1(100, eta=1.0, rho=0.1, smoothness=1.0, gradient=1.0, noise=0.0, gap=1.0)
        >>> round(float(bound[-1]), 3)
        0.262
    """
    name = "ssam_theorem_1"
    given = {"eta": eta, "rho": rho, "smoothness": smoothness, "gradient": gradient, "noise": noise, "gap": gap}
    count, l2 = _check_ssam(name, steps, given, sample_smoothness, form)
    if form == "published":
        _condition(name, "rho", rho, gradient * eta, "G eta (Theorem 1)")
        return _published_ssam(count, eta, rho, smoothness, gradient, noise, gap)
    eta_t, rho_t = eta / np.sqrt(count), rho / np.sqrt(count)
    rest = 1.0 - smoothness * eta_t
    terms = (
        rest * eta_t * (smoothness * gradient * rho_t + 2.0 * l2 * rho_t**2) + smoothness * l2 * (eta_t * rho_t) ** 2
    )
    return _summed(count, eta, gap, smoothness * (eta_t * noise) ** 2 + terms)


def ssam_theorem_2(
    steps: int,
    *,
    eta: float,
    rho: float,
    smoothness: float,
    gradient: float,
    noise: float,
    gap: float,
    sample_smoothness: float | None = None,
    removed: float = 1.0,
    form: Form = "corrected",
) -> np.ndarray:
    """SSAM: the bound on (1/T) sum_{t=1}^T E|grad f(w_t)|^2 for T = 1, ..., steps, whatever the masks.

    Published (Mi et al. 2022, eq. 11): C_3 / sqrt(T) + C_4 log(T) / sqrt(T),
    C_3 = 2 / eta (gap + eta L^2 rho^2 (1 + eta L) pi^2 / 6), C_4 = 2 (L sigma^2 eta + L G rho), for
    rho <= G eta / 2 and eta <= 1 / L, the latter stated in Lemma 5 alone.

    What does not follow from its proof, beside (a) to (d) of :func:`ssam_theorem_1`: (e) sum t^(-3/2) is bounded by
    sum t^-2 = pi^2 / 6 = 1.645; it is larger term by term, zeta(3/2) = 2.612 in all, so the factor of the first term of
    (1 + eta L) is zeta(3/2).  (f) The rho of C_3 is rho_0.  (g) Eq. 13 descends without eta.  (h) By (b), 2 L^2 rho^2
    in Lemmas 4 and 5 is 4 L^2 rho^2, and the condition rho <= G eta / 4.  Corrected, Lemma 5 summed:

        2 / (eta sqrt(T)) (gap + sum_{t<=T} L eta_t^2 sigma^2 + (1 - L eta_t) eta_t (L G rho_t + 4 l^2 rho_t^2)
        + 2 L eta_t^2 l^2 rho_t^2 + (1 + L eta_t) eta_t l^2 removed rho_t^2).

    ``removed`` bounds |e_t|^2 / rho_t^2, the share of the squared climb that the mask takes away: 1 for any mask, 0 for
    a mask that keeps all, s in expectation for a mask of sparsity s that is random and independent of the gradient.
    All other arguments, units and errors are those of :func:`ssam_theorem_1`.  The proof loses more than the mask does:
    see :func:`direct_bound`.

    Example:
        >>> known = dict(eta=1.0, rho=0.1, smoothness=1.0, gradient=1.0, noise=0.0, gap=1.0)
        >>> bool((ssam_theorem_2(100, **known) > ssam_theorem_1(100, **known)).all())
        True
    """
    name = "ssam_theorem_2"
    given = {"eta": eta, "rho": rho, "smoothness": smoothness, "gradient": gradient, "noise": noise, "gap": gap}
    count, l2 = _check_ssam(name, steps, given, sample_smoothness, form)
    check_range(name, "removed", removed, 0, 1)
    if form == "published":
        _condition(name, "rho", rho, gradient * eta / 2, "G eta / 2 (Theorem 2)")
        more = eta * (smoothness * rho) ** 2 * (1.0 + eta * smoothness) * math.pi**2 / 6
        return _published_ssam(count, eta, rho, smoothness, gradient, noise, gap + more)
    eta_t, rho_t = eta / np.sqrt(count), rho / np.sqrt(count)
    rest = 1.0 - smoothness * eta_t
    terms = rest * eta_t * (smoothness * gradient * rho_t + 4.0 * l2 * rho_t**2)
    terms += 2.0 * smoothness * l2 * (eta_t * rho_t) ** 2
    terms += (1.0 + smoothness * eta_t) * eta_t * l2 * removed * rho_t**2
    return _summed(count, eta, gap, smoothness * (eta_t * noise) ** 2 + terms)


def direct_bound(
    steps: int,
    *,
    eta: float,
    rho: float,
    smoothness: float,
    noise: float,
    gap: float,
    sample_smoothness: float | None = None,
) -> np.ndarray:
    """SAM and SSAM alike: a bound as in the two theorems that needs no bounded gradient and is never larger.

    Not in the papers.  With |eps_t| <= rho_t alone (any mask, also one that looks at the batch) and g unbiased and
    l-Lipschitz, E<grad f(w), g(w + eps)> >= |grad f|^2 / 2 - l^2 rho^2 / 2 by Young's inequality on g(w + eps) - g(w).
    Lemma 3 of Mi et al. 2022 then reads E f(w_{t+1}) <= E f(w_t) - eta/2 E|grad f|^2 + L eta^2 sigma^2
    + eta l^2 rho^2 (1 + L eta) / 2, and summed

        2 / (eta sqrt(T)) (gap + sum_{t<=T} L eta_t^2 sigma^2 + eta_t l^2 rho_t^2 (1 + L eta_t) / 2).

    Arguments, units and errors are those of :func:`ssam_theorem_1`; returns (steps,) for T = 1, ..., steps.

    Example:
        >>> float(direct_bound(4, eta=1.0, rho=0.0, smoothness=1.0, noise=0.0, gap=1.0)[-1])
        1.0
    """
    given = {"eta": eta, "rho": rho, "smoothness": smoothness, "gradient": 0.0, "noise": noise, "gap": gap}
    count, l2 = _check_ssam("direct_bound", steps, given, sample_smoothness, "corrected")
    eta_t, rho_t = eta / np.sqrt(count), rho / np.sqrt(count)
    terms = smoothness * (eta_t * noise) ** 2 + 0.5 * eta_t * l2 * rho_t**2 * (1.0 + smoothness * eta_t)
    return _summed(count, eta, gap, terms)


def rst_theorem_1(
    rates: Floats,
    p: Floats,
    *,
    rho: float,
    smoothness: float,
    gap: float,
    weight: float = 1.0,
    form: Form = "corrected",
) -> np.ndarray:
    """RST: the bound on min_{t<T} E|grad L(theta_t)|^2 for T = 1, ..., len(rates).

    Published (Zhao et al. 2023, eq. 20 and 21): 2 gap / sum alpha_t + sum alpha_t p_t rho^2 beta^2 / sum alpha_t, for
    full gradients, eps = rho grad / |grad|, alpha_t <= 1 / beta and sqrt(p_t) rho <= 1 / beta.  The proof bounds more
    than the minimum: sum alpha_t E|grad L(theta_t)|^2 / sum alpha_t.

    What does not follow or is not needed: (a) the minimum is of expectations over the coins, E_X, which eq. 20 drops;
    (b) nothing in the proof of this theorem uses the condition on rho, and eq. 15, a loss that falls at every step,
    needs rho <= |grad L| / beta, which fails near a minimum; (c) the last line of eq. 18 lost alpha_t p_t rho^2
    beta^2 / 2, which eq. 19 has again; (d) the bound does not go to 0: p rho^2 beta^2 remains.  The corrected form has
    the same value without the condition on rho.  It also knows G-RST, for which |d - grad| <= weight beta rho where the
    coin says climb: rho^2 becomes (weight rho)^2.  A mask only shortens eps, so SSAM within RST is covered too.

    Args:
        rates: alpha_0, ..., alpha_{T-1}, each in (0, 1 / beta] (weight^2 / loss).
        p: p_0, ..., p_{T-1}, or one number for all; 0 gives gradient descent's bound, 1 SAM's.
        rho: the radius (weight).
        smoothness: beta.
        gap: L(theta_0) - min L.
        weight: of G-RST, gamma / rho; 1 in the published form.
        form: "corrected" or "published".

    Returns (T,) float64, entry T - 1 for the first T steps.  Raises ValueError for numbers out of range and for a
    condition that does not hold.

    Example:
        >>> rst_theorem_1([1.0, 1.0], 0.5, rho=0.1, smoothness=1.0, gap=1.0).round(4).tolist()
        [2.005, 1.005]
    """
    alpha, p = _check_rst("rst_theorem_1", rates, p, rho, smoothness, gap, weight, form)
    total = np.cumsum(alpha)
    return np.asarray((2.0 * gap + np.cumsum(alpha * p) * (weight * rho * smoothness) ** 2) / total)


def rst_corollary_1(
    steps: int,
    *,
    scale: float,
    p: float,
    rho: float,
    smoothness: float,
    gap: float,
    cosine: bool = False,
    form: Form = "corrected",
) -> float:
    """RST: the bound of :func:`rst_theorem_1` after T steps of a constant or cosine learning rate, and constant p.

    Published (Zhao et al. 2023, eq. 22): 2 beta gap / (C T) + p rho^2 beta^2, for alpha_t = C / beta, or
    alpha_t = 2 C / beta (1/2 + cos(pi t / T) / 2) with t = 0, ..., T - 1; C is ``scale``.

    Slips: alpha_t <= 1 / beta needs C <= 1, and C <= 1/2 for the cosine, which is not said; Lemma 1 sums the cosine
    over T + 1 steps, the theorem over T, whose sum is 1 and not 0: T + 1 takes the place of T for the cosine, so the
    published value holds and is the larger.

    Raises ValueError for numbers out of range, learning rates above 1 / beta among them.

    Example:
        >>> rst_corollary_1(100, scale=1.0, p=0.5, rho=0.1, smoothness=1.0, gap=1.0)
        0.025
    """
    check_count("rst_corollary_1", "steps", steps)
    check_range("rst_corollary_1", "scale", scale, 0, 0.5 if cosine else 1.0, open_low=True)
    _check_rst("rst_corollary_1", 1e-300, p, rho, smoothness, gap, 1.0, form)
    count = steps + (cosine and form == "corrected")
    return 2.0 * smoothness * gap / (scale * count) + p * (rho * smoothness) ** 2


def rst_corollary_2(
    steps: int, *, scale: float, p: float, rho: float, smoothness: float, gap: float, form: Form = "corrected"
) -> float:
    """RST: the bound of :func:`rst_theorem_1` after T steps of alpha_t = C / t, t = 1, ..., T, and constant p.

    Published (Zhao et al. 2023, eq. 23): 2 gap / (C log T) + p rho^2 beta^2; C is ``scale``, in (0, 1 / beta], which is
    not said.  The theorem starts at t = 0, where C / t is infinite.  The corrected form has the harmonic number
    sum 1 / t in the place of log T, which it exceeds: the published value holds and is the larger.

    Raises ValueError for numbers out of range; the published form needs two steps or more.

    Example:
        >>> round(rst_corollary_2(100, scale=1.0, p=0.5, rho=0.1, smoothness=1.0, gap=1.0), 4)
        0.3906
    """
    check_count("rst_corollary_2", "steps", steps)
    _check_rst("rst_corollary_2", scale, p, rho, smoothness, gap, 1.0, form)
    if form == "published" and steps < 2:
        raise ValueError("rst_corollary_2 got steps=1, expected at least 2, since log(1) = 0: raise steps")
    total = math.log(steps) if form == "published" else math.fsum(1.0 / t for t in range(1, steps + 1))
    return 2.0 * gap / (scale * total) + p * (rho * smoothness) ** 2


def rst_theorem_2(
    rates: Floats,
    p: Floats,
    *,
    rho: float,
    smoothness: float,
    pl: float,
    gap: float,
    weight: float = 1.0,
    unit: bool = True,
    form: Form = "corrected",
) -> np.ndarray:
    """RST under |grad L|^2 / 2 >= pl (L - min L): the bound on E L(theta_T) - min L for T = 1, ..., len(rates).

    Published (Zhao et al. 2023, eq. 30), times the gap: gap prod_{t<T} (1 - alpha_t pl (1 - p_t rho_t^2 beta^2)), for
    alpha_t <= 1 / beta and sqrt(p_t) rho <= 1 / beta; its left side prints theta_t for theta_T.

    What does not follow: the rho_t of its proof multiplies the gradient itself, eps = rho_t grad (eq. 10).  RST as
    published and as run climbs along the unit vector, rho_t = rho / |grad L(theta_t)|, which is random, unbounded near
    a minimum, and cannot be taken out of the expectation: there is no linear rate to 0 with a constant rho.  Corrected,
    for the unit climb (``unit=True``), eq. 17 and 18 with the condition of Polyak and Lojasiewicz give

        D_{t+1} = (1 - alpha_t pl) D_t + alpha_t p_t (weight rho beta)^2 / 2,  D_0 = gap:

    a linear rate to the neighbourhood p (weight rho beta)^2 / (2 pl), without a condition on rho.  For
    eps = rho grad (``unit=False``, rho in weight^2 / loss) the published product holds, with weight^2 p_t where the
    paper has p_t; ``form="published"`` is that product with weight 1, whatever the climb.

    Arguments as in :func:`rst_theorem_1`, and ``pl``, the constant of Polyak and Lojasiewicz (loss / weight^2), at most
    beta.  Raises ValueError as it does.

    Example:
        >>> rst_theorem_2([1.0, 1.0], 0.5, rho=0.1, smoothness=1.0, pl=0.5, gap=1.0).round(5).tolist()
        [0.5025, 0.25375]
    """
    alpha, p = _check_rst("rst_theorem_2", rates, p, rho, smoothness, gap, weight, form)
    check_range("rst_theorem_2", "pl", pl, 0, smoothness * _SLACK, open_low=True)
    climb = p * (weight * rho * smoothness) ** 2
    if form == "published" or not unit:
        _condition("rst_theorem_2", "weight sqrt(p) rho", weight * rho * math.sqrt(p.max()), 1 / smoothness, "1 / beta")
        return np.asarray(gap * np.cumprod(1.0 - alpha * pl * (1.0 - climb)))
    found, left = np.empty_like(alpha), gap
    for t, (rate, more) in enumerate(zip(alpha, climb, strict=True)):
        left = found[t] = (1.0 - rate * pl) * left + 0.5 * rate * more
    return found


def _check_ssam(
    name: str, steps: int, given: dict[str, float], sample_smoothness: float | None, form: str
) -> tuple[np.ndarray, float]:
    """Steps 1, ..., T as floats, and the squared smoothness of the stochastic gradients."""
    check_count(name, "steps", steps)
    _check_form(name, form)
    for argument, value in given.items():
        check_range(name, argument, value, 0, open_low=argument in ("eta", "smoothness"))
    _condition(name, "eta", given["eta"], 1 / given["smoothness"], "1 / L")
    sample = given["smoothness"] if sample_smoothness is None else sample_smoothness
    check_range(name, "sample_smoothness", sample, given["smoothness"] / _SLACK)
    return np.arange(1, steps + 1, dtype=np.float64), sample**2


def _check_rst(
    name: str, rates: Floats, p: Floats, rho: float, smoothness: float, gap: float, weight: float, form: str
) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates and probabilities, one per step."""
    _check_form(name, form)
    for argument, value in {"rho": rho, "smoothness": smoothness, "gap": gap, "weight": weight}.items():
        check_range(name, argument, value, 0, open_low=argument == "smoothness")
    alpha = np.atleast_1d(np.asarray(rates, dtype=np.float64))
    if alpha.ndim != 1 or not len(alpha) or not np.isfinite(alpha).all() or not (alpha > 0).all():
        raise ValueError(f"{name} got rates={_brief(rates)}, expected positive numbers, one per step: change rates")
    _condition(name, "rates up to", float(alpha.max()), 1 / smoothness, "1 / beta")
    probabilities = np.asarray(p, dtype=np.float64)
    if probabilities.shape not in ((), alpha.shape) or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            f"{name} got p={_brief(p)}, expected one number in [0, 1] or one per step ({len(alpha)}): change p"
        )
    probabilities = np.broadcast_to(probabilities, alpha.shape)
    if form == "published":
        if weight != 1.0:
            raise ValueError(f"{name} got weight={weight!r}, expected 1 in the published form: use form='corrected'")
        most = rho * math.sqrt(float(probabilities.max()))
        _condition(name, "sqrt(p) rho", most, 1 / smoothness, "1 / beta")
    return alpha, probabilities


def _check_form(name: str, form: str) -> None:
    if form not in ("corrected", "published"):
        raise ValueError(f"{name} got form={form!r}, expected 'corrected' or 'published': change form")


def _condition(name: str, what: str, value: float, most: float, words: str) -> None:
    if value > most * _SLACK:
        raise ValueError(
            f"{name} got {what}={value:.6g}, expected at most {words} = {most:.6g}: the theorem assumes it, lower it"
        )


def _brief(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _published_ssam(
    count: np.ndarray, eta: float, rho: float, smoothness: float, gradient: float, noise: float, gap: float
) -> np.ndarray:
    first = 2.0 / eta * gap
    second = 2.0 * (smoothness * noise**2 * eta + smoothness * gradient * rho)
    return np.asarray(first / np.sqrt(count) + second * np.log(count) / np.sqrt(count))


def _summed(count: np.ndarray, eta: float, gap: float, terms: np.ndarray) -> np.ndarray:
    return np.asarray(2.0 / (eta * np.sqrt(count)) * (gap + np.cumsum(terms)))
