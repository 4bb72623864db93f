"""Products of the Hessian, the GGN and the Fisher in every mode, fresh and from tapes, against dense matrices."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope.curvature._over_data import Sum
from sharpscope.curvature.gauss import fisher_of, ggn_of
from sharpscope.curvature.operators import fisher, ggn, hessian
from sharpscope.curvature.products import MODES, Hessian, Point
from sharpscope.problem.problem import Problem
from tests.reference_curvature import CASES, POSITION_TASKS, TASKS, Dense, make_case, make_targets, rows

EVERYWHERE = [
    *["ce-mean", "ce-sum", "ce-weights", "ce-weights-sum", "ce-ignore", "ce-ignore-sum"],
    *["bce", "bce-sum", "mse", "mse-sum"],
]
GRID = [(case, task) for case in CASES for task in EVERYWHERE] + [("positions", task) for task in POSITION_TASKS]
GRID += [("mlp", task) for task in TASKS if task not in EVERYWHERE]
TOLERANCE = 1e-10


def make(case_name: str, task_name: str) -> tuple[Dense, Problem]:
    """A problem in batches of 1, 4 and 2 examples."""
    task = {**TASKS, **POSITION_TASKS}[task_name]
    case = make_case(case_name)
    targets = make_targets(task.targets, torch.Generator().manual_seed(5))
    batches = [(rows(case.inputs, index), targets[index]) for index in (slice(0, 1), slice(1, 5), slice(5, 7))]
    return Dense(case, task, targets), Problem(case.model, task.loss, batches, denominator=task.denominator)


def curvatures(problem: Problem) -> dict[str, Any]:
    point = Point(problem)
    return {"hessian": Hessian(point), "ggn": ggn_of(point), "fisher": fisher_of(point, "empirical Fisher", "examples")}


def matrices(dense: Dense) -> dict[str, Tensor]:
    return {
        "hessian": dense.hessian(dense.point),
        "ggn": dense.ggn(dense.point),
        "fisher": dense.empirical_fisher(dense.point),
    }


def vectors(size: int, count: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(2))


def close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm()) <= TOLERANCE * max(float(expected.norm()), 1e-3)


@pytest.mark.parametrize(("case", "task"), GRID)
def test_products_agree_with_dense_matrices(case: str, task: str) -> None:
    dense, problem = make(case, task)
    expected = matrices(dense)
    for name, curvature in curvatures(problem).items():
        product = Sum(curvature, problem.batches, MODES[0], None, 2**30)
        for v in vectors(problem.size, 2):  # the first is recorded, the second played
            close(product(v), expected[name] @ v)
        assert all(tape is not None for tape in product.tapes)


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("task", ["ce-weights", "mse-sum", "own-denominator"])
@pytest.mark.parametrize("case", CASES)
def test_every_mode_agrees_with_dense_matrices(case: str, task: str, mode: str) -> None:
    dense, problem = make(case, task)
    expected = matrices(dense)
    for name, curvature in curvatures(problem).items():
        if mode not in curvature.modes:
            continue
        product = Sum(curvature, problem.batches, mode, 2, 0 if mode == MODES[-1] else 2**30, mode != MODES[-1])
        for v in vectors(problem.size, 2):
            found, wanted = product(v), expected[name] @ v
            if mode == "finite-differences":
                assert float((found - wanted).norm()) <= 1e-6 * max(float(wanted.norm()), 1e-3)
            else:
                close(found, wanted)


# -- what one model gives, whatever its form


class Several(nn.Module):
    """Outputs in a container: two that count, one that does not, and whole numbers."""

    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.body, self.heads = nn.Linear(4, 5), nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 2), nn.Linear(5, 1)])
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        inner = torch.tanh(self.body(x))
        return self.pack(*(head(inner) for head in self.heads), torch.arange(len(x)))


Pair = namedtuple("Pair", "a b idle index")
FORMS = {
    "tuple": lambda *parts: parts,
    "list": lambda *parts: list(parts),
    "named": Pair,
    "dict": lambda a, b, idle, index: {"a": a, "b": b, "idle": idle, "index": index},
    "ordered": lambda a, b, idle, index: OrderedDict(a=a, b=b, idle=idle, index=index),
    "nested": lambda a, b, idle, index: (a, {"b": (b, idle), "index": index}),
}


def two(outputs: Any) -> tuple[Tensor, Tensor]:
    if isinstance(outputs, dict):
        return outputs["a"], outputs["b"]
    return outputs[0], outputs[1]["b"][0] if isinstance(outputs[1], dict) else outputs[1]


def multi_sum(outputs: Any, targets: Any) -> Tensor:
    a, b = two(outputs)
    return F.cross_entropy(a, targets["label"]) + ((b - targets["value"]) ** 2).sum(1).mean()


@pytest.mark.parametrize("form", list(FORMS))
def test_several_outputs(form: str) -> None:
    model = Several(FORMS[form]).double()
    x, targets = torch.randn(7, 4), {"label": torch.randint(0, 3, (7,)), "value": torch.randn(7, 2)}
    problem = Problem(model, multi_sum, [(rows(x, i), rows(targets, i)) for i in (slice(0, 3), slice(3, 7))])
    point = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def outputs(flat: Tensor) -> tuple[Tensor, Tensor]:
        parts = flat.split([p.numel() for p in model.parameters()])
        named = {n: q.view(p.shape) for (n, p), q in zip(model.named_parameters(), parts, strict=True)}
        return two(torch.func.functional_call(model, named, (x,)))

    def loss(flat: Tensor) -> Tensor:
        a, b = outputs(flat)
        return F.cross_entropy(a, targets["label"]) + ((b - targets["value"]) ** 2).sum(1).mean()

    def joined(flat: Tensor) -> Tensor:
        return torch.cat(outputs(flat), 1).reshape(-1)

    def of_outputs(out: Tensor) -> Tensor:
        a, b = out.view(7, 5).split([3, 2], 1)
        return F.cross_entropy(a, targets["label"]) + ((b - targets["value"]) ** 2).sum(1).mean()

    jacobian = torch.autograd.functional.jacobian(joined, point)
    middle = torch.autograd.functional.hessian(of_outputs, joined(point).detach())
    v = torch.randn(problem.size)
    close(hessian(problem, mode="untimed") @ v, torch.autograd.functional.hessian(loss, point) @ v)
    for mode in ("reverse-over-forward", "double-backward"):
        close(ggn(problem, mode=mode) @ v, jacobian.T @ middle @ jacobian @ v)


def test_layout_pieces_and_tapes_change_no_product_beyond_rounding() -> None:
    dense, problem = make("conv", "ce-weights")
    v = vectors(problem.size, 1)[0]
    expected = dense.hessian(dense.point) @ v
    for channels_last in (False, True):
        curvature = Hessian(Point(problem, channels_last=channels_last))
        for size in (None, 1, 2, 3):
            for mode in curvature.modes[:-1]:
                close(Sum(curvature, problem.batches, mode, size, 2**30)(v), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["conv", "attention", "mlp"])
def test_memory_changes_no_bit(case: str, dtype: torch.dtype) -> None:
    made = make_case(case)
    model = copy.deepcopy(made.model).to(dtype)
    data = (made.inputs.to(dtype), make_targets("labels", torch.Generator().manual_seed(5)))
    problem = Problem(model, nn.CrossEntropyLoss(), data, batch_size=3)
    for curvature in curvatures(problem).values():
        for mode in curvature.modes[:-1]:
            kept = Sum(curvature, problem.batches, mode, None, 2**30)
            some = Sum(curvature, problem.batches, mode, None, 1500)
            none = Sum(curvature, problem.batches, mode, None, 0)
            for v in vectors(problem.size, 3).to(dtype):
                product = kept(v)
                assert some(v).equal(product)
                assert none(v).equal(product)
            assert not any(none.tapes)
            assert kept.used > 0


# -- the Fisher


@pytest.mark.parametrize(
    ("case", "task"),
    [
        ("mlp", task)
        for task in ("ce-weights", "ce-ignore-default", "ce-all", "ce-probabilities", "ce-sum", "bce", "mse-sum")
    ]
    + [("positions", "positions-all"), ("conv", "ce-mean"), ("mlp", "bce-pos")],
)
def test_the_mean_of_sampled_fishers_is_the_ggn(case: str, task: str) -> None:
    """Unbiased: the squared distance to the GGN falls as the number of samples grows, by the law of large numbers."""
    if task == "bce-pos":
        made, targets = make_case(case), make_targets("bits", torch.Generator().manual_seed(5))
        loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.5, 1.0, 3.0]), weight=torch.tensor([1.0, 2.0, 0.1]))
        problem = Problem(made.model, loss, (made.inputs, targets), batch_size=3)
    else:
        problem = make(case, task)[1]
    v = vectors(problem.size, 1)[0]
    exact = ggn(problem, mode="untimed") @ v
    few, many = (
        torch.stack([fisher(problem, "model", samples=n, seed=s, mode="untimed") @ v for s in range(3)])
        for n in (20, 2000)
    )
    spread = [float(((found - exact) ** 2).sum(1).mean().sqrt() / exact.norm()) for found in (few, many)]
    assert spread[1] < 0.15
    assert 3 < spread[0] / spread[1] < 30  # sqrt(100) = 10


def test_sampled_targets_depend_on_the_seed_and_not_on_batches() -> None:
    made, targets = make_case("mlp"), make_targets("labels", torch.Generator().manual_seed(5))
    problems = [Problem(made.model, nn.CrossEntropyLoss(), (made.inputs, targets), batch_size=n) for n in (7, 2)]
    v = vectors(problems[0].size, 1)[0]
    one, two = (fisher(p, "model", samples=3, seed=4) for p in problems)
    close(one @ v, two @ v)
    assert float((fisher(problems[0], "model", samples=3, seed=5) @ v - one @ v).norm()) > 1e-3
    assert one.text.startswith("model Fisher (3 samples, seed 4) of Sequential, CrossEntropyLoss(mean)")


def test_the_empirical_fisher_of_classes_has_the_diagonal_of_squared_gradients() -> None:
    _, problem = make("mlp", "ce-mean")
    operator = fisher(problem)
    diagonal = torch.stack([(operator @ e)[i] for i, e in enumerate(torch.eye(problem.size))])
    close(diagonal, torch.cat([x.reshape(-1) for x in problem.squared_gradients()]))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"kind": "exact"}, ValueError, 'fisher got kind=\'exact\', expected "empirical", "positions" or "model"'),
        ({"samples": 0}, ValueError, "fisher got samples=0, expected a whole number >= 1"),
    ],
)
def test_bad_arguments_of_the_fisher(arguments: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        fisher(make("mlp", "ce-mean")[1], **arguments)


def test_a_loss_that_is_no_likelihood() -> None:
    with pytest.raises(ValueError, match=r"the model's Fisher got own_loss.*, expected cross_entropy, mse_loss or"):
        fisher(make("mlp", "own")[1], "model")
    model = Several(FORMS["tuple"])
    problem = Problem(model, lambda o, t: o[0].mean(), (torch.randn(2, 4), torch.zeros(2)))
    with pytest.raises(ValueError, match="the model's Fisher got outputs tuple, expected one tensor"):
        fisher(problem, "model")


# -- exact identities at any size (a shift of all logits changes no softmax; a ReLU passes scales on)


def test_a_shift_of_the_logits_is_a_null_vector() -> None:
    _, problem = make("attention", "ce-weights")
    shift = torch.cat([torch.full(p.shape, float(n == "head.bias")).reshape(-1) for n, p in problem.parameters.items()])
    for operator in (hessian(problem), ggn(problem), fisher(problem, "model", samples=3)):
        assert float((operator @ shift).norm()) < 1e-14


def test_the_hessian_of_a_large_net_in_two_modes() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(20, 60), nn.ReLU(inplace=True), nn.Linear(60, 60), nn.GELU(), nn.Linear(60, 10))
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.randn(50, 20), torch.randint(0, 10, (50,))), batch_size=16)
    u, v = vectors(problem.size, 2)
    first, second = (hessian(problem, mode=mode) for mode in ("reverse-over-forward", "double-backward"))
    close(first @ v, second @ v)
    assert abs(float(u @ (first @ v) - v @ (first @ u))) < 1e-12
