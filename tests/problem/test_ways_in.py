"""Every way in which users hand over L(w), against the function written out."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import sharpscope as ss
from sharpscope import Problem, ProblemError
from tests.reference_function import check_everything, flat, literal, near


def net(inputs: int = 3, outputs: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, outputs))


def data(examples: int = 12, outputs: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(examples, 3), torch.randint(outputs, (examples,))


# -- losses that couple the examples of a batch


def contrastive(z: Tensor, _: Any) -> Tensor:
    a, b = F.normalize(z, dim=1).chunk(2, dim=1)
    return F.cross_entropy(a @ b.T / 0.5, torch.arange(len(a)))


def variance(z: Tensor, _: Any) -> Tensor:
    return (1 - z.std(dim=0)).relu().mean() + z.mean(0).square().sum()


def cox(z: Tensor, times: Tensor) -> Tensor:
    risk = z[:, 0][times.argsort(descending=True)]
    return (torch.logcumsumexp(risk, 0) - risk).mean()


def ranking(z: Tensor, y: Tensor) -> Tensor:
    order = (y[:, None] > y[None, :]).double()
    return (order * F.softplus(-(z[:, None, 0] - z[None, :, 0]))).sum() / order.sum().clamp(min=1.0)


def dice(z: Tensor, y: Tensor) -> Tensor:
    p = z.softmax(1)[:, 1]
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum() + 1)


COUPLED = {"contrastive": contrastive, "variance": variance, "cox": cox, "ranking": ranking, "dice": dice}


@pytest.mark.parametrize("name", COUPLED)
def test_a_loss_that_couples_examples_is_evaluated_on_batches_as_given(name: str) -> None:
    loss, model = COUPLED[name], net(outputs=4)
    x, y = torch.randn(12, 3), torch.rand(12)
    whole = Problem(model, loss, (x, y))
    assert whole.audit.coupled and len(whole.batches) == 1
    check_everything(whole, literal(model, lambda call: loss(call(x), y)))
    assert "examples coupled: batches as given" in whole.describe()
    parts = [slice(0, 5), slice(5, 12)]
    several = Problem(model, loss, [(x[i], y[i]) for i in parts])
    sizes = [5 / 12, 7 / 12]
    check_everything(
        several, literal(model, lambda call: sum(s * loss(call(x[i]), y[i]) for s, i in zip(sizes, parts, strict=True)))
    )


@pytest.mark.parametrize("name", COUPLED)
def test_quantities_of_single_examples_of_a_coupled_loss_are_refused(name: str) -> None:
    problem = Problem(net(outputs=4), COUPLED[name], (torch.randn(12, 3), torch.rand(12)))
    for ask in (
        problem.squared_gradients,
        lambda: ss.fisher(problem),
        lambda: ss.sharpness(problem, m=4),
        lambda: ss.surface(problem, 3, examples=4),
    ):
        with pytest.raises(ProblemError, match=r"got a loss that couples the examples of a batch, expected a sum"):
            ask()
    assert all(value != value for value in ss.line(problem, 3).stderr)  # no standard error over examples


def test_a_coupled_loss_of_a_data_set_without_batches_is_refused() -> None:
    dataset = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.rand(8))
    with pytest.raises(ProblemError, match="couples the examples of a batch and got a Dataset, expected batches"):
        Problem(net(outputs=4), contrastive, dataset).loss()
    assert Problem(net(outputs=4), contrastive, dataset, batch_size=4).loss() > 0


# -- means over something else than examples


def tokens_mean(logits: Tensor, y: Tensor) -> Tensor:
    kept = y >= 0
    return F.cross_entropy(logits[kept], y[kept])


def positives_mean(z: Tensor, y: Tensor) -> Tensor:
    return (z[..., 0][y > 0] - 1).square().mean()


def masked_mean(z: Tensor, y: Tensor) -> Tensor:
    mask = (y > 0).double()
    return ((z[..., 0] - 2.0).square() * mask).sum() / mask.sum()


OTHER = {"tokens": tokens_mean, "positives": positives_mean, "mask": masked_mean}


@pytest.mark.parametrize("name", OTHER)
def test_a_mean_over_something_else_is_refused_unless_it_says_over_what(name: str) -> None:
    loss, model = OTHER[name], net()
    x = torch.randn(12, 5, 3)
    y = torch.randint(2, (12, 5)).masked_fill(torch.arange(5) >= torch.randint(1, 6, (12, 1)), -100)
    parts = [slice(0, 5), slice(5, 10), slice(10, 12)]
    batches = [(x[i], y[i]) for i in parts]
    with pytest.raises(ProblemError, match=r"a mean over something else than examples .* give denominator="):
        Problem(model, loss, batches).loss()
    counted = (y >= 0) if name == "tokens" else (y > 0)
    told = Problem(
        model, loss, batches, denominator=lambda z, t: float(((t >= 0) if name == "tokens" else (t > 0)).sum())
    )
    f = literal(model, lambda call: loss(call(x), y))
    assert bool(counted.any())
    check_everything(told, f)
    check_everything(Problem(model, loss, (x, y)), f)  # one batch leaves no choice


# -- losses that the model returns


class Returns(nn.Module):
    """Returns its loss as Hugging Face's models do, in one of their forms."""

    def __init__(self, form: str, shift: int = 0) -> None:
        super().__init__()
        self.net, self.form, self.shift = net(), form, shift

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.net(x)
        kept, wanted = (logits[:, :-1], labels[:, 1:]) if self.shift else (logits, labels)
        loss = F.cross_entropy(kept.flatten(0, -2), wanted.flatten())
        if self.form == "dict":
            return {"loss": loss, "logits": logits}
        return SimpleNamespace(loss=loss, logits=logits) if self.form == "attribute" else (loss, logits)


