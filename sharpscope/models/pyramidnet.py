"""Pyramidal residual networks, whose number of channels grows a little in every block.

Source: D. Han, J. Kim, J. Kim, Deep Pyramidal Residual Networks, CVPR 2017, additive form with bottlenecks.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, relu

from sharpscope.models._initial import kaiming

__all__ = ["PyramidBlock", "PyramidNet"]


class PyramidBlock(nn.Module):
    """BatchNorm, 1x1; BatchNorm, ReLU, 3x3; BatchNorm, ReLU, 1x1; BatchNorm (figure 6d), beside a shortcut.

    The shortcut has no parameters: the mean over ``stride`` x ``stride`` pixels, and zeros for the new channels.

    Input (N, fan_in, H, W) with H and W multiples of ``stride``; output (N, 4 channels, H / stride, W / stride).

    Example:
        >>> import torch
        >>> PyramidBlock(16, 5, stride=2)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 20, 4, 4])
    """

    expansion = 4

    def __init__(self, fan_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        fan_out = self.expansion * channels
        self.stride, self.grown = stride, fan_out - fan_in
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, fan_out, 1, bias=False)
        self.norm4 = nn.BatchNorm2d(fan_out)

    def forward(self, inputs: Tensor) -> Tensor:
        """F(inputs) + shortcut(inputs); no ReLU after the sum."""
        inner = relu(self.norm2(self.conv1(self.norm1(inputs))))
        inner = self.norm4(self.conv3(relu(self.norm3(self.conv2(inner)))))
        shortcut = avg_pool2d(inputs, self.stride) if self.stride > 1 else inputs
        summed: Tensor = inner + pad(shortcut, (0, 0, 0, 0, 0, self.grown))
        return summed


class PyramidNet(nn.Module):
    """A 3x3 stem, three stages of ``PyramidBlock``, BatchNorm, ReLU, mean over positions, linear.

    The defaults are PyramidNet-164 with alpha 270: 27.0 M parameters for 10 classes (table 4).  Randomized
    Sharpness-Aware Training names 164 layers without an alpha; 270 is the alpha of 164 layers in the source's tables,
    and one of the two (48, 270) in its authors' code.

    Args:
        classes: number of outputs.
        in_channels: channels of the images.
        width: channels of the stem.
        depth: blocks of every stage; 9 depth + 2 layers in all.
        alpha: channels by which the blocks widen from first to last, in equal shares, rounded (equation 2).

    Input (N, in_channels, H, W) float, H and W multiples of 4; output (N, classes), logits.

    Example:
        >>> import torch
        >>> PyramidNet(classes=4, width=4, depth=1, alpha=6)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, classes: int, in_channels: int = 3, width: int = 16, depth: int = 18, alpha: int = 270) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        fan_in = width
        for place in range(3 * depth):
            channels = round(width + alpha * (place + 1) / (3 * depth))
            blocks.append(PyramidBlock(fan_in, channels, stride=2 if place in (depth, 2 * depth) else 1))
            fan_in = PyramidBlock.expansion * channels
        self.blocks = nn.Sequential(*blocks)
        self.norm2 = nn.BatchNorm2d(fan_in)
        self.head = nn.Linear(fan_in, classes)
        kaiming(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of ``inputs`` (N, in_channels, H, W)."""
        features = relu(self.norm2(self.blocks(self.norm1(self.stem(inputs)))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
