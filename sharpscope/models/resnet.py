"""Residual networks for 32x32 images: the three-stage family of the CIFAR experiments, and ResNet-18 with a small stem.

Source: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from sharpscope.models.initial import kaiming

__all__ = ["BasicBlock", "ResNet", "resnet18", "resnet20"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut (section 3.2, equation 1).

    The shortcut is the identity where shapes agree and otherwise option B of section 3.3: a 1x1 convolution with
    BatchNorm.

    Input (N, fan_in, H, W); output (N, fan_out, ceil(H / stride), ceil(W / stride)).

    Example:
        >>> import torch
        >>> BasicBlock(16, 32, stride=2)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            projection = nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(fan_out))

    def forward(self, inputs: Tensor) -> Tensor:
        """relu(F(inputs) + shortcut(inputs))."""
        inner = relu(self.norm1(self.conv1(inputs)))
        return relu(self.norm2(self.conv2(inner)) + self.shortcut(inputs))


class ResNet(nn.Module):
    """A 3x3 stem, stages of ``BasicBlock``, the mean over all positions, and a linear layer.

    From stage to stage the number of channels doubles and the resolution halves.

    Args:
        depths: number of blocks of each stage; the network has 2 sum(depths) + 2 layers with weights.
        classes: number of outputs.
        in_channels: channels of the images.
        width: channels of the stem and of the first stage.

    Input (N, in_channels, H, W) float; output (N, classes), logits.

    Example:
        >>> import torch
        >>> tiny = ResNet((1, 1), classes=4, in_channels=1, width=4)
        >>> tiny(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, depths: Sequence[int], classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        channels = width
        for stage, depth in enumerate(depths):
            fan_out = width * 2**stage
            blocks = [BasicBlock(channels, fan_out, stride=1 if stage == 0 else 2)]
            blocks += [BasicBlock(fan_out, fan_out) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = fan_out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, classes)
        kaiming(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of ``inputs`` (N, in_channels, H, W)."""
        features: Tensor = self.stages(relu(self.norm(self.stem(inputs))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def resnet20(classes: int, in_channels: int = 3, width: int = 16) -> ResNet:
    """ResNet-20 for CIFAR (section 4.2, n = 3): three stages of three blocks; 272,474 parameters for 10 classes.

    Shortcuts that change shape are option B (1x1 convolution with BatchNorm).  The paper's CIFAR networks use option A,
    which has no parameters: 269,722 in all.

    Example:
        >>> sum(p.numel() for p in resnet20(10).parameters())
        272474
    """
    return ResNet((3, 3, 3), classes, in_channels, width)


def resnet18(classes: int, in_channels: int = 3, width: int = 64) -> ResNet:
    """ResNet-18 (table 1) for small images: 3x3 stem of stride 1, no max-pool; 11,173,962 parameters for 10 classes.

    Example:
        >>> sum(p.numel() for p in resnet18(10).parameters())
        11173962
    """
    return ResNet((2, 2, 2, 2), classes, in_channels, width)
