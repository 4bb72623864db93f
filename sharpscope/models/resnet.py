"""Residual networks: the three-stage family of the CIFAR experiments, and the four-stage one with either stem.

Source: K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from sharpscope.models._initial import kaiming

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet20", "resnet50", "resnet101"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut (section 3.2, equation 1).

    The shortcut is the identity where shapes agree and otherwise option B of section 3.3: a 1x1 convolution with
    BatchNorm.

    Input (N, fan_in, H, W); output (N, channels, ceil(H / stride), ceil(W / stride)).

    Example:
        >>> import torch
        >>> BasicBlock(16, 32, stride=2)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    expansion = 1  # channels of the output / channels inside

    def __init__(self, fan_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(fan_in, channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """relu(F(inputs) + shortcut(inputs))."""
        inner = relu(self.norm1(self.conv1(inputs)))
        return relu(self.norm2(self.conv2(inner)) + self.shortcut(inputs))


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 with BatchNorm beside a shortcut (figure 5, right); 4 times as many channels out.

    The stride is that of the 3x3 convolution, as torchvision and nearly all since have it; the paper gives it to the
    first one.  The number of parameters is the same.

    Input (N, fan_in, H, W); output (N, 4 channels, ceil(H / stride), ceil(W / stride)).

    Example:
        >>> import torch
        >>> Bottleneck(16, 8, stride=2)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 32, 4, 4])
    """

    expansion = 4

    def __init__(self, fan_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        fan_out = self.expansion * channels
        self.conv1 = nn.Conv2d(fan_in, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, fan_out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(fan_out)
        self.shortcut = _shortcut(fan_in, fan_out, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """relu(F(inputs) + shortcut(inputs))."""
        inner = relu(self.norm2(self.conv2(relu(self.norm1(self.conv1(inputs))))))
        return relu(self.norm3(self.conv3(inner)) + self.shortcut(inputs))


def _shortcut(fan_in: int, fan_out: int, stride: int) -> nn.Module:
    if stride == 1 and fan_in == fan_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))


class ResNet(nn.Module):
    """A stem, stages of blocks, the mean over all positions, and a linear layer.

    From stage to stage the number of channels doubles and the resolution halves.

    Args:
        depths: number of blocks of each stage.
        classes: number of outputs.
        in_channels: channels of the images.
        width: channels of the stem and inside the blocks of the first stage.
        block: ``BasicBlock`` or ``Bottleneck``.
        stem: "cifar" for a 3x3 convolution of stride 1 (section 4.2), "imagenet" for a 7x7 one of stride 2 and a 3x3
            max-pool of stride 2 (table 1).

    Input (N, in_channels, H, W) float; output (N, classes), logits.

    Example:
        >>> import torch
        >>> tiny = ResNet((1, 1), classes=4, in_channels=1, width=4)
        >>> tiny(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        depths: Sequence[int],
        classes: int,
        in_channels: int = 3,
        width: int = 16,
        block: type[BasicBlock | Bottleneck] = BasicBlock,
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"the ResNet got stem={stem!r}, expected 'cifar' or 'imagenet': change stem")
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.stem = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.pool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, padding=1)
        stages: list[nn.Module] = []
        fan_in = width
        for stage, depth in enumerate(depths):
            channels = width * 2**stage
            blocks: list[nn.Module] = []
            for place in range(depth):
                blocks.append(block(fan_in, channels, stride=2 if stage and not place else 1))
                fan_in = block.expansion * channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(fan_in, classes)
        kaiming(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of ``inputs`` (N, in_channels, H, W)."""
        features: Tensor = self.stages(self.pool(relu(self.norm(self.stem(inputs)))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def resnet20(classes: int, in_channels: int = 3, width: int = 16, depth: int = 3) -> ResNet:
    """ResNet-20 for CIFAR (section 4.2, n = 3): three stages of three blocks; 272,474 parameters for 10 classes.

    ``depth`` is n, the blocks of every stage.  Shortcuts that change shape are option B (1x1 convolution with
    BatchNorm).  The paper's CIFAR networks use option A, which has no parameters: 269,722 in all.

    Example:
        >>> sum(p.numel() for p in resnet20(10).parameters())
        272474
    """
    return ResNet((depth,) * 3, classes, in_channels, width)


def resnet18(
    classes: int, in_channels: int = 3, width: int = 64, depth: int | None = None, stem: str = "cifar"
) -> ResNet:
    """ResNet-18 (table 1): four stages of two blocks; 11,173,962 parameters for CIFAR-10, 11,689,512 for ImageNet.

    ``depth`` is another number of blocks for every stage.

    Example:
        >>> sum(p.numel() for p in resnet18(10).parameters())
        11173962
    """
    return ResNet(_depths((2, 2, 2, 2), depth), classes, in_channels, width, BasicBlock, stem)


def resnet50(
    classes: int, in_channels: int = 3, width: int = 64, depth: int | None = None, stem: str = "cifar"
) -> ResNet:
    """ResNet-50 (table 1): stages of 3, 4, 6 and 3 bottlenecks; 23,520,842 parameters for CIFAR-10.

    25,557,032 with ``stem="imagenet"`` and 1,000 classes.  ``depth`` is another number of blocks for every stage.

    Example:
        >>> sum(p.numel() for p in resnet50(10).parameters())
        23520842
    """
    return ResNet(_depths((3, 4, 6, 3), depth), classes, in_channels, width, Bottleneck, stem)


def resnet101(
    classes: int, in_channels: int = 3, width: int = 64, depth: int | None = None, stem: str = "cifar"
) -> ResNet:
    """ResNet-101 (table 1): stages of 3, 4, 23 and 3 bottlenecks; 42,512,970 parameters for CIFAR-10.

    44,549,160 with ``stem="imagenet"`` and 1,000 classes.  ``depth`` is another number of blocks for every stage.

    Example:
        >>> sum(p.numel() for p in resnet101(10, depth=1, width=4).parameters())
        33806
    """
    return ResNet(_depths((3, 4, 23, 3), depth), classes, in_channels, width, Bottleneck, stem)


def _depths(published: Sequence[int], depth: int | None) -> Sequence[int]:
    return published if depth is None else [depth] * len(published)
