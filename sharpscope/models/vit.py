"""Vision transformers.

Source: A. Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021; the Ti and S sizes are those of H. Touvron et
al., Training Data-Efficient Image Transformers, ICML 2021.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["VisionTransformer", "vit_b", "vit_s", "vit_ti"]


class _Attention(nn.Module):
    """Multi-head self-attention: (N, tokens, width) -> the same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        count, tokens, width = inputs.shape
        parts = self.qkv(inputs).view(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        outputs: Tensor = self.out(mixed.transpose(1, 2).reshape(count, tokens, width))
        return outputs


class _Block(nn.Module):
    """LayerNorm, attention; LayerNorm, MLP; each beside the identity (equations 2 and 3)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = _Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs + self.drop(self.attention(self.norm1(inputs)))
        summed: Tensor = inputs + self.drop(self.narrow(self.drop(F.gelu(self.widen(self.norm2(inputs))))))
        return summed


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token, position embeddings, pre-norm transformer blocks, a linear head (section 3.1).

    Initial weights are those of the authors' code: Glorot-uniform linear layers, LeCun-normal patches, position
    embeddings N(0, 0.02^2), biases of the MLP N(0, 1e-12), class token, other biases and the head 0.

    Args:
        classes: number of outputs.
        in_channels: channels of the images.
        size: (H, W) of the images, multiples of ``patch``.
        patch: side of a patch in pixels.
        width: length of a token, a multiple of ``heads``.
        depth: number of blocks.
        heads: of the attention.
        dropout: after embedding, attention weights, attention, and both layers of the MLP.

    Input (N, in_channels, H, W) float; output (N, classes), logits.

    Raises ValueError for sizes that do not divide.

    Example:
        >>> VisionTransformer(4, size=(8, 8), patch=4, width=8, depth=1, heads=2)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 3,
        size: tuple[int, int] = (32, 32),
        patch: int = 4,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch or width % heads:
            raise ValueError(
                f"the vision transformer got images of {size[0]} x {size[1]} for patch={patch} and width={width} for "
                f"heads={heads}, expected multiples: change patch or heads"
            )
        tokens = 1 + (size[0] // patch) * (size[1] // patch)
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, tokens, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.patches.weight, std=self.patches.weight[0].numel() ** -0.5)
        nn.init.normal_(self.positions, std=0.02)
        for name, parameter in self.named_parameters():
            part, _, kind = name.rpartition(".")
            if part.startswith("blocks") and "norm" not in part:
                if kind == "weight":
                    for matrix in parameter.detach().chunk(3 if part.endswith("qkv") else 1):
                        nn.init.xavier_uniform_(matrix)
                else:
                    nn.init.normal_(parameter, std=0.0 if "attention" in part else 1e-6)
            elif part == "head" or name == "patches.bias":
                nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes) of ``inputs`` (N, in_channels, H, W)."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        features: Tensor = self.norm(self.blocks(self.drop(tokens)))
        logits: Tensor = self.head(features[:, 0])
        return logits


# The sizes by their usual names.  The papers' "16" is the patch for ImageNet's images; the code of Randomized
# Sharpness-Aware Training cuts CIFAR's into patches of 4 x 4, which is the default here, and drops out 0.1.
vit_ti = functools.partial(VisionTransformer, width=192, depth=12, heads=3)  # 5,717,416 parameters for ImageNet, 16
vit_s = functools.partial(VisionTransformer, width=384, depth=12, heads=6)  # 22,050,664
vit_b = functools.partial(VisionTransformer, width=768, depth=12, heads=12)  # 86,567,656
