"""The fast evaluation of points against a literal loop: folded, cut, laid out, re-estimated, rounded, copied."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharpscope as ss
from sharpscope import Problem
from sharpscope.analyzers.surfaces._points import Points, points_of
from sharpscope.analyzers.surfaces.request import Request
from sharpscope.problem._layout import Way

GRID = np.linspace(-0.5, 0.5, 3)


class Block(nn.Module):
    """Convolutions of several kinds before BatchNorms with statistics that matter, a branch, a BatchNorm that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4, eps=1e-2)
        self.late = nn.BatchNorm2d(4)
        self.linear, self.norm3 = nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = self.late(F.relu(self.norm2(self.conv2(x)) + x))
        logits: Tensor = self.head(torch.tanh(self.norm3(self.linear(x.mean((2, 3))))))
        return logits


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """With statistics and gains that are not those of a new model."""
    with torch.no_grad():
        for _ in range(3):
            model(2 * x + 1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
    return model


def block(dtype: torch.dtype = torch.float64, examples: int = 40) -> Problem:
    x, y = torch.randn(examples, 2, 6, 6, dtype=dtype), torch.randint(3, (examples,))
    return Problem(trained(Block().to(dtype), x), nn.CrossEntropyLoss(), (x, y), batch_size=16)


def plane_of(problem: Problem, **options: Any) -> Points:
    usual = {
        "owner": "surface", "directions": "filter", "seed": 0, "precision": "float32", "metrics": None,
        "examples": None, "batchnorm": "eval", "statistics": None, "bound": 0.02, "how": "untimed", "resume": None,
    }  # fmt: skip
    return points_of(problem, Request(axes=(GRID, GRID), **{**usual, **options}))


def literal(problem: Problem, plane: Points, loss_of: Callable[[nn.Module], float]) -> np.ndarray:
    """The loss at every point of a deep copy whose weights are really moved."""
    found = []
    for b in GRID:
        for a in GRID:
            model = copy.deepcopy(problem.model).eval()
            own = dict(model.named_parameters())
            with torch.no_grad():
                for name, d1, d2 in zip(problem.names, *plane.directions.vectors, strict=True):
                    own[name].add_(a * d1 + b * d2)
                found.append(loss_of(model))
    return np.array(found)


def whole(problem: Problem) -> tuple[Tensor, Tensor]:
    return torch.cat([b.args[0] for b in problem.batches]), torch.cat([b.targets for b in problem.batches])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_folded_and_cut_is_the_literal_loop(dtype: torch.dtype) -> None:
    problem = block(dtype)
    x, y = whole(problem)
    plane = plane_of(problem)
    assert {(f.layer, f.norm) for f in plane.evaluator.folds} == {
        ("conv1", "norm1"), ("conv2", "norm2"), ("linear", "norm3")
    }  # fmt: skip
    assert plane.evaluator.how.endswith("3 BatchNorms folded")
    expected = literal(problem, plane, lambda model: float(F.cross_entropy(model(x), y)))
    assert plane.evaluate(range(9))[:, 0] == pytest.approx(expected, rel=100 * torch.finfo(dtype).eps)


def test_every_way_gives_the_same_numbers_and_repeats_its_bits() -> None:
    problem = block()
    first = ss.surface(problem, 3, how="untimed")
    for how in (
        "contiguous, batches as given, 0 BatchNorms folded", "channels-last, 7 at a time, 3 BatchNorms folded",
        "channels-last, 40 at a time, 0 BatchNorms folded", "contiguous, 1 at a time, 3 BatchNorms folded",
    ):  # fmt: skip
        if how.endswith(f" {0} BatchNorms folded"):
            with pytest.raises(ValueError, match="expected a way that this model can go, such as"):
                ss.surface(problem, 3, how=how)
            continue
        found = ss.surface(problem, 3, how=how)
        assert found.how == how and found == ss.surface(problem, 3, how=how)
        assert found.loss == pytest.approx(first.loss, rel=1e-12)
    with pytest.raises(ValueError, match=r"^got how='quick', expected 'fastest', 'untimed' or the text of a former"):
        ss.surface(problem, 3, how="quick")
    fast = ss.surface(problem, 3)
    assert fast == ss.surface(problem, 3) == ss.surface(block_again(problem), 3)
    assert Way.of(fast.how).how == fast.how


def block_again(problem: Problem) -> Problem:
    x, y = whole(problem)
    return Problem(copy.deepcopy(problem.model), nn.CrossEntropyLoss(), (x, y), batch_size=16)


def test_measuring_chooses_among_real_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock decides, and what it decides is used and remembered."""
    from sharpscope.problem import evaluator

    monkeypatch.setattr(evaluator, "_QUICK", 0.0)
    monkeypatch.setattr(evaluator, "_CHOSEN", {})
    tried: list[str] = []

    def clock(self: Any, way: Way, half: bool) -> float:
        tried.append(way.how)
        return {"channels-last": 1.0, "contiguous": 2.0}[way.layout] * (1.0 + way.size)

    monkeypatch.setattr(evaluator.Evaluator, "_seconds", clock)
    problem = block()
    found = ss.surface(problem, 3)
    assert found.how == "channels-last, 8 at a time, 3 BatchNorms folded" and len(set(tried)) >= 3
    tried.clear()
    assert ss.surface(block_again(problem), 3) == found and not tried


class Odd(nn.Module):
    """What must not be folded: a layer that is read twice, run twice, tied, changed in place, or has a hook."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.other = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.norm, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        if kind == "tied":
            self.other.weight = self.conv.weight
        if kind == "shared norm":
            self.second.weight = self.norm.weight
        if kind == "hook":
            self.conv.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        if self.kind == "twice":
            z = self.conv(z)
        if self.kind == "in place":
            z.relu_()
        normed = self.norm(z)
        if self.kind == "two norms":
            normed = normed + self.second(z).tanh()
        if self.kind == "weights read":
            normed = normed + F.conv2d(x, self.conv.weight).tanh()
        if self.kind == "shared norm":
            normed = normed + self.second(self.other(x))
        if self.kind == "faintly":
            normed = normed + 1e-6 * z.tanh()
        if self.kind == "branch":
            normed = normed + z
        if self.kind == "tied":
            normed = normed + self.other(x)
        if self.kind == "looks":
            normed = normed * self.norm.weight.sum()
        flat: Tensor = normed.mean((2, 3))
        return flat


@pytest.mark.parametrize("kind", ["twice", "tied", "hook", "in place", "branch", "looks"])
def test_what_cannot_be_folded_is_not(kind: str) -> None:
    x, y = torch.randn(12, 2, 3, 3), torch.randint(2, (12,))
    problem = Problem(trained(Odd(kind), x), nn.CrossEntropyLoss(), (x, y))
    plane = plane_of(problem)
    assert plane.evaluator.how.endswith(", 0 BatchNorms folded")
    expected = literal(problem, plane, lambda model: float(F.cross_entropy(model(x), y)))
    assert plane.evaluate(range(9))[:, 0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["two norms", "weights read", "shared norm", "faintly", "branch"])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_wrong_fold_is_refused_where_it_hardly_shows(kind: str, scale: float) -> None:
    """New BatchNorms are nearly the identity, the loss is small, and the line is short or ends at the centre."""
    x, y = torch.randn(12, 2, 3, 3, dtype=torch.float32), torch.randn(12, 2, dtype=torch.float32)
    problem = Problem(Odd(kind).float(), lambda o, t: scale * ((o - t) ** 2).mean(), (x, y))
    for span in (0.01, (-1.0, 0.0)):
        found = ss.line(problem, 3, span, how="untimed")
        assert found.how.endswith(", 0 BatchNorms folded")
        d = d_of(problem)
        for a, loss in zip(found.alpha, found.loss, strict=True):
            at = [w + float(a) * v for w, v in zip(problem.weights, d, strict=True)]
            assert loss == pytest.approx(problem.loss(at), rel=1e-6)


def test_a_copy_that_is_not_like_its_model_is_refused_on_a_short_line() -> None:
    x, y = torch.randn(12, 3, dtype=torch.float32), torch.randint(2, (12,))
    problem = Problem(Closure().float(), nn.CrossEntropyLoss(), (x, y))
    for span in (1e-4, (-1.0, 0.0)):
        found = ss.line(problem, 3, span)
        moved = [w + float(found.alpha[0]) * v for w, v in zip(problem.weights, d_of(problem), strict=True)]
        assert found.loss[0] == pytest.approx(problem.loss(moved), rel=1e-6) and found.loss[0] != found.loss[2]


def d_of(problem: Problem) -> list[Tensor]:
    return ss.random_directions(problem).vectors[0]


def test_frozen_and_one_dimensional_parts_are_folded_too() -> None:
    problem = block()
    problem.model.conv1.weight.requires_grad_(False)
    problem.model.norm2.requires_grad_(False)
    x, y = whole(problem)
    again = Problem(problem.model, nn.CrossEntropyLoss(), (x, y))
    plane = plane_of(again, directions=ss.random_directions(again, "layer", include_1d=True))
    assert len(plane.evaluator.folds) == 3
    before = {name: p.detach().clone() for name, p in problem.model.named_parameters()}
    expected = literal(again, plane, lambda model: float(F.cross_entropy(model(x), y)))
    assert plane.evaluate(range(9))[:, 0] == pytest.approx(expected, rel=1e-12)
    assert all(torch.equal(before[name], p) for name, p in problem.model.named_parameters())


class Closure(nn.Module):
    """Its plain copies run the original's layer, because a lambda is not copied; the problem's own follows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.run = lambda x: self.linear(x)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.run(x)
        return found


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("no copies")


@pytest.mark.parametrize("make", [Closure, lambda: Uncopied(3, 2)], ids=["closure", "no copy"])
def test_models_that_copies_are_not_like(make: Callable[[], nn.Module]) -> None:
    x, y = torch.randn(12, 3), torch.randint(2, (12,))
    problem = Problem(make(), nn.CrossEntropyLoss(), (x, y))
    found = ss.surface(problem, 3)
    d1, d2 = ss.random_directions(problem).vectors
    linear = getattr(problem.model, "linear", problem.model)
    with torch.no_grad():
        expected = float(F.cross_entropy(F.linear(x, linear.weight + d1[0] - d2[0], linear.bias), y))
    assert found.loss[0, 2] == pytest.approx(expected, rel=1e-12)
    assert problem.twin.shared == isinstance(problem.model, Uncopied)
    if problem.twin.shared:
        assert problem.describe().endswith("evaluated in the model itself, which cannot be copied")
        with pytest.raises(ValueError, match=r"that copy.deepcopy cannot copy, expected one that it can: use batchnor"):
            ss.surface(problem, 3, batchnorm="recompute")


class Caching(nn.Module):
    """Keeps what it computed, as rotary embeddings do; tensors of inference mode would break its next training step."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, 3).exp()
        found: Tensor = self.linear(x * self.table)
        return found


def test_a_model_that_caches_can_be_trained_afterwards() -> None:
    problem = Problem(Caching(), nn.CrossEntropyLoss(), (torch.randn(6, 3), torch.randint(2, (6,))))
    ss.surface(problem, 3)
    problem.model(torch.randn(2, 3, requires_grad=True)).sum().backward()


def test_metrics_beside_the_loss() -> None:
    problem = block()
    x, y = whole(problem)
    metrics = {
        "accuracy": "accuracy", "margin": lambda o, t: o.gather(1, t[:, None])[:, 0] - o.mean(1),
        "mean": lambda o, t: float((o**2).mean()),
    }  # fmt: skip
    found = ss.surface(problem, 3, 0.5, metrics=metrics)
    plane = plane_of(problem)
    assert list(found.metrics) == ["accuracy", "margin", "mean"]
    for name, of in {
        "accuracy": lambda o: float((o.argmax(1) == y).double().mean()),
        "margin": lambda o: float((o.gather(1, y[:, None])[:, 0] - o.mean(1)).mean()),
        "mean": lambda o: float((o**2).mean()),
    }.items():
        expected = literal(problem, plane, lambda model, of=of: of(model(x)))
        assert found.metrics[name].ravel() == pytest.approx(expected, rel=1e-10)
    both = ss.line(problem, 3, metrics=["accuracy", "error"])
    assert both.metrics["accuracy"] + both.metrics["error"] == pytest.approx(np.ones(3), abs=1e-15)
    assert list(ss.line(problem, 3, metrics="error").metrics) == ["error"]
    data = found.to_xarray()
    assert data["metrics.accuracy"].dims == ("beta", "alpha") == data["status"].dims


def fails(outputs: Tensor, targets: Tensor) -> Tensor:
    raise IndexError("no such class")


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (fails, "the metric 'm' got IndexError: no such class, expected numbers: check metric(outputs, targets)"),
        (lambda o, t: o, "the metric 'm' got values of shape (16, 3), expected (16,) or one number: return a value"),
        ("top5", "the surface got the metric 'top5', expected accuracy, error or {name: function(outputs, targets)}"),
        (3, "the surface got the metric 3, expected accuracy, error or {name: function(outputs, targets)}"),
    ],
)
def test_metrics_that_fail(metric: Any, text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the text is compared)
        ss.surface(block(), 3, metrics={"m": metric})
    assert str(caught.value).startswith(text)


