"""ImageNet and its like: a folder of image files, too many for the memory, read while the training runs.

Workers decode, crop and flip; each choice is a function of (seed, epoch, image), whatever the number of workers.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sharpscope.core.vectors import generator
from sharpscope.data.augment import resize
from sharpscope.data.batches import batches
from sharpscope.data.errors import DataError

__all__ = ["Folder", "imagenet"]

# Of ImageNet's training images, red, green, blue, in units of full intensity; source: torchvision's reference training.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

_ENDINGS = (".jpeg", ".jpg", ".png")
_REFERENCE = 1024  # images that stand for the training set where a rule or an analysis asks for it in memory
_TEST_BATCH = 128


@dataclass(frozen=True, eq=False, repr=False)
class Folder:
    """Training and test images as files; ``Images`` is the same held in memory.

    Training images are cropped at random, resized and flipped (C. Szegedy et al., Going Deeper with Convolutions, CVPR
    2015, section 6); test images are resized to 256 pixels (for a ``side`` of 224) and cropped at the centre.
    """

    name: str
    train_files: tuple[str, ...]  # in an order that mixes the classes
    train_targets: Tensor  # (N,) int64
    test_files: tuple[str, ...]
    test_targets: Tensor  # (M,) int64
    classes: tuple[str, ...]
    marks: tuple[str, str]  # SHA-256 over names and sizes of the training and of the test files
    side: int = 224  # of the images that a network sees, in pixels
    workers: int = 0  # processes that decode; never a choice of the result
    device: torch.device = torch.device("cpu")

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of training and test images."""
        return len(self.train_files), len(self.test_files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, side, side)."""
        return 3, self.side, self.side

    def to(self, device: torch.device | str) -> Folder:
        """The same images, delivered on ``device``."""
        return replace(self, device=torch.device(device))

    def resize(self, side: int) -> Folder:
        """The same images with ``side`` x ``side`` pixels."""
        return replace(self, side=side)

    def limit(self, train: int | None = None, test: int | str | None = None) -> Folder:
        """The first ``train`` training and ``test`` test images; None keeps all, "rest" is for sets in memory.

        Raises:
            DataError: a limit below 1 or above the number of images there are.
        """
        for part, wanted, found in zip(("train", "test"), (train, test), self.sizes, strict=True):
            if wanted is not None and not (isinstance(wanted, int) and 1 <= wanted <= found):
                raise DataError(
                    f"{self.name}: got a limit of {wanted} {part} images, expected 1 to {found}, "
                    f"so choose {part}= in that range or leave it out to use all."
                )
        first, second = (None if wanted is None else int(wanted) for wanted in (train, test))
        return replace(
            self,
            train_files=self.train_files[:first],
            train_targets=self.train_targets[:first],
            test_files=self.test_files[:second],
            test_targets=self.test_targets[:second],
        )

    def reference(self, count: int | None = None) -> tuple[Tensor, Tensor]:
        """The first ``count`` training images as test images are seen, in memory; 1,024 of them by default."""
        rows = torch.arange(min(self.sizes[0], _REFERENCE if count is None else count))
        return self._delivered(_Views(self, self.train_files, self.train_targets, _centre)[rows])

    def feed(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled, augmented training batches, a function of (seed, epoch).

        Raises:
            DataError: an image that cannot be decoded, named.
        """
        augment = functools.partial(_crop_at_random, seed=seed, epoch=epoch)
        views = _Views(self, self.train_files, self.train_targets, augment)
        return self._loaded(views, list(batches(self.sizes[0], batch_size, seed, epoch)))

    def tests(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images in batches, in their order.  Raises DataError as ``feed`` does."""
        views = _Views(self, self.test_files, self.test_targets, _centre)
        return self._loaded(views, torch.arange(self.sizes[1]).split(_TEST_BATCH))

    def _loaded(self, views: _Views, rows: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        pinned = self.device.type == "cuda"
        loader: DataLoader[_Batch] = DataLoader(
            views,
            batch_size=None,
            sampler=rows,  # each item is a batch
            num_workers=min(self.workers, len(rows)),
            generator=torch.Generator(),  # of the workers' seeds, which nothing here looks at
            pin_memory=pinned,
        )
        return (self._delivered(batch) for batch in loader)

    def _delivered(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        if isinstance(batch, DataError):
            raise batch
        return batch[0].to(self.device, non_blocking=True), batch[1].to(self.device, non_blocking=True)

    def digest(self) -> str:
        """SHA-256 (64 hex digits) over names and sizes of the files and the number of images in use."""
        return hashlib.sha256(" ".join([*self.marks, *map(str, self.sizes), str(self.side)]).encode()).hexdigest()

    def __repr__(self) -> str:
        """One line."""
        train, test = self.sizes
        return (
            f"Folder({self.name!r}, {train} training and {test} test images of shape {self.shape}, "
            f"{len(self.classes)} classes)"
        )


def imagenet(root: str | Path, workers: int | None = None) -> Folder:
    """An image folder in ImageNet's arrangement: ``root/train/<class>/<image>`` and ``root/val/<class>/<image>``.

    Source: O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.  Any number of classes
    and of ``.jpeg``, ``.jpg`` and ``.png`` files.  Decoded by torchvision where it is installed, else by Pillow; the
    two may differ in the last bits of a pixel.

    Args:
        root: the folder that has ``train`` and ``val``.
        workers: processes that decode; by default one for every processor core but one, at most 16.

    Raises:
        DataError: a folder is missing or empty, or the classes of the two parts differ.

    Example:
        >>> imagenet("imagenet").shape  # doctest: +SKIP
        (3, 224, 224)
    """
    base = Path(root).expanduser()
    names, files, targets, marks = [], [], [], []
    for part in ("train", "val"):
        if not (base / part).is_dir():
            raise DataError(
                f"imagenet: got no folder {part!r} in {str(base)!r}, expected {part}/<class>/<image>, so correct "
                f"--root or arrange the images like that."
            )
        classes = sorted(entry.name for entry in os.scandir(base / part) if entry.is_dir())
        found, mark = _scan(base / part, classes)
        order = torch.randperm(len(found), generator=generator("imagenet", part)).tolist()
        names.append(classes)
        files.append(tuple(found[row][0] for row in order))
        targets.append(torch.tensor([found[row][1] for row in order]))
        marks.append(mark)
    if names[0] != names[1]:
        one = sorted(set(names[0]) ^ set(names[1]))[0]
        raise DataError(
            f"imagenet: got class {one!r} in only one of train and val of {str(base)!r}, expected the same classes in "
            f"both, so complete the folders (the validation images must be sorted into classes)."
        )
    if workers is None:
        workers = min(16, _cores() - 1)
    return Folder(
        "imagenet", files[0], targets[0], files[1], targets[1], tuple(names[0]), (marks[0], marks[1]), workers=workers
    )


def _cores() -> int:
    """Those that this process may use: a scheduler's job has fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _scan(folder: Path, classes: Sequence[str]) -> tuple[list[tuple[str, int]], str]:
    """(file, class number) of all images, sorted, and a SHA-256 over their names and sizes."""
    found, sha = [], hashlib.sha256()
    for number, name in enumerate(classes):
        for entry in sorted(os.scandir(folder / name), key=lambda entry: entry.name):
            if entry.name.lower().endswith(_ENDINGS):
                found.append((entry.path, number))
                sha.update(f"{name}/{entry.name} {entry.stat().st_size}\n".encode(errors="replace"))
    if not found:
        raise DataError(
            f"imagenet: got no image in {str(folder)!r}, expected <class>/<image> with an ending of "
            f"{', '.join(_ENDINGS)}, so unpack the archive there."
        )
    return found, sha.hexdigest()


_Batch = tuple[Tensor, Tensor] | DataError


class _Views(Dataset[_Batch]):
    """Batches by their row numbers; what goes wrong is handed over, because a worker's exception loses its form."""

    def __init__(
        self, folder: Folder, files: Sequence[str], targets: Tensor, view: Callable[[Tensor, int, int], Tensor]
    ) -> None:
        self.name, self.side, self.files, self.targets, self.view = folder.name, folder.side, files, targets, view

    def __getitem__(self, rows: Tensor) -> _Batch:
        mean, deviation = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (MEAN, DEVIATION))
        try:
            seen = [self.view(_decode(self.files[row]).float(), self.side, row) for row in rows.tolist()]
        except _Undecodable as error:
            return DataError(
                f"{self.name}: got {error} on decoding an image, expected a whole JPEG or PNG file, so restore or "
                f"remove it."
            )
        return torch.stack(seen).div_(255).sub_(mean).div_(deviation), self.targets[rows]


