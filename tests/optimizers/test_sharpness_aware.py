"""The optimizer around a rule: masks by name, what fills a rule, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import Batch, Problem, SharpnessAware, parse, sam, ssam_d, ssam_f
from tests.optimizers.shared import everything, optimizer_of, run, same
from tests.problems import CONV, DROPOUT, METHODS, MLP, RULES


def test_masks_go_by_name() -> None:
    model = CONV.model()
    optimizer = optimizer_of(CONV, model, ssam_d(0.1, 0.5))
    assert optimizer.masks() == {}
    run(CONV, model, optimizer, 0, 1)
    masks = optimizer.masks()
    assert {name: mask.shape for name, mask in masks.items()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert optimizer_of(CONV, model, sam(0.1)).masks() == {}


def test_names_come_from_wherever_they_are_known() -> None:
    model = nn.Linear(2, 1)
    x, y = torch.ones(4, 2), torch.ones(4, 1)
    rule = ssam_d(0.1, 0.5, every=1, total=3)

    def names(params: Any, **options: Any) -> set[str]:
        optimizer = SharpnessAware(torch.optim.SGD(params, lr=0.1), rule, **options)
        optimizer.step(Batch(model, nn.MSELoss(), x, y))
        return set(optimizer.masks())

    assert names(model.parameters()) == {"weight", "bias"}  # of the module that the closure calls
    assert names(model.parameters(), model=torch.compile(model, backend="eager")) == {"weight", "bias"}
    assert names(model.named_parameters()) == {"weight", "bias"}
    assert names(model.parameters(), model=model) == {"weight", "bias"}
    assert names(model.parameters(), problem=Problem(model, nn.MSELoss(), (x, y))) == {"weight", "bias"}
    whole = nn.ModuleDict({"head": model})
    assert names(model.parameters(), model=whole) == {"head.weight", "head.bias"}


def test_epoch_and_total_fill_the_rule() -> None:
    model = MLP.model()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*MLP.data), batch_size=5)
    problem = Problem(model, nn.CrossEntropyLoss(), loader)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    assert "every=5" in repr(SharpnessAware(base, ssam_f(0.1), problem).rule)
    optimizer = SharpnessAware(base, ssam_d(0.1), epoch=7, total=70)
    assert "every=7" in repr(optimizer.rule)
    assert "Decay(0.5, total=70)" in repr(optimizer.rule)
    assert parse(repr(optimizer.rule)) == optimizer.rule


# bad input


def test_closures_that_do_not_keep_the_contract() -> None:
    model = DROPOUT.model()
    optimizer = optimizer_of(DROPOUT, model, sam(0.1))
    run(DROPOUT, model, optimizer, 0, 2)
    x, y = DROPOUT.batch(2)

    def no_backward() -> Tensor:
        return F.cross_entropy(model(x), y)

    def no_return() -> None:
        F.cross_entropy(model(x), y).backward()

    before = everything(model, optimizer)
    for closure, text in [
        (None, r"step\(\) got no closure, expected a closure that clears the gradients.*optimizer\.step\(closure\)"),
        (no_return, "the closure returned None, expected the loss: end it with `return loss`"),
        (no_backward, r"left no gradient on any of 5 parameters, expected at least one: call loss\.backward\(\)"),
    ]:
        with pytest.raises((TypeError, ValueError), match=text):
            optimizer.step(closure)
        assert same(everything(model, optimizer), before)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda m: SharpnessAware(m.parameters(), sam()), r"got a generator as base, expected a torch optimizer"),
        (lambda m: SharpnessAware(m, sam()), r"got a Sequential as base, expected a torch optimizer"),
        (lambda m: SharpnessAware(torch.optim.LBFGS(m.parameters()), sam()), r"got a LBFGS as base, expected an opt"),
        (lambda m: SharpnessAware(optimizer_of(MLP, m, sam()), sam()), r"got a SharpnessAware as base, expected"),
        (lambda m: optimizer_of(MLP, m, 0.1), r"got 0\.1 as rule, expected a rule such as sam\(rho=0\.05\) or its"),
        (lambda m: optimizer_of(MLP, m, "sams()"), r"the rule got the name 'sams'"),
        (lambda m: optimizer_of(MLP, m, sam(), epoch=0), r"SharpnessAware got epoch=0, expected a whole number >= 1"),
        (lambda m: optimizer_of(MLP, m, sam(), total=1.5), r"SharpnessAware got total=1\.5, expected a whole"),
        (lambda m: optimizer_of(MLP, m, ssam_f(every=1), problem=None), r"per-example gradients and got no problem"),
        (lambda m: optimizer_of(MLP, m, ssam_f(), epoch=None), r"got every=None, expected the optimizer steps.*epoch="),
        (lambda m: optimizer_of(MLP, m, ssam_d(every=2), total=None), r"got total=None, expected.*total="),
    ],
)
def test_bad_arguments_are_named(make: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        make(MLP.model())


def test_a_failed_construction_leaves_the_base_alone() -> None:
    model = MLP.model()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    groups, state = base.param_groups, base.state
    with pytest.raises(ValueError, match="got no problem"):
        SharpnessAware(base, ssam_f(every=1))
    assert base.param_groups is groups
    assert base.state is state
    SharpnessAware(base, sam())
    assert base.param_groups is groups
    assert base.state is state
    assert len(groups) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_two_devices_are_refused() -> None:
    params = [nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1, device="cuda"))]
    with pytest.raises(ValueError, match=r"the parameters are on cpu, cuda:0, expected one device"):
        SharpnessAware(torch.optim.SGD(params, lr=0.1), sam())


def test_two_devices_are_refused_without_one() -> None:
    params = [nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1, device="meta"))]
    with pytest.raises(ValueError, match=r"the parameters are on cpu, meta, expected one device: use one Sharp"):
        SharpnessAware(torch.optim.SGD(params, lr=0.1), sam())


def test_methods_and_combinations_are_all_here() -> None:
    assert len(METHODS) == 11
    assert len(RULES) == 25
