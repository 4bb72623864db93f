"""Wide residual networks with pre-activation.

Source: S. Zagoruyko and N. Komodakis, Wide Residual Networks, BMVC 2016; no dropout, as in its CIFAR tables.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from sharpscope.models._initial import kaiming

__all__ = ["WideBlock", "WideResNet"]


class WideBlock(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, beside a shortcut (figure 1c).

    The shortcut is the identity, or a 1x1 convolution of the first activation where shapes differ.

    Input (N, fan_in, H, W); output (N, fan_out, ceil(H / stride), ceil(W / stride)).

    Example:
        >>> import torch
        >>> WideBlock(4, 8, stride=2)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        same = stride == 1 and fan_in == fan_out
        self.shortcut = None if same else nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """F(inputs) + shortcut."""
        active = relu(self.norm1(inputs))
        outputs: Tensor = self.conv2(relu(self.norm2(self.conv1(active))))
        return outputs + (inputs if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """A 3x3 stem of 16 channels, three stages of ``WideBlock``, BatchNorm, ReLU, mean over positions, linear (table 1).

    The defaults are WRN-28-10: 28 layers, ten times as wide, 36,479,194 parameters for 10 classes.

    Args:
        classes: number of outputs.
        in_channels: channels of the images.
        width: channels of the first stage, 16 times the widening factor; the stages have 1, 2 and 4 times as many.
        depth: blocks of every stage; 6 depth + 4 layers in all.

    Input (N, in_channels, H, W) float; output (N, classes), logits.

    Example:
        >>> import torch
        >>> WideResNet(classes=4, width=8, depth=1)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, classes: int, in_channels: int = 3, width: int = 160, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        fan_in = 16
        for stage in range(3):
            for place in range(depth):
                blocks.append(WideBlock(fan_in, width * 2**stage, stride=2 if stage and not place else 1))
                fan_in = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(fan_in)
        self.head = nn.Linear(fan_in, classes)
        kaiming(self)
        nn.init.zeros_(self.head.bias)  # as in the authors' code

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of ``inputs`` (N, in_channels, H, W)."""
        features = relu(self.norm(self.blocks(self.stem(inputs))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
