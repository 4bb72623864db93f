"""To w + eps and back: exactly there, exactly back, with no more memory than promised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sharpscope.ascent.shift import Shift, Way
from sharpscope.coordinates.bits import pack


def tensors(seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (2, 3, 2, 2), (1,)]
    found = [torch.randn(shape, generator=rng) for shape in shapes]
    found[2] = found[2].contiguous(memory_format=torch.channels_last)
    found[1][0] = -0.0
    return found


def bits_of(p: float) -> Tensor:
    rng = torch.Generator().manual_seed(9)
    return pack([torch.rand(w.shape, generator=rng) < p for w in tensors(0)])


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    bits = [[x.contiguous().view(torch.int64) for x in part] for part in (a, b)]  # -0.0 is not 0.0
    return all(torch.equal(x, y) for x, y in zip(*bits, strict=True))


@pytest.mark.parametrize("p", [None, 0.0, 0.3, 1.0])
def test_there_and_back(p: float | None) -> None:
    bits = None if p is None else bits_of(p)
    way, weights = Way(), tensors(0)
    for seed in (1, 2, 3):
        shift = Shift(tensors(seed), torch.tensor(1e5 / 3), bits)
        eps = shift.dense()
        way.go(weights, shift)
        assert shift.vector == []
        for w, before, e in zip(weights, tensors(0), eps, strict=True):
            assert torch.allclose(w, before + e, rtol=1e-15, atol=0)
            assert torch.equal(w[e == 0], before[e == 0])
        way.back(weights)
        assert same(weights, tensors(0))


def test_going_nowhere_after_a_step_is_not_going_back_to_it() -> None:
    way, weights = Way(), tensors(0)
    way.go(weights, Shift(tensors(1)))
    way.back(weights)
    weights[0] += 1.0
    with pytest.raises(RuntimeError):
        way.go(weights, Shift([torch.zeros(7)] * 4))  # fails before or while moving
    way.back(weights)
    assert torch.equal(weights[0], tensors(0)[0] + 1.0)


def test_a_mask_keeps_only_its_entries() -> None:
    way, weights, bits = Way(), tensors(0), bits_of(0.3)
    way.go(weights, Shift(tensors(1), 0.1, bits))
    kept = sum(entries.numel() for entries in way._entries)
    assert kept == int(sum(int(byte).bit_count() for byte in bits))
    assert way._copy == []
    way.back(weights)
    assert way._entries == []


@pytest.mark.parametrize("p", [None, 0.3])
def test_back_twice_is_back_once(p: float | None) -> None:
    """A Ctrl-C between the climb and the way back leaves it to whoever undoes the step."""
    weights, way = tensors(1), Way()
    way.back([])  # never away
    way.go(weights, Shift(tensors(2), 0.1, None if p is None else bits_of(p)))
    way.back(weights)
    assert same(weights, tensors(1))
    weights[0] += 1.0
    moved = [w.clone() for w in weights]
    way.back(weights)
    assert same(weights, moved)