def test_accuracy_of_a_regression_is_refused() -> None:
    problem = Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1)))
    with pytest.raises(ValueError, match=r"^the metric 'accuracy' got TypeError: accuracy takes outputs \(examples"):
        ss.surface(problem, 3, metrics="accuracy")


def test_a_fixed_subset() -> None:
    """The same examples at every point, others with another seed; the standard error is that of the subset."""
    problem = block()
    x, y = whole(problem)
    found = ss.surface(problem, 3, 0.5, examples=25, seed=4)
    assert found.examples == 25 and "25 of 40 examples, eval mode" in found.problem
    rows = torch.cat([b.args[0] for b in plane_of(problem, examples=25, seed=4).evaluator.batches])
    chosen = [int((x == row).flatten(1).all(1).nonzero()) for row in rows]
    assert len(set(chosen)) == 25 and chosen == sorted(chosen)
    own = Problem(problem.model, nn.CrossEntropyLoss(), (x[chosen], y[chosen]))
    expected = ss.surface(own, 3, 0.5, seed=4)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.stderr == pytest.approx(expected.stderr, rel=1e-9, abs=1e-15)
    assert ss.surface(problem, 3, 0.5, examples=25, seed=5).center != found.center
    assert ss.surface(problem, 3, 0.5, examples=40).problem == ss.surface(problem, 3, 0.5).problem


