"""Refused with got, expected and remedy, the weights untouched: values of every wrong kind, bases of no use."""

from __future__ import annotations

import dataclasses
import inspect
import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import (
    Ball,
    Batch,
    Constant,
    Evolving,
    Linear,
    RandomMask,
    SharpnessAware,
    delta_eta,
    gnr,
    gsam,
    rst,
    sam,
    ssam_d,
)
from sharpscope.ascent import masks, perturbations, scores
from sharpscope.ascent.probe import Probe
from sharpscope.ascent.scores import Random
from sharpscope.core import schedules
from sharpscope.core.expressions import Piece
from sharpscope.optimizers import methods, rules
from tests.optimizers.shared import everything, optimizer_of, run, same
from tests.problems import DROPOUT, METHODS, MLP, RULES

HOUSE = r"(?s).+ got .+, expected .+: .+"
NUMBERS = [math.nan, math.inf, -math.inf, 10**400, 1j, [1], "x"]
NEEDED = {
    "rule": sam(), "perturbation": Ball(0.1), "mask": RandomMask(0.5), "score": Random(), "rho": 0.1, "value": 0.5,
    "start": 0.0, "end": 1.0, "first": 0.5, "edge": 0.0, "middle": 1.0, "number": 0.5, "steps": 4, "alpha": 0.4,
    "low": 0.1, "high": 0.2, "lr_low": 0.1, "lr_high": 0.2, "pattern": "*",
}  # fmt: skip
COUNTS = {"examples", "every", "total", "samples", "steps", "seed"}  # of any size
TEXTS = {"pattern", "scaled"}


def pieces_of(module: ModuleType) -> list[type[Piece]]:
    found = [getattr(module, name) for name in module.__all__]
    return [c for c in found if inspect.isclass(c) and issubclass(c, Piece) and dataclasses.fields(c)]


FIELDS = [
    (piece, field.name)
    for module in (schedules, masks, perturbations, scores, rules)
    for piece in pieces_of(module)
    for field in dataclasses.fields(piece)
]


@pytest.mark.parametrize(("piece", "field"), FIELDS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_no_piece_takes_a_value_of_a_wrong_kind(piece: type[Piece], field: str) -> None:
    needed = [f.name for f in dataclasses.fields(piece) if f.default is dataclasses.MISSING]
    given = {name: NEEDED[name] for name in needed}
    assert isinstance(piece(**given), piece)
    for bad in NUMBERS:
        if (field in COUNTS and bad == 10**400) or (field in TEXTS and bad == "x"):
            continue
        with pytest.raises((TypeError, ValueError), match=HOUSE):
            piece(**{**given, field: bad})


@pytest.mark.parametrize("name", methods.__all__)
def test_no_method_takes_a_number_of_a_wrong_kind(name: str) -> None:
    method = getattr(methods, name)
    for argument, parameter in inspect.signature(method).parameters.items():
        for bad in NUMBERS if parameter.annotation not in ("bool", bool) else []:
            if (argument in COUNTS and bad == 10**400) or (argument in TEXTS and bad == "x"):
                continue
            usual = {"rule": sam(), "examples": 100}
            given = {name: value for name, value in usual.items() if name in inspect.signature(method).parameters}
            with pytest.raises((TypeError, ValueError), match=HOUSE):
                method(**{**given, parameter.name: bad})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1j, [1], "x", -1, True])
@pytest.mark.parametrize("option", ["problem", "seed", "epoch", "total", "model", "sync", "scaler", "clip"])
def test_no_option_takes_a_value_of_a_wrong_kind(option: str, bad: Any) -> None:
    if (option, bad) in [("seed", -1), ("clip", math.inf)]:
        return
    with pytest.raises((TypeError, ValueError), match=HOUSE):
        optimizer_of(MLP, MLP.model(), sam(), **{option: bad})


@pytest.mark.parametrize("bad", [math.nan, 2.0, -0.1, "x", None, True, 1j])
def test_mean_probability_of_no_probability(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"delta_eta got p=.+, expected a number in \[0, 1\]: change p"):
        delta_eta(bad, 3)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            sam(Constant(-1.0)),
            r"Constant\(-1\.0\) got to -1 at step 2, expected values in \[0, inf\]: change the sched",
        ),
        (rst(sam(), Constant(1.5)), r"Constant\(1\.5\) got to 1\.5 at step 2, expected values in \[0, 1\]: change"),
        (gnr(0.1, Constant(-0.5)), r"got to -0\.5 at step 2, expected values in \[0, inf\]"),
        (gsam(0.1, Constant(-0.5)), r"got to -0\.5 at step 2, expected values in \[0, inf\]"),
        (ssam_d(0.1, drop=Constant(1.5), every=1), r"got to 1\.5 at step 2, expected values in \[0, 1\]"),
    ],
)
def test_a_schedule_that_leaves_the_range_is_stopped(rule: Any, text: str) -> None:
    model = DROPOUT.model()
    optimizer = optimizer_of(DROPOUT, model, "ssam_d(0.1, every=1)")
    run(DROPOUT, model, optimizer, 0, 2)
    optimizer.rule = rule
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=text):
        optimizer.step(DROPOUT.closure(model, 2))
    assert same(everything(model, optimizer), before)


