"""L, its gradient, its curvature and its Fisher against loops over examples; and that nothing of the model moves."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sharpscope.analyzers.surfaces.surface import surface
from sharpscope.curvature.operators import fisher, ggn, hessian
from sharpscope.problem.problem import Problem, ProblemError
from tests.reference_curvature import CASES, POSITION_TASKS, TASKS, Dense, Task, Two, make_case, make_targets, rows

TOLERANCE = 1e-10
GRID = [(case, task) for case in CASES for task in TASKS] + [("positions", task) for task in POSITION_TASKS]


def batchings(inputs: Any, targets: Tensor) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The same data in the forms that users have, none of equal batches."""
    uneven = [(rows(inputs, index), targets[index]) for index in (slice(0, 1), slice(1, 5), slice(5, 7))]
    forms: dict[str, tuple[Any, dict[str, Any]]] = {
        "tensors-3": ((inputs, targets), {"batch_size": 3}),
        "tensors": ((inputs, targets), {}),
        "list": (uneven, {}),
    }
    if isinstance(inputs, Tensor):
        data = TensorDataset(inputs, targets)
        forms["loader"] = (DataLoader(data, batch_size=4), {})
        forms["dataset"] = (data, {"batch_size": 2})
    return forms


def make(case_name: str, task_name: str) -> tuple[Dense, dict[str, Problem]]:
    task: Task = {**TASKS, **POSITION_TASKS}[task_name]
    case = make_case(case_name)
    targets = make_targets(task.targets, torch.Generator().manual_seed(5))
    problems = {
        form: Problem(case.model, task.loss, data, denominator=task.denominator, **options)
        for form, (data, options) in batchings(case.inputs, targets).items()
    }
    return Dense(case, task, targets), problems


def flat(vectors: Any) -> Tensor:
    return torch.cat([v.reshape(-1) for v in vectors])


def unflat(vector: Tensor, like: Any) -> list[Tensor]:
    return [x.view(p.shape) for x, p in zip(vector.split([p.numel() for p in like]), like, strict=True)]


def close(found: Any, expected: Any) -> None:
    found, expected = torch.as_tensor(found), torch.as_tensor(expected).detach()
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= TOLERANCE * max(float(expected.abs().max()), 1e-3)


@pytest.mark.parametrize(("case", "task"), GRID)
def test_everything_agrees_with_a_loop_over_examples(case: str, task: str) -> None:
    dense, problems = make(case, task)
    at = dense.point
    moved = at + 0.1 * torch.randn(len(at), generator=torch.Generator().manual_seed(1))
    expected = {
        "loss": dense.loss(at),
        "moved": dense.loss(moved),
        "numerators": dense.numerators(at),
        "gradient": dense.gradient(moved),
        "fisher": dense.fisher(at),
    }
    if dense.task.denominator is None:  # the reference itself agrees with the user's loss of all the data at once
        close(dense.task.loss(dense.outputs(at), dense.targets).detach(), expected["loss"])
    for problem in problems.values():
        elsewhere = unflat(moved, problem.weights)
        close(problem.loss(), expected["loss"])
        close(problem.loss(elsewhere), expected["moved"])
        numerators, denominator = problem.example_losses()
        close(numerators, expected["numerators"])
        close(denominator, dense.task.total(dense.targets))
        value, gradient = problem.value_and_gradient(elsewhere)
        close(value, expected["moved"])
        close(flat(gradient), expected["gradient"])
        close(flat(problem.squared_gradients()), expected["fisher"])


def test_the_loss_weighs_batches_not_their_means() -> None:
    dense, problems = make("mlp", "ce-weights")
    x, y = dense.case.inputs, dense.targets
    means = [float(dense.task.loss(dense.case.model(x[i]), y[i]).detach()) for i in (slice(0, 3), slice(3, 7))]
    assert abs(sum(means) / 2 - problems["tensors-3"].loss()) > 1e-3  # what a mean of means would have said


def test_error_is_the_share_of_wrong_examples() -> None:
    dense, problems = make("mlp", "ce-mean")
    outputs = dense.outputs(dense.point)
    wrong = sum(int(o.tolist().index(max(o.tolist())) != int(t)) for o, t in zip(outputs, dense.targets, strict=True))
    for problem in problems.values():
        assert problem.error() == wrong / 7
        assert problem.gradient()[0].equal(problem.value_and_gradient()[1][0])


@pytest.mark.parametrize(("case", "task"), [("mlp", "ce-probabilities"), ("positions", "positions"), ("mlp", "mse")])
def test_error_of_anything_but_classification_is_refused(case: str, task: str) -> None:
    with pytest.raises(ProblemError, match=r"the error got outputs .* expected \(examples, classes\)"):
        make(case, task)[1]["tensors"].error()


