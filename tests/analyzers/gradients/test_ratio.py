"""The gradient ratio against gradients written out by hand and a tally that takes one coordinate at a time."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharpscope.analyzers.gradients.gradient_pair import climbed
from sharpscope.analyzers.gradients.histogram import BASES, log_ratio, tally
from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries, gradient_ratio
from sharpscope.analyzers.gradients.recorder import RatioRecorder
from sharpscope.ascent.batch import Batch
from sharpscope.ascent.masks import Named, RandomMask, Top
from sharpscope.ascent.perturbations import Ball, Magnitude, Masked
from sharpscope.ascent.scores import Fisher
from sharpscope.core.schedules import InverseSqrt
from sharpscope.optimizers.sharpness_aware import SharpnessAware
from sharpscope.problem.problem import Problem

Gradients = dict[str, Tensor]


def gradients(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, at: Gradients | None = None) -> Gradients:
    """Autograd on a displaced copy in eval mode, the whole data in one batch."""
    twin = copy.deepcopy(model).eval()
    names = {name: p for name, p in twin.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in names.items():
            p.grad = None
            p.add_(0.0 if at is None else at[name])
    loss(twin(x), y).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in names.items()}


def climb(g: Gradients, rho: float, scale: Gradients | None = None) -> Gradients:
    """rho T^2 g / |T g|, T = 1 if there is no scale."""
    t = {name: torch.ones_like(x) for name, x in g.items()} if scale is None else scale
    length = math.sqrt(math.fsum(v * v for name, x in g.items() for v in (t[name] * x).flatten().tolist()))
    return {name: rho * t[name] ** 2 * x / length for name, x in g.items()}


def check(found: GradientRatio, plain: Gradients, ascended: Gradients, log: Callable[[float], float]) -> None:
    """Every field, from one coordinate after the other."""
    edges = found.edges.tolist()
    assert found.layers == tuple(plain)
    everything = []
    for row, name in enumerate(plain):
        counts = [0] * (len(edges) - 1)
        below = above = negative = same = undefined = 0
        for a, b in zip(ascended[name].flatten().tolist(), plain[name].flatten().tolist(), strict=True):
            if b == 0.0:
                undefined += 1
                continue
            if a == b:
                same += 1
                everything.append(-math.inf)
                continue
            r = log(abs((a - b) / b))
            everything.append(r)
            negative += r < 0
            if r < edges[0]:
                below += 1
            elif r >= edges[-1]:
                above += 1
            else:
                counts[max(i for i in range(len(counts)) if edges[i] <= r)] += 1
        assert found.counts[row].tolist() == counts
        tally = (found.below, found.above, found.negative, found.zero_numerators, found.zero_denominators)
        assert tuple(int(part[row]) for part in tally) == (below, above, negative, same, undefined)
        assert found.sizes[row] == plain[name].numel()
    everything.sort()
    expected = [everything[math.floor(q * (len(everything) - 1))] for q in found.levels]
    assert within_a_bin(found.quantiles, expected, found.base)
    assert found.share_below_zero == sum(r < 0 for r in everything) / len(everything)


BIN = {"log10": 1 / 32, "ln": 1 / 16}


def within_a_bin(found: np.ndarray, expected: list[float], base: str) -> bool:
    """Whether quantiles are right to a bin, as they claim; below the bins they are -inf."""
    low = {"log10": -12.0, "ln": -28.0}[base]
    exact = np.array([-math.inf if value < low else value for value in expected])
    with np.errstate(invalid="ignore"):
        return bool(np.all((found == exact) | (np.abs(found - exact) <= BIN[base])))


def line_fit() -> tuple[nn.Linear, Tensor, Tensor]:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.bias.copy_(torch.tensor([0.5]))
    return model, torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]), torch.tensor([[1.0], [0.0], [1.0]])


def test_by_hand() -> None:
    """Residuals e = (0.5, 0.5, -6.5), so g = 2/3 (1.5, -19, -5.5); then the same at w + eps."""
    model, x, y = line_fit()
    w1, w2, b = 1.0, -2.0, 0.5
    points = [(1.0, 0.0, 1.0), (2.0, 1.0, 0.0), (0.0, 3.0, 1.0)]

    def gradient(w1: float, w2: float, b: float) -> tuple[float, float, float]:
        e = [w1 * p + w2 * q + b - t for p, q, t in points]
        return tuple(
            2 / 3 * sum(e * f for e, f in zip(e, column, strict=True)) for column in zip(*FEATURES, strict=True)
        )

    g = gradient(w1, w2, b)
    assert g == pytest.approx([1.0, -38 / 3, -11 / 3])
    size = math.sqrt(sum(v * v for v in g))
    sam = gradient(*(w + 0.1 * v / size for w, v in zip((w1, w2, b), g, strict=True)))
    r = [math.log10(abs((a - v) / v)) for a, v in zip(sam, g, strict=True)]
    found = gradient_ratio(Problem(model, nn.MSELoss(), (x, y)))
    assert found.perturbation == "Ball(0.1)" and found.base == "log10"
    assert found.counts.shape == (2, len(found.edges) - 1)
    bins = [sum(edge <= value for edge in found.edges.tolist()) - 1 for value in r]
    assert sorted(np.repeat(np.arange(len(found.edges) - 1), found.counts.sum(axis=0)).tolist()) == sorted(bins)
    assert found.quantiles[found.levels.tolist().index(0.5)] == pytest.approx(sorted(r)[1], abs=1 / 64)
    assert found.negative.tolist() == [sum(v < 0 for v in r[:2]), int(r[2] < 0)]
    assert found.problem == "Linear, MSELoss(mean), 3 examples, eval mode, float64"


FEATURES = [(1.0, 0.0, 1.0), (2.0, 1.0, 1.0), (0.0, 3.0, 1.0)]


class Net(nn.Module):
    """BatchNorm, dropout, dead units, an unused and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)
        self.unused = nn.Parameter(torch.randn(5))
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self(torch.randn(16, 2, 4, 4))  # gives BatchNorm statistics of its own
        with torch.no_grad():
            self.hidden.bias[:3] = -1e3

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1)
        return self.head(torch.relu(self.hidden(x))) + self.frozen


