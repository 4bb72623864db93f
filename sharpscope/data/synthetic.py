"""Noise in the shape of a data set, to try what is to run on the real one elsewhere."""

from __future__ import annotations

import torch

from sharpscope.core.vectors import generator
from sharpscope.data.errors import DataError
from sharpscope.data.images import Images

__all__ = ["SHAPES", "synthetic"]

SHAPES: dict[str, tuple[tuple[int, int, int], int, int]] = {  # shape of one image, classes, padding of random crops
    "digits": ((1, 8, 8), 10, 0),
    "mnist": ((1, 28, 28), 10, 0),
    "fashion-mnist": ((1, 28, 28), 10, 0),
    "cifar10": ((3, 32, 32), 10, 4),
    "cifar100": ((3, 32, 32), 100, 4),
    "imagenet": ((3, 224, 224), 1000, 0),
}


def synthetic(like: str, train: int = 256, test: int = 64) -> Images:
    """Standard normal pixels and random classes with shape, classes and augmentation of the data set ``like``.

    The same numbers for the same arguments.

    Raises:
        DataError: an unknown data set or a count below 1.

    Example:
        >>> synthetic("cifar100", train=8, test=4)
        Images('synthetic:cifar100', 8 training and 4 test images of shape (3, 32, 32), 100 classes)
    """
    if like not in SHAPES or min(train, test) < 1:
        raise DataError(
            f"got synthetic:{like} with {train} training and {test} test images, expected one of {', '.join(SHAPES)} "
            f"and at least one image of each, so change it."
        )
    shape, classes, pad = SHAPES[like]
    random = generator("synthetic", like)
    count = train + test
    inputs = torch.randn(count, *shape, generator=random, dtype=torch.float32)
    targets = torch.randint(classes, (count,), generator=random)
    names = tuple(str(number) for number in range(classes))
    parts = (inputs[:train], targets[:train], inputs[train:], targets[train:])
    return Images(f"synthetic:{like}", *parts, classes=names, augment=pad > 0, pad=pad)
