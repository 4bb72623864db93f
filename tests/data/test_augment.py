"""Cutout and mixup beside loops over images, and the distributions of their random choices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sharpscope.core.vectors import generator
from sharpscope.data import DataError, cutout, mixup


@pytest.mark.parametrize(("shape", "side"), [((5, 3, 9, 7), 4), ((3, 1, 6, 6), 1), ((2, 2, 4, 4), 20)])
def test_cutout_is_the_loop(shape: tuple[int, int, int, int], side: int, rng_guard: Callable[[], None]) -> None:
    images = torch.randn(shape, generator=generator("images"))
    random = generator("cut", side)
    starts = [torch.randint(0, extent, (shape[0], 1), generator=random)[:, 0] - side // 2 for extent in shape[2:]]
    expected = images.clone()
    for image, top, left in zip(expected, *starts, strict=True):
        rows, columns = (slice(max(0, int(start)), max(0, int(start) + side)) for start in (top, left))
        image[:, rows, columns] = 0
    before = images.clone()
    assert torch.equal(cutout(images, generator("cut", side), side), expected)
    assert torch.equal(images, before)


def test_every_pixel_is_a_centre() -> None:
    cut = cutout(torch.ones(4000, 1, 3, 5), generator("centres"), side=1)
    counts = (1 - cut).sum(0)[0]
    assert float(counts.sum()) == 4000
    assert float(((counts - 4000 / 15) ** 2 / (4000 / 15)).sum()) < 36  # chi-square, 14 degrees, 1 in 1000


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_blends_images_and_targets_alike(alpha: float, rng_guard: Callable[[], None]) -> None:
    images, targets = torch.randn(6, 2, 3, 3, generator=generator("images")), torch.tensor([0, 1, 2, 3, 4, 5])
    shares = []
    for draw in range(300):
        x, y = mixup(images, targets, generator("mix", draw), alpha, classes=6)
        assert torch.allclose(x, (y @ images.flatten(1)).view_as(images))  # each is its own class: y says the blend
        assert torch.allclose(y.sum(1), torch.ones(6))
        other = y.clone().fill_diagonal_(0)
        moved = other.sum(1) > 0
        if moved.any():
            shares.append(float(y.diagonal()[moved][0]))
            assert torch.allclose(y.diagonal()[moved], y.diagonal()[moved][0])
    error = (1 / (4 * (2 * alpha + 1)) / len(shares)) ** 0.5
    assert abs(np.mean(shares) - 0.5) < 4 * error
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.3)


def test_cutout_refuses() -> None:
    with pytest.raises(DataError, match=r"^got images of shape \(3, 4, 4\) and side=0, expected shape \(N, C, H, W\)"):
        cutout(torch.zeros(3, 4, 4), generator("cut"), 0)
