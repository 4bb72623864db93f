"""VGG networks with BatchNorm, in the form that both papers' code uses for 32x32 images.

Source: K. Simonyan and A. Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
table 1 (configurations A and D), with BatchNorm after every convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["VGG", "vgg11_bn", "vgg16_bn"]


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each ended by a 2x2 max-pool, and three linear layers with dropout.

    After five poolings a 32x32 image is one position, so the first linear layer has 8 ``width`` inputs; of larger
    images the mean over positions is taken.  Initial weights are PyTorch's own, as in the code of Sparse SAM.

    Args:
        depths: convolutions of each stage.
        classes: number of outputs.
        in_channels: channels of the images.
        width: channels of the first stage; the stages have 1, 2, 4, 8 and 8 times as many, the hidden linear layers 64.

    Input (N, in_channels, H, W) float; output (N, classes), logits.

    Example:
        >>> import torch
        >>> VGG((1, 1, 1, 1, 1), classes=4, width=2)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 4])
    """

    def __init__(self, depths: Sequence[int], classes: int, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        fan_in = in_channels
        for stage, depth in enumerate(depths):
            for _ in range(depth):
                channels = width * min(2**stage, 8)
                layers += [nn.Conv2d(fan_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                fan_in = channels
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # rounds up, so that small images survive five of them
        self.features = nn.Sequential(*layers)
        hidden = 64 * width
        self.head = nn.Sequential(
            nn.Linear(fan_in, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of ``inputs`` (N, in_channels, H, W)."""
        logits: Tensor = self.head(self.features(inputs).mean(dim=(2, 3)))
        return logits


def vgg11_bn(classes: int, in_channels: int = 3, width: int = 64, depth: int | None = None) -> VGG:
    """VGG11-BN (configuration A); 28,149,514 parameters for 10 classes, 28.5 M for 100.

    ``depth`` is another number of convolutions for every stage.

    Example:
        >>> sum(p.numel() for p in vgg11_bn(10, width=4).parameters())
        113434
    """
    return VGG((1, 1, 2, 2, 2) if depth is None else (depth,) * 5, classes, in_channels, width)


def vgg16_bn(classes: int, in_channels: int = 3, width: int = 64, depth: int | None = None) -> VGG:
    """VGG16-BN (configuration D); 33,646,666 parameters for 10 classes, 34.0 M for 100.

    ``depth`` is another number of convolutions for every stage.

    Example:
        >>> sum(p.numel() for p in vgg16_bn(10, width=4).parameters())
        135166
    """
    return VGG((2, 2, 3, 3, 3) if depth is None else (depth,) * 5, classes, in_channels, width)