# -- the Fisher of a sample


def test_samples_are_drawn_without_replacement() -> None:
    dense, problems = make("mlp", "ce-mean")
    picked = torch.randperm(7, generator=torch.Generator().manual_seed(3))[:4].tolist()
    for problem in problems.values():
        close(flat(problem.squared_gradients(4, torch.Generator().manual_seed(3))), dense.fisher(dense.point, picked))
        close(flat(problem.squared_gradients(99)), dense.fisher(dense.point))


@pytest.mark.parametrize("samples", [0, -1, 2.5, True])
def test_bad_samples_are_refused(samples: Any) -> None:
    with pytest.raises(ValueError, match=r"squared_gradients got samples=.*, expected a whole number >= 1 or None"):
        make("mlp", "ce-mean")[1]["list"].squared_gradients(samples)


class Recurrent(nn.Module):
    """What vmap cannot follow: a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def undecided(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that looks at its own value, which vmap cannot follow either."""
    loss = F.cross_entropy(outputs, targets)
    return loss if float(loss.detach()) >= 0.0 else -loss


@pytest.mark.parametrize("loss", [F.cross_entropy, undecided])
@pytest.mark.parametrize("model", [Recurrent(), nn.Sequential(nn.Flatten(), nn.Linear(10, 3))])
def test_what_vmap_cannot_follow_is_taken_one_by_one(model: nn.Module, loss: Any) -> None:
    model.double()
    x, y = torch.randn(5, 5, 2), torch.tensor([0, 1, 2, 1, 0])
    problem = Problem(model, loss, (x, y), batch_size=2)
    expected, losses = [torch.zeros_like(p) for p in model.parameters()], []
    for i in range(5):
        model.zero_grad()
        one = loss(model(x[i : i + 1]), y[i : i + 1])
        one.backward()
        losses.append(one.detach())
        for total, p in zip(expected, model.parameters(), strict=True):
            total += p.grad**2 / 5
    close(flat(problem.squared_gradients()), flat(expected))
    close(problem.example_losses()[0], torch.stack(losses))


# -- one dict for the model and the loss


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_batch_may_be_one_dict(kind: type) -> None:
    model = Two().double()
    fields = {"left": torch.randn(7, 4), "right": torch.randn(7, 2), "labels": torch.randint(0, 3, (7,))}

    def loss(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs, batch["labels"])

    pieces = [kind({name: x[i] for name, x in fields.items()}) for i in (slice(0, 3), slice(3, 7))]
    plain = Problem(model, nn.CrossEntropyLoss(), ((fields["left"], fields["right"]), fields["labels"]))
    for data in (kind(fields), pieces):
        problem = Problem(model, loss, data)
        close(problem.loss(), plain.loss())
        close(flat(problem.gradient()), flat(plain.gradient()))
        close(problem.example_losses()[0], plain.example_losses()[0])
        point = flat(plain.weights)
        close(hessian(problem) @ point, hessian(plain) @ point)
        close(ggn(problem) @ point, ggn(plain) @ point)
        close(flat(problem.squared_gradients()), flat(plain.squared_gradients()))
        draw = torch.Generator().manual_seed
        close(flat(problem.squared_gradients(4, draw(1))), flat(plain.squared_gradients(4, draw(1))))


def test_a_batch_without_anything_counted_adds_nothing() -> None:
    model, x, y = nn.Linear(2, 3), torch.randn(4, 2), torch.tensor([0, 0, 1, 2])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, torch.where(targets > 0, targets, -100))

    problem = Problem(model, loss, (x, y), batch_size=2, denominator=lambda o, t: (t > 0).sum())
    close(problem.loss(), loss(model(x), y))
    assert np.isfinite(float(flat(problem.gradient()).sum()))


# -- zero curvature


def test_a_linear_function_has_no_curvature() -> None:
    problem = Problem(nn.Linear(2, 1), lambda outputs, targets: outputs.mean(), (torch.randn(3, 2), torch.zeros(3)))
    for curvature in (hessian, ggn):
        assert not (curvature(problem) @ flat(problem.weights)).any()
    constant = Problem(nn.Linear(2, 1), lambda outputs, targets: targets.mean(), (torch.randn(3, 2), torch.ones(3)))
    assert constant.loss() == 1.0
    assert all(not g.any() for g in constant.gradient())
    for curvature in (hessian, ggn, fisher):
        assert not (curvature(constant) @ flat(constant.weights)).any()
    assert all(not f.any() for f in constant.squared_gradients())


# -- the model is left as found


