"""The papers' networks: parameter counts against published ones, small versions that run, initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sharpscope import models
from sharpscope.problem.problem import Problem

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)

# Where the number is published.
KUANGLIU = "github.com/kuangliu/pytorch-cifar, models of the same form"
OSMR = "github.com/osmr/imgclsmob, pytorch/README.md, CIFAR-10"
TORCHVISION = "torchvision's table of pretrained classification models"
TIMM = "timm's results, ImageNet-1K, patch 16, 224"
PUBLISHED = [
    ("resnet18", CIFAR, 10, 11_173_962, KUANGLIU),
    ("resnet50", CIFAR, 10, 23_520_842, KUANGLIU),
    ("resnet101", CIFAR, 10, 42_512_970, KUANGLIU),
    ("wrn-28-10", CIFAR, 10, 36_479_194, OSMR + "; 36.5 M in the source's table 5"),
    ("pyramidnet-164", CIFAR, 10, 27_216_021, OSMR + " (a=270, BN); 27.0 M in the source's table 4"),
    ("resnet18(stem='imagenet')", IMAGENET, 1000, 11_689_512, TORCHVISION),
    ("resnet50(stem='imagenet')", IMAGENET, 1000, 25_557_032, TORCHVISION),
    ("resnet101(stem='imagenet')", IMAGENET, 1000, 44_549_160, TORCHVISION),
    ("vit-ti(patch=16)", IMAGENET, 1000, 5_717_416, TIMM),
    ("vit-s(patch=16)", IMAGENET, 1000, 22_050_664, TIMM),
    ("vit-b(patch=16)", IMAGENET, 1000, 86_567_656, TIMM + ", and " + TORCHVISION),
]
SMALL = [
    "resnet18(width=4, depth=1)",
    "resnet50(width=4, depth=1)",
    "resnet101(width=4, depth=1, stem='imagenet')",
    "wrn-28-10(width=8, depth=1)",
    "pyramidnet-164(alpha=6, depth=1)",
    "vgg11-bn(width=2)",
    "vgg16-bn(width=2)",
    "vit-ti(width=12, depth=2)",
    "vit-s(width=12, depth=1, patch=8)",
    "vit-b(width=12, depth=1, patch=16)",
]


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def weightless(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network without memory behind its weights."""
    with torch.device("meta"):
        return models.build(name, shape, classes)


@pytest.mark.parametrize(("name", "shape", "classes", "count", "source"), PUBLISHED)
def test_published_parameter_counts(
    name: str, shape: tuple[int, int, int], classes: int, count: int, source: str
) -> None:
    assert size(weightless(name, shape, classes)) == count, source


@pytest.mark.parametrize(("name", "plan"), [("vgg11-bn", "1 1 2 2 2"), ("vgg16-bn", "2 2 3 3 3")])
def test_vgg_by_the_formula(name: str, plan: str) -> None:
    """Table 1 of the source: convolutions with bias, BatchNorm, linear 512-4096-4096-classes (as in SSAM's code)."""
    count, fan_in = 0, 3
    for stage, convolutions in enumerate(map(int, plan.split())):
        for _ in range(convolutions):
            fan_out = min(64 * 2**stage, 512)
            count += 9 * fan_in * fan_out + fan_out + 2 * fan_out
            fan_in = fan_out
    count += (512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 100
    assert size(weightless(name, CIFAR, 100)) == count
    published = {"vgg11-bn": 28.5, "vgg16-bn": 34.0}  # github.com/weiaicunzai/pytorch-cifar100, millions
    assert round(count / 1e6, 1) == published[name]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *[("resnet18", 18), ("resnet50", 50), ("resnet101", 101), ("wrn-28-10", 26), ("pyramidnet-164", 164)],
        *[("vgg11-bn", 11), ("vgg16-bn", 16)],
    ],
)
def test_depth_is_what_the_name_says(name: str, layers: int) -> None:
    """Projections of shortcuts do not count, except in the name WRN-28, which takes the three for 2 layers."""
    found = [n for n, m in weightless(name, CIFAR, 10).named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([n for n in found if "shortcut" not in n]) == layers


@pytest.mark.parametrize("name", SMALL)
def test_small_versions_have_a_gradient_of_every_weight_and_each_example(name: str) -> None:
    model = models.build(name, CIFAR, 5, seed=1).double()
    head = model.head[-1] if isinstance(model, models.VGG) else model.head
    nn.init.normal_(head.weight, std=0.1)  # that of a vision transformer begins at 0, which stops all gradients
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, *CIFAR, generator=rng)
    assert model(inputs).shape == (3, 5)
    targets = torch.tensor([0, 1, 4])
    problem = Problem(model, nn.CrossEntropyLoss(), (inputs, targets))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in problem.gradient())
    singles = [Problem(model, nn.CrossEntropyLoss(), (inputs[i : i + 1], targets[i : i + 1])) for i in range(3)]
    squares = [sum(g**2 for g in each) for each in zip(*(single.gradient() for single in singles), strict=True)]
    for found, expected in zip(problem.squared_gradients(), squares, strict=True):
        scale = float(found.sum() / expected.sum())
        assert scale in (pytest.approx(1), pytest.approx(1 / 3)), "a sum or a mean of squares"
        assert torch.allclose(found, scale * expected, rtol=1e-6, atol=1e-9 * float(found.max()))