def _crop_at_random(image: Tensor, side: int, row: int, seed: int, epoch: int) -> Tensor:
    """A part of 8 to 100 % of the area with a ratio of 3/4 to 4/3, resized, mirrored with probability 1/2."""
    random = generator("view", seed, epoch, row)
    height, width = image.shape[1:]
    for _ in range(10):
        share, ratio, down, right = torch.rand(4, generator=random, dtype=torch.float64).tolist()
        area, aspect = height * width * (0.08 + 0.92 * share), (3 / 4) ** (1 - 2 * ratio)
        high, wide = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < high <= height and 0 < wide <= width:
            top, left = int(down * (height - high + 1)), int(right * (width - wide + 1))
            break
    else:
        high = wide = min(height, width)
        top, left = (height - high) // 2, (width - wide) // 2
    part = resize(image[None, :, top : top + high, left : left + wide], side)[0]
    return part.flip(2) if float(torch.rand((), generator=random)) < 0.5 else part


def _centre(image: Tensor, side: int, row: int) -> Tensor:
    """The shorter side resized to 256 / 224 of ``side``, and the centre of that."""
    height, width = image.shape[1:]
    scale = round(side * 256 / 224) / min(height, width)
    image = resize(image[None], (max(side, round(height * scale)), max(side, round(width * scale))))[0]
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    return image[:, top : top + side, left : left + side]


class _Undecodable(Exception):
    """A file that is no image."""


def _decode(path: str) -> Tensor:
    """(3, H, W) uint8."""
    try:
        return _decoder()(path)
    except Exception as error:  # decoders raise whatever they like
        reason = str(error).split("\n")[0]
        raise _Undecodable(f"{type(error).__name__} ({reason}) for {path!r}") from error


@functools.cache
def _decoder() -> Callable[[str], Tensor]:
    """Torchvision's where it is installed and works, else Pillow's."""
    try:
        from torchvision.io import ImageReadMode, decode_image
    except (ImportError, RuntimeError, OSError):  # it must have been built for this very torch
        return _pillow
    return lambda path: decode_image(path, ImageReadMode.RGB)


def _pillow(path: str) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
