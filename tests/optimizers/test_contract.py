"""A good citizen of torch: groups, schedulers, hooks, copies, closures, compiled models."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import Batch, SharpnessAware, sam, sgd
from tests.optimizers.shared import everything, optimizer_of, run, same
from tests.problems import CONV, DROPOUT, MLP, RULES


def test_groups_and_state_are_the_base_optimizer_s() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam(0.1))
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state
    assert isinstance(optimizer, torch.optim.Optimizer)
    run(MLP, model, optimizer, 0, 2)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state
    assert len(optimizer.state) == 6
    assert optimizer.defaults == optimizer.base.defaults


def test_learning_rate_schedulers_reach_the_base() -> None:
    """Warnings are errors here: torch warns when a scheduler steps before its optimizer."""
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam(0.1))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    rates = []
    for step in range(4):
        optimizer.step(MLP.closure(model, step))
        scheduler.step()
        rates.append(optimizer.base.param_groups[0]["lr"])
    assert rates == pytest.approx([0.085355, 0.05, 0.014645, 0.0], abs=1e-6)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.25
    assert optimizer.base.param_groups[0]["lr"] == 0.25
    again = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step(MLP.closure(model, 4))
    again.step()
    assert optimizer.base.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_sgd_is_any_base_unchanged(base: type[torch.optim.Optimizer]) -> None:
    model, twin = DROPOUT.model(), DROPOUT.model()
    optimizer = SharpnessAware(base(model.parameters(), lr=0.01, weight_decay=0.01), sgd())
    plain = base(twin.parameters(), lr=0.01, weight_decay=0.01)
    torch.manual_seed(0)
    run(DROPOUT, model, optimizer, 0, 6)
    torch.manual_seed(0)
    for step in range(6):
        plain.step(DROPOUT.closure(twin, step))
    assert same(list(model.state_dict().values()), list(twin.state_dict().values()))


def test_groups_can_be_added() -> None:
    model, extra = MLP.model(), nn.Linear(3, 3)
    whole = nn.Sequential(model, extra)
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), sam(0.1), model=whole)
    optimizer.step(lambda: MLP.closure(whole, 0)())
    optimizer.add_param_group({"params": list(extra.parameters()), "lr": 0.5})
    before = extra.weight.detach().clone()
    optimizer.step(MLP.closure(whole, 1))
    assert len(optimizer.param_groups) == len(optimizer.base.param_groups) == 2
    assert not torch.equal(before, extra.weight)
    assert len(optimizer.params) == 8
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [extra.weight]})


def test_hooks_run_once_a_step_around_it() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam(0.1))
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.base.register_step_pre_hook(lambda *_: calls.append("direction"))
    run(MLP, model, optimizer, 0, 2)
    assert calls == ["before", "direction", "after"] * 2


def test_state_hooks_run() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam(0.1))
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "mine": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: calls.append(f"loading {state['mine']}"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["saving", "loading 1", "loaded"]


def test_clipping_is_of_the_final_direction() -> None:
    model = MLP.model()
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=1.0), sam(0.1))
    optimizer.base.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01) and None)
    before = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    optimizer.step(MLP.closure(model, 0))
    after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_plain_loop_with_zero_grad_in_either_way() -> None:
    weights = []
    for to_none in (True, False):
        model = MLP.model()
        optimizer = optimizer_of(MLP, model, sam(0.1))
        for step in range(4):
            x, y = MLP.batch(step)

            def closure(x: Tensor = x, y: Tensor = y, to_none: bool = to_none) -> Tensor:
                optimizer.zero_grad(set_to_none=to_none)  # noqa: B023
                loss = F.cross_entropy(model(x), y)  # noqa: B023
                loss.backward()
                return loss

            loss = optimizer.step(closure)
            assert not loss.requires_grad
        weights.append(everything(model, optimizer))
    assert same(*weights)


def test_accumulated_batches_are_one_batch() -> None:
    model, twin = MLP.model(), MLP.model()
    optimizer, whole = optimizer_of(MLP, model, sam(0.1)), optimizer_of(MLP, twin, sam(0.1))
    x, y = MLP.batch(0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = [F.cross_entropy(model(x[i : i + 2]), y[i : i + 2]) / 4 for i in range(0, 8, 2)]
        for loss in losses:
            loss.backward()
        return torch.stack(losses).sum()

    for _ in range(5):
        optimizer.step(closure)
        whole.step(MLP.closure(twin, 0))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p - q).abs().max() <= 1e-13


def test_returns_the_loss_at_w_in_inference_code_too() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam(0.5))
    x, y = MLP.batch(0)
    expected = F.cross_entropy(model(x), y)
    with torch.no_grad():
        assert optimizer.step(MLP.closure(model, 0)) == expected


def test_repr_names_base_rule_and_progress() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam(0.1))
    run(MLP, model, optimizer, 0, 1)
    text = repr(optimizer)
    assert text.startswith("SharpnessAware(SGD (")
    assert text.endswith("rule=Ascend(Ball(0.1)), seed=3, steps=1)")


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", ["sam", "rst-looksam", "ssam_d"])
def test_copies_go_on_alike(name: str, copied: Any) -> None:
    model = MLP.model()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = SharpnessAware(base, RULES[name], model=model, total=50)
    run(MLP, model, optimizer, 0, 3)
    twin, other = copied((model, optimizer))
    run(MLP, model, optimizer, 3, 6)
    run(MLP, twin, other, 3, 6)
    assert same(everything(model, optimizer), everything(twin, other))
    assert other.param_groups is other.base.param_groups
    assert other.params[0] is next(twin.parameters())


@pytest.mark.parametrize(
    ("given", "compilations"),
    [
        pytest.param(True, 1, id="model"),
        pytest.param(False, 2, id="watched", marks=pytest.mark.filterwarnings("ignore:Using `torch.compile")),
    ],
)
def test_a_compiled_model_is_guarded_too(given: bool, compilations: int) -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []
    model, twin = CONV.model(), CONV.model()
    compiled = torch.compile(model, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    optimizer = optimizer_of(CONV, model, sam(0.1), model=model if given else None)
    plain = optimizer_of(CONV, twin, sam(0.1))
    for step in range(4):
        optimizer.step(Batch(compiled, nn.CrossEntropyLoss(), *CONV.batch(step)))
        plain.step(CONV.closure(twin, step))
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14), name
    assert len(graphs) == compilations
