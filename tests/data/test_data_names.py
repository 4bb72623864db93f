"""load: names, limits, and what it says when it cannot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sharpscope import data


def test_names() -> None:
    assert data.names() == ("cifar10", "digits")


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


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"name": "imagenet"},
            "got data set 'imagenet', expected one of cifar10, digits, so choose one of these names.",
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
