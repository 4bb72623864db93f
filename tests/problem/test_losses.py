"""Numerators and denominators of every loss, batch by batch; which losses are refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope.problem.losses import Objective
from tests.reference_curvature import POSITION_TASKS, TASKS, make_targets

ALL = {**TASKS, **POSITION_TASKS}


@pytest.mark.parametrize("name", list(ALL))
def test_batches_add_up(name: str) -> None:
    task = ALL[name]
    targets = make_targets(task.targets, torch.Generator().manual_seed(0))
    outputs = torch.randn(7, 3, *targets.shape[1:]) if task.targets in ("labels", "positions", "ignored") else None
    outputs = torch.randn(7, 3) if outputs is None else outputs
    objective = Objective(task.loss, task.denominator)
    expected = torch.stack([task.each(o, t) for o, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(objective.each(outputs, targets), expected, rtol=1e-12, atol=1e-12)
    total = weight = 0.0
    for batch in (slice(0, 1), slice(1, 5), slice(5, 7)):
        numerator, denominator = objective.sum(outputs[batch], targets[batch])
        assert float(denominator) == float(objective.weight(outputs[batch], targets[batch]))
        torch.testing.assert_close(numerator, expected[batch].sum(), rtol=1e-12, atol=1e-12)
        total, weight = total + float(numerator), weight + float(denominator)
    assert weight == pytest.approx(task.total(targets) if objective.mean else 0.0, rel=1e-14)
    whole = task.loss(outputs, targets)
    assert total / (weight if objective.mean else 1.0) == pytest.approx(float(whole), rel=1e-12)


class Focal(nn.CrossEntropyLoss):
    """A user's subclass: not the loss that its base is."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (F.cross_entropy(outputs, targets, reduction="none") ** 2).mean()


@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
def test_divergences(reduction: str) -> None:
    loss, outputs = nn.KLDivLoss(reduction=reduction), torch.randn(5, 3).log_softmax(1)
    targets = torch.randn(5, 3).softmax(1)
    objective = Objective(loss)
    parts = [objective.sum(outputs[i], targets[i]) for i in (slice(0, 2), slice(2, 5))]
    total = sum(float(n) for n, _ in parts) / (sum(d for _, d in parts) if objective.mean else 1)
    assert total == pytest.approx(float(loss(outputs, targets)), rel=1e-13)


def test_a_subclass_is_a_loss_of_its_own() -> None:
    outputs, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    objective = Objective(Focal())
    numerator, denominator = objective.sum(outputs, targets)
    assert float(numerator / denominator) == pytest.approx(float(Focal()(outputs, targets)))
    assert float(objective.each(outputs, targets).sum()) == pytest.approx(float(numerator))


def test_the_users_loss_is_not_changed() -> None:
    loss = nn.CrossEntropyLoss()
    objective = Objective(loss)
    objective.sum(torch.randn(2, 3), torch.tensor([0, 1]))
    objective.each(torch.randn(2, 3), torch.tensor([0, 1]))
    assert loss.reduction == "mean"


def test_the_mean_of_examples_is_differentiable() -> None:
    outputs = torch.randn(4, 3, requires_grad=True)
    for loss in (nn.CrossEntropyLoss(), lambda o, t: F.cross_entropy(o, t)):
        each = Objective(loss).each(outputs, torch.tensor([0, 1, 2, 0]))
        assert torch.autograd.grad(each.sum(), outputs)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("loss", "denominator", "text"),
    [
        (nn.CrossEntropyLoss(reduction="none"), None, "reduction='none', expected 'mean' or 'sum'"),
        (functools.partial(F.mse_loss, reduction="none"), None, "reduction='none', expected 'mean' or 'sum'"),
        (nn.KLDivLoss(reduction="none"), None, "reduction='none', expected 'mean' or 'sum'"),
        (nn.MSELoss(reduction="sum"), lambda o, t: 1.0, "reduction='sum' and a denominator, expected one of the two"),
    ],
)
def test_what_is_not_one_number_is_refused(loss: Any, denominator: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Objective(loss, denominator)


@pytest.mark.parametrize("loss", [nn.MSELoss(), F.l1_loss, functools.partial(F.huber_loss, delta=2.0)])
def test_broadcasting_is_refused(loss: Any) -> None:
    outputs, targets = torch.randn(3, 1), torch.randn(3)
    for question in (Objective(loss).sum, Objective(loss).each):
        with pytest.raises(
            ValueError, match=r"outputs of shape \(3, 1\) and targets of shape \(3,\), expected the same"
        ):
            question(outputs, targets)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (nn.CrossEntropyLoss(), "CrossEntropyLoss(mean)"),
        (functools.partial(F.mse_loss, reduction="sum"), "mse_loss(sum)"),
        (F.l1_loss, "l1_loss(mean)"),
        (Focal(), "Focal(mean)"),
        (nn.KLDivLoss(reduction="sum"), "KLDivLoss(sum)"),
    ],
)
def test_names(loss: Any, name: str) -> None:
    assert Objective(loss).name == name


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "text"),
    [
        (
            nn.CrossEntropyLoss(),
            torch.zeros(4, 3),
            torch.zeros(4),
            r"targets of torch.float\d\d and shape \(4,\), expected class numbers of torch.int64 or probabilities",
        ),
        (F.cross_entropy, torch.zeros(2, 3), torch.tensor([1, 3]), "class numbers from 1 to 3, expected 0 to 2 for"),
        (nn.CrossEntropyLoss(), torch.zeros(2, 3), torch.tensor([1, -1]), "class numbers from -1 to 1, expected 0 to"),
        (nn.NLLLoss(), torch.zeros(2, 3, 5), torch.full((2, 5), 7), "class numbers from 7 to 7, expected 0 to 2 for"),
    ],
)
def test_wrong_classes_are_told(loss: Any, outputs: Tensor, targets: Tensor, text: str) -> None:
    for question in (Objective(loss).sum, Objective(loss).each):
        with pytest.raises(ValueError, match=text):
            question(outputs, targets)


def test_other_errors_of_a_loss_stay() -> None:
    with pytest.raises(ValueError, match="Expected input batch_size"):
        Objective(nn.CrossEntropyLoss()).sum(torch.zeros(4, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", [name for name, task in ALL.items() if task.denominator is None])
def test_a_loss_of_another_dtype(name: str) -> None:
    task = ALL[name]
    targets = make_targets(task.targets, torch.Generator().manual_seed(0))
    outputs = torch.randn(7, 3, *(targets.shape[1:] if task.targets == "positions" else ()))
    narrow = Objective(task.loss).to(torch.float32)
    found = narrow.sum(outputs.float(), targets.float() if targets.is_floating_point() else targets)[0]
    assert float(found) == pytest.approx(float(Objective(task.loss).sum(outputs, targets)[0]), rel=1e-5)
