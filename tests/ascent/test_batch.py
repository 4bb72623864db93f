"""A batch as a closure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sharpscope import Batch
from sharpscope.ascent.probe import RowClosure
from tests.problems import CASES, DROPOUT, MLP, Case


@pytest.mark.parametrize("case", [*CASES, DROPOUT], ids=lambda case: case.name)
def test_is_forward_and_backward(case: Case) -> None:
    model, twin = case.model(), case.model()
    x, y = case.batch(0)
    torch.manual_seed(0)
    batch = Batch(model, nn.CrossEntropyLoss(), x, y)
    loss = batch()
    torch.manual_seed(0)
    expected = nn.functional.cross_entropy(twin(x), y)
    expected.backward()
    assert torch.equal(loss, expected)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert isinstance(batch, RowClosure)
    assert batch.rows == 8


def test_clears_old_gradients() -> None:
    model = MLP.model()
    batch = MLP.closure(model, 0)
    batch()
    once = [p.grad.clone() for p in model.parameters()]
    batch()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), once, strict=True))


def test_rows_are_the_chosen_examples() -> None:
    model = MLP.model()
    x, y = MLP.batch(0)
    rows = torch.tensor([5, 1])
    assert torch.equal(MLP.closure(model, 0)(rows), nn.functional.cross_entropy(model(x[rows]), y[rows]))


def own(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.gather(1, targets[:, None]).squeeze(1) ** 2).mean()


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), nn.functional.cross_entropy, own],
    ids=["module", "smoothed", "function", "callable"],
)
def test_losses_are_those_of_single_examples(loss: object) -> None:
    model = MLP.model()
    x, y = MLP.batch(0)
    found = Batch(model, loss, x, y).losses()  # type: ignore[arg-type]
    single = [loss(model(x[i : i + 1]), y[i : i + 1]) for i in range(8)]  # type: ignore[operator]
    assert not found.requires_grad
    assert torch.allclose(found, torch.stack(single), rtol=1e-13, atol=0)


def test_losses_leave_no_gradients() -> None:
    model = MLP.model()
    MLP.closure(model, 0).losses()
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_without_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="got reduction='none', expected 'mean' or 'sum'"):
        Batch(MLP.model(), nn.CrossEntropyLoss(reduction="none"), *MLP.batch(0))


def test_linear_keeps_the_slope_of_the_last_call() -> None:
    """Inside, the gradient is J(w')^T l'(f(w)); outside, the loss is the loss again."""
    model, loss = MLP.model(), nn.CrossEntropyLoss()
    x, y = MLP.batch(0)
    batch = Batch(model, loss, x, y)
    batch()
    outputs = model(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(outputs, y), outputs)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    expected = torch.autograd.grad((model(x) * slope).sum(), list(model.parameters()))
    with batch.linear():
        for _ in range(2):  # the second call inside has the same slope
            batch()
            for p, g in zip(model.parameters(), expected, strict=True):
                torch.testing.assert_close(p.grad, g, rtol=0, atol=1e-15)
    batch()
    for p, g in zip(model.parameters(), torch.autograd.grad(loss(model(x), y), list(model.parameters())), strict=True):
        torch.testing.assert_close(p.grad, g, rtol=0, atol=1e-15)


def test_linear_needs_a_call_and_ends_after_an_exception() -> None:
    batch = Batch(MLP.model(), nn.CrossEntropyLoss(), *MLP.batch(0))
    with pytest.raises(ValueError, match=r"Batch got outputs of NoneType in its last call, expected one tensor"):
        batch.linear().__enter__()
    first = batch().item()
    with pytest.raises(RuntimeError, match="stop"), batch.linear():
        raise RuntimeError("stop")
    assert batch().item() == first
