"""The training loop: torch's where it must be, the same twice, resumable bit for bit, loud when the loss breaks."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpscope import data, models
from sharpscope.data import Images, batches
from sharpscope.training import Epoch, Settings, evaluate, train

SHORT = {"epochs": 3, "batch_size": 32}
METHODS = [
    "sgd()",
    "sam(0.1)",
    "ssam_f(0.1, samples=16)",
    "ssam_d(0.1)",
    "rst(sam(0.1), p=0.5)",
    "looksam(0.1, every=2)",
]


@pytest.fixture(scope="module")
def images() -> Images:
    return data.digits().limit(train=100, test=60)


def net(images: Images, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout))
        return nn.Sequential(features, nn.Linear(4 * 36, len(images.classes))).float()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_plain_training_is_torch_sgd(images: Images) -> None:
    settings = Settings("sgd()", **SHORT)
    ours, literal = net(images), net(images)
    train(ours, images, settings)
    optimizer = torch.optim.SGD(literal.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = 3 * 4
    literal.train()
    for epoch in range(3):
        for t, rows in enumerate(batches(100, 32, settings.seed, epoch)):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * (4 * epoch + t) / steps))
            optimizer.zero_grad()
            F.cross_entropy(literal(images.train_inputs[rows]), images.train_targets[rows]).backward()
            optimizer.step()
    for x, y in zip(ours.state_dict().values(), literal.state_dict().values(), strict=True):
        assert torch.allclose(x.double(), y.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", METHODS)
def test_twice_the_same_and_resumed_the_same(images: Images, rule: str, rng_guard: object) -> None:
    settings = Settings(rule, **SHORT)
    first, second, third = (net(images, dropout=0.3) for _ in range(3))
    kept: dict[int, dict[str, object]] = {}

    def keep(epoch: Epoch) -> None:
        kept[len(epoch.history.train_loss)] = copy.deepcopy(epoch.checkpoint())

    curves = train(first, images, settings, on_epoch=keep)
    again = train(second, images, settings)
    assert same(first, second)
    assert np.array_equal(curves.train_loss, again.train_loss)
    resumed = train(third, images, settings, start=kept[1])
    assert same(first, third)
    for name in ("train_loss", "test_loss", "test_error", "learning_rate", "passes"):
        assert np.array_equal(getattr(curves, name), getattr(resumed, name)), name
    assert len(curves.train_loss) == curves.epochs == 3 and np.all(np.diff(curves.seconds) > 0)


def test_curves_say_what_happened(images: Images) -> None:
    model = net(images)
    curves = train(model, images, Settings("sam(0.05)", **SHORT))
    assert curves.passes.tolist() == [8.0, 16.0, 24.0]
    assert curves.steps_per_epoch == 4 and curves.test_examples == 60
    loss, error = evaluate(model, *images.test)
    assert curves.test_loss[-1] == loss and curves.test_error[-1] == error
    with torch.no_grad():
        outputs = model.eval()(images.test_inputs)
    assert error == float((outputs.argmax(1) != images.test_targets).double().mean())
    assert loss == pytest.approx(float(F.cross_entropy(outputs.double(), images.test_targets)), rel=1e-6)
    assert curves.test_stderr[-1] == pytest.approx(np.sqrt(error * (1 - error) / 60))


def test_augmented_training_is_reproducible() -> None:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, 8, 8, generator=rng, dtype=torch.float32)
    y = torch.arange(40) % 4
    images = Images("toy", x, y, x, y, classes=("a", "b", "c", "d"), augment=True, pad=2)
    nets = [models.ResNet((1, 1, 1), 4, width=4) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for model in nets:
        train(model.float(), images, Settings("sam(0.05)", epochs=2, batch_size=16))
    assert same(*nets)


def test_a_loss_that_is_not_finite_is_told(images: Images) -> None:
    with pytest.raises(ArithmeticError, match=r"the training loss is nan at step \d+ of epoch \d, expected a finite"):
        train(net(images), images, Settings("sgd()", lr=1e12, **SHORT))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epochs": 0}, "training got epochs=0, expected a whole number >= 1: change epochs"),
        ({"batch_size": 2.5}, "training got batch_size=2.5, expected a whole number >= 1: change batch_size"),
        ({"lr": -0.1}, "training got lr=-0.1, expected a finite number >= 0: change lr"),
        ({"rule": "sma()"}, "the rule got the name 'sma'"),
    ],
)
def test_settings_out_of_range(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Settings(**change)  # type: ignore[arg-type]