def test_a_schedule_may_round_at_its_ends() -> None:
    probe = Probe([torch.ones(1)], ["w"], step=5)
    for start in torch.linspace(0, 1, 1001).tolist():
        for end in (0.0, 1.0):
            assert abs(probe.value(Linear(start, end, total=1), 0, 1) - end) < 1e-9
    with pytest.raises(ValueError, match=r"got to nan at step 5, expected values in \[-inf, inf\]"):
        probe.value(Ramp())


@dataclasses.dataclass(frozen=True, repr=False)
class Ramp(schedules.Schedule):
    def __call__(self, step: int, lr: float | None = None) -> float:
        return math.nan


@pytest.mark.parametrize("bad", [None, "x", 3, [1], {}, {"sharpscope": 1}, {"sharpscope": {"version": 7}}])
def test_what_is_no_state_is_refused(bad: Any) -> None:
    optimizer = optimizer_of(MLP, MLP.model(), sam())
    with pytest.raises(
        ValueError, match=r"load_state_dict got .+, expected a state_dict of SharpnessAware, version 1: "
    ):
        optimizer.load_state_dict(bad)


@pytest.mark.parametrize("bad", ["x", 3, 1j, [1]])
def test_what_is_no_closure_is_refused(bad: Any) -> None:
    optimizer = optimizer_of(MLP, MLP.model(), sam())
    with pytest.raises(TypeError, match=r"step\(\) got a .+, expected a closure that clears the gradients"):
        optimizer.step(bad)


def test_a_base_that_climbs_is_refused() -> None:
    """Towards a larger loss is then downhill: the direction would be that of a flatter point, silently."""
    model = MLP.model()
    with pytest.raises(ValueError, match=r"base with maximize=True, expected one that minimises.*: negate the loss in"):
        SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), sam())


def test_a_base_for_sparse_gradients_alone_is_refused() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    with pytest.raises(TypeError, match=r"got a SparseAdam as base, expected an optimizer that steps from dense grad"):
        SharpnessAware(torch.optim.SparseAdam(table.parameters()), sam())


def test_complex_parameters_are_refused() -> None:
    w = nn.Parameter(torch.ones(3, dtype=torch.complex128))
    with pytest.raises(
        ValueError, match=r"got a parameter of torch\.complex128, expected real ones: train torch\.view"
    ):
        SharpnessAware(torch.optim.SGD([w], lr=0.1), sam())


@pytest.mark.parametrize(
    ("group", "text"),
    [
        (
            {"params": [nn.Parameter(torch.ones(2, device="meta"))]},
            "the parameters are on cpu, meta, expected one device",
        ),
        ({"params": [nn.Parameter(torch.ones(2))], "maximize": True}, "maximize=True"),
    ],
)
def test_a_group_of_no_use_is_not_added(group: dict[str, Any], text: str) -> None:
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam())
    with pytest.raises(ValueError, match=text):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    run(MLP, model, optimizer, 0, 1)


def test_a_state_of_nothing_to_train_can_be_loaded() -> None:
    optimizer = SharpnessAware(torch.optim.SGD(MLP.model().requires_grad_(False).parameters(), lr=0.1), sam())
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.steps == 0


def test_rows_and_loss_scaling_go_together() -> None:
    """A Batch that did not scale would have its gradients divided by a scale that they never had."""

    def esam(scaler: torch.amp.GradScaler | None) -> list[Tensor]:
        model = MLP.model()
        optimizer = optimizer_of(MLP, model, METHODS["esam"], scaler=scaler)
        for step in range(5):
            loss = optimizer.step(Batch(model, nn.CrossEntropyLoss(), *MLP.batch(step), scaler))
            assert loss < 3.0
            if scaler is not None:
                scaler.update()
        return [p.detach() for p in model.parameters()]

    plain, scaled = esam(None), esam(torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert max(float((a - b).abs().max()) for a, b in zip(plain, scaled, strict=True)) < 1e-14
    model = MLP.model()
    optimizer = optimizer_of(MLP, model, sam(), scaler=torch.amp.GradScaler("cpu"))
    before = everything(model, optimizer)
    with pytest.raises(
        ValueError, match=r"Batch with another scaler than the optimizer's, expected the same for both: "
    ):
        optimizer.step(MLP.closure(model, 0))
    assert same(everything(model, optimizer), before)


def test_a_closure_that_forgets_to_scale_changes_nothing() -> None:
    model = DROPOUT.model()
    optimizer = optimizer_of(DROPOUT, model, RULES["looksam"], scaler=torch.amp.GradScaler("cpu"))
    x, y = DROPOUT.batch(0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    before = everything(model, optimizer)
    with pytest.raises(AssertionError, match=r"scaler\.scale"):
        optimizer.step(closure)
    assert same(everything(model, optimizer), before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", RULES)
def test_a_base_that_fails_before_it_steps_leaves_nothing_behind(name: str, error: type[BaseException]) -> None:
    model = DROPOUT.model()
    optimizer = optimizer_of(DROPOUT, model, RULES[name])
    run(DROPOUT, model, optimizer, 0, 2)

    def fail(*_: Any) -> None:
        raise error

    hook = optimizer.base.register_step_pre_hook(fail)
    before = everything(model, optimizer)
    with pytest.raises(error):
        optimizer.step(DROPOUT.closure(model, 2))
    assert same(everything(model, optimizer), before)
    hook.remove()
    run(DROPOUT, model, optimizer, 2, 3)


def test_drop_largest_is_a_switch() -> None:
    with pytest.raises(TypeError, match="Evolving got drop_largest='no', expected True or False: change drop_largest"):
        Evolving(drop_largest="no")  # type: ignore[arg-type]
