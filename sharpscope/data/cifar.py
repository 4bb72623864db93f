"""CIFAR-10 from its official binary files, whole or any part of them.

The binary layout is read and not the Python one because the latter is a pickle, and opening a pickle runs code.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharpscope.data.errors import DataError
from sharpscope.data.images import Images

__all__ = ["cifar10"]

# Mean and standard deviation of each channel (red, green, blue) over all pixels of the 50,000 training images, in units
# of full intensity, to four digits; source: github.com/kuangliu/pytorch-cifar, issue 129.  The deviations (0.2023,
# 0.1994, 0.2010) that are often seen are averages of the deviations within single images.
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FOLDER = "cifar-10-batches-bin"
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then red, green and blue planes row by row


def cifar10(root: str | Path) -> Images:
    """CIFAR-10 images as float32, normalised with the channel statistics of the full training set.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, University of
    Toronto, 2009; files ``data_batch_*.bin``, ``test_batch*.bin`` and, if present, ``batches.meta.txt`` (class names).
    Any number of files and of records is taken, in the numerical order of the file names.

    Args:
        root: the folder ``cifar-10-batches-bin`` or the one that contains it.

    Returns:
        Images of shape (3, 32, 32) with ``augment`` True and ``pad`` 4.

    Raises:
        DataError: the folder or a part is missing, or a file is empty, truncated or not in the binary layout.

    Example:
        >>> cifar10("downloads").shape  # doctest: +SKIP
        (3, 32, 32)
    """
    folder = _find(Path(root).expanduser())
    train_inputs, train_targets = _read_part(folder, "data_batch")
    test_inputs, test_targets = _read_part(folder, "test_batch")
    return Images(
        name="cifar10",
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        classes=_class_names(folder / "batches.meta.txt"),
        augment=True,
        pad=4,
    )


def _find(root: Path) -> Path:
    """The folder with the files: ``root`` or its child of the official name."""
    if not root.is_dir():
        raise DataError(
            f"cifar10: got root {str(root)!r}, which is not a folder, expected {_FOLDER!r} or its parent, "
            f"so correct the path or unpack the binary version of CIFAR-10 there."
        )
    return root / _FOLDER if (root / _FOLDER).is_dir() else root


def _read_part(folder: Path, stem: str) -> tuple[Tensor, Tensor]:
    """Inputs (N, 3, 32, 32) and targets (N,) of all files whose name starts with ``stem``."""
    paths = sorted(folder.glob(f"{stem}*.bin"), key=_numerical)
    if not paths:
        found = "the Python layout" if any(folder.glob(f"{stem}*")) else f"no {stem}*.bin file"
        raise DataError(
            f"cifar10: got {found} in {str(folder)!r}, expected at least one {stem}*.bin, "
            f"so unpack the binary version of CIFAR-10 there or give the folder that has it."
        )
    records = np.concatenate([_read_file(path) for path in paths])
    pixels = torch.from_numpy(records[:, 1:].reshape(-1, *_SHAPE))
    mean, deviation = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return pixels.float().div_(255).sub_(mean).div_(deviation), torch.from_numpy(records[:, 0].astype(np.int64))


def _read_file(path: Path) -> np.ndarray:
    """Records (n, 3073) uint8 of one file."""
    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise DataError(
            f"cifar10: got {error.strerror!r} on reading {str(path)!r}, expected a readable file, "
            f"so check its kind and its permissions."
        ) from error
    if content.size == 0:
        raise DataError(
            f"cifar10: got an empty file {str(path)!r}, expected records of {_RECORD} bytes, "
            f"so unpack the archive again."
        )
    if content.size % _RECORD:
        raise DataError(
            f"cifar10: got {content.size} bytes in {str(path)!r}, expected a multiple of {_RECORD} but "
            f"{content.size % _RECORD} are left over, so the file is truncated or not in the binary layout: "
            f"unpack the archive again."
        )
    records = content.reshape(-1, _RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(_CLASSES))
    if wrong.size:
        raise DataError(
            f"cifar10: got label {records[wrong[0], 0]} in record {wrong[0]} of {str(path)!r}, expected 0 to 9, "
            f"so the file is damaged or of another data set: unpack the archive again."
        )
    return records


def _class_names(path: Path) -> tuple[str, ...]:
    """The ten names in ``batches.meta.txt``, one per line; the official ones where the file is missing."""
    if not path.is_file():
        return _CLASSES
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    names = tuple(name for name in names if name)
    if len(names) != len(_CLASSES):
        raise DataError(
            f"cifar10: got {len(names)} class names in {str(path)!r}, expected {len(_CLASSES)}, one per line, "
            f"so restore the file or remove it to use the official names."
        )
    return names


def _numerical(path: Path) -> tuple[int, str]:
    """Sort key that puts data_batch_10 after data_batch_2."""
    number = re.search(r"(\d+)$", path.stem)
    return (int(number[1]) if number else -1), path.name
