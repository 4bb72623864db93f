"""The theorems' formulas against literal transcriptions, their limits, and each slip shown by numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharpscope.theory.bounds import (
    direct_bound,
    rst_corollary_1,
    rst_corollary_2,
    rst_theorem_1,
    rst_theorem_2,
    ssam_theorem_1,
    ssam_theorem_2,
)

SSAM = {"eta": 0.5, "rho": 0.2, "smoothness": 1.6, "gradient": 2.5, "noise": 0.7, "gap": 3.0}
RST = {"rho": 0.3, "smoothness": 1.6, "gap": 3.0}


def literal_ssam(T, form, theorem, removed=1.0, sample=None):
    """Mi et al. 2022: eq. 10 and 11 as printed, or their Lemmas 3 and 5, mended, summed one step at a time."""
    eta0, rho0, L, G, sigma, gap = SSAM.values()
    if form == "published":
        if theorem == 1:
            C1, C2 = 2 / eta0 * gap, 2 * (L * sigma**2 * eta0 + L * G * rho0)
            return C1 / math.sqrt(T) + C2 * math.log(T) / math.sqrt(T)
        C3 = 2 / eta0 * (gap + eta0 * L**2 * rho0**2 * (1 + eta0 * L) * math.pi**2 / 6)
        C4 = 2 * (L * sigma**2 * eta0 + L * G * rho0)
        return C3 / math.sqrt(T) + C4 * math.log(T) / math.sqrt(T)
    total, g = gap, (L if sample is None else sample)
    for t in range(1, T + 1):
        eta, rho = eta0 / math.sqrt(t), rho0 / math.sqrt(t)
        total += L * eta**2 * sigma**2
        if theorem == 1:
            inner = -2 * g**2 * rho**2 - L * rho * G  # Lemma 2 with |u - v|^2 <= 4
            total += L * eta**2 * g**2 * rho**2 - (1 - L * eta) * eta * inner
        elif theorem == 2:
            e2 = removed * rho**2
            inner = -4 * g**2 * rho**2 - L * rho * G - g**2 * e2
            total += 2 * L * eta**2 * g**2 * (rho**2 + e2) - (1 - L * eta) * eta * inner
        else:
            total += L * eta**2 * g**2 * rho**2 + (1 - L * eta) * eta * g**2 * rho**2 / 2
    return 2 / (eta0 * math.sqrt(T)) * total


@pytest.mark.parametrize("form", ["published", "corrected"])
@pytest.mark.parametrize("theorem", [1, 2])
def test_ssam_theorems_are_their_transcriptions(form: str, theorem: int) -> None:
    bound = (ssam_theorem_1, ssam_theorem_2)[theorem - 1](30, form=form, **SSAM)
    assert bound.shape == (30,)
    for T in (1, 2, 7, 30):
        assert bound[T - 1] == pytest.approx(literal_ssam(T, form, theorem), rel=1e-13)


def test_ssam_with_rougher_examples_and_a_kept_mask() -> None:
    for theorem, bound in (
        (1, ssam_theorem_1(9, sample_smoothness=4.0, **SSAM)),
        (2, ssam_theorem_2(9, sample_smoothness=4.0, removed=0.25, **SSAM)),
        (3, direct_bound(9, sample_smoothness=4.0, **{k: v for k, v in SSAM.items() if k != "gradient"})),
    ):
        assert bound[-1] == pytest.approx(literal_ssam(9, "corrected", theorem, 0.25, 4.0), rel=1e-13)


def test_without_a_climb_all_ssam_bounds_are_that_of_sgd() -> None:
    known = SSAM | {"rho": 0.0}
    sgd = ssam_theorem_1(50, **known)
    t = np.arange(1, 51)
    direct = {k: v for k, v in known.items() if k != "gradient"}
    by_hand = 2 / (0.5 * np.sqrt(t)) * (3.0 + 1.6 * 0.49 * 0.25 * np.cumsum(1 / t))
    assert sgd == pytest.approx(by_hand, rel=1e-13)
    assert ssam_theorem_2(50, **known) == pytest.approx(sgd, rel=1e-14)
    assert direct_bound(50, **direct) == pytest.approx(sgd, rel=1e-14)


def test_order_of_the_ssam_bounds() -> None:
    """A mask costs the proof something and the climb nothing; the direct bound is below both."""
    one, none, all_ = ssam_theorem_1(99, **SSAM), ssam_theorem_2(99, removed=0.0, **SSAM), ssam_theorem_2(99, **SSAM)
    direct = direct_bound(99, **{k: v for k, v in SSAM.items() if k != "gradient"})
    assert (direct < one).all()
    assert (one < none).all()
    assert (none < all_).all()


def test_closed_form_of_the_corrected_theorem_1() -> None:
    """With rho <= G eta / 2 it is at most the published bound with C_1 raised by C_2."""
    published, corrected = (ssam_theorem_1(5000, form=form, **SSAM) for form in ("published", "corrected"))
    second = 2 * (1.6 * 0.49 * 0.5 + 1.6 * 2.5 * 0.2)
    assert (corrected <= published + second / np.sqrt(np.arange(1, 5001))).all()
    assert (corrected[:3] > published[:3]).all()  # the published one leaves out what it must not


def test_slips_of_the_ssam_proofs_by_numbers() -> None:
    t = np.arange(1.0, 100_001.0)
    assert (np.cumsum(1 / t) > np.log(t)).all()  # (a)
    assert (np.cumsum(1 / t) <= 1 + np.log(t)).all()
    unit = np.array([0.6, 0.8])
    assert ((unit - -unit) ** 2).sum() == pytest.approx(4.0)  # (b), opposite gradients
    assert (t**-1.5 >= t**-2).all()  # (e)
    assert (t**-1.5).sum() > 2.6 > math.pi**2 / 6


def literal_rst(alphas, ps, form, weight=1.0, pl=None, unit=True):
    rho, beta, gap = RST.values()
    if pl is None:
        xi = sum(a * p * rho**2 * beta**2 * weight**2 for a, p in zip(alphas, ps, strict=True)) / sum(alphas)
        return 2 * gap / sum(alphas) + xi
    left = gap
    for a, p in zip(alphas, ps, strict=True):
        if form == "published" or not unit:
            left *= 1 - a * pl * (1 - p * weight**2 * rho**2 * beta**2)
        else:
            left = left - a * pl * left + a / 2 * p * (weight * beta * rho) ** 2
    return left


@pytest.mark.parametrize("form", ["published", "corrected"])
def test_rst_theorems_are_their_transcriptions(form: str) -> None:
    rng = np.random.default_rng(0)
    alpha, p = 0.6 * rng.random(20), rng.random(20)
    first, second = rst_theorem_1(alpha, p, form=form, **RST), rst_theorem_2(alpha, p, pl=0.2, form=form, **RST)
    for T in (1, 2, 20):
        assert first[T - 1] == pytest.approx(literal_rst(alpha[:T], p[:T], form), rel=1e-13)
        assert second[T - 1] == pytest.approx(literal_rst(alpha[:T], p[:T], form, pl=0.2), rel=1e-13)


def test_g_rst_and_the_climb_along_the_gradient() -> None:
    alpha, p = np.full(8, 0.6), np.full(8, 0.5)
    first = rst_theorem_1(alpha, p, weight=2.0, **RST)
    along = rst_theorem_2(alpha, p, pl=0.2, weight=2.0, unit=False, **RST)
    assert first[-1] == pytest.approx(literal_rst(alpha, p, "corrected", 2.0), rel=1e-13)
    assert along[-1] == pytest.approx(literal_rst(alpha, p, "corrected", 2.0, 0.2, unit=False), rel=1e-13)


def test_limits_of_p() -> None:
    """p = 0 is gradient descent, whatever rho; p = 1 is SAM; and a weight of 0 is no climb either."""
    alpha = np.full(10, 0.5)
    descent = 2 * 3.0 / np.cumsum(alpha)
    assert rst_theorem_1(alpha, 0.0, **RST) == pytest.approx(descent, rel=1e-14)
    assert rst_theorem_1(alpha, 1.0, weight=0.0, **RST) == pytest.approx(descent, rel=1e-14)
    assert rst_theorem_1(alpha, 1.0, **RST) == pytest.approx(descent + (0.3 * 1.6) ** 2, rel=1e-14)
    linear = 3.0 * 0.9 ** np.arange(1, 11)
    for form in ("published", "corrected"):
        assert rst_theorem_2(alpha, 0.0, pl=0.2, form=form, **RST) == pytest.approx(linear, rel=1e-13)


def test_corrected_theorem_2_tends_to_its_neighbourhood() -> None:
    found = rst_theorem_2(np.full(2000, 0.5), 0.5, pl=0.2, **RST)
    assert found[-1] == pytest.approx(0.5 * (0.3 * 1.6) ** 2 / (2 * 0.2), rel=1e-12)
    assert rst_theorem_2(np.full(2000, 0.5), 0.5, pl=0.2, form="published", **RST)[-1] < 1e-60


def test_corollaries_are_theorem_1_at_their_learning_rates() -> None:
    T, beta = 40, 1.6
    t = np.arange(T)
    known = RST | {"p": 0.4}
    constant = rst_theorem_1(np.full(T, 0.9 / beta), 0.4, **RST)[-1]
    cosine = rst_theorem_1(2 * 0.5 / beta * (0.5 + 0.5 * np.cos(t / T * np.pi)), 0.4, **RST)[-1]
    decayed = rst_theorem_1(0.5 / (t + 1), 0.4, **RST)[-1]
    for form in ("published", "corrected"):
        assert rst_corollary_1(T, scale=0.9, form=form, **known) == pytest.approx(constant, rel=1e-13)
    assert rst_corollary_1(T, scale=0.5, cosine=True, **known) == pytest.approx(cosine, rel=1e-13)
    assert rst_corollary_2(T, scale=0.5, **known) == pytest.approx(decayed, rel=1e-13)
    floor = 0.4 * (0.3 * beta) ** 2
    printed = 2 * beta * 3.0 / (0.5 * T) + floor, 2 * 3.0 / (0.5 * math.log(T)) + floor
    assert rst_corollary_1(T, scale=0.5, cosine=True, form="published", **known) == pytest.approx(printed[0], rel=1e-13)
    assert rst_corollary_2(T, scale=0.5, form="published", **known) == pytest.approx(printed[1], rel=1e-13)
    assert printed[0] > cosine  # Lemma 1 sums one step more than the theorem: the published value is the larger
    assert printed[1] > decayed


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ssam_theorem_1(9, **SSAM | {"eta": 0.7}), r"^ssam_theorem_1 got eta=0.7, .* 1 / L = 0.625"),
        (lambda: ssam_theorem_1(9, form="published", **SSAM | {"rho": 1.3}), "rho=1.3, .* at most G eta .* = 1.25"),
        (lambda: ssam_theorem_2(9, form="published", **SSAM | {"rho": 0.7}), "at most G eta / 2 .* = 0.625"),
        (lambda: ssam_theorem_2(9, removed=1.1, **SSAM), r"removed=1.1, expected a number in \[0, 1\]"),
        (lambda: ssam_theorem_1(9, sample_smoothness=1.0, **SSAM), "sample_smoothness=1.0, expected a finite number"),
        (lambda: ssam_theorem_1(0, **SSAM), "steps=0, expected a whole number"),
        (lambda: ssam_theorem_1(9, **SSAM | {"gap": -1.0}), "gap=-1.0, expected a finite number >= 0"),
        (lambda: ssam_theorem_1(9, form="printed", **SSAM), "form='printed', expected 'corrected' or 'published'"),
        (lambda: rst_theorem_1([0.7], 0.5, **RST), "rates up to=0.7, expected at most 1 / beta = 0.625"),
        (lambda: rst_theorem_1([0.5, 0.0], 0.5, **RST), "expected positive numbers, one per step"),
        (lambda: rst_theorem_1([0.5, 0.5], [0.5], **RST), r"p=\[0.5\], expected one number .* or one per step"),
        (lambda: rst_theorem_1([0.5], 1.5, **RST), "p=1.5, expected one number"),
        (lambda: rst_theorem_1([0.5], 0.5, form="published", weight=2.0, **RST), "weight=2.0, expected 1 in the publ"),
        (lambda: rst_theorem_1([0.5], 1.0, form="published", **RST | {"rho": 0.7}), r"sqrt\(p\) rho=0.7, expected at"),
        (lambda: rst_theorem_2([0.5], 1.0, pl=1.7, **RST), "pl=1.7, expected a number in"),
        (lambda: rst_theorem_2([0.5], 1.0, pl=1.0, unit=False, weight=3.0, **RST), r"weight sqrt\(p\) rho=0.9"),
        (lambda: rst_corollary_1(9, scale=0.6, p=0.5, cosine=True, **RST), r"scale=0.6, expected .* in \(0, 0.5\]"),
        (lambda: rst_corollary_2(1, scale=0.5, p=0.5, form="published", **RST), r"steps=1, expected at least 2"),
    ],
)  # fmt: skip
def test_a_violated_assumption_is_refused(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_a_condition_that_holds_with_equality_is_accepted() -> None:
    ssam_theorem_1(2, **SSAM | {"eta": 1 / 1.6})
    rst_theorem_1([1 / 1.6], 1.0, form="published", **RST | {"rho": 1 / 1.6})
