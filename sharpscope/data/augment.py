"""Augmentation of whole batches on tensors; every random choice comes from the generator that is given."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharpscope.data.errors import DataError

__all__ = ["crop_and_flip", "cutout", "mixup", "resize"]


def crop_and_flip(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Zero-pad ``images`` by ``pad`` pixels, crop each at random to its old size, and mirror it with probability 1/2.

    The usual augmentation for CIFAR (He et al. 2016, section 4.2), on normalised images: the border is the mean colour
    and not black.  Per image the row offset, the column offset (both 0 .. 2 pad) and the flip are drawn independently
    from ``generator`` on its own device, so that a CPU generator gives the same crops wherever the images are.

    Args:
        images: (N, C, H, W), any dtype and device.
        generator: the only source of random numbers; see ``sharpscope.core.vectors.generator``.
        pad: pixels on each side, at least 0.

    Returns:
        A new tensor (N, C, H, W) with dtype and device of ``images``.

    Raises:
        DataError: ``images`` is not four-dimensional or ``pad`` is negative.

    Example:
        >>> crop_and_flip(torch.ones(2, 3, 32, 32), torch.Generator().manual_seed(0), pad=4).shape
        torch.Size([2, 3, 32, 32])
    """
    if images.ndim != 4 or pad < 0:
        raise DataError(
            f"got images of shape {tuple(images.shape)} and pad={pad}, expected shape (N, C, H, W) and pad >= 0, "
            f"so add the missing dimensions or raise pad."
        )
    count, channels, height, width = images.shape
    offsets = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator, device=generator.device)
    flips = torch.randint(0, 2, (count, 1), generator=generator, device=generator.device, dtype=torch.bool)
    columns = torch.arange(width, device=generator.device)
    rows = offsets[0] + torch.arange(height, device=generator.device)  # (N, H), in the padded image
    columns = offsets[1] + torch.where(flips, columns.flip(0), columns)  # (N, W)
    flat = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).view(count, 1, height * width)
    padded = F.pad(images, (pad, pad, pad, pad)).flatten(2)
    return padded.gather(2, flat.to(images.device).expand(-1, channels, -1)).view(images.shape)


def cutout(images: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Set a square of every image to 0, the mean colour of normalised images.

    The centre is any pixel with equal probability, so that a square may reach beyond the border (T. DeVries and
    G. W. Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017, section 3.2).

    Args:
        images: (N, C, H, W), any dtype and device.
        generator: the only source of random numbers.
        side: of the square in pixels, at least 1.

    Example:
        >>> cut = cutout(torch.ones(2, 3, 32, 32), torch.Generator().manual_seed(0), side=4)
        >>> (32 * 32 - cut[:, 0].sum(dim=(1, 2))).tolist()  # the second lies half beyond the border
        [16.0, 8.0]
    """
    if images.ndim != 4 or side < 1:
        raise DataError(
            f"got images of shape {tuple(images.shape)} and side={side}, expected shape (N, C, H, W) and side >= 1, "
            f"so add the missing dimensions or raise side."
        )
    hidden = []
    for extent in images.shape[2:]:
        start = torch.randint(0, extent, (len(images), 1), generator=generator, device=generator.device) - side // 2
        place = torch.arange(extent, device=generator.device)
        hidden.append((start <= place) & (place < start + side))
    square = hidden[0][:, None, :, None] & hidden[1][:, None, None, :]
    return images.masked_fill(square.to(images.device), 0)


def mixup(
    images: Tensor, targets: Tensor, generator: torch.Generator, alpha: float, classes: int
) -> tuple[Tensor, Tensor]:
    """Blend every image and its target with those of another of the batch.

    One share lambda for the batch, from Beta(alpha, alpha), and one permutation of it (H. Zhang et al., mixup: Beyond
    Empirical Risk Minimization, ICLR 2018, section 2 and figure 1a).

    Args:
        images: (N, C, H, W) float.
        targets: (N,) int64.
        generator: the only source of random numbers.
        alpha: above 0.
        classes: of the targets.

    Returns:
        Images (N, C, H, W), and targets (N, classes) that are probabilities.

    Example:
        >>> _, targets = mixup(torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 0]), torch.Generator().manual_seed(0),
        ...                    alpha=1.0, classes=3)
        >>> targets.shape, [round(float(row.sum()), 4) for row in targets]
        (torch.Size([4, 3]), [1.0, 1.0, 1.0, 1.0])
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))  # torch's Beta draws from the global generator
    other = torch.randperm(len(images), generator=generator).to(images.device)
    sure = F.one_hot(targets, classes).to(images.dtype)
    return torch.lerp(images[other], images, share), torch.lerp(sure[other], sure, share)


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """(N, C, H, W) float images with ``size`` pixels, a side or (height, width); bilinear, smoothed where they shrink.

    Example:
        >>> resize(torch.ones(2, 3, 32, 32), 64).shape
        torch.Size([2, 3, 64, 64])
    """
    size = (size, size) if isinstance(size, int) else size
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
