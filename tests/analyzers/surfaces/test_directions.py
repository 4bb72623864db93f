"""Li et al.'s rule filter by filter, against norms summed entry by entry; directions that depend on names alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sharpscope.analyzers.surfaces.directions import filter_normalised, gaussian
from sharpscope.analyzers.surfaces.directions import scaled as scaled_to
from sharpscope.core.vectors import generator
from sharpscope.problem.problem import Problem

# What dim 0 of the weight is, and how many filters there are.
LAYERS = {
    "conv1d": (lambda: nn.Conv1d(3, 5, 4), 5),
    "conv2d": (lambda: nn.Conv2d(3, 6, (3, 2)), 6),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), 4),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), 8),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), 4),
    "transposed": (lambda: nn.ConvTranspose2d(3, 7, 2), 3),
    "linear": (lambda: nn.Linear(7, 9), 9),
    "embedding": (lambda: nn.Embedding(11, 4), 11),
    "one column": (lambda: nn.Linear(1, 6), 6),
}


def problem_of(model: nn.Module) -> Problem:
    """Directions look at names and shapes only, so the data is never given to the model."""
    return Problem(model, nn.MSELoss(), (torch.zeros(1, 1, dtype=next(model.parameters()).dtype), torch.zeros(1, 1)))


def length(entries: Tensor) -> float:
    """The norm, without a library's reduction: exactly rounded sums of Python floats."""
    largest = max(map(abs, entries.double().flatten().tolist()), default=0.0)
    return largest * math.sqrt(math.fsum((x / largest) ** 2 for x in entries.double().flatten().tolist())) or 0.0


def scaled(model: nn.Module, seed: int = 0, axis: str = "x") -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    problem = problem_of(model)
    raw = gaussian(problem, seed, axis)
    return filter_normalised(raw, problem.weights), raw, problem.weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_filter_has_the_norm_of_its_weights(kind: str, dtype: torch.dtype, device: torch.device) -> None:
    make, filters = LAYERS[kind]
    found, raw, weights = scaled(make().to(device, dtype))
    direction, drawn, weight = found[0].cpu(), raw[0].cpu(), weights[0].cpu()
    assert direction.dtype == dtype and direction.shape == weight.shape and len(weight) == filters
    for d, r, w in zip(direction, drawn, weight, strict=True):
        assert abs(length(d) / length(w) - 1.0) < (1e-6 if dtype == torch.float32 else 1e-14)
        # the filter is only stretched: it points where it was drawn
        torch.testing.assert_close(d / length(d), r / length(r), rtol=1e-6, atol=1e-7)


def test_filters_are_scaled_one_by_one() -> None:
    """Not layer by layer: filters of very different size keep their own."""
    layer = nn.Linear(5, 4)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([1e-3, 1.0, 1e2, 1e4])[:, None])
    found, _, weights = scaled(layer)
    for d, w in zip(found[0], weights[0], strict=True):
        assert length(d) == pytest.approx(length(w), rel=1e-13)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e22, 1e30])
def test_squares_out_of_the_range_of_float32(size: float) -> None:
    layer = nn.Conv2d(3, 4, 3).float()
    with torch.no_grad():
        layer.weight.mul_(size)
    found, _, weights = scaled(layer)
    for d, w in zip(found[0], weights[0], strict=True):
        assert length(d) == pytest.approx(length(w), rel=1e-6)


def test_tensors_with_one_dim_or_none_do_not_move() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.PReLU(3))
    model.register_parameter("temperature", nn.Parameter(torch.tensor(2.0)))
    problem = problem_of(model)
    found = dict(zip(problem.names, scaled(model)[0], strict=True))
    moving = [name for name, d in found.items() if bool(d.any())]
    assert moving == ["0.weight"]
    assert {name: tuple(d.shape) for name, d in found.items()} == {
        n: tuple(p.shape) for n, p in model.named_parameters()
    }


def test_a_zero_filter_does_not_move() -> None:
    layer = nn.Conv2d(2, 4, 3)
    with torch.no_grad():
        layer.weight[1].zero_()
    direction = scaled(layer)[0][0]
    assert not direction[1].any()
    assert all(bool(direction[i].all()) for i in (0, 2, 3))


def test_a_direction_of_zeros_stays_zero() -> None:
    drawn = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    (found,) = filter_normalised([drawn], [torch.tensor([[1.0, 1.0], [0.0, 10.0]])])
    assert found.tolist() == [[0.0, 0.0], [6.0, 8.0]]


def test_empty_tensors_are_no_obstacle() -> None:
    weights = [torch.zeros(0, 3), torch.zeros(3, 0), torch.zeros(0), torch.ones(1, 2)]
    found = filter_normalised([torch.ones_like(w) for w in weights], weights)
    assert [tuple(d.shape) for d in found] == [(0, 3), (3, 0), (0,), (1, 2)]


