"""CIFAR-10 and CIFAR-100 from their official files, binary or Python layout, whole or any part of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpscope.data._pickles import read_pickle
from sharpscope.data.errors import DataError
from sharpscope.data.images import Images

__all__ = ["cifar10", "cifar100"]

# Mean and standard deviation of each channel (red, green, blue) over all pixels of the 50,000 training images, in units
# of full intensity, to four digits; source: github.com/kuangliu/pytorch-cifar, issue 129, and for CIFAR-100
# github.com/weiaicunzai/pytorch-cifar100, conf/global_settings.py.  The deviations (0.2023, 0.1994, 0.2010) that are
# often seen for CIFAR-10 are averages of the deviations within single images.
MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
MEAN_100 = (0.5071, 0.4865, 0.4409)
DEVIATION_100 = (0.2673, 0.2564, 0.2762)

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class _Kind:
    """Where one of the two keeps what."""

    name: str
    folders: tuple[str, str]  # of the binary and of the Python layout
    stems: tuple[str, str]  # of the training and of the test files
    labels: int  # bytes of labels before the pixels of a record; the last one counts
    label_key: str  # of the labels in the Python layout
    names_files: tuple[str, str]  # class names in the binary and in the Python layout
    names_key: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


_CIFAR10 = _Kind(
    name="cifar10",
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    stems=("data_batch", "test_batch"),
    labels=1,
    label_key="labels",
    names_files=("batches.meta.txt", "batches.meta"),
    names_key="label_names",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=MEAN,
    deviation=DEVIATION,
)
_CIFAR100 = _Kind(
    name="cifar100",
    folders=("cifar-100-binary", "cifar-100-python"),
    stems=("train", "test"),
    labels=2,
    label_key="fine_labels",
    names_files=("fine_label_names.txt", "meta"),
    names_key="fine_label_names",
    classes=tuple(f"class {number}" for number in range(100)),
    mean=MEAN_100,
    deviation=DEVIATION_100,
)


def cifar10(root: str | Path) -> Images:
    """CIFAR-10 images as float32, normalised with the channel statistics of the full training set.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, University of
    Toronto, 2009; files ``data_batch_*``, ``test_batch*`` and, if present, ``batches.meta`` (class names), with the
    endings ``.bin`` and ``.txt`` in the binary layout.  Any number of files and of records is taken, in the numerical
    order of the file names.  The Python layout is pickles; nothing in them is run.

    Args:
        root: the folder ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, or the one that contains it.

    Returns:
        Images of shape (3, 32, 32) with ``augment`` True and ``pad`` 4.

    Raises:
        DataError: the folder or a part is missing, or a file is empty, truncated or in neither layout.

    Example:
        >>> cifar10("downloads").shape  # doctest: +SKIP
        (3, 32, 32)
    """
    return _read(_CIFAR10, root)


def cifar100(root: str | Path) -> Images:
    """CIFAR-100 images with their 100 fine classes, otherwise as ``cifar10``.

    Args:
        root: the folder ``cifar-100-binary`` or ``cifar-100-python``, or the one that contains it.

    Returns:
        Images of shape (3, 32, 32) with ``augment`` True and ``pad`` 4.

    Raises:
        DataError: as ``cifar10``.

    Example:
        >>> cifar100("downloads").shape  # doctest: +SKIP
        (3, 32, 32)
    """
    return _read(_CIFAR100, root)


def _read(kind: _Kind, root: str | Path) -> Images:
    folder = _find(kind, Path(root).expanduser())
    train_inputs, train_targets = _read_part(kind, folder, kind.stems[0])
    test_inputs, test_targets = _read_part(kind, folder, kind.stems[1])
    return Images(
        name=kind.name,
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        classes=_class_names(kind, folder),
        augment=True,
        pad=4,
    )


def _find(kind: _Kind, root: Path) -> Path:
    """The folder with the files: ``root`` or its child of an official name."""
    binary, python = kind.folders
    if not root.is_dir():
        raise DataError(
            f"{kind.name}: got root {str(root)!r}, which is not a folder, expected {binary!r}, {python!r} or their "
            f"parent, so correct the path or unpack the archive there."
        )
    return next((root / name for name in kind.folders if (root / name).is_dir()), root)


def _read_part(kind: _Kind, folder: Path, stem: str) -> tuple[Tensor, Tensor]:
    """Inputs (N, 3, 32, 32) and targets (N,) of all files whose name starts with ``stem``."""
    binary = sorted(folder.glob(f"{stem}*.bin"), key=_numerical)
    python = sorted((path for path in folder.glob(f"{stem}*") if not path.suffix), key=_numerical)
    if not binary and not python:
        raise DataError(
            f"{kind.name}: got no {stem}* file in {str(folder)!r}, expected at least one {stem}*.bin of the binary "
            f"layout or one {stem}* of the Python layout, so give the folder that has them."
        )
    parts = [_read_binary(kind, path) for path in binary] or [_read_python(kind, path) for path in python]
    labels, pixels = (np.concatenate(part) for part in zip(*parts, strict=True))
    mean, deviation = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (kind.mean, kind.deviation))
    inputs = torch.from_numpy(pixels.reshape(-1, *_SHAPE)).float()
    return inputs.div_(255).sub_(mean).div_(deviation), torch.from_numpy(labels.astype(np.int64))


def _read_binary(kind: _Kind, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and pixels (n, 3072), both uint8, of one file: label, then red, green and blue planes row by row."""
    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise DataError(
            f"{kind.name}: got {error.strerror!r} on reading {str(path)!r}, expected a readable file, "
            f"so check its kind and its permissions."
        ) from error
    record = kind.labels + _PIXELS
    if content.size == 0:
        raise DataError(
            f"{kind.name}: got an empty file {str(path)!r}, expected records of {record} bytes, "
            f"so unpack the archive again."
        )
    if content.size % record:
        raise DataError(
            f"{kind.name}: got {content.size} bytes in {str(path)!r}, expected a multiple of {record} but "
            f"{content.size % record} are left over, so the file is truncated or not in the binary layout: "
            f"unpack the archive again."
        )
    records = content.reshape(-1, record)
    return _checked(kind, records[:, kind.labels - 1], path), records[:, kind.labels :]


