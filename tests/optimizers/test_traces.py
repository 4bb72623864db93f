"""What must not leave a trace: interrupts, frozen and unused parameters, passes beyond the first."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sharpscope import Batch, Problem, SharpnessAware, looksam, sam, ssam_d
from sharpscope.optimizers.rules import Reuse
from tests.optimizers.shared import everything, optimizer_of, run, same
from tests.problems import CONV, DROPOUT, MLP, RULES


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("bad", [1, 2])
@pytest.mark.parametrize("name", RULES)
def test_an_interrupted_step_has_not_happened(name: str, bad: int, error: type[BaseException]) -> None:
    """Everything is as before, and the training that goes on is the one that was never interrupted."""
    torch.manual_seed(1)
    straight = DROPOUT.model()
    finished = optimizer_of(DROPOUT, straight, RULES[name])
    run(DROPOUT, straight, finished, 0, 6)
    expected = everything(straight, finished)
    torch.manual_seed(1)
    model = DROPOUT.model()
    optimizer = optimizer_of(DROPOUT, model, RULES[name])
    for step in range(6):
        batch = DROPOUT.closure(model, step)
        calls = 0

        class Interrupted(Batch):
            def __call__(self, rows: Tensor | None = None) -> Tensor:
                nonlocal calls
                calls += 1
                loss = super().__call__(rows)
                if calls == bad:  # after its forward and backward
                    raise error
                return loss

        before = everything(model, optimizer)
        try:
            optimizer.step(Interrupted(model, batch.loss, batch.x, batch.y))
        except error:
            assert same(everything(model, optimizer), before)
            optimizer.step(batch)
        else:
            assert calls < bad
    assert same(everything(model, optimizer), expected)


@pytest.mark.parametrize("name", RULES)
def test_frozen_and_unused_parameters_stay(name: str) -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.frozen, self.unused = MLP.model(), nn.Linear(3, 3), nn.Linear(2, 2)
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.frozen(self.used(x)) + 0.0 * self.used[0].bias.sum().detach()

    torch.manual_seed(0)
    model = Partly()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    problem = Problem(model, nn.CrossEntropyLoss(), MLP.data)
    optimizer = SharpnessAware(base, RULES[name], problem, seed=3, model=model, epoch=3, total=50)
    parts = [*model.frozen.parameters(), *model.unused.parameters()]
    before = [p.detach().clone() for p in parts]
    run(MLP, model, optimizer, 0, 8)
    assert same([p.detach() for p in parts], before)
    assert not any(p.requires_grad for p in model.frozen.parameters())
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(not name.startswith("frozen") for name in optimizer.masks())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("odd", [True, False], ids=["first", "second"])
def test_parameters_used_in_one_pass_only_do_not_drift(name: str, odd: bool) -> None:
    """With a learning rate of 0 nothing but a failed restoration could move a weight."""

    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.branch, self.calls = MLP.model(), nn.Linear(3, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not torch._C._functorch.peek_interpreter_stack():
                self.calls += 1
            out: Tensor = self.always(x)
            return self.branch(out) if self.calls % 2 == int(odd) else out

    torch.manual_seed(0)
    model = Fickle()
    base = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    problem = Problem(model, nn.CrossEntropyLoss(), MLP.data)
    optimizer = SharpnessAware(base, RULES[name], problem, seed=3, model=model, epoch=3, total=50)
    before = [p.detach().clone() for p in model.parameters()]
    run(MLP, model, optimizer, 0, 6)
    assert same([p.detach() for p in model.parameters()], before)
    assert all(state["momentum_buffer"].isfinite().all() for state in optimizer.state.values())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("given", [True, False], ids=["model", "watched"])
def test_batch_norm_moves_once_a_step(name: str, given: bool) -> None:
    torch.manual_seed(0)
    model = CONV.model()
    optimizer = optimizer_of(CONV, model, RULES[name], model=model if given else None)
    for step in range(6):
        twin = copy.deepcopy(model)
        twin(CONV.batch(step)[0])
        optimizer.step(CONV.closure(model, step))
        assert same(list(model.buffers()), list(twin.buffers()))
        assert int(model[1].num_batches_tracked) == step + 1


def test_nothing_to_train_is_named() -> None:
    model = MLP.model().requires_grad_(False)
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), sam(0.1))
    with pytest.raises(ValueError, match=r"got no parameter that requires a gradient, expected at least one"):
        optimizer.step(MLP.closure(model, 0))


def test_parameters_may_change_between_steps() -> None:
    """What LookSAM keeps is of no use then; a mask has to be asked for anew."""
    model = MLP.model()
    first = next(model.parameters()).requires_grad_(False)
    optimizer = optimizer_of(MLP, model, looksam(0.1, every=5))
    masked = optimizer_of(MLP, model, ssam_d(0.1, 0.5, every=9))
    run(MLP, model, optimizer, 0, 2)
    run(MLP, model, masked, 0, 1)
    first.requires_grad_(True)
    run(MLP, model, optimizer, 2, 4)
    assert optimizer.passes == 6.0
    run(MLP, model, masked, 1, 2)
    assert sum(int(mask.sum()) for mask in masked.masks().values()) == round(0.5 * 111)


def test_what_belongs_to_other_parameters_of_the_same_shapes_is_not_used() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].requires_grad_(False)
    x, y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    closure = Batch(model, nn.functional.cross_entropy, x, y)

    def optimizer() -> SharpnessAware:
        base = torch.optim.SGD(model.parameters(), lr=0.0)
        return SharpnessAware(base, Reuse(ssam_d(0.1, 0.5, every=9), every=3), epoch=5, total=9, model=model)

    moved, fresh = optimizer(), optimizer()
    moved.step(closure)
    saved = moved.state_dict()
    model[0].requires_grad_(False)
    model[1].requires_grad_(True)
    assert moved.masks() == {}
    moved.step(closure)
    assert moved.masks().keys() == {"1.weight", "1.bias"}
    assert moved.passes == 4.0  # a climb anew
    expected = r"got trainable parameters \(place:shape\) 0:3x3 1:3, expected 2:3x3 3:3: build"
    with pytest.raises(ValueError, match=expected):
        fresh.load_state_dict(saved)