def padded() -> tuple[Tensor, Tensor]:
    x = torch.randn(12, 5, 3)
    return x, torch.randint(2, (12, 5)).masked_fill(torch.arange(5) >= torch.randint(2, 6, (12, 1)), -100)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("form", ["dict", "attribute", "tuple"])
def test_a_model_that_returns_its_loss(form: str, shift: int) -> None:
    x, y = padded()
    model = Returns(form, shift)
    parts = [slice(0, 5), slice(5, 10), slice(10, 12)]
    problem = Problem(model, None, [UserDict({"x": x[i], "labels": y[i]}) for i in parts])

    def whole(call: Any) -> Tensor:
        out = call(x, y)
        return out["loss"] if form == "dict" else out.loss if form == "attribute" else out[0]

    check_everything(problem, literal(model, whole))
    assert problem.objective.likelihood is not None and problem.objective.shift == shift


@pytest.mark.parametrize("curvature", [ss.ggn, ss.fisher, lambda p: ss.fisher(p, "model", samples=3)])
def test_curvature_of_a_model_that_returns_its_loss_is_that_of_its_logits(curvature: Any) -> None:
    x, y = torch.randn(12, 3), torch.randint(2, (12,))
    model = Returns("dict")
    own = Problem(model, None, [{"x": x[i], "labels": y[i]} for i in (slice(0, 5), slice(5, 12))])
    usual = Problem(model.net, nn.CrossEntropyLoss(), [(x[i], y[i]) for i in (slice(0, 5), slice(5, 12))])
    near(curvature(own) @ torch.eye(own.size), curvature(usual) @ torch.eye(own.size))
    near(flat(own.squared_gradients()), flat(usual.squared_gradients()))


