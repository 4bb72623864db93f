"""What masks rank by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sharpscope import Fisher, Probe
from sharpscope.ascent.scores import Gradient, Random, Weight
from tests import reference
from tests.problems import CASES, CONV, DROPOUT, MLP, Case


def probe_of(case: Case, model: nn.Module, order: Callable[[list[str]], list[str]] = list, step: int = 0) -> Probe:
    known = dict(model.named_parameters())
    names = order(list(known))
    return Probe([known[name] for name in names], names, problem=case.problem(model), seed=3, step=step)


def brute(case: Case, samples: int, step: int = 0) -> dict[str, Tensor]:
    walk = reference.Walk(case, seed=3)
    walk.step = step
    pieces = walk.pieces(reference.fisher(walk, samples))
    return {name: piece.view(s) for name, s, piece in zip(walk.names, walk.shapes, pieces, strict=True)}


@pytest.mark.parametrize("case", [*CASES, DROPOUT], ids=lambda case: case.name)
@pytest.mark.parametrize("samples", [1, 5, 24, 1000])
@pytest.mark.parametrize("step", [0, 9])
def test_fisher_is_the_mean_of_squared_example_gradients(case: Case, samples: int, step: int) -> None:
    model = case.model()
    probe = probe_of(case, model, step=step)
    found = Fisher(samples)([], probe)
    expected = brute(case, samples, step)
    for name, score in zip(probe.names, found, strict=True):
        assert torch.allclose(score, expected[name], rtol=1e-10, atol=1e-18), name


@pytest.mark.parametrize("order", [sorted, lambda names: names[::-1]], ids=["by-name", "reversed"])
def test_fisher_follows_the_order_of_the_optimizer(order: Callable[[list[str]], list[str]]) -> None:
    """Parameter groups (weight decay or not) rarely keep the model's order."""
    probe = probe_of(CONV, CONV.model(), order)
    expected = brute(CONV, 8)
    for name, score in zip(probe.names, Fisher(8)([], probe), strict=True):
        assert torch.allclose(score, expected[name], rtol=1e-10, atol=1e-18), name


def test_fisher_of_a_part_of_the_model() -> None:
    probe = probe_of(MLP, MLP.model(), lambda names: names[-2:])
    found = Fisher(8)([], probe)
    expected = brute(MLP, 8)
    assert [s.shape for s in found] == [p.shape for p in probe.params]
    assert torch.allclose(found[0], expected["4.weight"], rtol=1e-10, atol=1e-18)


def test_fisher_of_a_stranger_is_refused() -> None:
    model = MLP.model()
    names, params = zip(*MLP.model().named_parameters(), strict=True)
    probe = Probe(params, names, problem=MLP.problem(model))
    with pytest.raises(ValueError, match=r"Fisher got the parameter '0\.weight' that the problem's model does not"):
        Fisher(4)([], probe)


def test_fisher_moves_nothing(rng_guard: Callable[[], None]) -> None:
    model = DROPOUT.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng_guard()
    Fisher(8)([], probe_of(DROPOUT, model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_fisher_is_drawn_anew_at_each_step() -> None:
    model = MLP.model()
    first, again, later = (Fisher(6)([], probe_of(MLP, model, step=step)) for step in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], later[0])


def test_sizes_of_gradients_and_weights() -> None:
    w = [torch.tensor([-2.0, 1.0])]
    g = [torch.tensor([3.0, -4.0])]
    probe = Probe(w, ["w"])
    assert Gradient()(g, probe)[0].tolist() == [3.0, 4.0]
    assert Weight()(g, probe)[0].tolist() == [2.0, 1.0]


def test_random_scores_are_private(rng_guard: Callable[[], None]) -> None:
    w = [torch.zeros(50), torch.zeros(7, 3)]
    a, b, c = (Random()([], Probe(w, "ab", seed=1, step=step)) for step in (4, 4, 5))
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[0], c[0])
    assert [x.shape for x in a] == [x.shape for x in w]
    assert all(bool(((x >= 0) & (x < 1)).all()) for x in a)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None])
def test_samples_out_of_range(value: object) -> None:
    with pytest.raises(ValueError, match=r"Fisher got samples=.*, expected a whole number >= 1: change samples"):
        Fisher(value)  # type: ignore[arg-type]


def test_fisher_says_that_it_needs_a_problem() -> None:
    with pytest.raises(ValueError, match="asks for per-example gradients and got no problem"):
        Fisher()([], Probe([torch.zeros(1)], ["w"]))