def _read_python(kind: _Kind, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and pixels (n, 3072) uint8 of one file."""
    found = _unpickled(kind, path)
    pixels, labels = found.get("data"), found.get(kind.label_key)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != _PIXELS
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not len(labels)
        or not all(type(label) is int for label in labels)
    ):
        raise DataError(
            f"{kind.name}: got other contents in {str(path)!r}, expected 'data', an array (n, {_PIXELS}) of bytes, and "
            f"{kind.label_key!r}, n whole numbers, so the file is damaged or of another data set: unpack the archive "
            f"again."
        )
    return _checked(kind, np.array(labels), path), pixels


def _checked(kind: _Kind, labels: np.ndarray, path: Path) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(kind.classes)))
    if wrong.size:
        raise DataError(
            f"{kind.name}: got label {labels[wrong[0]]} in record {wrong[0]} of {str(path)!r}, expected 0 to "
            f"{len(kind.classes) - 1}, so the file is damaged or of another data set: unpack the archive again."
        )
    return labels


def _class_names(kind: _Kind, folder: Path) -> tuple[str, ...]:
    """The names in the archive's own list; where it is missing the official ones of CIFAR-10, numbers of CIFAR-100."""
    text, pickled = (folder / name for name in kind.names_files)
    if text.is_file():
        path, lines = text, text.read_text(encoding="utf-8", errors="replace").splitlines()
    elif pickled.is_file():
        path, found = pickled, _unpickled(kind, pickled).get(kind.names_key)
        lines = [line.decode("utf-8", "replace") for line in found or () if isinstance(line, bytes)]
    else:
        return kind.classes
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != len(kind.classes):
        raise DataError(
            f"{kind.name}: got {len(names)} class names in {str(path)!r}, expected {len(kind.classes)}, one per line, "
            f"so restore the file or remove it to use the official names."
        )
    return names


def _unpickled(kind: _Kind, path: Path) -> dict[str, Any]:
    try:
        return read_pickle(path)
    except DataError as error:
        raise DataError(f"{kind.name}: {error}") from error


def _numerical(path: Path) -> tuple[int, str]:
    """Sort key that puts data_batch_10 after data_batch_2."""
    number = re.search(r"(\d+)$", path.stem)
    return (int(number[1]) if number else -1), path.name