def test_pyramid_widens_in_equal_steps() -> None:
    blocks = models.PyramidNet(10, depth=2, alpha=13).blocks
    assert [block.conv2.out_channels for block in blocks] == [18, 20, 22, 25, 27, 29]
    inputs = torch.randn(2, 16, 4, 4)
    block = blocks[0].eval()
    nn.init.zeros_(block.norm4.weight)
    assert torch.equal(block(inputs)[:, :16], inputs) and not block(inputs)[:, 16:].any()


def test_wide_block_shortcut_takes_the_activation_only_where_shapes_differ() -> None:
    for fan_out, stride in ((4, 1), (8, 1), (8, 2)):
        block = models.WideResNet.__init__.__globals__["WideBlock"](4, fan_out, stride).eval()
        nn.init.zeros_(block.conv2.weight)
        inputs = torch.randn(2, 4, 6, 6)
        expected = inputs if fan_out == 4 else block.shortcut(block.norm1(inputs).relu())
        assert torch.equal(block(inputs), expected)


def test_attention_is_the_formula() -> None:
    model = models.VisionTransformer(3, size=(8, 8), patch=4, width=6, depth=1, heads=2)
    attention = model.blocks[0].attention.eval()
    tokens = torch.randn(2, 5, 6)
    query, key, value = attention.qkv(tokens).chunk(3, dim=2)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        weights = (query[..., part] @ key[..., part].transpose(1, 2) / 3**0.5).softmax(-1)
        heads.append(weights @ value[..., part])
    assert torch.allclose(attention(tokens), attention.out(torch.cat(heads, dim=2)), rtol=1e-10)


def test_initial_weights_of_a_vision_transformer() -> None:
    model = models.build("vit-ti(depth=1)", CIFAR, 10, seed=3)
    assert not model.head.weight.any() and not model.token.any() and not model.blocks[0].attention.qkv.bias.any()
    assert abs(model.positions.std().item() / 0.02 - 1) < 0.05
    assert abs(model.patches.weight.std().item() * 48**0.5 - 1) < 0.05
    bound = (6 / (192 + 192)) ** 0.5
    for matrix in model.blocks[0].attention.qkv.weight.chunk(3):
        assert 0.99 * bound < matrix.abs().max().item() <= bound
    assert 0 < model.blocks[0].widen.bias.std().item() < 1e-5


def test_pooling_of_vgg_leaves_a_position_of_any_image() -> None:
    for side, positions in ((8, 1), (32, 1), (64, 2)):
        features = models.VGG((1, 1, 1, 1, 1), classes=4, width=1).features
        assert features(torch.zeros(2, 3, side, side)).shape[2:] == (positions, positions)
