"""Stopped, saved, loaded and finished: bit for bit the training that was never stopped."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sharpscope import SharpnessAware, looksam, rst, sam
from tests.optimizers.shared import everything, leaves, optimizer_of, run, same
from tests.problems import CONV, DROPOUT, MLP, RULES, Case

STEPS = 7


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
        from tests.optimizers.test_resume import DROPOUT, RULES, STEPS, everything, resumed, run
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