def deep() -> tuple[Net, nn.CrossEntropyLoss, Tensor, Tensor, Problem]:
    model, loss = Net(), nn.CrossEntropyLoss()
    x, y = torch.randn(20, 2, 4, 4), torch.randint(3, (20,))
    return model, loss, x, y, Problem(model, loss, (x, y), batch_size=7)


def used_only(model: Net, loss: nn.Module, x: Tensor, y: Tensor) -> Problem:
    model.unused.requires_grad_(False)
    return Problem(model, loss, (x, y), batch_size=7)


@pytest.mark.parametrize(("base", "log"), [("log10", math.log10), ("ln", math.log)])
@pytest.mark.parametrize("rho", [1e-3, 0.1, 2.0])
def test_every_coordinate_once(rho: float, base: str, log: Callable[[float], float]) -> None:
    model, loss, x, y, problem = deep()
    found = gradient_ratio(problem, Ball(rho), base=base)
    plain = gradients(model, loss, x, y)
    check(found, plain, gradients(model, loss, x, y, climb(plain, rho)), log)
    zeros = dict(zip(found.layers, found.zero_denominators.tolist(), strict=True))
    # three dead units: their rows, their biases and their columns in the head; and what is not used at all
    assert zeros["hidden.weight"] >= 3 * 16 and zeros["hidden.bias"] >= 3 and zeros["head.weight"] >= 9
    assert zeros["unused"] == 5 and "frozen" not in zeros
    assert found.sizes.sum() == problem.size


