"""The handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

import numpy as np
import torch

from sharpscope.data.errors import DataError
from sharpscope.data.images import Images

__all__ = ["digits"]


def digits(seed: int = 0) -> Images:
    """1,797 grey 8x8 digits, split into 1,437 for training and 360 for testing with equal shares of each class.

    The pixel counts 0 .. 16 are divided by 16 and standardised with mean and standard deviation of all training pixels
    together (many single pixels never vary).  Both come from integer sums, so the digest is the same on any machine.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
    (its test part, as ``sklearn.datasets.load_digits`` ships it).

    Args:
        seed: of the split, 0 .. 2**32 - 1.

    Returns:
        Images of shape (1, 8, 8), not to be flipped or cropped: ``augment`` is False.

    Raises:
        DataError: a seed outside its range.

    Example:
        >>> digits()
        Images('digits', 1437 training and 360 test images of shape (1, 8, 8), 10 classes)
    """
    if not 0 <= seed < 2**32:
        raise DataError(f"digits: got seed {seed}, expected 0 to {2**32 - 1}, so choose a seed in that range.")

    # Imported here because scikit-learn takes about a second, which other data sets need not pay.
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped,unused-ignore]

    bunch = load_digits()
    pixels, labels = bunch.images.astype(np.int64), bunch.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=seed, stratify=labels)

    count, total, squares = pixels[train].size, int(pixels[train].sum()), int((pixels[train] ** 2).sum())
    mean = total / count / 16
    deviation = (squares * count - total * total) ** 0.5 / count / 16
    inputs = torch.from_numpy(((pixels / 16 - mean) / deviation).astype(np.float32))[:, None]
    targets = torch.from_numpy(labels)
    return Images(
        name="digits",
        train_inputs=inputs[train],
        train_targets=targets[train],
        test_inputs=inputs[test],
        test_targets=targets[test],
        classes=tuple(str(name) for name in bunch.target_names),
    )
