"""Masks as bits: exact round trips, exact counts, ties by index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sharpscope.coordinates.bits import pack, top, unpack

SHAPES = [[(1,)], [(7,)], [(8,)], [(9,)], [(3, 5), (), (2, 2, 2)], [(0,), (17,)], [(64,), (1,)]]


@pytest.mark.parametrize("shapes", SHAPES)
def test_round_trip(shapes: list[tuple[int, ...]]) -> None:
    mask = [torch.rand(shape) < 0.5 for shape in shapes]
    bits = pack(mask)
    count = sum(x.numel() for x in mask)
    assert (bits.dtype, bits.shape) == (torch.uint8, ((count + 7) // 8,))
    expected = [0] * bits.numel()
    for index, value in enumerate(x for tensor in mask for x in tensor.reshape(-1).tolist()):
        expected[index // 8] |= value << (7 - index % 8)
    assert bits.tolist() == expected
    back = unpack(bits, mask)
    assert all(a.dtype == torch.bool and a.equal(b) for a, b in zip(back, mask, strict=True))


def test_a_transposed_mask() -> None:
    mask = (torch.rand(3, 5) < 0.5).T
    assert unpack(pack([mask]), [mask])[0].equal(mask)


def test_bad_bits() -> None:
    with pytest.raises(ValueError, match=r"a packed mask got 1 bytes, expected 2 for 9 parameters"):
        unpack(torch.zeros(1, dtype=torch.uint8), [torch.zeros(9)])
    with pytest.raises(ValueError, match=r"a mask got dtype torch.float64, expected torch.bool"):
        pack([torch.zeros(9)])


def by_sorting(scores: list[float], count: int) -> list[bool]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [i in set(order[:count]) for i in range(len(scores))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_top_against_sorting(levels: int, dtype: torch.dtype) -> None:
    scores = (torch.randint(0, levels, (53,)) - levels // 2).to(dtype)
    for count in range(54):
        chosen = top(scores, count)
        assert chosen.tolist() == by_sorting(scores.tolist(), count)
        assert int(chosen.sum()) == count


def test_top_with_infinities_and_zeros_of_both_signs() -> None:
    scores = torch.tensor([0.0, torch.inf, -0.0, -torch.inf, torch.inf, 0.0, -torch.inf])
    for count in range(8):
        assert top(scores, count).tolist() == by_sorting(scores.tolist(), count)


def test_top_beyond_the_ends() -> None:
    assert top(torch.randn(4), -1).tolist() == [False] * 4
    assert top(torch.randn(4), 5).tolist() == [True] * 4


def test_top_of_many() -> None:
    scores = torch.randn(100_003).abs().round(decimals=2)
    chosen = top(scores, 50_001).numpy()
    order = np.argsort(-scores.numpy(), kind="stable")[:50_001]
    assert chosen[order].all()
    assert chosen.sum() == 50_001


def test_top_refuses_nan() -> None:
    for count in (0, 1, 3):
        with pytest.raises(ValueError, match="a mask got scores with NaN, expected numbers that can be ordered"):
            top(torch.tensor([1.0, torch.nan, 2.0]), count)


@pytest.mark.parametrize("count", [1, 30_000, 599_999])
def test_orders_that_a_quickselect_is_slow_on(count: int) -> None:
    falling = torch.arange(600_000.0).flip(0)
    assert top(falling, count).equal(torch.arange(600_000) < count)
    assert top(falling.flip(0), count).equal(torch.arange(600_000) >= 600_000 - count)
