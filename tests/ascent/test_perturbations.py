"""Perturbations against their closed forms, at ordinary and at extreme gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sharpscope import Ball, Constant, Magnitude, Masked, Named, Probe, Warmup
from sharpscope.ascent.perturbations import Metric, Perturbation
from sharpscope.ascent.shift import Way
from tests.conftest import devices, eps_tol

NAMES = ["0.weight", "0.bias", "norm.weight"]


def setting(device: str = "cpu", dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor], Probe]:
    rng = torch.Generator().manual_seed(3)
    shapes = [(4, 3), (4,), (5,)]
    w, g = ([torch.randn(shape, generator=rng).to(device, dtype) for shape in shapes] for _ in range(2))
    return w, g, Probe(w, NAMES)


def eps_of(perturbation: Perturbation, g: list[Tensor], probe: Probe) -> list[Tensor] | None:
    shift = perturbation(g, probe, {})
    return None if shift is None else shift.dense()


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ball_is_the_gradient_at_length_rho(device: str, dtype: torch.dtype) -> None:
    _, g, probe = setting(device, dtype)
    eps = eps_of(Ball(0.3), g, probe)
    assert eps is not None
    assert all(e.dtype == dtype for e in eps)
    tolerance = eps_tol(dtype, 4)
    exact = 0.3 * flat(g).double() / flat(g).double().norm()
    assert (flat(eps).double() - exact).norm() <= tolerance * 0.3
    assert abs(float(flat(eps).double().norm()) - 0.3) <= tolerance * 0.3


def test_magnitude_is_asam() -> None:
    w, g, probe = setting()
    t = torch.cat([w[0].abs().reshape(-1) + 0.01, torch.ones(4), w[2].abs() + 0.01])
    eps = eps_of(Ball(0.5, Magnitude(0.01)), g, probe)
    assert eps is not None
    expected = 0.5 * t**2 * flat(g) / (t * flat(g)).norm()
    assert torch.allclose(flat(eps), expected, rtol=eps_tol(torch.float64), atol=0)
    assert float((flat(eps) / t).norm()) == pytest.approx(0.5, rel=1e-14)
    everything = eps_of(Ball(0.5, Magnitude(0.0, scaled="*")), g, probe)
    t = flat(w).abs()
    assert everything is not None
    assert torch.allclose(flat(everything), 0.5 * t**2 * flat(g) / (t * flat(g)).norm(), rtol=1e-13, atol=0)


def test_mask_comes_after_the_norm() -> None:
    _, g, probe = setting()
    eps = eps_of(Masked(Ball(0.3), Named("*.weight")), g, probe)
    whole = eps_of(Ball(0.3), g, probe)
    assert eps is not None
    assert whole is not None
    assert torch.equal(eps[0], whole[0])
    assert torch.equal(eps[2], whole[2])
    assert not eps[1].any()
    assert flat(eps).norm() < 0.3


@pytest.mark.parametrize("rho", [0.0, Constant(0.0), Warmup(0.0, 3)], ids=str)
def test_radius_zero_is_nothing_to_look_at(rho: Any) -> None:
    _, g, probe = setting()
    assert eps_of(Ball(rho), g, probe) is None
    memory: dict[str, Any] = {}
    assert Masked(Ball(rho), Named("*"))(g, probe, memory) is None
    assert "bits" in memory["mask"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rho", [0.05, 4.0, 100.0])
@pytest.mark.parametrize("metric", [Metric(), Magnitude(0.01)], ids=str)
def test_zero_gradient_has_no_perturbation(dtype: torch.dtype, rho: float, metric: Metric) -> None:
    _, g, probe = setting(dtype=dtype)
    eps = eps_of(Ball(rho, metric), [torch.zeros_like(x) for x in g], probe)
    assert eps is not None
    assert not flat(eps).any()


@pytest.mark.parametrize("power", [-300, -160, -30, 30, 140])
def test_scale_of_the_gradient_does_not_matter(power: int) -> None:
    _, g, probe = setting()
    eps, scaled = eps_of(Ball(0.1), g, probe), eps_of(Ball(0.1), [x * 2.0**power for x in g], probe)
    assert eps is not None
    assert scaled is not None
    assert torch.allclose(flat(eps), flat(scaled), rtol=1e-14, atol=0)


def test_smallest_numbers_stay_finite() -> None:
    _, g, probe = setting()
    eps = eps_of(Ball(10.0), [torch.full_like(x, 5e-324) for x in g], probe)
    assert eps is not None
    assert flat(eps).isfinite().all()
    assert flat(eps).norm() <= 10.0 * (1 + 1e-12)


def test_gradient_that_is_not_finite_shows() -> None:
    """A loss scaler must see that something overflowed; a finite perturbation would hide it."""
    _, g, probe = setting()
    g[0][0, 0] = math.inf
    eps = eps_of(Ball(0.1), g, probe)
    assert eps is not None
    assert flat(eps).isnan().any()


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "0.1", None])
def test_radius_out_of_range(value: Any) -> None:
    with pytest.raises(ValueError, match=r"Ball got rho=.*, expected a finite number >= 0: change rho"):
        Ball(value)


def test_other_bad_arguments() -> None:
    with pytest.raises(ValueError, match="Magnitude got eta=-1, expected a finite number >= 0: change eta"):
        Magnitude(-1)
    with pytest.raises(ValueError, match=r"Magnitude got scaled=3, expected a pattern such as '\*weight\*'"):
        Magnitude(0.1, scaled=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Ball got metric=0\.1, expected a metric"):
        Ball(0.1, metric=0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Masked got perturbation=Named\('\*'\), expected a perturbation"):
        Masked(Named("*"), Ball(0.1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Masked got mask=Ball\(0\.1\), expected a mask"):
        Masked(Ball(0.1), Ball(0.1))  # type: ignore[arg-type]


def test_metric_that_scales_nothing_is_refused() -> None:
    """Without names ASAM would be SAM, silently."""
    w, g, _ = setting()
    with pytest.raises(ValueError, match=r"Magnitude got the pattern '\*weight\*' that matches no.*model=model"):
        Ball(0.5, Magnitude(0.01))(g, Probe(w, ["0", "1", "2"]), {})


def test_a_zero_gradient_in_mixed_precision() -> None:
    w = [torch.ones(3), torch.ones(3, dtype=torch.float16)]
    shift = Ball(0.1)([torch.zeros_like(x) for x in w], Probe(w, ["a", "b"]), {})
    assert shift is not None
    Way().go(w, shift)
    assert all(bool((x == 1).all()) for x in w)
