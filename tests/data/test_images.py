"""Images: shapes, limits, digest, and the text of every error."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

from sharpscope.data import DataError, Images


def toy(**changes: Any) -> Images:
    """Six training and three test images of shape (2, 4, 5)."""
    numbers = torch.arange(9 * 2 * 4 * 5, dtype=torch.float32).view(9, 2, 4, 5)
    fields: dict[str, Any] = {
        "name": "toy",
        "train_inputs": numbers[:6],
        "train_targets": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_inputs": numbers[6:],
        "test_targets": torch.tensor([2, 1, 0]),
        "classes": ("a", "b", "c"),
    }
    return Images(**{**fields, **changes})


def test_parts_and_shape() -> None:
    images = toy()
    assert images.train[0] is images.train_inputs
    assert images.train[1] is images.train_targets
    assert images.test[0] is images.test_inputs
    assert images.test[1] is images.test_targets
    assert images.shape == (2, 4, 5)
    assert (images.augment, images.pad) == (False, 0)
    assert repr(images) == "Images('toy', 6 training and 3 test images of shape (2, 4, 5), 3 classes)"


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy().name = "other"  # type: ignore[misc]


def test_to_moves_all_tensors_and_nothing_else() -> None:
    moved = toy(augment=True, pad=3).to("meta")
    tensors = (*moved.train, *moved.test)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.name, moved.classes, moved.augment, moved.pad) == ("toy", ("a", "b", "c"), True, 3)


def test_limit_takes_the_first_and_lets_the_rest_go() -> None:
    images = toy()
    few = images.limit(train=2, test=1)
    assert torch.equal(few.train_inputs, images.train_inputs[:2])
    assert few.train_targets.tolist() == [0, 1]
    assert torch.equal(few.test_inputs, images.test_inputs[:1])
    assert few.test_targets.tolist() == [2]
    assert few.train_inputs.untyped_storage().nbytes() == 2 * 2 * 4 * 5 * 4
    assert images.limit().digest() == images.limit(train=6, test=3).digest() == images.digest()


@pytest.mark.parametrize(("part", "count", "wanted"), [("train", 6, 0), ("train", 6, 7), ("test", 3, -1)])
def test_limit_out_of_range(part: str, count: int, wanted: int) -> None:
    text = (
        f"toy: got a limit of {wanted} {part} images, expected 1 to {count}, "
        f"so choose {part}= in that range or leave it out to use all."
    )
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        toy().limit(**{part: wanted})


def test_digest_sees_values_order_part_and_shape_but_not_layout() -> None:
    images = toy()
    digest = images.digest()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert toy().digest() == digest
    transposed = images.train_inputs.transpose(2, 3).contiguous().transpose(2, 3)
    assert not transposed.is_contiguous()
    assert toy(train_inputs=transposed).digest() == digest

    changed = images.train_inputs.clone()
    changed[5, 1, 3, 4] += 1
    others = [
        toy(train_inputs=changed),
        toy(train_inputs=images.train_inputs.flip(0)),
        toy(train_inputs=images.train_inputs.reshape(6, 2, 5, 4), test_inputs=images.test_inputs.reshape(3, 2, 5, 4)),
        toy(test_targets=torch.tensor([2, 1, 1])),
        toy(**dict(zip(("train_inputs", "train_targets"), images.test, strict=True))),
    ]
    assert len({digest, *(other.digest() for other in others)}) == 6


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"train_inputs": torch.zeros(6, 8, dtype=torch.float32)},
            "toy: got train inputs of shape (6, 8) and torch.float32, expected a non-empty (N, C, H, W) tensor of "
            "torch.float32, so reshape and convert them first.",
        ),
        (
            {"test_inputs": torch.zeros(3, 2, 4, 5, dtype=torch.uint8)},
            "toy: got test inputs of shape (3, 2, 4, 5) and torch.uint8, expected a non-empty (N, C, H, W) tensor of "
            "torch.float32, so reshape and convert them first.",
        ),
        (
            {"test_targets": torch.tensor([0, 1])},
            "toy: got test targets of shape (2,) and torch.int64, expected (3,) and torch.int64, "
            "so give one class index per image.",
        ),
        (
            {"test_targets": torch.tensor([0, 1, 3])},
            "toy: got test targets from 0 to 3, expected 0 to 2 for 3 classes, "
            "so number the classes from zero and name each of them.",
        ),
        (
            {"test_inputs": torch.zeros(3, 2, 4, 4, dtype=torch.float32)},
            "toy: got training images of shape (2, 4, 5) and test images of shape (2, 4, 4), expected one shape, "
            "so read both parts from the same data set.",
        ),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        toy(**changes)
