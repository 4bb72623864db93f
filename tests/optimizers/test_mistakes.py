"""What a user may get wrong around a step, and what is said then; the model is as before each time."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import (
    Ascend,
    Ball,
    Batch,
    Constant,
    Linear,
    Masked,
    Named,
    Problem,
    Proportional,
    RandomMask,
    SharpnessAware,
    delta_eta,
    gnr,
    gsam,
    looksam,
    rst,
    sam,
    ssam_d,
)
from tests.problems import CONV, MLP


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def closure_of(model: nn.Module, step: int = 0, scaler: Any = None) -> Batch:
    return Batch(model, F.cross_entropy, *MLP.batch(step), scaler=scaler)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def untouched(model: nn.Module, before: list[Tensor]) -> bool:
    return all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


# gradients from before the step


@pytest.mark.parametrize("rule", ["sgd", "sam(0.1)", "gnr", "rst(sam(0.1), p=0.5)"])
@pytest.mark.parametrize("in_place", [False, True])
def test_accumulated_gradients_are_not_dropped_in_silence(rule: str, in_place: bool) -> None:
    model = MLP.model()
    optimizer = SharpnessAware(sgd(model), rule, model=model)
    optimizer.step(closure_of(model))
    optimizer.zero_grad(set_to_none=not in_place)
    F.cross_entropy(model(MLP.batch(1)[0]), MLP.batch(1)[1]).backward()
    before = weights(model)

    def adds() -> Tensor:
        loss = F.cross_entropy(model(MLP.batch(2)[0]), MLP.batch(2)[1])
        loss.backward()
        return loss

    with pytest.raises(ValueError, match=r"gradients from before it that the closure does not clear.*micro-batches"):
        optimizer.step(adds)
    assert untouched(model, before) and optimizer.steps == 1
    optimizer.step(adds)  # what waited is gone now


@pytest.mark.parametrize("in_place", [False, True])
def test_gradients_that_the_closure_clears_do_no_harm(in_place: bool) -> None:
    plain, other = MLP.model(), MLP.model()
    for model, dirty in ((plain, False), (other, True)):
        optimizer = SharpnessAware(sgd(model), sam(0.1), model=model)

        def closure(model: nn.Module = model, optimizer: SharpnessAware = optimizer, step: int = 0) -> Tensor:
            optimizer.zero_grad(set_to_none=not in_place)
            loss = F.cross_entropy(model(MLP.batch(step)[0]), MLP.batch(step)[1])
            loss.backward()
            return loss

        for step in range(3):
            if dirty:
                (17 * model(MLP.batch(step)[0]).square().sum()).backward()
            optimizer.step(lambda step=step, closure=closure: closure(step=step))  # type: ignore[misc]
    assert untouched(plain, weights(other))


def test_a_closure_without_zero_grad_changes_nothing() -> None:
    models = [MLP.model(), MLP.model()]
    for model, clears in zip(models, (True, False), strict=True):
        optimizer = SharpnessAware(sgd(model), looksam(0.1, every=2))
        for step in range(4):

            def closure(model: nn.Module = model, step: int = step, clears: bool = clears) -> Tensor:
                if clears:
                    model.zero_grad()
                loss = F.cross_entropy(model(MLP.batch(step)[0]), MLP.batch(step)[1])
                loss.backward()
                return loss

            optimizer.step(closure)
    assert untouched(models[0], weights(models[1]))


# scaled losses


def test_a_batch_scales_its_loss_or_is_refused() -> None:
    rule = "esam(rho=0.1, keep=0.5, fraction=0.5)"
    plain, model = MLP.model(), MLP.model()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = SharpnessAware(sgd(model), rule, scaler=scaler)
    before = weights(model)
    with pytest.raises(ValueError, match=r"a Batch with another scaler than the optimizer.*scaler=scaler\)"):
        optimizer.step(closure_of(model))
    assert untouched(model, before)
    unscaled = SharpnessAware(sgd(plain), rule)
    for step in range(5):
        optimizer.step(closure_of(model, step, scaler))
        scaler.update()
        unscaled.step(closure_of(plain, step))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


# schedules that leave the range of what they stand for


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda bad: sam(rho=bad),
            "Constant(-1.0) got to -1 at step 0, expected values in [0, inf]: change the schedule",
        ),
        (lambda bad: rst(sam(), p=bad), "Constant(-1.0) got to -1 at step 0, expected values in [0, 1]: change"),
        (lambda bad: gnr(weight=bad), "Constant(-1.0) got to -1 at step 0, expected values in [0, inf]: change"),
        (lambda bad: gsam(alpha=bad), "Constant(-1.0) got to -1 at step 0, expected values in [0, inf]: change"),
        (
            lambda bad: ssam_d(drop=bad, every=1),
            "Constant(-1.0) got to -1 at step 1, expected values in [0, 1]: change",
        ),
    ],
)
def test_a_schedule_out_of_range_is_named(make: Callable[[Any], Any], text: str) -> None:
    model = MLP.model()
    optimizer = SharpnessAware(sgd(model, 0.0), make(Constant(-1.0)), model=model)
    before = weights(model)
    if "step 1" in text:
        optimizer.step(closure_of(model))
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        optimizer.step(closure_of(model))
    assert untouched(model, before)


def test_a_learning_rate_below_the_range_gives_the_low_end() -> None:
    rho = Proportional(0.01, 0.1, 0.01, 0.1)
    assert [rho(0, lr=lr) for lr in (0.0, 0.01, 0.1, 0.3)] == [0.01, 0.01, 0.1, 0.1]
    assert rho(0, lr=0.055) == pytest.approx(0.055)


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (2, r"delta_eta got p=2, expected a number in \[0, 1\]"),
        ("a", r"delta_eta got p='a', expected a number in \[0, 1\]"),
        (Linear(0.0, 2.0, total=10), r"delta_eta of Linear\(0.0, end=2.0, total=10\) got p=1.9, expected a number"),
    ],
)
def test_delta_eta_of_no_probability_is_refused(p: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        delta_eta(p, 10)


# masks within masks


def test_the_mask_in_force_is_what_all_masks_select() -> None:
    for outer, inner in ((Named("*bias"), RandomMask(0.5)), (RandomMask(0.5), Named("*bias"))):
        model = MLP.model()
        optimizer = SharpnessAware(sgd(model), Ascend(Masked(Masked(Ball(0.1), outer), inner)), model=model)
        before, seen = weights(model), []

        def closure(model: nn.Module = model, seen: list[Any] = seen) -> Tensor:
            seen.append(weights(model))
            model.zero_grad()
            loss = F.cross_entropy(model(MLP.batch(0)[0]), MLP.batch(0)[1])
            loss.backward()
            return loss

        optimizer.step(closure)
        for mask, start, there in zip(optimizer.masks().values(), before, seen[1], strict=True):
            assert torch.equal(mask, start != there)
        assert any(mask.any() for mask in optimizer.masks().values())


# arguments of the optimizer


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda m: SharpnessAware(sgd(m), sam(), model=copy.deepcopy(m)),
            "as model that has none of the parameters of",
        ),
        (
            lambda m: SharpnessAware(sgd(m), sam(), model=1),
            "got a int as model, expected the module that the closure calls",
        ),
        (lambda m: SharpnessAware(sgd(m), sam(), scaler=1), "got a int as scaler, expected a torch.amp.GradScaler"),
        (lambda m: SharpnessAware(sgd(m), sam(), seed="a"), "got seed='a', expected a whole number: change seed"),
        (lambda m: SharpnessAware(sgd(m), sam(), clip="a"), "got clip='a', expected a positive number or None"),
        (lambda m: SharpnessAware(sgd(m), sam), r"expected a rule such as .* or its text: call it, sam\(\)"),
        (
            lambda m: SharpnessAware(torch.optim.SparseAdam(m.parameters()), sam()),
            "got a SparseAdam as base, expected an optimizer that steps from dense gradients alone",
        ),
        (lambda m: SharpnessAware(sgd(m), sam()).load_state_dict(None), "load_state_dict got one of another optimizer"),
        (
            lambda m: SharpnessAware(torch.optim.SGD([nn.Parameter(torch.ones(2, dtype=torch.cfloat))], 0.1), sam()),
            "got a parameter of torch.complex64, expected real ones",
        ),
        (
            lambda m: SharpnessAware(sgd(m), sam()).add_param_group(
                {"params": [nn.Parameter(torch.ones(2, device="meta"))]}
            ),
            "the parameters are on cpu, meta, expected one device",
        ),
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[nn.Module], Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        make(MLP.model())


def test_a_group_that_is_refused_is_not_added() -> None:
    optimizer = SharpnessAware(sgd(MLP.model()), sam())
    with pytest.raises(ValueError, match="expected one device"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, device="meta"))]})
    assert len(optimizer.param_groups) == len(optimizer.base.param_groups) == 1


def test_a_loss_in_the_place_of_the_closure() -> None:
    model = MLP.model()
    with pytest.raises(TypeError, match=r"step\(\) got a Tensor, expected a closure that clears the gradients"):
        SharpnessAware(sgd(model), sam()).step(F.cross_entropy(model(MLP.batch(0)[0]), MLP.batch(0)[1]))  # type: ignore[arg-type]


def test_asam_is_a_swap_of_one_line() -> None:
    """It scales parameters by name; the module that the closure calls tells the names."""
    models = [CONV.model(), CONV.model()]
    for model, known in zip(models, ({}, {"model": models[1]}), strict=True):
        optimizer = SharpnessAware(sgd(model), "asam(rho=0.5)", **known)
        for step in range(3):
            optimizer.step(CONV.closure(model, step))
    assert untouched(models[0], weights(models[1]))


def test_precisions_may_be_mixed() -> None:
    model = nn.Sequential(nn.Linear(3, 3).float(), nn.Linear(3, 3).double())
    x = torch.ones(2, 3, dtype=torch.float32)
    optimizer = SharpnessAware(sgd(model), sam(0.1))
    before = weights(model)
    optimizer.step(lambda: _backward(model[1](model[0](x).double()).square().mean()))
    assert not untouched(model, before)
    assert [p.dtype for p in model.parameters()] == [torch.float32] * 2 + [torch.float64] * 2


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss


def test_missing_data_is_said_before_missing_steps() -> None:
    model = MLP.model()
    with pytest.raises(
        ValueError, match=r"got no problem, expected the data it trains on.*DataLoader as data for epoch"
    ):
        SharpnessAware(sgd(model), "ssam_f")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*MLP.data), batch_size=5)
    assert SharpnessAware(sgd(model), "ssam_f", Problem(model, nn.CrossEntropyLoss(), loader)).rule
