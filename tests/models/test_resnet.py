"""ResNets: exact sizes, shapes, the block's equation, and the initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sharpscope.models import BasicBlock, ResNet, resnet18, resnet20


def size(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts() -> None:
    assert size(resnet20(10)) == 272_474
    assert size(resnet18(10)) == 11_173_962
    projections = [m.shortcut for m in resnet20(10).modules() if isinstance(m, BasicBlock)]
    assert 272_474 - sum(size(projection) for projection in projections) == 269_722  # option A, as in the paper


def test_depth() -> None:
    layers = [m for m in resnet20(10).modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len([m for m in layers if not isinstance(m, nn.Conv2d) or m.kernel_size == (3, 3)]) == 20
    layers = [m for m in resnet18(10, width=2).modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len([m for m in layers if not isinstance(m, nn.Conv2d) or m.kernel_size == (3, 3)]) == 18


@pytest.mark.parametrize(
    ("model", "shape", "last"),
    [
        (resnet20(10), (3, 32, 32), (64, 8, 8)),
        (resnet20(7, in_channels=1, width=4), (1, 8, 8), (16, 2, 2)),
        (resnet18(10, width=8), (3, 32, 32), (64, 4, 4)),
        (ResNet((1, 2), 5, in_channels=2, width=3), (2, 9, 7), (6, 5, 4)),
    ],
)
def test_shapes(model: ResNet, shape: tuple[int, int, int], last: tuple[int, int, int]) -> None:
    model.eval()
    inputs = torch.zeros(2, *shape, dtype=model.head.weight.dtype)
    assert model.stages(model.stem(inputs)).shape == (2, *last)
    assert model(inputs).shape == (2, model.head.out_features)


def test_block_adds_its_shortcut() -> None:
    block = BasicBlock(3, 3).eval()
    nn.init.zeros_(block.conv2.weight)
    inputs = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    assert torch.equal(block(inputs), inputs.relu())
    assert isinstance(block.shortcut, nn.Identity)
    assert isinstance(BasicBlock(3, 4).shortcut, nn.Sequential)
    assert isinstance(BasicBlock(3, 3, stride=2).shortcut, nn.Sequential)


def test_initial_weights() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet20(10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1)
            assert torch.all(module.bias == 0)
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            # The relative error of a deviation from n numbers is about 1 / sqrt(2 n).
            deviation, error = (2 / fan_out) ** 0.5, (2 * module.weight.numel()) ** -0.5
            assert abs(module.weight.std().item() / deviation - 1) < 5 * error
