"""The optimizer around a rule: a good citizen of torch, resumable bit for bit, unharmed by what goes wrong."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import Batch, Problem, SharpnessAware, looksam, parse, rst, sam, sgd, ssam_d, ssam_f
from sharpscope.optimizers.rules import Reuse, Rule
from tests.problems import CONV, DROPOUT, METHODS, MLP, RULES, Case

STEPS = 7


def optimizer_of(case: Case, net: nn.Module, rule: Rule | str, **options: Any) -> SharpnessAware:
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    known = {"problem": case.problem(net), "model": net, "seed": 3, "epoch": 3, "total": 50}
    return SharpnessAware(base, rule, **(known | options))


def everything(model: nn.Module, optimizer: SharpnessAware) -> list[Tensor]:
    """All that a step may change: weights, buffers, random state, momentum, the rule's memory, counters."""
    found = [x.detach().clone() for x in model.state_dict().values()] + [torch.get_rng_state()]
    found += [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters() if p in optimizer.state]
    return found + leaves(optimizer.memory) + [torch.tensor(optimizer.steps), torch.tensor(optimizer.passes)]


def leaves(memory: Any) -> list[Tensor]:
    if isinstance(memory, dict):
        return [x for name in sorted(memory) for x in leaves(memory[name])]
    if isinstance(memory, list):
        return [x for item in memory for x in leaves(item)]
    return [torch.as_tensor(memory).detach().clone()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def run(case: Case, model: nn.Module, optimizer: SharpnessAware, start: int, end: int) -> None:
    for step in range(start, end):
        optimizer.step(case.closure(model, step))


# resuming


def saved(model: nn.Module, optimizer: SharpnessAware) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}


def resumed(case: Case, rule: str, state: dict[str, Any], **options: Any) -> tuple[nn.Module, SharpnessAware]:
    model = case.model()
    optimizer = optimizer_of(case, model, rule, **options)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return model, optimizer


@pytest.mark.parametrize("name", RULES)
def test_stop_at_any_step_and_finish(name: str) -> None:
    torch.manual_seed(2)
    model = DROPOUT.model()
    optimizer = optimizer_of(DROPOUT, model, RULES[name])
    states = []
    for step in range(STEPS):
        file = io.BytesIO()
        torch.save(saved(model, optimizer), file)
        states.append(file)
        run(DROPOUT, model, optimizer, step, step + 1)
    expected = everything(model, optimizer)
    for step, file in enumerate(states):
        file.seek(0)
        torch.manual_seed(99)
        other, again = resumed(DROPOUT, RULES[name], torch.load(file, weights_only=True), seed=77)
        run(DROPOUT, other, again, step, STEPS)
        assert same(everything(other, again), expected), step


def test_finish_in_a_new_process(tmp_path: Path) -> None:
    expected = {}
    for name, rule in RULES.items():
        torch.manual_seed(2)
        model = DROPOUT.model()
        optimizer = optimizer_of(DROPOUT, model, rule)
        run(DROPOUT, model, optimizer, 0, 4)
        torch.save(saved(model, optimizer), tmp_path / f"{name}.pt")
        run(DROPOUT, model, optimizer, 4, STEPS)
        expected[name] = everything(model, optimizer)
    program = """
        import sys, torch
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(1)
        from tests.optimizers.test_shell import DROPOUT, RULES, STEPS, everything, resumed, run
        folder, found = sys.argv[1], {}
        for name, rule in RULES.items():
            state = torch.load(f"{folder}/{name}.pt", weights_only=True)
            model, optimizer = resumed(DROPOUT, rule, state)
            run(DROPOUT, model, optimizer, 4, STEPS)
            found[name] = everything(model, optimizer)
        torch.save(found, f"{folder}/found.pt")
    """
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, timeout=120)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert {name for name in RULES if not same(found[name], expected[name])} == set()


def test_a_state_is_not_touched_by_later_steps() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, rst(looksam(0.1, every=2), 0.9))
    run(MLP, model, optimizer, 0, 3)
    state = optimizer.state_dict()["sharpscope"]
    before = leaves(state["memory"])
    run(MLP, model, optimizer, 3, 6)
    assert same(leaves(state["memory"]), before)
    other = optimizer_of(MLP, MLP.model(), rst(looksam(0.1, every=2), 0.9))
    other.load_state_dict(optimizer.state_dict())
    kept = leaves(optimizer.memory)
    other.memory["rule"]["kept"][0].add_(1.0)
    assert same(leaves(optimizer.memory), kept)


def refused(text: str, state: Any, optimizer: SharpnessAware) -> None:
    model_state = leaves(optimizer.memory), optimizer.steps, optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match=text):
        optimizer.load_state_dict(state)
    assert same(leaves(optimizer.memory), model_state[0])
    assert (optimizer.steps, optimizer.param_groups[0]["lr"]) == model_state[1:]


def test_other_states_are_refused() -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam(0.1))
    run(MLP, model, optimizer, 0, 2)
    state = optimizer.state_dict()
    refused(
        r"got the rule Ascend\(Ball\(0\.1\)\), expected Ascend\(Ball\(0\.2\)\): build the optimizer with the rule that",
        state,
        optimizer_of(MLP, MLP.model(), sam(0.2)),
    )
    refused(
        r"got one of another optimizer, expected a state_dict of SharpnessAware, version 1: save it with",
        torch.optim.SGD(model.parameters(), lr=0.3).state_dict(),
        optimizer,
    )
    later = copy.deepcopy(state)
    later["sharpscope"]["version"] = 2
    refused(r"got version 2, expected a state_dict of SharpnessAware, version 1", later, optimizer)
    refused(
        r"got the state of SGD, expected Adam: build the optimizer around the base that was saved",
        state,
        SharpnessAware(torch.optim.Adam(MLP.model().parameters()), sam(0.1)),
    )
    refused(
        r"trainable parameters \(place:shape\) 0:7x5 1:7 2:6x7 3:6 4:3x6 5:3, expected 0:4x1x3x3 1:4 2:4 3:3x36 4:3: ",
        state,
        optimizer_of(CONV, CONV.model(), sam(0.1)),
    )
    frozen = MLP.model()
    next(frozen.parameters()).requires_grad_(False)
    refused(r"with the same parameters trainable", state, optimizer_of(MLP, frozen, sam(0.1)))


# torch's contract


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


# what must not leave a trace


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


# masks, names, passes


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
