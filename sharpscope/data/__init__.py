"""Labelled images by name: readers, batches and augmentation.

A new data set is one small module with a function that returns ``Images``, and one row in a table below.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sharpscope.data.augment import crop_and_flip, cutout, mixup
from sharpscope.data.batches import batches
from sharpscope.data.cifar import cifar10
from sharpscope.data.digits import digits
from sharpscope.data.errors import DataError
from sharpscope.data.images import Images

__all__ = ["DataError", "Images", "batches", "cifar10", "crop_and_flip", "cutout", "digits", "load", "mixup", "names"]

_BUILT_IN: dict[str, Callable[[int], Images]] = {  # seed of the split -> images
    "digits": digits,
}
_FOLDERS: dict[str, Callable[[str | Path], Images]] = {  # root folder -> images
    "cifar10": cifar10,
}


def names() -> tuple[str, ...]:
    """The names that ``load`` knows, in alphabetical order."""
    return tuple(sorted((*_BUILT_IN, *_FOLDERS)))


def load(
    name: str, root: str | Path | None = None, seed: int = 0, train: int | None = None, test: int | None = None
) -> Images:
    """The data set called ``name``, limited to its first ``train`` training and ``test`` test images.

    Args:
        name: "digits" (built in) or "cifar10" (read from ``root``).
        root: folder with the files; built-in sets do not look at it.
        seed: of the split into training and test part; sets that come split do not look at it.
        train: number of training images to keep, all of them by default.
        test: number of test images to keep, all of them by default.

    Raises:
        DataError: unknown name, missing root, unreadable files, or a limit that cannot be met.

    Example:
        >>> load("digits", train=100)
        Images('digits', 100 training and 360 test images of shape (1, 8, 8), 10 classes)
    """
    if name in _BUILT_IN:
        images = _BUILT_IN[name](seed)
    elif name not in _FOLDERS:
        raise DataError(f"got data set {name!r}, expected one of {', '.join(names())}, so choose one of these names.")
    elif root is None:
        raise DataError(f"got data set {name!r} without a root, expected the folder of its files, so add --root DIR.")
    else:
        images = _FOLDERS[name](root)
    return images.limit(train, test)