def reestimated(problem: Problem, x: Tensor) -> Callable[[nn.Module], None]:
    """The literal loop: statistics of every batch, averaged by size, BatchNorm alone in training mode."""

    def refresh(model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        sums = {m: [torch.zeros_like(m.running_mean), torch.zeros_like(m.running_var)] for m in norms}
        pieces = max(1, -(-len(x) // 128))
        ends = [round(i * len(x) / pieces) for i in range(pieces + 1)]
        for a, b in itertools.pairwise(ends):
            for m in norms:
                m.train()
                m.momentum = 1.0
            model(x[a:b])
            for m in norms:
                sums[m][0] += m.running_mean * (b - a) / len(x)
                sums[m][1] += m.running_var * (b - a) / len(x)
        for m in norms:
            m.running_mean, m.running_var = sums[m]
            m.eval()

    return refresh


@pytest.mark.parametrize("examples", [None, 30, 300])
def test_batchnorm_statistics_reestimated_at_every_point(examples: int | None) -> None:
    problem = block(examples=300 if examples == 300 else 40)
    before = {name: b.clone() for name, b in problem.model.named_buffers()}
    x, y = whole(problem)
    plane = plane_of(problem, batchnorm="recompute", statistics=examples)
    used = torch.cat([b.args[0] for b in plane.evaluator.statistics])
    assert len(used) == (examples or 40) and len(plane.evaluator.folds) == 3
    refresh = reestimated(problem, used)

    def loss_of(model: nn.Module) -> float:
        refresh(model)
        return float(F.cross_entropy(model(x), y))

    assert plane.evaluate(range(9))[:, 0] == pytest.approx(literal(problem, plane, loss_of), rel=1e-11)
    text = f"BatchNorm re-estimated at every point on {examples or 40} examples"
    found = ss.surface(problem, 3, 0.5, batchnorm="recompute", statistics=examples)
    assert text in found.problem and "eval mode" not in found.problem
    assert not np.allclose(found.loss, ss.surface(problem, 3, 0.5).loss, rtol=1e-3)
    assert all(torch.equal(before[name], b) for name, b in problem.model.named_buffers())
    assert found == ss.surface(problem, 3, 0.5, batchnorm="recompute", statistics=examples)


def test_bfloat16_states_its_error() -> None:
    problem = block(torch.float32, 200)
    exact = ss.surface(problem, 7, 0.5)
    found = ss.surface(problem, 7, 0.5, precision="bfloat16", bound=0.5, metrics="accuracy")
    errors = np.abs(found.loss / exact.loss - 1).ravel()
    assert (found.precision, found.precision_points) == ("bfloat16", 32)
    assert 0 < found.precision_error_95 <= found.precision_error <= errors.max() * (1 + 1e-5)
    assert found.precision_error > 0.6 * errors.max() and errors.max() < 0.5
    found.plot()
    assert found.loss[3, 3] == found.center and found.stderr[3, 3] == 0.0
    assert "precision_error" in found.summary()
    assert exact.precision_error == exact.precision_points == 0
    text = r"^the surface got a relative error of \S+ in bfloat16 on 16 points, expected at most 1e-06: use precision="
    with pytest.raises(ValueError, match=text):
        ss.surface(problem, 7, 0.5, precision="bfloat16", bound=1e-6)


def test_bfloat16_is_compared_where_the_loss_is_lowest() -> None:
    """A trained network, whose relative error has its largest values in the basin."""
    torch.manual_seed(0)
    x = torch.randn(64, 5, dtype=torch.float32)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).float()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    problem = Problem(model, nn.CrossEntropyLoss(), (x, y))
    exact = ss.surface(problem, 15, how="untimed").loss
    for tolerance, worst in ((None, 0.6), (0.1, 0.4)):
        found = ss.surface(problem, 15, precision="bfloat16", bound=9.0, how="untimed", tolerance=tolerance)
        errors = np.abs(found.loss / exact - 1)[found.evaluated]
        assert found.precision_points == 32 and errors.max() >= found.precision_error * (1 - 1e-5)
        assert found.precision_error > worst * errors.max() > 3 * worst * np.median(errors)
        assert tolerance is None or found.error >= 2 * found.precision_error
    text = f"(95 %: {100 * found.precision_error_95:.2g} %) on 32 points"
    assert text in ss.plot(found).get_title()


def test_points_where_precisions_are_compared() -> None:
    from sharpscope.analyzers.surfaces._precision import first_points, more_points

    axis, rng = np.linspace(-1.0, 2.0, 7), torch.Generator().manual_seed(0)
    first = first_points((axis, axis), rng)
    assert len(set(first)) == 16 and {0, 3, 6, 21, 24, 27, 42, 45, 48, 16} <= set(first)
    losses = {place: float(abs(place - 20)) for place in range(49)} | {21: math.nan}
    more = more_points(losses, first, rng)
    assert len(more) == 16 and not set(more) & set(first) and {17, 18, 19, 20, 22, 23} - set(first) <= set(more)
    many = {place: 1.0 + place for place in range(2000)}
    more = more_points(many, first, rng)
    assert len(more) == 100 - 16 and set(range(50)) - set(first) <= set(more)


def test_bfloat16_of_other_models() -> None:
    """Norm layers that stay, embeddings, frozen parts, statistics re-estimated."""
    embedding = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 3)).float()
    embedding[1].requires_grad_(False)
    words = Problem(embedding, nn.CrossEntropyLoss(), (torch.randint(7, (30, 3)), torch.randint(3, (30,))))
    for problem, options in ((words, {}), (block(torch.float32), {"batchnorm": "recompute"})):
        exact = ss.line(problem, 5, **options)  # type: ignore[arg-type]
        found = ss.line(problem, 5, precision="bfloat16", bound=0.2, **options)  # type: ignore[arg-type]
        assert found.loss == pytest.approx(exact.loss, rel=0.2) and (found.loss != exact.loss).any()


