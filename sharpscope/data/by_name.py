"""Data sets by name.  A new data set is one small module with a function that returns ``Images``, and one row here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sharpscope.data.cifar import cifar10, cifar100
from sharpscope.data.digits import digits
from sharpscope.data.errors import DataError
from sharpscope.data.folder import Folder, imagenet
from sharpscope.data.images import Images
from sharpscope.data.mnist import fashion_mnist, mnist
from sharpscope.data.synthetic import SHAPES, synthetic

__all__ = ["FILED", "load", "names"]

_FOLDERS: dict[str, Callable[[str | Path], Images | Folder]] = {  # root folder -> images
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fashion-mnist": fashion_mnist,
    "imagenet": imagenet,
    "mnist": mnist,
}


FILED = tuple(_FOLDERS)  # sets that are read from a folder


def names() -> tuple[str, ...]:
    """The names that ``load`` knows, in alphabetical order."""
    return tuple(sorted(("digits", *_FOLDERS, *(f"synthetic:{like}" for like in SHAPES))))


def load(
    name: str,
    root: str | Path | None = None,
    seed: int = 0,
    train: int | None = None,
    test: int | str | None = None,
    side: int | None = None,
) -> Images | Folder:
    """The data set called ``name``, limited to its first ``train`` training and ``test`` test images.

    Args:
        name: "digits" (built in), "cifar10", "cifar100", "mnist", "fashion-mnist" or "imagenet" (read from ``root``),
            or "synthetic:" and one of these, for noise in its shape.
        root: folder with the files; built-in sets do not look at it.
        seed: of the split into training and test part; sets that come split do not look at it.
        train: number of training images to keep, all of them by default.
        test: number of test images to keep, all of them by default; "rest" tests on all that is not trained on.
        side: resize the images to so many pixels in height and width.

    Raises:
        DataError: unknown name, missing root, unreadable files, or a limit that cannot be met.

    Example:
        >>> load("digits", train=100)
        Images('digits', 100 training and 360 test images of shape (1, 8, 8), 10 classes)
        >>> load("digits", train=500, test="rest")
        Images('digits', 500 training and 1297 test images of shape (1, 8, 8), 10 classes)
    """
    if test is not None and test != "rest" and not isinstance(test, int):
        raise DataError(f"got {test!r} test images, expected a number or 'rest', so change test=.")
    images: Images | Folder
    kind, _, like = name.partition(":")
    if kind == "synthetic":
        images = synthetic(like, train or 256, test if isinstance(test, int) else 64)
    elif name == "digits":
        images = digits(seed).limit(train, test)
    elif name not in _FOLDERS:
        raise DataError(f"got data set {name!r}, expected one of {', '.join(names())}, so choose one of these names.")
    elif root is None:
        raise DataError(f"got data set {name!r} without a root, expected the folder of its files, so add --root DIR.")
    else:
        images = _FOLDERS[name](root).limit(train, test)
    return images if side is None else images.resize(side)
