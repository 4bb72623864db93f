"""MNIST and Fashion-MNIST from their idx files, compressed or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharpscope.data.errors import DataError
from sharpscope.data.images import Images

__all__ = ["fashion_mnist", "mnist"]

_MOST = 2**31  # bytes of pixels; a larger claim is damage
_CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def mnist(root: str | Path) -> Images:
    """Handwritten digits, float32, normalised with mean 0.1307 and deviation 0.3081 of all training pixels.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST Database of Handwritten Digits, 1998.

    Args:
        root: the folder of ``train-images-idx3-ubyte`` and its three sisters, each with or without ``.gz``, or a
            folder above it, as torchvision makes them (``MNIST/raw``).

    Returns:
        Images of shape (1, 28, 28), not to be flipped or cropped.

    Raises:
        DataError: a file is missing, truncated or not in the idx format.

    Example:
        >>> mnist("downloads").shape  # doctest: +SKIP
        (1, 28, 28)
    """
    return _read("mnist", root, ("MNIST/raw", "MNIST", "mnist"), tuple("0123456789"), 0.1307, 0.3081)


def fashion_mnist(root: str | Path) -> Images:
    """Clothes in the files and the form of MNIST, normalised with mean 0.2860 and deviation 0.3530.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017.

    Args:
        root: as for ``mnist``, with ``FashionMNIST/raw`` below it.

    Returns:
        Images of shape (1, 28, 28), not to be flipped or cropped.

    Raises:
        DataError: as ``mnist``.

    Example:
        >>> fashion_mnist("downloads").shape  # doctest: +SKIP
        (1, 28, 28)
    """
    return _read("fashion-mnist", root, ("FashionMNIST/raw", "FashionMNIST", "fashion"), _CLOTHES, 0.2860, 0.3530)


def _read(
    name: str, root: str | Path, folders: tuple[str, ...], classes: tuple[str, ...], mean: float, deviation: float
) -> Images:
    base = Path(root).expanduser()
    folder = next((base / below for below in folders if (base / below).is_dir()), base)

    def part(stem: str) -> tuple[Tensor, Tensor]:
        pixels = _idx(name, folder, f"{stem}-images", 3)
        labels = _idx(name, folder, f"{stem}-labels", 1)
        if len(pixels) != len(labels):
            raise DataError(
                f"{name}: got {len(pixels)} images and {len(labels)} labels of {stem!r} in {str(folder)!r}, expected "
                f"as many, so download the files again."
            )
        inputs = torch.from_numpy(pixels).float().div_(255).sub_(mean).div_(deviation)
        return inputs[:, None], torch.from_numpy(labels.astype(np.int64))

    return Images(name, *part("train"), *part("t10k"), classes)


def _idx(name: str, folder: Path, stem: str, dimensions: int) -> np.ndarray:
    """The uint8 array of one idx file: 0, 0, 8, the number of dimensions, big-endian sizes, bytes."""
    official = f"{stem}-idx{dimensions}-ubyte"
    choices = [folder / (file + end) for file in (official, official.replace("-idx", ".idx")) for end in ("", ".gz")]
    path = next((choice for choice in choices if choice.is_file()), None)
    if path is None:
        raise DataError(
            f"{name}: got no {official} in {str(folder)!r}, expected it there, with or without .gz, so correct --root "
            f"or download the file."
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
                raise DataError(
                    f"{name}: got the beginning {head[:4].hex()!r} of {str(path)!r}, expected "
                    f"{bytes([0, 0, 8, dimensions]).hex()!r} and {dimensions} sizes, so the file is truncated or no "
                    f"idx file: download it again."
                )
            shape = struct.unpack(f">{dimensions}I", head[4:])
            size = min(int(np.prod([float(side) for side in shape])), _MOST)
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{name}: got {type(error).__name__} ({error}) on reading {str(path)!r}, expected a whole file, so "
            f"download it again."
        ) from error
    if len(content) != size or not size:
        raise DataError(
            f"{name}: got {'more than ' if len(content) > size else ''}{min(len(content), size)} bytes after the head "
            f"of {str(path)!r}, expected {size} for the sizes {shape} that it names, so download it again."
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape).copy()
