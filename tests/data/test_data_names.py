"""load: names, limits, and what it says when it cannot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpscope import data
from sharpscope.data.synthetic import SHAPES

NAMES = (
    *("cifar10", "cifar100", "digits", "fashion-mnist", "imagenet", "mnist"),
    *("synthetic:cifar10", "synthetic:cifar100", "synthetic:digits", "synthetic:fashion-mnist"),
    *("synthetic:imagenet", "synthetic:mnist"),
)


def test_names() -> None:
    assert data.names() == NAMES


def test_load_digits_with_seed_and_limits() -> None:
    assert data.load("digits").digest() == data.digits(0).digest()
    few = data.load("digits", root="not looked at", seed=3, train=20, test=10)
    assert few.digest() == data.digits(3).limit(20, 10).digest()
    assert (len(few.train_targets), len(few.test_targets)) == (20, 10)


def test_load_cifar10_with_limits(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes((b"\x04" + bytes(3072)) * 3)
    (tmp_path / "test_batch.bin").write_bytes((b"\x05" + bytes(3072)) * 2)
    images = data.load("cifar10", root=str(tmp_path), train=2, test=1)
    assert images.train_targets.tolist() == [4, 4]
    assert images.test_targets.tolist() == [5]


def test_the_rest_is_tested_on() -> None:
    whole, few = data.load("digits"), data.load("digits", train=100, test="rest")
    assert few.sizes == (100, 1697) and sum(whole.sizes) == 1797
    assert torch.equal(torch.cat([few.train_inputs, few.test_inputs[360:]]), whole.train_inputs)
    assert torch.equal(torch.cat([few.train_targets, few.test_targets[360:]]), whole.train_targets)
    assert torch.equal(few.test_inputs[:360], whole.test_inputs)


@pytest.mark.parametrize("like", ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagenet"])
def test_noise_in_the_shape_of_a_data_set(like: str) -> None:
    images = data.load(f"synthetic:{like}", train=6, test=3)
    assert images.sizes == (6, 3) and images.digest() == data.load(f"synthetic:{like}", train=6, test=3).digest()
    assert images.shape == SHAPES[like][0] and len(images.classes) == SHAPES[like][1]
    assert images.resize(16).shape == (images.shape[0], 16, 16)
    if like == "digits":  # as the real ones
        assert (images.shape, images.augment) == (data.digits().shape, data.digits().augment)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"name": "svhn"},
            f"got data set 'svhn', expected one of {', '.join(NAMES)}, so choose one of these names.",
        ),
        ({"name": "digits", "test": "all"}, "got 'all' test images, expected a number or 'rest', so change test=."),
        (
            {"name": "synthetic:svhn"},
            "got synthetic:svhn with 256 training and 64 test images, expected one of digits, mnist, fashion-mnist, "
            "cifar10, cifar100, imagenet and at least one image of each, so change it.",
        ),
        (
            {"name": "cifar10"},
            "got data set 'cifar10' without a root, expected the folder of its files, so add --root DIR.",
        ),
        (
            {"name": "digits", "train": 5000},
            "digits: got a limit of 5000 train images, expected 1 to 1437, "
            "so choose train= in that range or leave it out to use all.",
        ),
    ],
)
def test_errors(options: dict[str, Any], text: str) -> None:
    with pytest.raises(data.DataError, match=f"^{re.escape(text)}$") as caught:
        data.load(**options)
    assert isinstance(caught.value, ValueError)
