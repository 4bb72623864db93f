"""A labelled set of images held whole in memory.

Curvature and loss surfaces are questions about one fixed function, so the data are plain tensors: no workers, no
transforms that run while reading, and a digest that says which numbers a result was computed from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpscope.core.vectors import generator
from sharpscope.data.augment import crop_and_flip, resize
from sharpscope.data.batches import batches
from sharpscope.data.errors import DataError

__all__ = ["DataError", "Images"]

_TENSORS = ("train_inputs", "train_targets", "test_inputs", "test_targets")


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Training and test images with their labels.

    Inputs are normalised, hence without unit: zero is the mean of a channel, one its standard deviation.

    Raises:
        DataError: shapes, dtypes or labels do not fit together.

    Example:
        >>> images = Images("toy", torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 1, 0]),
        ...                 torch.zeros(2, 1, 2, 2), torch.tensor([1, 0]), classes=("cat", "dog"))
        >>> images
        Images('toy', 4 training and 2 test images of shape (1, 2, 2), 2 classes)
        >>> inputs, targets = images.limit(train=3).train
        >>> inputs.shape, targets.tolist()
        (torch.Size([3, 1, 2, 2]), [0, 1, 1])
    """

    name: str
    train_inputs: Tensor  # (N, C, H, W) float32, normalised
    train_targets: Tensor  # (N,) int64, in [0, len(classes))
    test_inputs: Tensor  # (M, C, H, W) float32, normalised as the training inputs are
    test_targets: Tensor  # (M,) int64
    classes: tuple[str, ...]
    augment: bool = False  # whether random crops and flips keep the meaning of these images
    pad: int = 0  # pixels of zero padding before a random crop

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _check_part(self.name, "train", self.train_inputs, self.train_targets, len(self.classes))
        _check_part(self.name, "test", self.test_inputs, self.test_targets, len(self.classes))
        if self.train_inputs.shape[1:] != self.test_inputs.shape[1:]:
            raise DataError(
                f"{self.name}: got training images of shape {self.shape} and test images of shape "
                f"{tuple(self.test_inputs.shape[1:])}, expected one shape, so read both parts from the same data set."
            )

    @property
    def train(self) -> tuple[Tensor, Tensor]:
        """Training inputs (N, C, H, W) and targets (N,)."""
        return self.train_inputs, self.train_targets

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """Test inputs (M, C, H, W) and targets (M,)."""
        return self.test_inputs, self.test_targets

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of training and test images."""
        return len(self.train_targets), len(self.test_targets)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train_inputs.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> Images:
        """The same images with all four tensors on ``device``."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def feed(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of shuffled training batches, cropped and flipped where that suits the images.

        A function of (seed, epoch): the order of the epoch, the augmentation of the step since the start.
        """
        inputs, targets = self.train
        first = epoch * -(-len(targets) // batch_size)
        for step, rows in enumerate(batches(len(targets), batch_size, seed, epoch), first):
            x = inputs[rows]
            yield crop_and_flip(x, generator("augment", seed, step), self.pad) if self.augment else x, targets[rows]

    def reference(self, count: int | None = None) -> tuple[Tensor, Tensor]:
        """The first ``count`` training images and targets, not augmented; all by default."""
        return self.train_inputs[:count], self.train_targets[:count]

    def tests(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images, in one piece."""
        yield self.test

    def resize(self, side: int) -> Images:
        """The same images with ``side`` x ``side`` pixels."""
        return replace(self, train_inputs=resize(self.train_inputs, side), test_inputs=resize(self.test_inputs, side))

    def limit(self, train: int | None = None, test: int | str | None = None) -> Images:
        """The first ``train`` training and ``test`` test images, copied so that the rest can be freed; None keeps all.

        ``test="rest"`` tests on all images that are not trained on: a small experiment has small error bars then.  The
        normalisation stays that of the whole training part.

        Raises:
            DataError: a limit below 1 or above the number of images there are.
        """
        if test == "rest":
            few = self.limit(train)
            kept = len(few.train_targets)
            inputs = torch.cat([self.test_inputs, self.train_inputs[kept:]])
            return replace(
                few, test_inputs=inputs, test_targets=torch.cat([self.test_targets, self.train_targets[kept:]])
            )
        parts: dict[str, Tensor] = {}
        for part, wanted in (("train", train), ("test", test)):
            if wanted is None:
                continue
            inputs, targets = getattr(self, part)
            if not isinstance(wanted, int) or not 1 <= wanted <= len(targets):
                raise DataError(
                    f"{self.name}: got a limit of {wanted} {part} images, expected 1 to {len(targets)}, "
                    f"so choose {part}= in that range or leave it out to use all."
                )
            parts[f"{part}_inputs"], parts[f"{part}_targets"] = inputs[:wanted].clone(), targets[:wanted].clone()
        return replace(self, **parts)  # type: ignore[arg-type]

    def digest(self) -> str:
        """SHA-256 (64 hex digits) over names, dtypes, shapes and bytes of the four tensors; the same on any device."""
        sha = hashlib.sha256()
        for name in _TENSORS:
            array = getattr(self, name).detach().cpu().contiguous().numpy()
            sha.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
            sha.update(memoryview(array).cast("B"))
        return sha.hexdigest()

    def __repr__(self) -> str:
        """One line, without the numbers."""
        return (
            f"Images({self.name!r}, {len(self.train_targets)} training and {len(self.test_targets)} test images "
            f"of shape {self.shape}, {len(self.classes)} classes)"
        )


def _check_part(name: str, part: str, inputs: Tensor, targets: Tensor, classes: int) -> None:
    """Refuse a part whose inputs and targets do not belong together."""
    if inputs.ndim != 4 or inputs.dtype != torch.float32 or inputs.numel() == 0:
        raise DataError(
            f"{name}: got {part} inputs of shape {tuple(inputs.shape)} and {inputs.dtype}, expected a non-empty "
            f"(N, C, H, W) tensor of torch.float32, so reshape and convert them first."
        )
    if targets.shape != inputs.shape[:1] or targets.dtype != torch.int64:
        raise DataError(
            f"{name}: got {part} targets of shape {tuple(targets.shape)} and {targets.dtype}, expected "
            f"({len(inputs)},) and torch.int64, so give one class index per image."
        )
    if targets.is_meta:  # no values to look at
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{name}: got {part} targets from {low} to {high}, expected 0 to {classes - 1} for {classes} classes, "
            f"so number the classes from zero and name each of them."
        )