def test_two_fishers_of_one_function_agree_where_a_loss_is_an_output() -> None:
    x, y = torch.randn(12, 3), torch.randint(2, (12,))
    model = Returns("dict")
    picked = Problem(model, lambda out, batch: out["loss"], [{"x": x, "labels": y}])
    usual = Problem(model.net, nn.CrossEntropyLoss(), (x, y))
    assert picked.audit.by_inputs
    near(ss.fisher(picked) @ torch.eye(picked.size), ss.fisher(usual) @ torch.eye(picked.size))
    with pytest.raises(ProblemError, match="a loss that is one of the model's outputs, expected a loss of its pred"):
        ss.ggn(picked)


def test_a_model_without_a_loss_is_told() -> None:
    with pytest.raises(ProblemError, match="loss=None got outputs Tensor without a loss, expected an attribute or key"):
        Problem(net(), None, [(torch.randn(4, 3),)]).loss()


# -- evaluate=


@dataclass
class Graph:
    """A batch of a class of its own."""

    nodes: Tensor
    edges: Tensor
    y: Tensor

    def to(self, device: Any) -> Graph:
        return Graph(self.nodes.to(device), self.edges.to(device), self.y.to(device))


def graphs() -> list[Graph]:
    return [Graph(torch.randn(n, 3), torch.rand(n, n), torch.randn(n, 2)) for n in (4, 6, 5)]


def test_any_batch_and_any_coupling_by_evaluate() -> None:
    model, batches = net(), graphs()

    def evaluate(model: nn.Module, g: Graph) -> tuple[Tensor, int]:
        loss = F.mse_loss(g.edges @ model(g.nodes), g.y)
        return loss + 0.1 * sum(p.square().sum() for p in model.parameters()), len(g.y)

    problem = Problem(model, data=batches, evaluate=evaluate)

    def whole(call: Any) -> Tensor:
        return sum(len(g.y) / 15 * F.mse_loss(g.edges @ call(g.nodes), g.y) for g in batches)

    f = literal(model, whole)
    check_everything(problem, lambda w: f(w) + 0.1 * w.square().sum())


def test_node_classification_with_a_graph_as_one_batch() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
            return edges @ self.net(nodes)

    model, batches = Net(), graphs()
    problem = Problem(model, nn.MSELoss(), [((g.nodes, g.edges), g.y) for g in batches])
    assert problem.audit.coupled
    check_everything(
        problem,
        literal(model, lambda call: sum(len(g.y) / 15 * F.mse_loss(call(g.nodes, g.edges), g.y) for g in batches)),
    )


def test_penalties_inside_evaluate_count_and_captured_ones_are_refused() -> None:
    x, y = data()
    model = net()

    def ridge(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1]) + 0.5 * sum(p.square().sum() for p in model.parameters())

    f = literal(model, lambda call: F.cross_entropy(call(x), y))
    check_everything(Problem(model, data=(x, y), evaluate=ridge), lambda w: f(w) + 0.5 * w.square().sum())


@pytest.mark.parametrize(
    "bad", [lambda m, b: None, lambda m, b: 1.0, lambda m, b: (m(b[0]).mean(), "x"), lambda m, b: m(b[0])]
)
def test_evaluate_that_returns_no_loss_is_told(bad: Any) -> None:
    with pytest.raises(ProblemError, match=r"(evaluate= returned a .*|the loss got shape .*), expected .*: "):
        Problem(net(), data=data(), evaluate=bad).loss()


# -- L(w) without a model


@pytest.mark.parametrize("form", ["tensor", "list", "dict"])
def test_a_function_of_weights(form: str) -> None:
    w = torch.randn(6)
    diagonal = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.25, 4.0])

    def bowl(v: Tensor) -> Tensor:
        return (diagonal * v**2).sum() / 2 + v.sin().sum()

    weights, f = {
        "tensor": (w, bowl),
        "list": ([w[:2], w[2:]], lambda v: bowl(torch.cat(list(v)))),
        "dict": ({"a": w[:4].view(2, 2), "b": w[4:]}, lambda v: bowl(torch.cat([v["a"].reshape(-1), v["b"]]))),
    }[form]
    problem = ss.function(f, weights)
    check_everything(problem, bowl)
    assert ss.surface(problem, 3).loss.shape == (3, 3)


