"""What is no function of the weights that are handed in is refused; what only looks like it is evaluated right."""

from __future__ import annotations

import copy
import functools
import random
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import sharpscope as ss
from sharpscope import Problem, ProblemError
from tests.reference_function import check_everything, flat, literal, near

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 2


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def problem_of(model: nn.Module, loss: Any = F.cross_entropy) -> Problem:
    return Problem(model, loss, (X, Y))


# -- losses that reach weights which were not handed in


class Penalised(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inside = [model]

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) + sum(p.square().sum() for p in self.inside[0].parameters())


CAPTURED: dict[str, Callable[[nn.Module], Any]] = {
    "penalty": lambda m: lambda o, t: F.cross_entropy(o, t) + sum(p.square().sum() for p in m.parameters()),
    "a penalty as a number": lambda m: lambda o, t: F.cross_entropy(o, t) + float(next(m.parameters()).norm()),
    "a penalty without gradient": lambda m: lambda o, t: F.cross_entropy(o, t) + m[0].weight.detach().norm(),
    "a call of the model": lambda m: lambda o, t: F.cross_entropy(m(X), Y),
    "consistency with a second call": lambda m: lambda o, t: F.cross_entropy(o, t) + (m(X + 0.1) - o).square().mean(),
    "a module that holds the model": Penalised,
    "a partial": lambda m: functools.partial(lambda w, o, t: F.cross_entropy(o, t) + w.abs().sum(), m[2].weight),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_a_loss_that_reads_weights_is_refused_before_any_number(name: str) -> None:
    model = net()
    problem = Problem(model, CAPTURED[name](model), [(X, Y)])
    for ask in (problem.loss, problem.gradient, lambda: ss.hessian(problem), lambda: ss.line(problem, 3)):
        with pytest.raises(
            ProblemError, match=r"^the loss got weights of Sequential that were not handed in .*evaluat"
        ):
            ask()


# -- weights that a model reads by second references


class ByList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.fast = list(self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        w = self.fast
        return F.linear(torch.tanh(F.linear(x, w[0], w[1])), w[2], w[3])


class ByDict(ByList):
    def __init__(self) -> None:
        super().__init__()
        self.fast = {name: [p] for name, p in self.named_parameters()}  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        w: Any = self.fast
        return F.linear(torch.tanh(F.linear(x, w["a.weight"][0], self.a.bias)), w["b.weight"][0], w["b.bias"][0])


class ByClosure(ByList):
    def __init__(self) -> None:
        super().__init__()
        weight = self.b.weight
        self.fast = lambda h: h @ weight.T + self.b.bias  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        run: Any = self.fast
        return run(torch.tanh(self.a(x)))


class ByHook(ByList):
    def __init__(self) -> None:
        super().__init__()
        self.b.register_forward_hook(lambda module, args, out: out + args[0] @ self.b.weight.T)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


class Holder:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight


class ByObject(ByList):
    def __init__(self) -> None:
        super().__init__()
        self.fast = (Holder(self.a.weight),)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        held: Any = self.fast
        return self.b(torch.tanh(x @ held[0].weight.T + self.a.bias))


@pytest.mark.parametrize("kind", [ByList, ByDict, ByClosure, ByHook, ByObject])
def test_references_inside_a_model_follow(kind: type[nn.Module]) -> None:
    model = kind()
    a, b = model.a, model.b

    def f(vector: Tensor) -> Tensor:
        w1, b1, w2, b2 = (
            piece.view(p.shape)
            for piece, p in zip(vector.split([12, 4, 8, 2]), (a.weight, a.bias, b.weight, b.bias), strict=True)
        )
        hidden = torch.tanh(F.linear(X, w1, b1))
        return F.cross_entropy(F.linear(hidden, w2, b2) + (hidden @ w2.T if kind is ByHook else 0.0), Y)

    before = copy.deepcopy(model.state_dict())
    problem = problem_of(model)
    check_everything(problem, f)
    assert ss.spectrum(problem, k=2).eigenvalues[0] > 0
    near(flat(problem.squared_gradients()), flat(problem_of(plain_of(model, kind)).squared_gradients()))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def plain_of(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = copy.deepcopy(nn.ModuleList([model.a, model.b]))
            self.b._forward_hooks.clear()

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.a(x))
            return self.b(hidden) + (hidden @ self.b.weight.T if kind is ByHook else 0.0)

    return Plain()


# -- what is computed again in the backward pass


class Checkpointed(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = net(), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "whole":
            return checkpoint(self.net, x, use_reentrant=False)
        if self.how == "sequential":
            return checkpoint_sequential(self.net, 2, x, use_reentrant=False)
        return self.net[2](
            checkpoint(lambda h: checkpoint(self.net[:2], h, use_reentrant=False), x, use_reentrant=False)
        )


@pytest.mark.parametrize("how", ["whole", "sequential", "nested"])
def test_checkpointing_computes_again_at_the_same_weights(how: str) -> None:
    model = Checkpointed(how)
    check_everything(problem_of(model), literal(model.net, lambda call: F.cross_entropy(call(X), Y)))


# -- two functions in one


class Decides(nn.Module):
    """Computes something else without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if torch.is_grad_enabled() else self.net(x).round()


def test_the_function_with_gradients_is_the_one_that_is_analysed() -> None:
    model = Decides()
    problem = problem_of(model)
    assert problem.audit.differentiates
    check_everything(problem, literal(model.net, lambda call: F.cross_entropy(call(X), Y)))


@pytest.mark.parametrize("kind", ["encoder", "attention", "functional"])
def test_attention_has_one_value_with_and_without_gradients(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, activation="gelu", batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            if kind == "encoder":
                x = self.encoder(x, src_key_padding_mask=mask)
            elif kind == "attention":
                x = self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]
            else:
                x = F.scaled_dot_product_attention(x, self.head(x).repeat(1, 1, 2), x, ~mask[:, None, :])
            return self.head(x).transpose(1, 2)

    torch.manual_seed(0)
    model = Net()
    for name, p in model.named_parameters():
        p.requires_grad_(
            name.startswith(("head", "attention.in" if kind == "attention" else "encoder.layers.0.linear1"))
        )
    x, mask = torch.randn(6, 5, 4), torch.arange(5) >= torch.tensor([[2], [3], [4], [2], [3], [4]])
    y = torch.randint(2, (6, 5)).masked_fill(mask, -100)
    slow = copy.deepcopy(model).train()  # no dropout: training mode takes no fast path
    names = [name for name, p in slow.named_parameters() if p.requires_grad]

    def f(vector: Tensor) -> Tensor:
        own = dict(slow.named_parameters())
        sizes = [own[n].numel() for n in names]
        given = {n: piece.view(own[n].shape) for n, piece in zip(names, vector.split(sizes), strict=True)}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return F.cross_entropy(torch.func.functional_call(slow, given, (x, mask)), y)

    check_everything(Problem(model, nn.CrossEntropyLoss(), ((x, mask), y)), f, tolerance=1e-7)


# -- random losses


class Random(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = net(), how

    def forward(self, x: Tensor) -> Tensor:
        noise = {
            "dropout": lambda: F.dropout(torch.ones(4), 0.5),
            "sampling": lambda: torch.multinomial(torch.ones(4), 2).double().sum(),
            "numpy": lambda: float(np.random.rand()),
            "python": random.random,
        }[self.how]()
        return self.net[2](self.net[:2](x) * noise)


@pytest.mark.parametrize("how", ["dropout", "sampling", "numpy", "python"])
def test_random_losses_are_refused_everywhere_alike(how: str) -> None:
    problem = problem_of(Random(how))
    for ask in (
        problem.loss, problem.error, problem.gradient, problem.example_losses, problem.squared_gradients,
        lambda: ss.spectrum(problem), lambda: ss.surface(problem, 3), lambda: ss.line(problem, 3),
        lambda: ss.sharpness(problem), lambda: ss.gradient_ratio(problem), lambda: ss.trace(problem),
    ):  # fmt: skip
        with pytest.raises(ProblemError, match=r"at the same weights, expected one value: .* give draws="):
            ask()


# -- gradients that are not the slope


class Cut(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = net(), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                return self.net(x)
        hidden = self.net[0](x)
        if self.how == "detach":
            hidden = hidden.detach()
        elif self.how == "data":
            hidden = hidden.data * 1.0
        elif self.how == "numpy":
            hidden = torch.from_numpy(hidden.detach().numpy().copy())
        else:
            hidden = hidden + (hidden.round() - hidden).detach() * 0.5 + hidden.detach().square()
        return self.net[2](torch.tanh(hidden))


@pytest.mark.parametrize("how", ["no_grad", "detach", "data", "numpy", "straight-through"])
def test_a_loss_whose_gradient_is_not_its_slope_has_values_but_no_derivatives(how: str) -> None:
    problem = problem_of(Cut(how))
    assert problem.loss() > 0 and np.ptp(ss.line(problem, 3).loss) > 0
    for ask in (
        problem.gradient,
        lambda: ss.hessian(problem),
        lambda: ss.trace(problem),
        lambda: ss.sharpness(problem),
    ):
        with pytest.raises(
            ProblemError, match=r"^the gradient of the loss gives a slope of .* where the loss itself has"
        ):
            ask()


def test_frozen_layers_and_dead_units_are_no_cuts() -> None:
    model = Cut("detach")
    model.net[0].requires_grad_(False)
    assert flat(problem_of(model).gradient()).abs().max() > 0
    dead = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(dead[0].bias, -50.0)
    problem_of(dead).gradient()
    zero = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for p in zero.parameters():
        nn.init.zeros_(p)
    problem_of(zero).gradient()


def test_a_forward_that_writes_its_weights_leaves_them() -> None:
    class Clips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.linear.weight.clamp_(-0.1, 0.1)
            return self.linear(x)

    model = Clips()
    before = model.linear.weight.detach().clone()
    problem = problem_of(model)
    clipped = F.cross_entropy(F.linear(X, before.clamp(-0.1, 0.1), model.linear.bias), Y)
    near(problem.loss(), clipped.detach())
    assert torch.equal(model.linear.weight, before) and torch.equal(problem.weights[0], before)


# -- ordinary models


@pytest.mark.parametrize("flatten", ["flatten", "view", "reshape"])
@pytest.mark.parametrize("norm", [False, True])
def test_flattening_in_any_way_gives_the_same_in_every_analyzer(flatten: str, norm: bool) -> None:
    class LeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.Identity()
            self.head = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(torch.tanh(self.norm(self.conv(x))), 2)
            if flatten == "view":
                return self.head(x.view(len(x), -1))
            return self.head(x.flatten(1) if flatten == "flatten" else x.reshape(len(x), -1))

    torch.manual_seed(0)
    model = LeNet()
    x, y = torch.randn(10, 2, 8, 8), torch.arange(10) % 3
    problem = Problem(model, nn.CrossEntropyLoss(), (x, y))
    found = {
        "spectrum": ss.spectrum(problem, k=2, tol=1e-6).eigenvalues,
        "trace": [ss.trace(problem).value],
        "surface": ss.surface(problem, 3).loss,
        "ratio": [ss.gradient_ratio(problem).share_below_zero],
        "sharpness": ss.sharpness(problem, pairs=0).course[:, 0],
        "fisher": ss.fisher(problem) @ torch.ones(problem.size),
    }
    if flatten == "flatten":
        KNOWN[norm] = found
    for name, value in found.items():
        near(value, KNOWN.setdefault(norm, found)[name], 1e-5 if name == "trace" else 1e-8)


KNOWN: dict[bool, dict[str, Any]] = {}


def test_sparse_embeddings() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3, sparse=True)
            self.head = nn.Linear(3, 2)

        def forward(self, i: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embed(i).sum(1)))

    model, dense = Net(), Net()
    dense.load_state_dict(model.state_dict())
    dense.embed.sparse = False
    i = torch.randint(5, (12, 3))
    problem = Problem(model, nn.CrossEntropyLoss(), (i, Y))
    check_everything(problem, literal(dense, lambda call: F.cross_entropy(call(i), Y)))
    assert model.embed.sparse and problem.squared_gradients()[0].layout == torch.strided


def test_a_weight_norm_is_differenced_because_torch_gets_its_second_derivative_wrong() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))
    problem = problem_of(model)
    f = literal(model, lambda call: F.cross_entropy(call(X), Y))
    at, step = flat(problem.weights), 1e-6

    def slope(v: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(f(v := v.detach().requires_grad_()), v)
        return found

    columns = [(slope(at + step * e) - slope(at - step * e)) / (2 * step) for e in torch.eye(len(at))]
    operator = ss.hessian(problem)
    assert operator.plan is not None and operator.plan.mode == "finite-differences"
    near(operator @ torch.eye(len(at)), torch.stack(columns), 1e-6)
    with pytest.raises(ProblemError, match="got products unlike finite differences and every other mode"):
        ss.hessian(problem, mode="double-backward")


REFUSED = {
    "data parallel": (lambda: nn.DataParallel(net()), r"got a DataParallel, expected the module itself"),
    "complex": (lambda: nn.Linear(3, 2, dtype=torch.complex128), r"is complex128, expected real numbers"),
    "lazy": (lambda: nn.LazyLinear(2), r"has no shape yet, expected real numbers at hand: run the model"),
    "meta": (lambda: nn.Linear(3, 2, device="meta"), r"is on the meta device and has no values"),
    "no module": (lambda: "net", r"got a str as model, expected a torch.nn.Module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_served_are_refused(name: str) -> None:
    make, text = REFUSED[name]
    with pytest.raises(ProblemError, match=text):
        Problem(make(), nn.CrossEntropyLoss(), (X, Y))


# -- surroundings


VERBS: dict[str, Callable[[Problem], Any]] = {
    "loss": lambda p: p.loss(),
    "gradient": lambda p: flat(p.gradient()).numpy(),
    "spectrum": lambda p: ss.spectrum(p, k=2).eigenvalues,
    "trace": lambda p: ss.trace(p).value,
    "density": lambda p: ss.density(p, probes=1, steps=4).eigenvalues,
    "surface": lambda p: ss.surface(p, 3, how="untimed").loss,
    "ratio": lambda p: ss.gradient_ratio(p).quantiles,
    "sharpness": lambda p: ss.sharpness(p, pairs=2).draws,
    "curvature": lambda p: ss.curvature(p).fields()["traces"],
    "fisher": lambda p: (ss.fisher(p) @ torch.ones(p.size, dtype=p.dtype, device="cpu")).numpy(),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("around", ["autocast", "device", "disabled"])
def test_what_surrounds_an_analysis_does_not_change_it(verb: str, around: str) -> None:
    model = net().float()
    x = X.float()
    expected = VERBS[verb](Problem(model, nn.CrossEntropyLoss(), (x, Y)))
    problem = Problem(model, nn.CrossEntropyLoss(), (x, Y))
    if around == "device":
        torch.set_default_device("meta")
        try:
            found = VERBS[verb](problem)
        finally:
            torch.set_default_device(None)
    else:
        with torch.autocast("cpu", torch.bfloat16, enabled=around == "autocast"):
            found = VERBS[verb](problem)
    near(found, expected, 1e-4)  # bfloat16 has two digits; the fastest way may be another
    near(VERBS[verb](problem), expected, 1e-4)  # and nothing of it stays in the problem


def test_three_analyses_and_a_training_do_not_meet() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2)).train()
    alone = copy.deepcopy(model)
    problem, other = problem_of(model), problem_of(model)
    expected = {
        "spectrum": ss.spectrum(problem, k=2).eigenvalues,
        "surface": ss.surface(other, 3).loss,
        "gradient": flat(problem.gradient()).numpy(),
    }

    def trained(net: nn.Module) -> list[float]:
        torch.manual_seed(5)
        optimizer, found = torch.optim.SGD(net.parameters(), lr=0.05), []
        for _ in range(150):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(X), Y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    undisturbed, done, wrong, failed = trained(alone), threading.Event(), [], []
    calls: dict[str, Callable[[], Any]] = {
        "spectrum": lambda: ss.spectrum(problem, k=2).eigenvalues,
        "surface": lambda: ss.surface(other, 3).loss,
        "gradient": lambda: flat(problem.gradient()).numpy(),
    }

    def analyse(name: str) -> None:
        while not done.is_set():
            try:
                if not np.array_equal(calls[name](), expected[name]):
                    wrong.append(name)
            except Exception as error:
                failed.append((name, error))
                return

    threads = [threading.Thread(target=analyse, args=(name,)) for name in calls]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weights change, and each problem says so once
        for thread in threads:
            thread.start()
        found = trained(model)
        done.set()
        for thread in threads:
            thread.join()
    assert (wrong, failed) == ([], []) and found == undisturbed
