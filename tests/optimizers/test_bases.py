"""Any base optimizer and any learning-rate scheduler: identities, resuming, groups and tied weights."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers

from sharpscope import Batch, SharpnessAware
from tests.optimizers.shared import same
from tests.problems import DROPOUT, METHODS, MLP, Case

BASES: dict[str, Callable[[Any], Optimizer]] = {
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
}
OPTIONS = {
    "rows": "Ascend(Ball(0.1), rows=0.5)",
    "tensors": "Ascend(Masked(Ball(0.2), RandomTensors(0.5), norm='perturbed'))",
    "perturbed": "Ascend(Masked(Ball(0.2), Top(Gradient(), 0.5, every=2), norm='perturbed'))",
    "pattern": "Ascend(Masked(Ball(0.2), Top(Fisher(4, seed=5), 0.5, every=3, pattern='2:4')))",
    "evolving": "Ascend(Masked(Ball(0.2), Evolving(0.5, Decay(0.9), 2, Weight(), Gradient(), drop_largest=True)))",
    "schedules": "rst(gsam(Warmup(Cosine(0.3, 0.05), 4)), p=Sine(0, 1))",
    "global": "looksam(InverseSqrt(0.3), every=3, alpha=Linear(0.7, 0), projection='global')",
}


def build(case: Case, base: str, rule: str, **options: Any) -> tuple[nn.Module, SharpnessAware]:
    model = case.model()
    known = {"model": model, "seed": 3, "epoch": 3, "total": 9} | options
    return model, SharpnessAware(BASES[base](model.parameters()), rule, case.problem(model), **known)


def advance(case: Case, model: nn.Module, optimizer: SharpnessAware, start: int, end: int) -> list[Tensor]:
    for step in range(start, end):
        optimizer.step(Batch(model, nn.CrossEntropyLoss(), *case.batch(step), optimizer.scaler))
        if optimizer.scaler is not None:
            optimizer.scaler.update()
    return [*model.state_dict().values(), torch.get_rng_state()]


@pytest.mark.parametrize(
    ("name", "base"), [(name, "adam") for name in OPTIONS] + [(name, base) for name in METHODS for base in BASES]
)
def test_a_saved_and_a_copied_training_finish_as_the_straight_one(name: str, base: str) -> None:
    """Loss scaling with Adam, clipping with the others."""
    rule, scaled = (METHODS | OPTIONS)[name], base == "adam"

    def options() -> dict[str, Any]:
        grown = {"init_scale": 64.0, "growth_interval": 2}
        return {"scaler": torch.amp.GradScaler("cpu", **grown)} if scaled else {"clip": 0.5}

    torch.manual_seed(1)
    model, optimizer = build(DROPOUT, base, rule, **options())
    advance(DROPOUT, model, optimizer, 0, 4)
    file = io.BytesIO()
    scaler = optimizer.scaler.state_dict() if optimizer.scaler is not None else {}
    torch.save([model.state_dict(), optimizer.state_dict(), scaler], file)
    twin, copied = copy.deepcopy((model, optimizer))
    random = torch.get_rng_state()
    expected = advance(DROPOUT, model, optimizer, 4, 9)
    torch.set_rng_state(random)
    assert same(advance(DROPOUT, twin, copied, 4, 9), expected)
    file.seek(0)
    weights, state, scale = torch.load(file, weights_only=True)
    other, again = build(DROPOUT, base, rule, **options() | {"seed": 77})
    other.load_state_dict(weights)
    again.load_state_dict(state)
    if again.scaler is not None:
        again.scaler.load_state_dict(scale)
    torch.set_rng_state(random)
    assert same(advance(DROPOUT, other, again, 4, 9), expected)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gnr(0.1, weight=1)", "sam(0.1)"), ("gnr(0.1, 0)", "sgd()"), ("rst(asam(0.5), 1)", "asam(0.5)"),
        ("rst(asam(0.5), 0)", "sgd()"), ("looksam(0.1, every=1)", "sam(0.1)"), ("ssam_d(0.1, 0)", "sam(0.1)"),
        ("ssam_f(0.1, 0)", "sam(0.1)"), ("esam(0.1, 1, 1)", "sam(0.1)"), ("sam(0)", "sgd()"), ("gsam(0)", "sgd()"),
        ("looksam(0, every=3)", "sgd()"), ("grst(gsam(0.1), 1, weight=1.5)", "Blend(gsam(0.1), 1.5)"),
    ],
)  # fmt: skip
def test_limits_of_methods_are_exact(one: str, other: str, base: str) -> None:
    found = []
    for rule in (one, other):
        torch.manual_seed(1)
        found.append(advance(DROPOUT, *build(DROPOUT, base, rule), 0, 6))
    assert same(*found)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "one-cycle": lambda o: schedulers.OneCycleLR(o, 0.5, total_steps=7),  # moves the momentum too
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 6),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "multi": lambda o: schedulers.MultiStepLR(o, [2, 4]),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda _: 0.9),
    "constant": lambda o: schedulers.ConstantLR(o),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 6),
    "sequential": lambda o: schedulers.SequentialLR(o, [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.9)], [2]),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.9)], optimizer=o
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_scheduler_moves_it_as_it_moves_the_base(name: str) -> None:
    """Alone, wrapped, and wrapped with a stop, two load_state_dict and a new start after the third step."""
    found = []
    for kind in ("base", "wrapped", "resumed"):

        def make(kind: str = kind) -> tuple[nn.Module, Optimizer, Any]:
            model = MLP.model()
            base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            optimizer = base if kind == "base" else SharpnessAware(base, "sgd()", model=model)
            return model, optimizer, MAKERS[name](optimizer)

        model, optimizer, scheduler = make()
        for step in range(6):
            if kind == "resumed" and step == 3:
                states = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, scheduler)]
                model, optimizer, scheduler = make()
                for part, state in zip((model, optimizer, scheduler), states, strict=True):
                    part.load_state_dict(state)
            loss = optimizer.step(MLP.closure(model, step)).detach()  # type: ignore[attr-defined]
            scheduler.step(*([float(loss)] if name == "plateau" else []))
        found.append([p.detach() for p in model.parameters()])
    assert same(found[0], found[1])
    assert same(found[0], found[2])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5, bias=False), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(x).tanh()).tanh())
        return out


def test_tied_weights_in_groups_of_their_own_are_sam_s_equation() -> None:
    model = Tied()
    twin = copy.deepcopy(model)
    groups = [
        {"params": list(model.head.parameters()), "lr": 0.5, "weight_decay": 0.1},
        {"params": [model.first.weight, model.second.bias]},
    ]
    optimizer = SharpnessAware(torch.optim.SGD(groups, lr=0.05, momentum=0.9), "sam(0.2)", model=model)
    params = [*twin.head.parameters(), twin.first.weight, twin.second.bias]
    rates, decays, moved = [0.5, 0.5, 0.05, 0.05], [0.1, 0.1, 0.0, 0.0], [torch.zeros_like(p) for p in params]

    def gradient(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(twin(x), y), params)

    for step in range(50):
        optimizer.step(MLP.closure(model, step))
        batch = MLP.batch(step)
        g, kept = gradient(*batch), [p.detach().clone() for p in params]
        length = math.sqrt(sum(float(part.square().sum()) for part in g))
        with torch.no_grad():
            for p, part in zip(params, g, strict=True):
                p += 0.2 * part / length
        sharp = gradient(*batch)
        with torch.no_grad():
            for index, (p, w, part) in enumerate(zip(params, kept, sharp, strict=True)):
                moved[index] = 0.9 * moved[index] + part + decays[index] * w
                p.copy_(w - rates[index] * moved[index])
    assert (
        max(float((p - q).detach().abs().max()) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
        < 1e-12
    )