@pytest.mark.parametrize("weights", [None, 3, "w", [], [1.0], {"a": torch.arange(3)}, torch.arange(3)])
def test_what_are_no_weights_is_told(weights: Any) -> None:
    with pytest.raises(ProblemError, match=r"function got .*expected .*tensor"):
        ss.function(lambda w: w, weights)


# -- random losses


class Noisy(nn.Module):
    """A variational autoencoder in miniature."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 4), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, scale = self.encode(x).chunk(2, 1)
        return self.decode(mean + scale.exp() * torch.randn(mean.shape)), mean, scale


def elbo(outputs: Any, x: Tensor) -> Tensor:
    found, mean, scale = outputs
    return F.mse_loss(found, x) + 0.1 * (mean.square() + (2 * scale).exp() - 2 * scale).sum(1).mean()


def test_common_random_numbers_make_a_function() -> None:
    x = torch.randn(10, 3)
    model = Noisy()
    batches = [(x[:6], x[:6]), (x[6:], x[6:])]
    with pytest.raises(ProblemError, match=r"at the same weights, expected one value: .*give draws= for the mean"):
        Problem(model, elbo, batches).loss()
    problem = Problem(model, elbo, batches, draws=4)
    assert len(problem.batches) == 8 and problem.describe().endswith("mean over 4 fixed draws")

    def whole(call: Any) -> Tensor:
        total: Any = 0.0
        for batch in problem.batches:
            torch.manual_seed(batch.draw)
            total = total + len(batch.targets) / 40 * elbo(call(*batch.args), batch.targets)
        return total

    before = torch.get_rng_state()
    problem.loss()
    assert torch.equal(torch.get_rng_state(), before)
    check_everything(problem, literal(model, whole))
    with pytest.raises(ProblemError, match="draws random numbers for whole batches"):
        ss.fisher(problem)


# -- data of other kinds


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        random = torch.Generator().manual_seed(0)
        for _ in range(12):
            yield torch.randn(3, generator=random), torch.randint(2, (), generator=random)


def test_streams_generators_and_loaders_over_them() -> None:
    x, y = map(torch.stack, zip(*Stream(), strict=True))
    model = net()
    expected = Problem(model, nn.CrossEntropyLoss(), (x, y)).loss()
    for given in (
        DataLoader(Stream(), batch_size=5),
        Stream(),
        ((x[i], y[i]) for i in (slice(0, 5), slice(5, 12))),
        iter([(x, y)]),
    ):
        near(Problem(model, nn.CrossEntropyLoss(), given).loss(), expected)


def test_parameters_of_several_dtypes() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4).float(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x.float())).double())

    x, y = data()
    model = Mixed()
    problem = Problem(model, nn.CrossEntropyLoss(), (x, y))
    assert problem.dtype == torch.float64
    f = literal(model, lambda call: F.cross_entropy(call(x), y))
    like = [p.detach() for p in model.parameters()]

    def cast(v: Tensor) -> Tensor:  # a flat vector of float64 holds weights of float32
        return f_of([piece.to(w.dtype) for piece, w in zip(v.split([w.numel() for w in like]), like, strict=True)])

    def f_of(pieces: list[Tensor]) -> Tensor:
        names = [name for name, _ in model.named_parameters()]
        given = {n: p.view(w.shape) for n, p, w in zip(names, pieces, like, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, given, (x,)), y)

    assert f is not None
    at = torch.cat([w.reshape(-1).double() for w in like])
    expected = torch.autograd.functional.hessian(cast, at)
    near(ss.hessian(problem) @ torch.eye(len(at)), expected, 1e-5)
    assert ss.spectrum(problem, k=2).eigenvalues[0] == pytest.approx(
        float(torch.linalg.eigvalsh(expected)[-1]), rel=1e-4
    )
    assert ss.surface(problem, 3).loss.shape == (3, 3)