def test_asam() -> None:
    model, loss, x, y, problem = deep()
    plain = gradients(model, loss, x, y)
    names = dict(model.named_parameters())
    scale = {n: names[n].detach().abs() + 0.02 if "weight" in n else torch.ones_like(names[n]) for n in plain}
    ascended = gradients(model, loss, x, y, climb(plain, 0.5, scale))
    check(gradient_ratio(problem, Ball(0.5, Magnitude(eta=0.02))), plain, ascended, math.log10)


def test_masked() -> None:
    """The norm is that of the whole gradient; what the mask clears does not move, but its gradient may."""
    model, loss, x, y, problem = deep()
    plain = gradients(model, loss, x, y)
    eps = {n: e if n.startswith("h") else torch.zeros_like(e) for n, e in climb(plain, 0.3).items()}
    found = gradient_ratio(problem, Masked(Ball(0.3), Named("h*")))
    check(found, plain, gradients(model, loss, x, y, eps), math.log10)


def test_random_and_fisher_masks_are_functions_of_the_seed() -> None:
    problem = used_only(*deep()[:4])
    random = Masked(Ball(0.3), RandomMask(0.5))
    assert gradient_ratio(problem, random, seed=3) == gradient_ratio(problem, random, seed=3)
    assert gradient_ratio(problem, random, seed=3) != gradient_ratio(problem, random, seed=4)
    fisher = Masked(Ball(0.3), Top(Fisher(samples=8), sparsity=0.5))
    assert gradient_ratio(problem, fisher) == gradient_ratio(problem, fisher)


def test_sums_over_layers_are_the_whole() -> None:
    *_, problem = deep()
    found = gradient_ratio(problem)
    defined = found.sizes - found.zero_denominators
    shares = np.where(defined > 0, found.layer_share_below_zero, 0.0)
    assert found.share_below_zero == pytest.approx(float((shares * defined).sum() / defined.sum()), rel=1e-14)
    assert np.isnan(found.layer_share_below_zero[found.layers.index("unused")])
    assert found.sizes.tolist() == [p.numel() for p in problem.weights]
    for field in ("counts", "below", "above", "negative", "zero_numerators", "zero_denominators"):
        assert getattr(found, field).dtype == np.int64


def test_the_base_changes_the_unit_only() -> None:
    *_, problem = deep()
    ten, natural = gradient_ratio(problem), gradient_ratio(problem, base="ln")
    assert natural.quantiles == pytest.approx(ten.quantiles * math.log(10), abs=1 / 16 + math.log(10) / 32)
    assert natural.share_below_zero == ten.share_below_zero
    assert np.array_equal(natural.negative, ten.negative)
    assert natural.base == "ln"


def test_a_linear_loss_has_no_curvature_to_see() -> None:
    """g_SAM = g_SGD: all numerators are zero, all r are -inf, and a column of zeros is undefined."""
    x = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 0.0]])
    problem = Problem(nn.Linear(3, 1), lambda output, _: output.mean(), (x, torch.zeros(2, 1)))
    found = gradient_ratio(problem)
    assert found.zero_numerators.tolist() == [2, 1] and found.zero_denominators.tolist() == [1, 0]
    assert not found.counts.any() and not found.below.any() and not found.above.any() and not found.negative.any()
    assert np.isneginf(found.quantiles).all()
    assert found.share_below_zero == 1.0


