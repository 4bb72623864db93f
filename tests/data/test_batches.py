"""Batches are permutations fixed by (seed, epoch); crops and flips agree with a loop written out."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import Tensor

from sharpscope.core.vectors import generator as seeded
from sharpscope.data import DataError, batches, crop_and_flip


def order(count: int, batch_size: int, seed: int, epoch: int) -> list[int]:
    """The whole epoch in one list."""
    return [int(i) for index in batches(count, batch_size, seed, epoch) for i in index]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (10, 3), (12, 4), (5, 100), (257, 64)])
def test_an_epoch_is_a_permutation(count: int, batch_size: int) -> None:
    parts = list(batches(count, batch_size, seed=3, epoch=2))
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert all(part.dtype == torch.int64 and part.ndim == 1 for part in parts)
    assert [len(part) for part in parts[:-1]] == [batch_size] * (len(parts) - 1)
    assert len(parts) == -(-count // batch_size)

    kept = list(batches(count, min(batch_size, count), seed=3, epoch=2, drop_last=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, parts, strict=False))
    assert {len(part) for part in kept} == {min(batch_size, count)}
    assert len(kept) == count // min(batch_size, count)


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    keys = list(itertools.product(range(4), range(4)))
    orders = {key: order(50, 7, *key) for key in keys}
    torch.manual_seed(99)
    assert all(order(50, 13, *key) == orders[key] for key in reversed(keys))
    assert len({tuple(value) for value in orders.values()}) == len(keys)


def test_every_position_is_shuffled_evenly() -> None:
    firsts = torch.tensor([order(4, 4, 0, epoch)[0] for epoch in range(2000)])
    # Four standard deviations of a binomial count: sqrt(2000 / 4 * 3 / 4) = 19.4.
    assert (firsts.bincount(minlength=4) - 500).abs().max() < 78


def test_global_rng_untouched() -> None:
    state = torch.get_rng_state()
    list(batches(20, 4, seed=0, epoch=0))
    crop_and_flip(torch.ones(4, 1, 6, 6), seeded(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "text"),
    [
        (0, 4, False, "got count=0 and batch_size=4, expected both at least 1, so give batches some images."),
        (9, 0, False, "got count=9 and batch_size=0, expected both at least 1, so give batches some images."),
        (
            3,
            4,
            True,
            "got 3 images for batches of 4 with drop_last, expected at least one full batch, "
            "so lower batch_size to 3 or keep the last batch.",
        ),
    ],
)
def test_impossible_batches_are_refused_at_the_call(count: int, batch_size: int, drop_last: bool, text: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        batches(count, batch_size, seed=0, epoch=0, drop_last=drop_last)


def test_seeded_streams() -> None:
    keys: list[tuple[int | str, ...]] = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (2**32,), (-1,), ("crop", 0)]
    draws = [tuple(torch.randint(2**31, (4,), generator=seeded(*key)).tolist()) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [tuple(torch.randint(2**31, (4,), generator=seeded(*key)).tolist()) for key in keys]


def literal(images: Tensor, generator: torch.Generator, pad: int) -> tuple[Tensor, list[tuple[int, int, bool]]]:
    """Pad, crop, mirror, one image after the other; random numbers in the order that crop_and_flip draws them."""
    count, channels, height, width = images.shape
    down, right = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    flip = torch.randint(0, 2, (count, 1), generator=generator, dtype=torch.bool)
    result, choices = torch.empty_like(images), []
    for i in range(count):
        y, x, mirrored = int(down[i]), int(right[i]), bool(flip[i])
        padded = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=images.dtype)
        padded[:, pad : pad + height, pad : pad + width] = images[i]
        crop = padded[:, y : y + height, x : x + width]
        result[i] = crop.flip(-1) if mirrored else crop
        choices.append((y, x, mirrored))
    return result, choices


@pytest.mark.parametrize("shape", [(300, 3, 6, 5), (40, 1, 4, 9), (1, 2, 3, 3)])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_crop_and_flip_is_the_loop(shape: tuple[int, int, int, int], pad: int) -> None:
    images = torch.randn(shape, generator=seeded("images"), dtype=torch.float32)
    before = images.clone()
    expected, choices = literal(images, seeded("crop", pad), pad)
    result = crop_and_flip(images, seeded("crop", pad), pad)
    assert torch.equal(result, expected)
    assert torch.equal(images, before)
    assert result.data_ptr() != images.data_ptr()
    assert result.dtype == images.dtype
    if shape[0] == 300:
        assert len({y for y, _, _ in choices}) == len({x for _, x, _ in choices}) == 2 * pad + 1
        assert {flip for _, _, flip in choices} == {True, False}


def test_crop_and_flip_default_pad_dtype_and_stream() -> None:
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(5, 2, 8, 8)
    assert torch.equal(crop_and_flip(images, seeded(1)), crop_and_flip(images, seeded(1), pad=4))
    assert crop_and_flip(images, seeded(1)).dtype == torch.uint8
    generator = seeded(1)
    assert not torch.equal(crop_and_flip(images, generator), crop_and_flip(images, generator))


@pytest.mark.parametrize(("shape", "pad"), [((3, 8, 8), 4), ((2, 3, 8, 8), -1)])
def test_crop_and_flip_refuses(shape: tuple[int, ...], pad: int) -> None:
    text = (
        f"got images of shape {shape} and pad={pad}, expected shape (N, C, H, W) and pad >= 0, "
        f"so add the missing dimensions or raise pad."
    )
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        crop_and_flip(torch.zeros(shape), seeded(0), pad=pad)
