"""Random batches and augmentation, as functions of (seed, epoch).

Nothing here touches the global random state, so a resumed training sees the batches that the straight one saw, and an
analysis in between changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpscope.data.images import DataError
from sharpscope.vectors import generator as seeded

__all__ = ["batches", "crop_and_flip"]


def batches(count: int, batch_size: int, seed: int, epoch: int, drop_last: bool = False) -> Iterator[Tensor]:
    """One epoch of shuffled batches: index tensors (batch_size,) int64 on the CPU that together permute range(count).

    The permutation is a function of ``(seed, epoch)`` and ``count`` alone; ``batch_size`` only cuts it.  The last batch
    may be smaller; ``drop_last`` leaves a smaller one out.

    Raises:
        DataError: ``count`` or ``batch_size`` below 1, or ``drop_last`` with fewer than ``batch_size`` images.

    Example:
        >>> [len(index) for index in batches(10, 4, seed=0, epoch=0)]
        [4, 4, 2]
        >>> sorted(torch.cat(list(batches(10, 4, seed=0, epoch=0))).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    if count < 1 or batch_size < 1:
        raise DataError(
            f"got count={count} and batch_size={batch_size}, expected both at least 1, so give batches some images."
        )
    if drop_last and count < batch_size:
        raise DataError(
            f"got {count} images for batches of {batch_size} with drop_last, expected at least one full batch, "
            f"so lower batch_size to {count} or keep the last batch."
        )
    order = torch.randperm(count, generator=seeded("batches", seed, epoch))
    stop = count - count % batch_size if drop_last else count
    return (order[start : start + batch_size] for start in range(0, stop, batch_size))


def crop_and_flip(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Zero-pad ``images`` by ``pad`` pixels, crop each at random to its old size, and mirror it with probability 1/2.

    The usual augmentation for CIFAR (He et al. 2016, section 4.2), on normalised images: the border is the mean colour
    and not black.  Per image the row offset, the column offset (both 0 .. 2 pad) and the flip are drawn independently
    from ``generator`` on its own device, so that a CPU generator gives the same crops wherever the images are.

    Args:
        images: (N, C, H, W), any dtype and device.
        generator: the only source of random numbers; see ``sharpscope.vectors.generator``.
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