def test_a_model_that_bfloat16_breaks() -> None:
    class Fixed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ torch.eye(2, dtype=torch.float32)

    problem = Problem(Fixed(3, 2).float(), nn.MSELoss(), (torch.ones(4, 3).float(), torch.ones(4, 2).float()))
    text = r"^the surface got precision='bfloat16' for a model that cannot compute in it \(.*\), expected 'float32'"
    with pytest.raises(ValueError, match=text):
        ss.surface(problem, 3, precision="bfloat16")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batchnorm": "train"}, "got batchnorm='train', expected 'eval' or 'recompute': change batchnorm"),
        ({"examples": 0}, "got examples=0, expected a whole number >= 1 or None: change examples"),
        ({"statistics": -1}, "got statistics=-1, expected a whole number >= 1 or None: change statistics"),
        ({"bound": 0}, "got bound=0, expected a positive number: 0.02 is usual"),
        ({"resume": ""}, "got resume='', expected a path or None: name a file"),
        ({"tolerance": 0.0}, "got tolerance=0.0, expected a positive number or None: 0.01 is usual"),
        ({"tolerance": True}, "got tolerance=True, expected a positive number or None: 0.01 is usual"),
        ({"span": True}, "got span=True, expected a positive number or (low, high): 1.0 is usual"),
        ({"span": 1.5e308}, "got span=1.5e+308, expected a positive number or (low, high): 1.0 is usual"),
        (
            {"metrics": 5},
            "got the metric 5, expected accuracy, error or {name: function(outputs, targets)}: change metrics",
        ),
        ({"tolerance": math.nan}, "got tolerance=nan, expected a positive number or None: 0.01 is usual"),
    ],
)
def test_bad_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
        ss.surface(block(), 3, **options)
    assert str(caught.value) == f"the surface {text}"


