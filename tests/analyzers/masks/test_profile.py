"""Profiles of masks against loops over entries, dense Hessians and masks drawn at random."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from sharpscope.analyzers.masks._hessian_blocks import diagonal, top_of_block
from sharpscope.analyzers.masks._ranking import GRID, captured, rank_mask
from sharpscope.analyzers.masks.profile import mask_profile
from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.ascent.perturbations import Ball
from sharpscope.coordinates.packed import PackedMask
from sharpscope.curvature.operators import Operator, hessian
from sharpscope.problem.parameter_kinds import KINDS, depths_of, kinds_of
from sharpscope.problem.problem import Problem, ProblemError
from sharpscope.store import load, save


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)
        self.head = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.conv(x))).flatten(1)) * self.scale


def small() -> Problem:
    model = Net()
    x, y = torch.randn(12, 1, 3, 3), torch.randint(3, (12,))
    return Problem(model, nn.CrossEntropyLoss(), (x, y))


def random_mask(problem: Problem, density: float = 0.4, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = zip(problem.names, problem.weights, strict=True)
    return {name: torch.rand(w.shape, generator=rng) < density for name, w in shapes}


def constant(problem: Problem, value: bool) -> dict[str, Tensor]:
    return {n: torch.full(w.shape, value) for n, w in zip(problem.names, problem.weights, strict=True)}


def flat(mask: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in mask.values()])


def dense(problem: Problem) -> Tensor:
    operator = hessian(problem)
    return torch.stack([operator @ row for row in torch.eye(operator.size)])


def test_curvature_against_the_dense_hessian() -> None:
    problem = small()
    mask, h = random_mask(problem), dense(problem)
    found = mask_profile(mask, problem, probes=problem.size, draws=1)  # as many probes as entries: exact
    chosen = flat(mask)
    values, vectors = torch.linalg.eigh(h)
    assert found.trace == pytest.approx(float(h.trace()), rel=1e-10) and found.trace_error == 0.0
    share = float(h.diagonal()[chosen].sum() / h.trace())
    assert found.trace_share == pytest.approx(share, rel=1e-10)
    assert found.captured[found.scores.index("Hessian diagonal")] == pytest.approx(share, rel=1e-10)
    assert abs(found.top - float(values[-1])) <= found.top_error + 1e-12
    block = torch.linalg.eigvalsh(h[chosen][:, chosen])
    assert abs(found.block_top - float(block[-1])) <= found.block_top_error + 1e-12
    assert found.top_share == found.block_top / found.top <= 1.0
    mass = vectors[:, -1] ** 2
    top = found.scores.index("top eigenvector")
    assert found.captured[top] == pytest.approx(float(mass[chosen].sum()), abs=1e-4)
    assert len(found.random_tops) == 1 and 0 < found.random_tops[0] <= float(values[-1]) * 1.001


def test_scores_against_loops() -> None:
    problem = small()
    mask = random_mask(problem)
    found = mask_profile(mask, problem, probes=problem.size, draws=0, samples=12, perturbation=Ball(0.2))
    model = problem.model.eval()
    x, y = (
        torch.cat([getattr(b, k) if k == "targets" else b.args[0] for b in problem.batches])
        for k in ("args", "targets")
    )
    names = dict(model.named_parameters())

    def gradient(rows: Any = slice(None)) -> Tensor:
        g = torch.autograd.grad(nn.functional.cross_entropy(model(x[rows]), y[rows]), list(names.values()))
        return torch.cat([part.flatten() for part in g])

    w = torch.cat([p.detach().flatten() for p in names.values()])
    g = gradient()
    fisher = torch.stack([gradient(slice(i, i + 1)) ** 2 for i in range(12)]).mean(0)
    with torch.no_grad():
        place = 0
        for p in names.values():
            p += (0.2 * g / g.norm())[place : (place := place + p.numel())].view(p.shape)
    change = (gradient() - g).abs()
    with torch.no_grad():
        place = 0
        for p in names.values():
            p.copy_(w[place : (place := place + p.numel())].view(p.shape))
    expected = {
        "|w|": w.abs(),
        "|g|": g.abs(),
        "|g_SAM - g_SGD|": change,
        "r": (change / g.abs()).log10(),
        "Fisher": fisher,
        "Hessian diagonal": dense(problem).diagonal(),
    }
    assert set(found.scores) == {*expected, "top eigenvector"}
    chosen = flat(mask).numpy()
    for name, score in expected.items():
        i, values = found.scores.index(name), score.numpy()
        assert found.defined[i] == problem.size
        assert found.auc[i] == pytest.approx(roc_auc_score(chosen, values), rel=1e-10)
        assert found.correlation[i] == pytest.approx(scipy.stats.spearmanr(chosen, values).statistic, rel=1e-10)
        if name == "r":
            assert math.isnan(found.captured[i])
            continue
        assert found.captured[i] == pytest.approx(values[chosen].sum() / values.sum(), rel=1e-8)
        if (values >= 0).all():
            best = np.sort(values)[::-1][: chosen.sum()].sum() / values.sum()
            assert found.captured_best[i] == pytest.approx(best, rel=1e-8)
        for k, layer in enumerate(found.layers):
            part, own = mask[layer].flatten().numpy(), values[_places(problem, k)]
            if 0 < part.sum() < part.size:
                assert found.layer_auc[i, k] == pytest.approx(roc_auc_score(part, own), rel=1e-10)
            else:
                assert math.isnan(found.layer_auc[i, k])


def _places(problem: Problem, index: int) -> slice:
    sizes = [w.numel() for w in problem.weights]
    return slice(sum(sizes[:index]), sum(sizes[: index + 1]))


@pytest.mark.parametrize("levels", [2, 5, 40, None])
def test_ranks_with_ties(levels: int | None) -> None:
    rng = np.random.default_rng(0)
    score = rng.standard_normal(300) if levels is None else rng.integers(0, levels, 300).astype(float)
    mask = rng.random(300) < 0.3 + 0.4 * (score > np.median(score))
    found = rank_mask(mask, score)
    assert found.auc == pytest.approx(roc_auc_score(mask, score), rel=1e-12)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[mask] for b in score[~mask]]
    assert found.auc == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)
    assert found.correlation == pytest.approx(scipy.stats.spearmanr(mask, score).statistic, rel=1e-12)
    false, true, _ = roc_curve(mask, score, drop_intermediate=False)
    upper = [max(true[false <= rate][-1], np.interp(rate, false, true)) for rate in GRID]
    np.testing.assert_allclose(found.curve, upper, atol=1e-12)


@pytest.mark.parametrize("levels", [3, None])
@pytest.mark.parametrize("ones", [7, 60])
def test_chance_by_simulation(levels: int | None, ones: int) -> None:
    """10,000 random masks: means and deviations of area and captured share within three standard errors."""
    rng, count, size = np.random.default_rng(ones), 10_000, 90
    score = rng.exponential(size=size) if levels is None else rng.integers(0, levels, size).astype(float) + 1.0
    places = np.argsort(rng.random((count, size)), axis=1)[:, :ones]
    ranks = scipy.stats.rankdata(score)
    areas = (ranks[places].sum(axis=1) - ones * (ones + 1) / 2) / (ones * (size - ones))
    shares = score[places].sum(axis=1) / score.sum()
    mask = np.isin(np.arange(size), places[0])
    ranking, held = rank_mask(mask, score), captured(mask, score)
    assert ranking.auc == pytest.approx(areas[0]) and held.share == pytest.approx(shares[0])
    for drawn, mean, deviation in ((areas, 0.5, ranking.deviation), (shares, held.chance, held.deviation)):
        assert abs(drawn.mean() - mean) < 3 * drawn.std() / math.sqrt(count)
        fourth = ((drawn - drawn.mean()) ** 4).mean() / drawn.var() ** 2
        assert drawn.var() == pytest.approx(deviation**2, rel=3 * math.sqrt((fourth - 1) / count))
    assert held.chance == ones / size


def test_enrichment_by_hand_and_by_simulation() -> None:
    problem = small()
    mask = random_mask(problem)
    found = mask_profile(mask, problem, curvature=False)
    total, ones = problem.size, int(flat(mask).sum())
    assert found.kinds == ("other", "conv", "bias", "norm", "norm", "linear", "bias")
    assert found.depths.tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert found.density == ones / total
    table = found.enrichment()
    for k, layer in enumerate(problem.names):
        size, own = mask[layer].numel(), int(mask[layer].sum())
        assert (table["size"][k], table["selected"][k]) == (size, own)
        assert table["density"][k] == found.layer_density[k] == own / size
        assert table["enrichment"][k] == pytest.approx(own / size / (ones / total))
        low, high = scipy.stats.binomtest(own, size).proportion_ci(method="wilson")
        assert table["low"][k] * found.density == pytest.approx(low, abs=1e-12)
        assert table["high"][k] * found.density == pytest.approx(high, abs=1e-12)
    sums = {by: found.enrichment(by)["selected"].sum() for by in ("layer", "kind", "depth", "channel")}
    assert set(sums.values()) == {ones} and len(found.enrichment("kind")["name"]) == 5
    channels = found.enrichment("channel")
    expected = [
        int(part.sum()) for name in problem.names for part in (mask[name] if mask[name].dim() else [mask[name]])
    ]
    assert channels["selected"].tolist() == expected and channels["name"][1:3] == ["conv.weight[0]", "conv.weight[1]"]
    with pytest.raises(ValueError, match=r"by='block', expected one of 'layer', 'kind', 'depth', 'channel': change by"):
        found.enrichment("block")
    rng, count = np.random.default_rng(0), 10_000
    drawn = np.argsort(rng.random((count, total)), axis=1)[:, :ones]
    for k in range(len(problem.names)):
        where = _places(problem, k)
        own = ((drawn >= where.start) & (drawn < where.stop)).sum(axis=1)
        mean, size = table["size"][k] * found.density, table["size"][k]
        assert abs(own.mean() - mean) < 3 * own.std() / math.sqrt(count)
        if table["selected"][k] != mean:
            spread = (table["selected"][k] - mean) / table["z"][k]
            fourth = ((own - own.mean()) ** 4).mean() / own.var() ** 2
            assert own.var() == pytest.approx(spread**2, rel=3 * math.sqrt((fourth - 1) / count))
        values = own / size / found.density
        inside = ((values >= table["chance_low"][k] - 1e-9) & (values <= table["chance_high"][k] + 1e-9)).mean()
        assert inside > 0.95 - 3 * math.sqrt(0.05 * 0.95 / count)


def test_hutchinson_is_unbiased_and_its_error_honest() -> None:
    rng = torch.Generator().manual_seed(0)
    half = torch.randn(40, 40, generator=rng)
    matrix, mask = half @ half.T, torch.rand(40, generator=rng) < 0.3
    operator = Operator.of(matrix)
    share = float(matrix.diagonal()[mask].sum() / matrix.trace())
    found = [diagonal(operator, mask, 16, seed) for seed in range(300)]
    for values, errors, truth in (
        ([one.trace for one in found], [one.trace_error for one in found], float(matrix.trace())),
        ([one.share for one in found], [one.share_error for one in found], share),
    ):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / math.sqrt(300)
        assert np.mean(np.square(errors)) == pytest.approx(np.var(values), rel=0.3)
    mean = np.mean([one.mean for one in found], axis=0)
    spread = np.std([one.mean for one in found], axis=0) / math.sqrt(300)
    assert (np.abs(mean - matrix.diagonal().numpy()) < 5 * spread).all()
    exact = diagonal(operator, mask, 40, 0)
    assert exact.mean == pytest.approx(matrix.diagonal().numpy()) and exact.share_error == 0.0


def test_blocks() -> None:
    half = torch.randn(20, 20)
    matrix = half + half.T
    mask = torch.rand(20) < 0.5
    block = Operator.of(matrix).block(mask)
    v = torch.randn(block.size)
    assert torch.allclose(block @ v, matrix[mask][:, mask] @ v)
    top, error = top_of_block(Operator.of(matrix), mask, 1e-6, 0)
    assert abs(top - float(torch.linalg.eigvalsh(matrix[mask][:, mask])[-1])) <= error + 1e-12
    alone = torch.arange(20) == 3
    assert top_of_block(Operator.of(matrix), alone, 1e-6, 0)[0] == pytest.approx(float(matrix[3, 3]))
    assert math.isnan(top_of_block(Operator.of(matrix), torch.zeros(20, dtype=torch.bool), 1e-6, 0)[0])


def test_empty_and_full_masks() -> None:
    problem = small()
    empty = mask_profile(constant(problem, False), problem, draws=1)
    full = mask_profile(constant(problem, True), problem, probes=problem.size, draws=1)
    assert empty.density == 0.0 and full.density == 1.0
    assert np.isnan(empty.auc).all() and np.isnan(full.auc).all()
    assert np.nanmax(empty.captured) == 0.0 and empty.trace_share == 0.0 and math.isnan(empty.block_top)
    np.testing.assert_allclose(full.captured[np.isfinite(full.captured)], 1.0)
    assert full.top_share == pytest.approx(1.0, abs=1e-5) and full.trace_share == pytest.approx(1.0)
    for one in (empty, full):
        assert "entries selected" in one.table() and one.summary()
        assert set(one.enrichment("kind")) == set(one.enrichment("layer"))


def test_one_layer_of_one_element() -> None:
    model = nn.Linear(1, 1, bias=False)
    problem = Problem(model, nn.MSELoss(), (torch.ones(2, 1), torch.zeros(2, 1)))
    found = mask_profile({"weight": torch.tensor([[True]])}, problem)
    assert found.trace == found.top == found.block_top == pytest.approx(2.0) and found.density == 1.0


def test_the_answer() -> None:
    problem = small()
    h = dense(problem).diagonal()
    sharp = h >= h.sort().values[-len(h) // 3]
    sizes = [w.shape for w in problem.weights]
    parts = torch.split(sharp, [math.prod(size) for size in sizes])
    mask = {name: part.view(size) for name, part, size in zip(problem.names, parts, sizes, strict=True)}
    kept = mask_profile(mask, problem, probes=problem.size, draws=1)
    dropped = mask_profile({n: ~m for n, m in mask.items()}, problem, probes=problem.size, draws=0)
    assert kept.answer().startswith("yes: ") and "of trace(H)" in kept.summary()
    assert dropped.answer().startswith("no, the flat ones: ")
    where = kept.scores.index("Hessian diagonal")
    assert kept.auc[where] == 1.0 and dropped.auc[where] == 0.0 and kept.auc_z[where] > 3
    even = mask_profile(random_mask(problem), problem, probes=problem.size, draws=0)
    assert even.answer().startswith("no more than chance: ")
    plain = mask_profile(mask, problem, curvature=False)
    assert plain.answer().startswith("not known") and "Hessian diagonal" not in plain.scores
    assert "ROC area, Hessian diagonal" in kept.table() and "share of trace(H)" in kept.table()


def test_stored_and_tidy(tmp_path: Any) -> None:
    pytest.importorskip("pandas")
    problem = small()
    mask = random_mask(problem)
    found = mask_profile(mask, problem, draws=1)
    assert found == mask_profile(PackedMask.of(mask), problem, draws=1)
    assert load(save(found, tmp_path / "profile.h5")) == found
    table = found.to_frame()
    assert list(table.columns) == ["scope", "name", "quantity", "value"]
    layers = table[(table.scope == "layer") & (table.quantity == "selected")]
    assert layers.value.tolist() == found.selected.tolist() and layers.name.tolist() == list(found.layers)
    assert isinstance(found, MaskProfile)


def test_kinds() -> None:
    model = nn.ModuleDict(
        {
            "conv": nn.ConvTranspose1d(1, 1, 1),
            "linear": nn.Linear(1, 1),
            "attention": nn.MultiheadAttention(2, 1),
            "recurrent": nn.GRU(1, 1),
            "embedding": nn.Embedding(2, 2),
            "norm": nn.GroupNorm(1, 2),
            "wrapped": nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1)),
        }
    )

    class MyNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    model["own"] = MyNorm()
    names = [name for name, _ in model.named_parameters()]
    kinds = dict(zip(names, kinds_of(model, names), strict=True))
    assert kinds["conv.weight"] == "conv" and kinds["conv.bias"] == kinds["attention.in_proj_bias"] == "bias"
    assert kinds["attention.in_proj_weight"] == "attention" and kinds["attention.out_proj.weight"] == "linear"
    assert kinds["recurrent.weight_hh_l0"] == "recurrent" and kinds["recurrent.bias_ih_l0"] == "bias"
    assert kinds["embedding.weight"] == "embedding" and kinds["norm.bias"] == kinds["own.bias"] == "norm"
    assert kinds["wrapped.parametrizations.weight.original0"] == "conv"
    assert set(kinds.values()) <= set(KINDS)
    assert depths_of(model, ["linear.weight", "linear.bias", "embedding.weight"])[:2].tolist() == [1, 1]


def broken(at: float) -> Problem:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([at]))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sqrt(1.0 - self.w)

    return Problem(Root(), lambda output, _: output.mean(), (torch.ones(2, 1), torch.zeros(2, 1)))


def test_error_texts() -> None:
    problem = small()
    mask = random_mask(problem)
    less = {name: part for name, part in mask.items() if name != "scale"}
    for bad, text in (
        (less, "the mask got other parameters than the model (scale in one of them only), expected the same: compare"),
        (
            mask | {"scale": torch.ones(1) > 0},
            "the mask got shape (1,) for scale, expected (): compare masks of one model",
        ),
        (mask | {"scale": torch.tensor(1.0)}, "mask 'mask' got float64 for scale, expected booleans: convert with"),
        ({}, "mask 'mask' got no parameter, expected at least one"),
    ):
        with pytest.raises(ValueError, match="^" + re.escape(text)):
            mask_profile(bad, problem)
    with pytest.raises(ValueError, match=r"^mask_profile got draws=-1, expected a whole number >= 1"):
        mask_profile(mask, problem, draws=-1)
    with pytest.raises(ValueError, match=r"^mask_profile got probes=0, expected a whole number >= 1"):
        mask_profile(mask, problem, probes=0)
    with pytest.raises(TypeError, match=r"^mask_profile got perturbation=0\.1, expected a perturbation"):
        mask_profile(mask, problem, perturbation=0.1)  # type: ignore[arg-type]
    one = {"w": torch.tensor([True])}
    with pytest.raises(ProblemError, match=r"^the loss got nan at these weights, expected a finite number"):
        mask_profile(one, broken(2.0))
    with pytest.raises(ValueError, match=r"^a gradient is not finite, expected finite numbers"):
        mask_profile(one, broken(2.0), curvature=False)


def diagonal_problem(curvatures: list[float]) -> Problem:
    """A problem whose Hessian is diagonal, with the curvatures that are given."""
    d = torch.tensor(curvatures)

    class Bowl(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.linspace(0.1, 1.0, len(d)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.0 * x + (0.5 * d * self.w**2).sum()

    return Problem(Bowl(), lambda outputs, targets: (outputs - targets).mean(), (torch.zeros(2, 1), torch.zeros(2, 1)))


@pytest.mark.parametrize(
    ("curvatures", "text"),
    [
        (
            [5.0, -3.0, 1.0, -9.0],
            r"not known: trace\(H\) = -6 \+- 0 is not positive.*; the mask holds 100 % of lambda_1",
        ),
        (
            [5.0, -3.0, 1.0, -3.0],
            r"not known: trace\(H\) = 0 \+- 0 is not positive.*; the mask holds 100 % of lambda_1",
        ),
        ([-5.0, -3.0, -1.0, -2.0], r"not known: trace\(H\) = -11 \+- 0 is not positive, so that it has no shares$"),
    ],
)
def test_a_trace_that_is_not_positive_has_no_shares(curvatures: list[float], text: str) -> None:
    mask = {"w": torch.tensor([True, False, False, False])}
    profile = mask_profile(mask, diagonal_problem(curvatures), draws=1)
    assert re.match(text, profile.answer())
    assert "share of trace(H)" not in profile.table()


@pytest.mark.parametrize(("ones", "word"), [(0, "none"), (4, "all")])
def test_an_empty_or_full_mask_has_nothing_to_compare(ones: int, word: str) -> None:
    profile = mask_profile({"w": torch.arange(4) < ones}, diagonal_problem([5.0, 3.0, 2.0, 1.0]))
    assert profile.answer() == f"nothing to compare: the mask selects {word} of the entries"


def test_a_parameter_without_entries_is_no_obstacle() -> None:
    model = diagonal_problem([5.0, 3.0, 2.0, 1.0]).model
    model.register_parameter("none", torch.nn.Parameter(torch.zeros(0, 3)))
    zeros = torch.zeros(2, 1)
    problem = Problem(model, lambda outputs, targets: (outputs - targets).mean(), (zeros, zeros))
    mask = {"w": torch.tensor([True, False, True, False]), "none": torch.zeros(0, 3) > 0}
    assert mask_profile(mask, problem, draws=0).trace_share == pytest.approx(7 / 11)
    with pytest.raises(TypeError, match="mask_profile got a Bowl as problem, expected a Problem"):
        mask_profile(mask, problem.model)  # type: ignore[arg-type]