def test_the_layout_of_the_weights_is_no_matter() -> None:
    layer = nn.Conv2d(4, 6, 3)
    expected = scaled(layer)[0][0]
    assert torch.equal(scaled(layer.to(memory_format=torch.channels_last))[0][0], expected)
    weight = torch.arange(1.0, 13.0).view(3, 4)
    drawn = torch.arange(12.0, 0.0, -1.0).view(3, 4)
    (found,) = filter_normalised([drawn.t()], [weight.t()])
    assert torch.equal(found, filter_normalised([drawn.t().contiguous()], [weight.t().contiguous()])[0])


def test_a_rescaled_net_gets_a_rescaled_direction() -> None:
    """What filter normalisation is for: the picture of a ReLU net does not depend on where its scale is kept."""
    layer = nn.Linear(4, 3)
    before = scaled(layer)[0][0]
    with torch.no_grad():
        layer.weight.mul_(8.0)
    torch.testing.assert_close(scaled(layer)[0][0], 8.0 * before, rtol=1e-14, atol=0.0)


def test_what_was_given_is_left_alone() -> None:
    problem = problem_of(nn.Linear(4, 3))
    raw = gaussian(problem, 0, "x")
    copies = [x.clone() for x in (*raw, *problem.weights)]
    filter_normalised(raw, problem.weights)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*raw, *problem.weights), strict=True))


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(6, 4))


def test_directions_belong_to_seed_and_name(rng_guard: Callable[[], None]) -> None:
    """Checkpoints share them, whatever the weights, the global random state or the default dtype are."""
    rng_guard()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = problem_of(small())
        torch.manual_seed(2)
        other = problem_of(small())
    assert not torch.equal(one.weights[0], other.weights[0])
    first = gaussian(one, 3, "x")
    torch.set_default_dtype(torch.float32)
    second = gaussian(other, 3, "x")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_name_keeps_its_direction_in_another_model() -> None:
    wide = nn.ModuleDict({"head": nn.Linear(6, 4), "tail": nn.Linear(2, 2)})
    turned = nn.ModuleDict({"tail": nn.Linear(2, 2), "body": nn.Linear(3, 3), "head": nn.Linear(6, 4)})
    ours, theirs = (problem_of(model) for model in (wide, turned))
    a = dict(zip(ours.names, gaussian(ours, 0, "x"), strict=True))
    b = dict(zip(theirs.names, gaussian(theirs, 0, "x"), strict=True))
    assert all(torch.equal(a[name], b[name]) for name in a)
    renamed = problem_of(nn.ModuleDict({"neck": nn.Linear(6, 4)}))
    assert not torch.equal(gaussian(renamed, 0, "x")[0], a["head.weight"])


def test_dtypes_share_directions_up_to_rounding() -> None:
    exact = gaussian(problem_of(small().double()), 5, "x")
    for dtype in (torch.float32, torch.bfloat16):
        rounded = gaussian(problem_of(small().to(dtype)), 5, "x")
        assert all(torch.equal(a.to(dtype), b) for a, b in zip(exact, rounded, strict=True))


def test_seeds_and_axes_are_independent() -> None:
    """Correlations of 20,000 Gaussian numbers stay within four standard errors of zero, moments of their own."""
    problem = problem_of(nn.Linear(100, 200, bias=False))
    drawn = [gaussian(problem, seed, axis)[0].flatten() for seed in (0, 1) for axis in ("x", "y")]
    n = drawn[0].numel()
    for i, a in enumerate(drawn):
        assert abs(float(a.mean())) < 4 / math.sqrt(n)
        assert abs(float(a.var()) - 1.0) < 4 * math.sqrt(2 / n)
        assert abs(float((a**4).mean()) - 3.0) < 4 * math.sqrt(96 / n)
        assert all(abs(float((a * b).mean())) < 4 / math.sqrt(n) for b in drawn[:i])


def test_tensors_of_one_shape_have_directions_of_their_own() -> None:
    problem = problem_of(nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False)))
    a, b = (d.flatten() for d in gaussian(problem, 0, "x"))
    assert abs(float((a * b).mean())) < 4 / 50


@pytest.mark.parametrize("size", [(3,), (1000, 263), (5, 300000), (2, 700001)])
def test_large_tensors_are_drawn_and_scaled_in_parts(size: tuple[int, ...]) -> None:
    """The same numbers as of the whole tensor at once."""
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.linspace(-1.0, 2.0, math.prod(size)).reshape(size))
    problem = problem_of(layer)
    random = generator("direction", 4, "x", "weight")
    whole = torch.randn(size, generator=random, dtype=torch.float64).to(layer.weight)
    (drawn,) = gaussian(problem, 4, "x")
    assert torch.equal(drawn, whole)
    weight = layer.weight.detach()
    rows = weight.norm(dim=1, keepdim=True) / whole.norm(dim=1, keepdim=True) if len(size) > 1 else 0.0
    factors = {"filter": rows, "layer": weight.norm() / whole.norm() if len(size) > 1 else 0.0, "weight": weight}
    for scaling, factor in factors.items():
        (found,) = scaled_to([drawn], [weight], scaling, include_1d=scaling == "weight")
        torch.testing.assert_close(found, whole * factor, rtol=1e-12, atol=0.0)