def test_points_do_not_depend_on_their_order() -> None:
    problem = block()
    forward, backward = plane_of(problem).evaluate(range(9)), plane_of(problem).evaluate(range(8, -1, -1))
    assert forward.tobytes() == backward[::-1].tobytes()


def test_an_adaptive_plane() -> None:
    """Fewer points, told apart; the error it states holds against the full plane; the evaluated ones are its own."""
    problem = block(torch.float64, 16)
    full = ss.surface(problem, 41, 0.7)
    levels: list[ss.Surface] = []
    found = ss.surface(problem, 41, 0.7, tolerance=0.02, metrics="accuracy", show=levels.append)
    assert found.status is not None and full.status is not None
    assert full.evaluated.all() and (full.status == 1).all() and full.tolerance is None and full.error == 0.0
    assert 49 < found.evaluated.sum() < 0.5 * full.loss.size and found.tolerance == 0.02 >= found.error > 0
    assert np.array_equal(found.loss[found.evaluated], full.loss[found.evaluated])
    assert np.isnan(found.stderr[~found.evaluated]).all() and np.isfinite(found.stderr[found.evaluated]).all()
    assert np.isfinite(found.metrics["accuracy"][found.evaluated]).all()
    assert np.abs(found.loss / full.loss - 1).max() < 2 * found.error
    assert levels[0].evaluated.sum() == 49 and levels[-1] == found
    assert found == ss.surface(problem, 41, 0.7, tolerance=0.02, metrics="accuracy")
    low = ss.surface(block(torch.float32, 16), 21, 0.5, tolerance=0.05, precision="bfloat16", bound=0.5)
    assert low.precision_points == 32 and low.evaluated.sum() < low.loss.size


