"""Initial weights that all networks here share."""

from __future__ import annotations

from torch import nn

__all__ = ["kaiming"]


def kaiming(model: nn.Module) -> None:
    """Fill convolutions with N(0, 2 / fan_out), BatchNorm with weight 1 and bias 0, in place, from the global RNG.

    Linear layers keep PyTorch's uniform default.  Source: K. He et al., Delving Deep into Rectifiers, ICCV 2015,
    section 2.2, backward form.

    Example:
        >>> kaiming(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
