"""Climbs that cost less: fewer rows, fewer tensors; what they compute, and what they leave out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import (
    Ascend,
    Ball,
    Batch,
    Masked,
    Named,
    Problem,
    RandomTensors,
    SharpnessAware,
    Top,
    esam,
    parse,
)  # fmt: skip
from sharpscope.ascent.scores import Gradient, Weight


def setting() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    rng = torch.Generator().manual_seed(1)
    return model, torch.randn(10, 4, generator=rng), torch.randint(0, 3, (10,), generator=rng)


def step(rule: object, lr: float = 1.0) -> tuple[dict[str, Tensor], SharpnessAware]:
    """The direction of one step by name."""
    model, x, y = setting()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    problem = Problem(model, nn.CrossEntropyLoss(), (x, y))
    base = torch.optim.SGD(model.parameters(), lr=lr)
    optimizer = SharpnessAware(base, rule, problem, epoch=1, model=model)  # type: ignore[arg-type]
    optimizer.step(Batch(model, F.cross_entropy, x, y))
    assert all(p.requires_grad for p in model.parameters())
    return {name: (before[name] - p.detach()) / lr for name, p in model.named_parameters()}, optimizer


def gradient(eps: dict[str, Tensor], rows: slice = slice(None)) -> dict[str, Tensor]:
    model, x, y = setting()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p += eps.get(name, torch.zeros_like(p))
    loss = F.cross_entropy(model(x[rows]), y[rows])
    return dict(zip(eps, torch.autograd.grad(loss, list(model.parameters())), strict=True))


def zeros() -> dict[str, Tensor]:
    return {name: torch.zeros_like(p) for name, p in setting()[0].named_parameters()}


def agree(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=1e-10, atol=1e-13), name


def test_rows_climb_on_the_first_examples_and_descend_on_all() -> None:
    found, optimizer = step(Ascend(Ball(0.3), rows=0.4))
    g = gradient(zeros(), slice(0, 4))
    length = torch.cat([part.reshape(-1) for part in g.values()]).norm()
    agree(found, gradient({name: 0.3 * part / length for name, part in g.items()}))
    assert optimizer.passes == pytest.approx(1.4)


@pytest.mark.parametrize("pattern", ["4.*", "2.*", "0.weight"])
def test_norm_over_the_perturbed_tensors(pattern: str) -> None:
    found, _ = step(Ascend(Masked(Ball(0.3), Named(pattern), norm="perturbed")))
    names = [name for name in zeros() if name == pattern or name.startswith(pattern.rstrip("*"))]
    g = gradient(zeros())
    length = torch.cat([g[name].reshape(-1) for name in names]).norm()
    eps = {name: 0.3 * g[name] / length if name in names else torch.zeros_like(g[name]) for name in g}
    agree(found, gradient(eps))


def test_gradients_that_a_climb_does_not_need_are_not_computed() -> None:
    model, x, y = setting()
    computed: list[list[bool]] = []
    optimizer = SharpnessAware(
        torch.optim.SGD(model.parameters(), lr=0.1),
        Ascend(Masked(Ball(0.3), Named("4.*"), norm="perturbed")),
        model=model,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        computed.append([p.grad is not None for p in model.parameters()])
        return loss

    optimizer.step(closure)
    assert computed == [[False] * 4 + [True] * 2, [True] * 6]


@pytest.mark.parametrize(
    "mask",
    [
        Top(Weight(), 0.6, every=1, pattern="tensors"),
        Top(Gradient(), 0.6, every=1, pattern="tensors"),
        Top(Gradient(), 0.5, every=1, scope="layer"),
        Top(Weight(), 0.5, every=0, pattern="2:4"),
        RandomTensors(0.5),
    ],
    ids=str,
)
def test_masks_of_every_kind_take_the_norm_they_say(mask: object) -> None:
    for norm in ("full", "perturbed"):
        found, optimizer = step(Ascend(Masked(Ball(0.3), mask, norm=norm)))  # type: ignore[arg-type]
        masks, g = optimizer.masks(), gradient(zeros())
        chosen = {name: g[name] * masks[name] for name in g}
        of = g if norm == "full" else chosen
        length = torch.cat([part.reshape(-1) for part in of.values()]).norm()
        if length > 0:
            agree(found, gradient({name: 0.3 * part / length for name, part in chosen.items()}))


def test_esam_takes_two_passes_and_a_forward() -> None:
    _, optimizer = step(esam(0.1, keep=1.0, fraction=0.5))
    assert optimizer.passes == pytest.approx(1 + 1 / 3 + 0.5)


@pytest.mark.parametrize("norm", ["full", "perturbed"])
def test_a_mask_without_ones_is_no_climb(norm: str) -> None:
    found, optimizer = step(Ascend(Masked(Ball(0.3), RandomTensors(0.0), norm=norm)))
    agree(found, gradient(zeros()))
    assert optimizer.passes == 1.0


def test_texts() -> None:
    for text in (
        "Ascend(Ball(0.1), rows=0.25)",
        "Ascend(Masked(Ball(0.1), mask=Top(Weight(), sparsity=0.5, every=0, pattern='2:4'), norm='perturbed'))",
    ):
        assert repr(parse(text)) == text