def test_half_precision_models_move_in_float32() -> None:
    """A step that bfloat16 weights would lose is formed in float32, and the weights are cast afterwards."""
    model = nn.Linear(4, 2).bfloat16()
    x, y = torch.randn(10, 4).bfloat16(), torch.randint(2, (10,))
    problem = Problem(model, nn.CrossEntropyLoss(), (x, y))
    found = plane_of(problem)
    d1, d2 = (vector[0].float() for vector in found.directions.vectors)
    moved = (model.weight.detach().float() + 0.5 * d1 + 0.5 * d2).bfloat16()
    assert torch.equal(found.evaluator._typed(found.evaluator.moved((0.5, 0.5), found.axes))[0], moved)
    assert np.isfinite(found.evaluate(range(9))[:, 0]).all()


def test_a_span_beyond_the_dtype_and_weights_that_are_not_finite() -> None:
    problem = block(torch.float32)
    text = r"^the (surface|curvature map) got a span up to 1e\+39, expected at most 3.4e\+38, the largest number of"
    for analyzer in (ss.surface, ss.curvature_map):
        with pytest.raises(ValueError, match=text):
            analyzer(problem, 3, 1e39)
    with torch.no_grad():
        problem.model.head.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^the loss at the centre is nan, expected a finite number"):
        ss.surface(problem, 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_standard_error_of_a_weighted_mean_is_the_bootstrap_s(smoothing: float) -> None:
    x, y = torch.randn(300, 4), torch.randint(4, (300,))
    y[y == 3] = -100
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 8.0, 0.2]), label_smoothing=smoothing)
    problem = Problem(nn.Linear(4, 3), loss, (x, y))
    found = ss.line(problem, 2, (0.0, 1.0))
    moved = [w + v for w, v in zip(problem.weights, d_of(problem), strict=True)]
    difference = (problem.example_losses(moved)[0] - problem.example_losses()[0]).numpy()
    weight = problem.objective.weights(None, problem.batches[0].targets).numpy()
    assert weight.sum() == pytest.approx(problem.example_losses()[1])
    drawn = np.random.default_rng(0).integers(0, 300, (20000, 300))
    spread = (difference[drawn].sum(1) / weight[drawn].sum(1)).std()
    assert found.stderr[1] == pytest.approx(spread, rel=0.05)
