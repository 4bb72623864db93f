"""Lists of tensors as one vector: against the flat vector in float64."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch

from sharpscope.core import vectors
from tests.conftest import eps_tol

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def pair(dtype: torch.dtype) -> list[list[torch.Tensor]]:
    return [[torch.randn(shape).to(dtype) for shape in ((3, 4), (), (5,), (0,))] for _ in range(2)]


def flat(vec: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([x.double().reshape(-1) for x in vec])


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_and_lengths(dtype: torch.dtype) -> None:
    a, b = pair(dtype)
    working = torch.float32 if dtype in DTYPES[2:] else dtype
    scale = float(flat(a).norm() * flat(b).norm())
    assert abs(float(vectors.dot(a, b)) - float(flat(a) @ flat(b))) <= eps_tol(working) * scale
    assert float(vectors.norm(a)) == pytest.approx(float(flat(a).norm()), rel=eps_tol(working))
    assert vectors.dot(a, b).dim() == vectors.norm(a).dim() == 0
    assert vectors.norm(a).dtype == working


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [2.5, torch.tensor(2.5)])
def test_arithmetic(dtype: torch.dtype, factor: Any) -> None:
    a, b = pair(dtype)
    tolerance = eps_tol(dtype, 4) * 10
    mask = [x > 0 for x in b]
    for found, expected in (
        (vectors.scale(a, factor), 2.5 * flat(a)),
        (vectors.add(a, b, alpha=-2.0), flat(a) - 2 * flat(b)),
        (vectors.subtract(a, b), flat(a) - flat(b)),
        (vectors.multiply(a, b), flat(a) * flat(b)),
        (vectors.multiply(a, mask), torch.where(flat(b) > 0, flat(a), 0)),
    ):
        assert all(x.dtype == dtype and x.shape == y.shape for x, y in zip(found, a, strict=True))
        assert float((flat(found) - expected).abs().max()) <= tolerance


def test_nothing() -> None:
    assert float(vectors.dot([], [])) == float(vectors.norm([])) == 0.0


def test_reject() -> None:
    a, b = pair(torch.float64)
    rest = vectors.reject(a, b)
    assert abs(float(vectors.dot(rest, b))) < 1e-14
    assert flat(vectors.reject(a, [torch.zeros_like(x) for x in a])).equal(flat(a))
    assert float(flat(vectors.reject(a, a)).abs().max()) < 1e-15


def test_flatten_round_trip() -> None:
    a, _ = pair(torch.float64)
    line = vectors.flatten(a)
    back = vectors.unflatten(line, a)
    assert all(x.equal(y) for x, y in zip(back, a, strict=True))
    line.zero_()
    assert not back[0].any()  # views
    assert vectors.flatten([torch.arange(6.0).view(2, 3).T]).tolist() == [0, 3, 1, 4, 2, 5]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        vectors.dot([torch.ones(1)], [])


def test_seeds_depend_on_their_arguments_alone(rng_guard: Any) -> None:
    digest = hashlib.sha256(b"int:3\x1fstr:lanczos").digest()
    assert vectors.mix(3, "lanczos") == int.from_bytes(digest[:8], "little") >> 1
    salts = [(1, 23), (12, 3), ("1", 23), (1, "23"), ("a", "b"), ("ab",), (1,), ()]
    assert len({vectors.mix(*salt) for salt in salts}) == len(salts)
    assert all(0 <= vectors.mix(*salt) < 2**63 for salt in salts)
    assert vectors.mix(np.int64(3), "lanczos") == vectors.mix(3, "lanczos")
    first, second = (torch.rand(4, generator=vectors.generator("x", 1)) for _ in range(2))
    assert first.equal(second)


def test_lengths_of_tiny_and_huge_vectors() -> None:
    for size in (1e-150, 1e150):
        assert math.isclose(float(vectors.norm([torch.full((4,), size)])), 2 * size)
