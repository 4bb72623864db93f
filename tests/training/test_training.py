"""The training loop: torch's where it must be, the same twice, resumable bit for bit, loud when the loss breaks."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import data, models
from sharpscope.core.vectors import generator
from sharpscope.data import Images, batches
from sharpscope.training.loop import Epoch, Settings, _tested, evaluate, train

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


def test_top_five_errors_of_many_classes() -> None:
    """Beyond 100 classes; a resumed run has the curve too."""
    x, y = torch.randn(240, 1, 4, 4, dtype=torch.float32), torch.arange(240) % 120
    few = Images("made", x[:120], y[:120], x[120:], y[120:], tuple(map(str, range(120))))
    made, again = (nn.Sequential(nn.Flatten(), nn.Linear(16, 120)).float() for _ in range(2))
    again.load_state_dict(made.state_dict())
    kept: list[dict[str, object]] = []
    settings = Settings("sgd()", epochs=3, batch_size=40, lr=0.5)
    curves = train(made, few, settings, on_epoch=lambda epoch: kept.append(copy.deepcopy(epoch.checkpoint())))
    with torch.no_grad():
        outputs = made(few.test_inputs)
    ranks = (outputs > outputs.gather(1, few.test_targets[:, None])).sum(1)
    assert curves.test_top5 is not None and curves.test_top5.shape == (3,)
    assert curves.test_top5[-1] == float((ranks >= 5).double().mean()) < curves.test_error[-1]
    assert curves.scalars()["test_top5"] == curves.test_top5[-1]
    start = copy.deepcopy(kept[0])
    assert np.array_equal(train(again, few, settings, start=kept[0]).test_top5, curves.test_top5)
    del start["curves"]["test_top5"]  # as a checkpoint from before has it
    old = train(again, few, settings, start=start).test_top5
    assert np.array_equal(old, [np.nan, *curves.test_top5[1:]], equal_nan=True)


def test_top_five_errors_count_ties_for_the_class_and_nan_against_it() -> None:
    class Fixed(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.full((120,), value))

        def forward(self, x: Tensor) -> Tensor:
            return self.value.expand(len(x), 120)

    x, y = torch.randn(240, 1, 4, 4), torch.arange(240) % 120
    assert _tested(Fixed(1.0), [(x, y)], deep=True)[1] == (0.0,)
    assert _tested(Fixed(float("nan")), [(x, y)], deep=True)[1] == (1.0,)


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
        ({"warmup": 1.5}, "training got warmup=1.5, expected a whole number: change warmup"),
        (
            {"warmup": 20},
            "got warmup=20 of epochs=20, expected fewer: lower warmup, or use schedule='constant'",
        ),
        (
            {"label_smoothing": 1.0},
            "got label_smoothing=1.0, expected a number in [0, 1): change label_smoothing",
        ),
        (
            {"schedule": "linear"},
            "got schedule='linear', expected one of cosine, step, constant: change schedule",
        ),
        ({"optimizer": "lion"}, "training got optimizer='lion', expected one of sgd, adam, adamw: change optimizer"),
        (
            {"precision": "float16"},
            "got precision='float16', expected one of float32, bfloat16: change precision",
        ),
        ({"steps": 0}, "training got steps=0, expected a whole number >= 1 or None: change steps"),
        ({"rule": "sma()"}, "the rule got the name 'sma'"),
    ],
)
def test_settings_out_of_range(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Settings(**change)  # type: ignore[arg-type]


def rates(settings: Settings, steps: int) -> list[float]:
    """The learning rate of every step of a training with ``steps`` steps an epoch."""
    optimizer = settings.base([nn.Parameter(torch.zeros(2))])
    scheduler = settings.scheduler(optimizer, steps)
    found = []
    for _ in range(settings.epochs * steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def test_learning_rates_are_the_formulas() -> None:
    cosine = [0.05 * (1 + np.cos(np.pi * t / 30)) for t in range(30)]
    assert rates(Settings(epochs=6), 5) == pytest.approx(cosine, abs=1e-12)
    rising = [0.1 / 10 + (0.1 - 0.1 / 10) * t / 10 for t in range(10)]
    after = [0.05 * (1 + np.cos(np.pi * t / 20)) for t in range(20)]
    assert rates(Settings(epochs=6, warmup=2), 5) == pytest.approx(rising + after, abs=1e-12)
    steps = [0.1] * 10 + [0.02] * 10 + [0.004] * 10
    assert rates(Settings(epochs=6, schedule="step", drop_every=2, drop=0.2), 5) == pytest.approx(steps, abs=1e-12)
    assert rates(Settings(epochs=6, schedule="constant", warmup=2), 5) == pytest.approx(rising + [0.1] * 20, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_bases(name: str, kind: type[torch.optim.Optimizer]) -> None:
    base = Settings(optimizer=name, lr=0.3, momentum=0.8, weight_decay=0.02).base([nn.Parameter(torch.zeros(2))])
    group = base.param_groups[0]
    assert type(base) is kind and (group["lr"], group["weight_decay"]) == (0.3, 0.02)
    assert group["momentum"] == 0.8 if name == "sgd" else group["betas"] == (0.8, 0.999)


RICH = {"label_smoothing": 0.1, "mixup": 0.4, "cutout": 3, "warmup": 1}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("rule", ["sgd()", "sam(0.05)", "esam(0.05)", "rst(sam(0.05), p=0.5)"])
def test_all_options_resume_bit_for_bit(images: Images, rule: str, optimizer: str, rng_guard: object) -> None:
    settings = Settings(rule, optimizer=optimizer, lr=0.01, precision="bfloat16", **SHORT, **RICH)
    first, second = net(images, dropout=0.3), net(images, dropout=0.3)
    kept: list[dict[str, object]] = []
    curves = train(first, images, settings, on_epoch=lambda epoch: kept.append(copy.deepcopy(epoch.checkpoint())))
    resumed = train(second, images, settings, start=kept[1])  # in the midst of the cosine, after the warm-up
    assert same(first, second) and np.array_equal(curves.train_loss, resumed.train_loss)
    assert all(p.dtype == torch.float32 for p in first.parameters())
    third = net(images, dropout=0.3)
    train(third, images, settings, start=kept[0])
    assert same(first, third)


def test_both_passes_see_the_same_mixed_batch(images: Images) -> None:
    """A step of SAM by hand, on what the first layer was given, for smoothed and mixed targets."""
    settings = Settings("sam(0.05)", epochs=1, batch_size=50, steps=1, weight_decay=0.0, **{**RICH, "warmup": 0})
    model = net(images)
    literal = copy.deepcopy(model)
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()) if model.training else None)
    train(model, images, settings)
    assert len(seen) == 2 and torch.equal(seen[0], seen[1])
    rows = next(batches(100, 50, 0, 0))
    x = data.cutout(images.train_inputs[rows], generator("cutout", 0, 0), 3)
    x, y = data.mixup(x, images.train_targets[rows], generator("mixup", 0, 0), 0.4, 10)
    assert torch.equal(seen[0], x)
    parameters = list(literal.parameters())

    def gradient() -> list[torch.Tensor]:
        smooth = 0.9 * y + 0.1 / 10
        loss = -(smooth * literal(x).log_softmax(1)).sum(1).mean()
        return list(torch.autograd.grad(loss, parameters))

    before = gradient()
    norm = torch.cat([g.flatten() for g in before]).norm()
    with torch.no_grad():
        torch._foreach_add_(parameters, [0.05 * g / norm for g in before])
    after = gradient()
    with torch.no_grad():
        torch._foreach_sub_(parameters, [0.05 * g / norm for g in before])
        torch._foreach_sub_(parameters, [0.1 * g for g in after])
    for p, q in zip(model.parameters(), literal.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


def test_bfloat16_is_close_and_tests_are_float32(images: Images) -> None:
    models_ = [net(images) for _ in range(2)]
    narrow, wide = (
        train(model, images, Settings(precision=precision, **SHORT))
        for model, precision in zip(models_, ("bfloat16", "float32"), strict=True)
    )
    assert not np.array_equal(narrow.train_loss, wide.train_loss)
    assert np.allclose(narrow.train_loss, wide.train_loss, rtol=0.05)
    assert evaluate(models_[0], *images.test) == (narrow.test_loss[-1], narrow.test_error[-1])


def test_a_limit_of_steps_is_the_beginning_of_the_whole(images: Images) -> None:
    points: dict[int | None, list[tuple[float, ...]]] = {}
    for steps in (None, 6, 1):
        points[steps] = []
        curves = train(net(images), images, Settings(steps=steps, **SHORT), on_step=lambda *p: points[steps].append(p))  # noqa: B023
        assert len(points[steps]) == (steps or 12) and curves.epochs == len(curves.train_loss) == -(-(steps or 12) // 4)
        assert points[steps] == points[None][: len(points[steps])]
    assert curves.train_loss[-1] == points[1][0][1]


def test_streamed_images_train_as_those_in_memory(tmp_path: Path) -> None:
    """A folder through the same loop: the same with any number of workers, resumed, and under a rule with a Fisher."""
    colours = np.array([[250, 20, 20], [20, 250, 20]])
    for part in ("train", "val"):
        for number, name in enumerate("ab"):
            (tmp_path / part / name).mkdir(parents=True)
            for image in range(6):
                pixels = np.clip(colours[number] + np.random.randint(-20, 20, (20, 20, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{image}.png")
    folder = data.imagenet(tmp_path, workers=0).resize(8)
    settings = Settings("ssam_f(0.05, samples=4)", epochs=3, batch_size=4, lr=0.05)
    nets = [models.ResNet((1, 1), 2, width=4).float() for _ in range(3)]
    kept: list[dict[str, object]] = []
    for model in nets[1:]:
        model.load_state_dict(nets[0].state_dict())
    curves = train(nets[0], folder, settings, on_epoch=lambda epoch: kept.append(copy.deepcopy(epoch.checkpoint())))
    train(nets[1], replace(folder, workers=1), settings)
    train(nets[2], folder, settings, start=kept[0])
    assert same(nets[0], nets[1]) and same(nets[0], nets[2])
    assert curves.test_examples == 12 and curves.test_error[-1] == 0.0
    (inputs, targets), *others = folder.tests()
    assert not others and evaluate(nets[0], inputs, targets)[0] == pytest.approx(curves.test_loss[-1])