class Restless(nn.Module):
    """Moves buffers in eval mode too, in place and by assignment, keeps a cache, draws random numbers, may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.register_buffer("wide", torch.zeros(1).expand(4))
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.last + 1
        if self.cache is None:
            self.cache = torch.ones(3) * 2
        noise = torch.rand(1)
        return self.head(self.drop(self.norm(self.conv(x))).flatten(1)) * self.cache + 0 * noise


def portrait(model: nn.Module) -> dict[str, Any]:
    """All that a user could notice, bit for bit."""
    return {
        "state": {name: (id(x), x.detach().numpy().tobytes()) for name, x in model.state_dict(keep_vars=True).items()},
        "modes": [(name, module.training) for name, module in model.named_modules()],
        "needs": [(name, p.requires_grad) for name, p in model.named_parameters()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes()) for p in model.parameters()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "random": torch.get_rng_state().numpy().tobytes(),
    }


QUESTIONS = {
    "loss": lambda p: p.loss(),
    "error": lambda p: p.error(),
    "example_losses": lambda p: p.example_losses(),
    "value_and_gradient": lambda p: p.value_and_gradient(),
    "hessian": lambda p: hessian(p, mode="untimed") @ flat(p.weights),
    "ggn": lambda p: ggn(p, mode="untimed") @ flat(p.weights),
    "fisher": lambda p: fisher(p, mode="untimed") @ flat(p.weights),
    "sampled fisher": lambda p: fisher(p, "model", mode="double-backward", memory=0) @ flat(p.weights),
    "squared_gradients": lambda p: p.squared_gradients(3, torch.Generator().manual_seed(0)),
}


def restless() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    model = Restless().double()
    model.train()
    model.norm.eval()  # a mode of its own
    model.conv.bias.requires_grad_(False)
    model.head.weight.grad = torch.randn(3, 8)
    return model, (torch.randn(6, 1, 4, 4), torch.randint(0, 3, (6,)))


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_the_model_is_left_bit_identical(question: str) -> None:
    model, data = restless()
    problem = Problem(model, nn.CrossEntropyLoss(), data, batch_size=4)
    before = portrait(model)
    first = QUESTIONS[question](problem)
    assert portrait(model) == before
    assert str(QUESTIONS[question](problem)) == str(first)
    F.cross_entropy(model(data[0]), data[1]).backward()  # and trains on: what it cached is not bound to inference


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, ZeroDivisionError])
@pytest.mark.parametrize("question", list(QUESTIONS))
def test_the_model_is_left_bit_identical_after_an_exception(question: str, failure: type[BaseException]) -> None:
    model, data = restless()
    calls = []

    def hook(*_: Any) -> None:
        calls.append(None)
        if len(calls) >= 2 or question == "squared_gradients":
            raise failure("stop")

    model.norm.register_forward_hook(hook)
    problem = Problem(model, nn.CrossEntropyLoss(), data, batch_size=2)
    before = portrait(model)
    with pytest.raises(failure, match="stop"):
        QUESTIONS[question](problem)
    assert portrait(model) == before


def test_the_model_is_left_bit_identical_when_the_loss_fails() -> None:
    model, data = restless()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise KeyError("stop")

    problem = Problem(model, loss, data)
    before = portrait(model)
    for question in set(QUESTIONS) - {"error", "sampled fisher"}:
        with pytest.raises(KeyError, match="stop"):
            QUESTIONS[question](problem)
        assert portrait(model) == before


@pytest.mark.parametrize("shuffle", [False, True])
def test_reading_a_loader_draws_nothing_from_the_global_state(shuffle: bool, rng_guard: Any) -> None:
    data = TensorDataset(torch.randn(5, 2), torch.randint(0, 3, (5,)))
    model = nn.Linear(2, 3)
    rng_guard()
    problem = Problem(model, nn.CrossEntropyLoss(), DataLoader(data, batch_size=2, shuffle=shuffle))
    assert (problem.epoch, problem.examples) == (3, 5)


def test_a_model_may_differentiate_inside() -> None:
    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad((self.inner(x) ** 2).sum(), x, create_graph=True)[0]

    x, y = torch.randn(4, 2), torch.randn(4, 2)
    model = Energy().double()
    close(Problem(model, nn.MSELoss(), (x, y)).loss(), ((model(x) - y) ** 2).mean())


# -- bad input, in words


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            lambda: (nn.Linear(2, 3).requires_grad_(False), (torch.zeros(1, 2), torch.tensor([0]))),
            "the model has no parameter with requires_grad, expected at least one: unfreeze one",
        ),
        (lambda: (nn.Linear(2, 3), []), "the data holds no example, expected at least one"),
        (lambda: (nn.Linear(2, 3), torch.zeros(3, 2)), r"the data got a Tensor, expected \(inputs, targets\)"),
        (lambda: (nn.Linear(2, 3), [torch.zeros(3, 2)]), r"a batch got a Tensor, expected \(inputs, targets\)"),
        (lambda: (nn.Linear(2, 3), (torch.zeros(3, 2), torch.tensor([0]))), "a batch got 3 inputs and 1 targets"),
        (lambda: (nn.Linear(2, 3), (np.zeros((3, 2)), np.zeros(3))), "the data got a ndarray, expected tensors"),
        (
            lambda: (nn.Linear(2, 3), (torch.zeros(3, 2).float(), torch.tensor([0, 1, 2]))),
            "the inputs are torch.float32 and the model is torch.float64, expected one dtype",
        ),
    ],
)
def test_a_bad_model_or_data_is_refused(arguments: Any, text: str) -> None:
    model, data = arguments()
    with pytest.raises(ProblemError, match=text):
        Problem(model, nn.CrossEntropyLoss(), data)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), r"the loss got shape \(4,\), expected one real number"),
        (lambda o, t: F.cross_entropy(o, t)[None], r"the loss got shape \(1,\), expected one real number"),
        (lambda o, t: 0.5, "the loss got a float, expected a tensor of one number: compute it with torch"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(loss: Any, text: str) -> None:
    problem = Problem(nn.Linear(2, 3), loss, (torch.randn(4, 2), torch.tensor([0, 1, 2, 0])))
    for question in ("loss", "value_and_gradient", "hessian", "ggn"):
        with pytest.raises(ProblemError, match=text):
            QUESTIONS[question](problem)


@pytest.mark.parametrize(
    ("model", "data", "text"),
    [
        (
            nn.Linear(2, 3),
            ((torch.zeros(3, 2), torch.zeros(3, 2)), torch.tensor([0, 1, 2])),
            r"the model Linear got 2 arguments \(too many positional arguments\), expected those of its forward: a "
            r"tuple of inputs becomes positional arguments, a dict keyword arguments",
        ),
        (
            nn.Linear(2, 3),
            {"x": torch.zeros(3, 2), "label": torch.tensor([0, 1, 2])},
            r"the model Linear got the keyword arguments x, label \(missing a required argument: 'input'\), expected",
        ),
    ],
)
def test_inputs_that_are_no_arguments_are_told(model: nn.Module, data: Any, text: str) -> None:
    problem = Problem(model, nn.CrossEntropyLoss(), data)
    for question in ("loss", "value_and_gradient", "hessian"):
        with pytest.raises(ProblemError, match=text):
            QUESTIONS[question](problem)


def test_an_error_inside_the_model_stays() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, x)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="positional argument"):
        Problem(Broken(2, 3), nn.CrossEntropyLoss(), (torch.zeros(1, 2), torch.tensor([0]))).loss()


def test_a_data_set_that_augments_is_refused() -> None:
    class Random(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return tuple(x + torch.rand(()) if x.dim() else x for x in super().__getitem__(index))

    data = Random(torch.zeros(3, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(ProblemError, match="gave two different examples for index 0, expected the same"):
        Problem(nn.Linear(2, 3), nn.CrossEntropyLoss(), data)


def test_nothing_to_divide_by_is_nan() -> None:
    problem = Problem(nn.Linear(2, 3), nn.CrossEntropyLoss(), (torch.randn(2, 2), torch.tensor([-100, -100])))
    assert np.isnan(problem.loss())


def test_description_and_sizes() -> None:
    dense, problems = make("tied", "ce-sum")
    problem = problems["list"]
    assert problem.describe() == "Tied, CrossEntropyLoss(sum), 7 examples, eval mode, float64"
    assert repr(problem) == f"Problem({problem.describe()}, {problem.size} parameters on cpu, 3 batches)"
    assert problem.names == ("first.weight", "second.bias", "head.weight", "head.bias")
    assert (problem.size, problem.examples, problem.epoch) == (len(dense.point), 7, None)


def test_a_module_under_two_names_stays_itself() -> None:
    """torch.func.functional_call leaves the weights of the call behind in such a model."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)
            self.second = self.first
            self.norm = nn.BatchNorm1d(3)
            self.same = self.norm

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.second(x) + self.same(self.first(x))
            return found

    torch.manual_seed(0)
    model = Twice()
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.randn(9, 4), torch.randint(0, 3, (9,))))
    before = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
    center = problem.loss()
    problem.loss([w + 1.0 for w in problem.weights])
    problem.value_and_gradient([w + 1.0 for w in problem.weights])
    problem.squared_gradients()
    surface(problem, 3)
    assert problem.loss() == center
    for name, p in model.named_parameters():
        assert p is before[name][0]
        assert torch.equal(p, before[name][1])
    batch = problem.batches[0]
    model.eval()
    hidden = model.first(batch.args[0])
    assert center == pytest.approx(F.cross_entropy(hidden + model.norm(hidden), batch.targets).item(), rel=1e-14)
