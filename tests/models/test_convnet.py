"""ConvNet: size, shapes, and that it learns the digits."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from sharpscope.data import batches, digits
from sharpscope.models import ConvNet, build


@pytest.mark.parametrize(("channels", "classes", "width", "count"), [(1, 10, 16, 24058), (3, 10, 16, 24346)])
def test_parameter_count(channels: int, classes: int, width: int, count: int) -> None:
    assert sum(p.numel() for p in ConvNet(channels, classes, width).parameters()) == count


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 5, 7)])
def test_output_shape(shape: tuple[int, int, int]) -> None:
    assert ConvNet(shape[0], 4, width=3)(torch.zeros(2, *shape)).shape == (2, 4)


def test_learns_digits() -> None:
    images = digits(0)
    inputs, targets = images.train
    model = build("convnet", images.shape, len(images.classes), seed=0).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(5):
        for index in batches(len(targets), 64, seed=0, epoch=epoch):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(inputs[index]), targets[index]))
            optimizer.step()
    model.eval()
    with torch.no_grad():
        wrong = model(images.test_inputs).argmax(dim=1) != images.test_targets
    assert wrong.double().mean() < 0.04