@pytest.mark.parametrize("rho", [0.1, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_stationary_point_has_no_ratio(dtype: torch.dtype, rho: float) -> None:
    model = nn.Linear(2, 1).to(dtype)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    problem = Problem(model, nn.MSELoss(), (torch.ones(3, 2, dtype=dtype), torch.zeros(3, 1, dtype=dtype)))
    found = gradient_ratio(problem, Ball(rho))
    assert found.zero_denominators.tolist() == [2, 1] and not found.zero_numerators.any()
    assert np.isnan(found.quantiles).all()
    assert math.isnan(found.share_below_zero) and np.isnan(found.layer_share_below_zero).all()


def test_a_small_radius_shifts_r_by_its_logarithm() -> None:
    """r -> -inf as rho -> 0, with slope 1 against log10 rho: exactly on a quadratic, in the limit on a smooth net."""
    model, x, y = line_fit()
    quadratic = Problem(model, nn.MSELoss(), (x, y))
    smooth_net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    smooth = Problem(smooth_net, nn.CrossEntropyLoss(), (torch.randn(30, 3), torch.randint(2, (30,))))
    for problem, rhos, tolerance in ((quadratic, (1.0, 1e-2, 1e-4), 1e-8), (smooth, (1e-5, 1e-6), 1e-3)):
        with climbed(problem) as climb:
            exact = [
                torch.cat([log_ratio(a, b).flatten() for a, b in zip(climb(Ball(rho))[0], climb.plain, strict=True)])
                for rho in rhos
            ]
        series = gradient_ratio(problem, [Ball(rho) for rho in rhos])
        for i in range(1, len(rhos)):
            drop = math.log10(rhos[i - 1] / rhos[i])
            assert float(exact[i].median()) == pytest.approx(float(exact[i - 1].median()) - drop, abs=tolerance)
            if tolerance < 1e-6:
                assert exact[i].tolist() == pytest.approx((exact[i - 1] - drop).tolist(), abs=tolerance)
            assert series.quantiles[i] == pytest.approx(series.quantiles[i - 1] - drop, abs=2 / 32)
        assert (np.diff(series.share_below_zero) >= 0).all()


class Product(nn.Module):
    """L = x1 x2: the gradient of one is the other."""

    def __init__(self, first: float, second: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(first)), nn.Parameter(torch.tensor(second))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.a * self.b


@pytest.mark.parametrize("tiny", [1e-200, 1e-308, 1e-320, 5e-324])
def test_tiny_denominators_do_not_overflow(tiny: float) -> None:
    """g = (tiny, 1): the first ratio is 0.1 / tiny, beyond the largest float64; its logarithm is not."""
    problem = Problem(Product(1.0, tiny), lambda output, _: output.mean(), (torch.ones(2), torch.zeros(2)))
    found = gradient_ratio(problem)
    assert found.above.tolist() == [1, 0] and found.zero_numerators.tolist() == [0, 1]
    exact = Problem(Product(1.0, tiny), lambda output, _: output.mean(), (torch.ones(2), torch.zeros(2)))
    assert exact.gradient()[0].item() == tiny
    assert found.quantiles.tolist() == [-math.inf] * 7  # "lower": of two values, the smaller
    assert found.sizes.tolist() == [1, 1]


def test_a_gradient_that_vanishes_or_doubles_is_at_zero_not_below() -> None:
    """|g_SAM - g| = |g| exactly: r = 0."""
    problem = Problem(Product(0.5, 0.0), lambda output, _: output.mean(), (torch.ones(2), torch.zeros(2)))
    # g = (0, 0.5), eps = (0, rho): g_SAM = (rho, 0.5)
    assert gradient_ratio(problem, Ball(0.5)).zero_denominators.tolist() == [1, 0]
    doubled = Problem(Square(1.0), lambda output, _: output.mean(), (torch.ones(2), torch.zeros(2)))
    for rho, negative in ((1.0, 0), (0.999, 1)):
        found = gradient_ratio(doubled, Ball(rho))
        assert found.negative.tolist() == [negative]
        assert found.share_below_zero == negative
    assert gradient_ratio(doubled, Ball(1.0)).quantiles.tolist() == [1 / 64] * 7  # the middle of [0, 1/32)


class Square(nn.Module):
    """L = w^2, whose gradient doubles where w does."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(at))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w**2


def test_all_of_it_outside_the_bins() -> None:
    doubled = Problem(Square(1.0), lambda output, _: output.mean(), (torch.ones(2), torch.zeros(2)))
    low, high = gradient_ratio(doubled, Ball(1e-13)), gradient_ratio(doubled, Ball(1e7))
    assert low.below.tolist() == [1] and low.negative.tolist() == [1] and not low.counts.any()
    assert high.above.tolist() == [1] and high.negative.tolist() == [0] and not high.counts.any()
    assert low.quantiles.tolist() == [-math.inf] * 7 and high.quantiles.tolist() == [6.0] * 7
    # r = 6 exactly, the last edge: over it, and not in the last bin too
    edge = gradient_ratio(
        Problem(Square(0.5), lambda output, _: output.mean(), (torch.ones(2), torch.zeros(2))), Ball(5e5)
    )
    assert edge.quantiles[0] == edge.edges[-1] == 6.0
    assert edge.above.tolist() == [1] and edge.sizes.tolist() == [1]


@pytest.mark.parametrize("base", ["log10", "ln"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bins_are_exact(base: str, dtype: torch.dtype, device: torch.device) -> None:
    """Every place of a tally against searchsorted, over ranges where a ratio overflows, and at the edges themselves."""
    rng = np.random.default_rng(0)
    b = 10.0 ** rng.uniform(-30, 5, 5000) * rng.choice([-1, 1], 5000)
    a = b + 10.0 ** rng.uniform(-30, 5, 5000) * rng.choice([-1, 0, 1], 5000)
    b[::7] = 0.0
    one, two = (torch.tensor(v, dtype=dtype, device=device) for v in (a, b))
    inside = torch.tensor(rng.random(5000) < 0.3, device=device)
    edges = BASES[base].edges
    expected = np.zeros((2, len(edges) + 3), dtype=np.int64)
    for x, y, m in zip(one.tolist(), two.tolist(), inside.tolist(), strict=True):
        if y == 0.0:
            place = len(edges) + 2
        elif x == y:
            place = 0
        else:
            r = math.log(abs(x - y)) - math.log(abs(y))
            place = 1 + int(np.searchsorted(edges, r / math.log(10) if base == "log10" else r, side="right"))
        expected[int(m), place] += 1
    assert np.array_equal(tally(one, two, base, inside), expected)
    assert np.array_equal(tally(one, two, base), expected.sum(axis=0, keepdims=True))
    assert np.array_equal(edges * BASES[base].steps, np.round(edges * BASES[base].steps)) and 0.0 in edges
    exact = torch.full((len(edges) - 1,), 1.0, dtype=dtype, device=device)  # r = 0: in the bin that begins there
    assert tally(2 * exact, exact, base)[0, 2 + int(np.searchsorted(edges, 0.0))] == len(exact)


def test_groups_add_up_to_the_whole() -> None:
    *_, problem = deep()
    mask = {name: torch.rand_like(w) < 0.4 for name, w in zip(problem.names, problem.weights, strict=True)}
    found = gradient_ratio(problem, mask=mask)
    assert found.kinds == ("other", "conv", "bias", "norm", "norm", "linear", "bias", "linear", "bias")
    whole = found.tally.sum(axis=0)
    for by, names in (("layer", problem.names), ("kind", ("other", "conv", "bias", "norm", "linear"))):
        groups = found.groups(by)
        assert tuple(groups) == names
        assert np.array_equal(sum(groups.values()), whole)
    biases = [found.tally[i] for i, kind in enumerate(found.kinds) if kind == "bias"]
    assert np.array_equal(found.groups("kind")["bias"], sum(biases))
    sides = found.groups("side")
    assert np.array_equal(sides["inside"] + sides["outside"], whole)
    with climbed(problem) as climb:
        ascended, _ = climb(Ball(0.1))
        for name, side in (("inside", False), ("outside", True)):
            values = [
                log_ratio(a, b)[mask[layer] ^ side]
                for a, b, layer in zip(ascended, climb.plain, problem.names, strict=True)
            ]
            r = torch.cat(values)
            assert sides[name].sum() == len(r) and sides[name][-1] == int(r.isnan().sum())
            assert found.share(sides[name]) == int((r < 0).sum()) / int((~r.isnan()).sum())
            ordered = r[~r.isnan()].sort().values.tolist()
            assert within_a_bin(found.quantiles_of(sides[name], (0.5,)), [ordered[(len(ordered) - 1) // 2]], "log10")
    with pytest.raises(ValueError, match=r"by='side', expected 'layer' or 'kind' \(there is no mask\): change by"):
        gradient_ratio(problem).groups("side")
    with pytest.raises(ValueError, match="by='layers', expected 'layer', 'kind' or 'side': change by"):
        found.groups("layers")


def test_a_masked_perturbation_brings_its_mask() -> None:
    *_, problem = deep()
    found = gradient_ratio(problem, Masked(Ball(0.3), Named("h*")))
    sizes = dict(zip(found.layers, found.inside.sum(axis=1).tolist(), strict=True))  # type: ignore[union-attr]
    assert all(count == (found.groups()[name].sum() if name.startswith("h") else 0) for name, count in sizes.items())
    assert gradient_ratio(problem, Ball(0.3)).inside is None


def test_several_radii_at_once() -> None:
    *_, problem = deep()
    rhos = [0.01, 0.1, 1.0]
    series = gradient_ratio(problem, [Ball(rho) for rho in rhos])
    assert series.axis == "rho" and series.places.tolist() == rhos and len(series) == 3
    for index, rho in enumerate(rhos):
        assert series[index] == gradient_ratio(problem, Ball(rho))
        assert series.share_below_zero[index] == series[index].share_below_zero
        assert series.quantiles[index].tolist() == series[index].quantiles.tolist()
    mixed = gradient_ratio(problem, (Ball(0.1), Ball(0.1, Magnitude())))
    assert mixed.axis == "rho" and mixed[0] != mixed[1]
    masked = gradient_ratio(problem, [Masked(Ball(rho), Named("h*")) for rho in (0.1, 0.2)])
    assert masked.axis == "rho" and masked.inside is not None and masked[1].inside is not None
    other = gradient_ratio(problem, [Ball(0.1), Ball(InverseSqrt(0.1))])
    assert other.axis == "perturbation" and other.places.tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"^gradient_ratio got no perturbation, expected at least one"):
        gradient_ratio(problem, [])
    with pytest.raises(ValueError, match=r"^RatioSeries got 1 places and 0 ratios"):
        RatioSeries.of("step", [1], [])
    with pytest.raises(ValueError, match=r"^RatioSeries got ratios of different layers, logarithms or masks"):
        RatioSeries.of("step", [1, 2], [series[0], gradient_ratio(problem, base="ln")])


def same_draws(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, eps: Gradients | None) -> Gradients:
    """Train mode: BatchNorm's statistics of the batch, the dropout units of one seed."""
    twin = copy.deepcopy(model).train()
    with torch.random.fork_rng():
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p.grad = None
                p.add_(0.0 if eps is None or name not in eps else eps[name])
        loss(twin(x), y).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in twin.named_parameters() if p.requires_grad}


def test_one_batch_in_train_mode(rng_guard: Callable[[], None]) -> None:
    """Both gradients see the same dropout units and the same batch statistics, and nothing is left behind."""
    model, loss, x, y, _ = deep()
    model.train()
    loss(model(x), y).backward()
    model.conv.bias.requires_grad_(False)  # before BatchNorm its gradient is 0 up to rounding
    plain = same_draws(model, loss, x, y, None)
    ascended = same_draws(model, loss, x, y, climb(plain, 0.1))
    before = [(n, t.detach().numpy().tobytes()) for n, t in (*model.named_parameters(), *model.named_buffers())]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    rng_guard()
    found = gradient_ratio(Batch(model, loss, x, y), Ball(0.1))
    check(found, plain, ascended, math.log10)
    assert "one batch of 20 examples, train mode" in found.problem
    assert [(n, t.detach().numpy().tobytes()) for n, t in (*model.named_parameters(), *model.named_buffers())] == before
    for p, g in zip(model.parameters(), grads, strict=True):
        assert (p.grad is None and g is None) or torch.equal(p.grad, g)  # type: ignore[arg-type]
    assert gradient_ratio(Batch(model, loss, x, y), [Ball(0.1), Ball(0.2)])[0] == found
    with pytest.raises(TypeError, match=r"^gradient_ratio got a Net, expected a Problem or a Batch"):
        gradient_ratio(model)  # type: ignore[call-overload]


def test_a_recorder_does_not_disturb_training() -> None:
    ends, series = [], None
    for watched in (False, True):
        torch.manual_seed(0)
        model, loss, x, y, problem = deep()
        optimizer = SharpnessAware(
            torch.optim.SGD(model.parameters(), lr=0.1), "ssam_d(0.1, sparsity=0.5, every=2, total=10)", model=model
        )
        whole = RatioRecorder(problem, every=2, masks=optimizer.masks)
        one = RatioRecorder(every=3)
        for step in range(1, 7):
            model.train()
            optimizer.step(Batch(model, loss, x, y))
            if watched:
                whole(step)
                one(step, batch=Batch(model, loss, x, y))
        ends.append({name: t.clone() for name, t in model.state_dict().items()})
        if watched:
            assert whole.series.axis == "step" and whole.series.places.tolist() == [2, 4, 6]
            assert one.series.places.tolist() == [3, 6]
            series = whole.series
            assert series[2] == gradient_ratio(problem, mask=optimizer.masks())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert series is not None and series.inside is not None
    with pytest.raises(ValueError, match=r"^RatioRecorder got no problem and no batch, expected one"):
        RatioRecorder()(1)
    with pytest.raises(ValueError, match=r"^RatioRecorder got every=0, expected a whole number >= 1"):
        RatioRecorder(every=0)


def test_tidy_tables() -> None:
    pandas = pytest.importorskip("pandas")
    *_, problem = deep()
    mask = {name: torch.ones_like(w, dtype=torch.bool) for name, w in zip(problem.names, problem.weights, strict=True)}
    found = gradient_ratio(problem, mask=mask)
    table = found.to_frame()
    assert isinstance(table, pandas.DataFrame) and list(table.columns) == ["scope", "name", "quantity", "value"]
    sizes = table[table.quantity == "coordinates"]
    for scope in ("layer", "kind", "side"):
        assert sizes[sizes.scope == scope].value.sum() == problem.size
    share = table[(table.scope == "all") & (table.quantity == "share r < 0")].value.item()
    assert share == found.share_below_zero
    series = gradient_ratio(problem, [Ball(0.1), Ball(0.2)]).to_frame()
    assert series.columns[0] == "rho" and set(series.rho) == {0.1, 0.2}


def state(model: nn.Module) -> list[Any]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [
        [(name, t.detach().numpy().tobytes(), t.data_ptr(), t._version, t.requires_grad) for name, t in tensors],
        [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()],
        [module.training for module in model.modules()],
    ]


def test_deterministic_and_the_model_untouched(rng_guard: Callable[[], None]) -> None:
    model, loss, x, y, _ = deep()
    problem = used_only(model, loss, x, y)
    loss(model(x), y).backward()
    model.conv.bias.grad = None
    model.norm.eval()
    before = state(model)
    rng_guard()
    for perturbation in (None, Ball(0.5, Magnitude()), Masked(Ball(0.1), Top(Fisher(samples=8), sparsity=0.5))):
        first = gradient_ratio(problem, perturbation)
        assert state(model) == before
        assert gradient_ratio(problem, perturbation) == first


class Fuse(nn.Module):
    def __init__(self, error: type[BaseException], at: int) -> None:
        super().__init__()
        self.net, self.error, self.left = Net(), error, at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if not self.left:
            raise self.error("the fuse has blown")
        return self.net(x)


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_the_model_is_untouched_after_an_interruption(
    error: type[BaseException], at: int, rng_guard: Callable[[], None]
) -> None:
    model = Fuse(error, at)
    data = torch.randn(10, 2, 4, 4), torch.randint(3, (10,))
    before = state(model)
    rng_guard()
    with pytest.raises(error, match="the fuse has blown"):
        gradient_ratio(Problem(model, nn.CrossEntropyLoss(), data, batch_size=5))
    assert state(model) == before


def test_float32_and_batches_agree_with_float64() -> None:
    model, loss, x, y, problem = deep()
    exact = gradient_ratio(problem)
    single = gradient_ratio(Problem(copy.deepcopy(model).float(), loss, (x.float(), y)))
    assert single.sizes.tolist() == exact.sizes.tolist()
    assert single.zero_denominators.tolist() == exact.zero_denominators.tolist()
    assert single.quantiles[2:5] == pytest.approx(exact.quantiles[2:5], abs=1e-3)
    whole = gradient_ratio(Problem(model, loss, (x, y), batch_size=20))
    assert whole.quantiles == pytest.approx(exact.quantiles, rel=1e-6)


def test_shared_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    found = gradient_ratio(Problem(model, nn.MSELoss(), (torch.randn(5, 3), torch.randn(5, 3))))
    assert found.layers == ("0.weight", "0.bias", "2.bias") and found.sizes.tolist() == [9, 3, 3]


def test_error_texts() -> None:
    model, x, y = line_fit()
    problem = Problem(model, nn.MSELoss(), (x, y))
    with pytest.raises(
        TypeError, match=r"^gradient_ratio got perturbation=0\.1, expected a perturbation: use one of Ball, "
    ):
        gradient_ratio(problem, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gradient_ratio got base='log2', expected 'log10' or 'ln': change base$"):
        gradient_ratio(problem, base="log2")
    expected = r"^gradient_ratio got Ball\(0(\.0)?\), whose radius is 0, expected a positive one: raise rho$"
    with pytest.raises(ValueError, match=expected):
        gradient_ratio(problem, Ball(0))
    weight, bias = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    for mask, text in (
        (
            {"weight": weight},
            "the mask got other parameters than the model (bias in one of them only), expected the same",
        ),
        (
            {"weight": weight[0], "bias": bias},
            "the mask got shape (2,) for weight, expected (1, 2): compare masks of one",
        ),
        ({"weight": weight.int(), "bias": bias}, "mask 'mask' got int32 for weight, expected booleans: convert with"),
    ):
        with pytest.raises(ValueError, match="^" + re.escape(text)):
            gradient_ratio(problem, mask=mask)


class Root(nn.Module):
    def __init__(self, at: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([at]))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sqrt(1.0 - self.w) * -1.0


@pytest.mark.parametrize("at", [1.0, 2.0, 0.95], ids=["inf at w", "nan at w", "nan at w + eps"])
def test_gradients_that_are_not_finite_are_refused(at: float) -> None:
    problem = Problem(Root(at), lambda output, _: output.mean(), (torch.ones(2, 1), torch.zeros(2, 1)))
    with pytest.raises(
        ValueError, match=r"^a gradient is not finite, expected finite numbers: check the loss at w and"
    ):
        gradient_ratio(problem, Ball(0.1))


@pytest.mark.parametrize("value", [False, True])
def test_an_empty_and_a_full_mask_leave_one_side_empty(value: bool) -> None:
    *_, problem = deep()
    mask = {name: torch.full(w.shape, value) for name, w in zip(problem.names, problem.weights, strict=True)}
    found = gradient_ratio(problem, mask=mask)
    sides = found.groups("side")
    full, empty = ("inside", "outside") if value else ("outside", "inside")
    assert np.array_equal(sides[full], found.tally.sum(axis=0)) and not sides[empty].any()
    assert math.isnan(found.share(sides[empty])) and np.isnan(found.quantiles_of(sides[empty])).all()
