"""The digits of scikit-learn: split, scale, and independence of the global random state."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sharpscope.data import DataError, digits


def test_shapes_and_kind() -> None:
    images = digits()
    assert images.train_inputs.shape == (1437, 1, 8, 8)
    assert images.test_inputs.shape == (360, 1, 8, 8)
    assert images.train_inputs.dtype == torch.float32
    assert images.train_targets.dtype == torch.int64
    assert images.classes == tuple("0123456789")
    assert (images.name, images.shape, images.augment, images.pad) == ("digits", (1, 8, 8), False, 0)


def test_standardised_with_the_training_part() -> None:
    images = digits()
    train = images.train_inputs.double()
    assert abs(train.mean()) < 1e-6
    assert abs(train.std(correction=0) - 1) < 1e-6
    assert abs(images.test_inputs.double().mean()) > 1e-6


def test_split_keeps_every_image_once_and_the_shares_of_classes() -> None:
    images, bunch = digits(seed=5), load_digits()
    inputs = torch.cat([images.train_inputs, images.test_inputs]).double()[:, 0].numpy()
    targets = torch.cat([images.train_targets, images.test_targets]).numpy()
    scale = (inputs.max() - inputs.min()) / 16
    pixels = np.rint((inputs - inputs.min()) / scale).astype(int)
    ours = sorted((int(t), *map(int, p.ravel())) for t, p in zip(targets, pixels, strict=True))
    theirs = sorted((int(t), *map(int, p.ravel())) for t, p in zip(bunch.target, bunch.images, strict=True))
    assert ours == theirs

    shares = np.bincount(images.test_targets.numpy()) / np.bincount(bunch.target)
    assert abs(shares - 0.2).max() < 0.01


def test_seed_fixes_the_split() -> None:
    assert digits(0).digest() == digits().digest() != digits(1).digest()


def test_global_rng_untouched() -> None:
    state = torch.get_rng_state()
    digits(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed: int) -> None:
    text = f"digits: got seed {seed}, expected 0 to 4294967295, so choose a seed in that range."
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        digits(seed)
