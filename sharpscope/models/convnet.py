"""A small convolutional network for small images: large enough to have a curvature, small enough for a laptop."""

from __future__ import annotations

from torch import Tensor, nn

from sharpscope.models._initial import kaiming

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Three convolutions with BatchNorm and ReLU, the mean over all positions, and a linear layer.

    The convolutions are 3x3 with ``width``, 2 and 4 times ``width`` channels and strides 1, 2 and 2.  24,058 parameters
    for one channel and ten classes.  No in-place operation, so that ``torch.func`` can trace it.

    Input (N, in_channels, H, W) float, any H and W; output (N, classes), logits.

    Example:
        >>> import torch
        >>> ConvNet(in_channels=1, classes=10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_layer(in_channels, width, stride=1),
            *_layer(width, 2 * width, stride=2),
            *_layer(2 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(4 * width, classes)
        kaiming(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of ``inputs`` (N, in_channels, H, W)."""
        features: Tensor = self.features(inputs)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def _layer(fan_in: int, fan_out: int, stride: int) -> tuple[nn.Module, ...]:
    """Convolution without bias (the BatchNorm has one), BatchNorm, ReLU."""
    return nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU()
