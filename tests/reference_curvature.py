"""Literal references for losses and curvature: the whole data at once, examples in Python loops, dense matrices.

Nothing here uses the package.  A ``Task`` is a loss with its formula written out for one example; a ``Case`` is a small
model with inputs; the tests cross the two.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXAMPLES, CLASSES, FEATURES, LENGTH = 7, 3, 4, 5
CLASS_WEIGHTS = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


# -- losses, one example at a time


def nll(logits: Tensor, target: int) -> Tensor:
    """-log softmax(logits)[target] of one position, from the definition."""
    return torch.log(torch.exp(logits - logits.max()).sum()) + logits.max() - logits[target]


def cross_entropy(output: Tensor, target: Tensor, weight: Tensor | None, ignored: int, smoothing: float) -> Tensor:
    """Numerator of one example; ``output`` is (C,) or (C, L), ``target`` () or (L,)."""
    columns = output.reshape(len(output), -1)
    total = torch.zeros((), dtype=output.dtype)
    for position, label in enumerate(target.reshape(-1).tolist()):
        if label == ignored:
            continue
        each = {
            c: (1.0 if weight is None else weight[c]) * nll(columns[:, position], c)
            for c in (range(len(output)) if smoothing else [label])
        }
        total = total + (1 - smoothing) * each[label] + smoothing / len(output) * sum(each.values())
    return total


def counted(targets: Tensor, weight: Tensor | None, ignored: int) -> float:
    """Denominator of the whole data set: the weights of all targets that count."""
    labels = [label for label in targets.reshape(-1).tolist() if label != ignored]
    return float(sum(1.0 if weight is None else float(weight[label]) for label in labels))


def logistic(output: Tensor, target: Tensor) -> Tensor:
    """Sum over the outputs of one example of -t log s - (1 - t) log(1 - s)."""
    s = 1 / (1 + torch.exp(-output))
    return -(target * torch.log(s) + (1 - target) * torch.log(1 - s)).sum()


def squares(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).sum()


def probabilities(output: Tensor, target: Tensor) -> Tensor:
    return sum((target[c] * nll(output, c) for c in range(len(output))), torch.zeros((), dtype=output.dtype))


def own_loss(outputs: Any, targets: Any) -> Tensor:
    """A user's loss: a mean over the examples of the batch, with nothing that tells so."""
    return (torch.cosh(outputs).sum(1) * (1 + targets)).mean()


def own_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    """A user's loss: a mean over the targets above 0."""
    return F.cross_entropy(outputs, torch.where(targets > 0, targets, -100))


def own_count(outputs: Tensor, targets: Tensor) -> float:
    return float((targets > 0).sum())


@dataclass(frozen=True)
class Task:
    """A loss as a user gives it, and the same loss written out."""

    loss: Callable[..., Tensor]
    targets: str  # labels, ignored, positions, probabilities, bits, values
    each: Callable[[Tensor, Tensor], Tensor]  # numerator of one example
    total: Callable[[Tensor], float]  # denominator of the whole data set
    denominator: Callable[..., float] | None = None


def _classes(loss: Any, targets: str, weight: Any = None, ignored: int = -100, smooth: float = 0.0, mean: bool = True):
    return Task(
        loss,
        targets,
        lambda o, t: cross_entropy(o, t, weight, ignored, smooth),
        (lambda t: counted(t, weight, ignored)) if mean else (lambda t: 1.0),
    )


def _entries(loss: Any, targets: str, each: Any, mean: bool = True) -> Task:
    return Task(loss, targets, each, (lambda t: float(t.numel())) if mean else (lambda t: 1.0))


W = CLASS_WEIGHTS
TASKS: dict[str, Task] = {
    "ce-mean": _classes(nn.CrossEntropyLoss(), "labels"),
    "ce-sum": _classes(nn.CrossEntropyLoss(reduction="sum"), "labels", mean=False),
    "ce-weights": _classes(nn.CrossEntropyLoss(weight=W), "labels", W),
    "ce-weights-sum": _classes(nn.CrossEntropyLoss(weight=W, reduction="sum"), "labels", W, mean=False),
    "ce-ignore-sum": _classes(nn.CrossEntropyLoss(ignore_index=1, reduction="sum"), "labels", None, 1, mean=False),
    "ce-ignore": _classes(nn.CrossEntropyLoss(ignore_index=1), "labels", None, 1),
    "ce-ignore-default": _classes(nn.CrossEntropyLoss(), "ignored"),
    "ce-smooth": _classes(nn.CrossEntropyLoss(label_smoothing=0.2), "labels", smooth=0.2),
    "ce-all": _classes(nn.CrossEntropyLoss(W, ignore_index=2, label_smoothing=0.1), "labels", W, 2, 0.1),
    "ce-probabilities": Task(nn.CrossEntropyLoss(), "probabilities", probabilities, lambda t: float(len(t))),
    "ce-function": _classes(F.cross_entropy, "ignored"),
    "ce-partial": _classes(functools.partial(F.cross_entropy, weight=W, ignore_index=0), "labels", W, 0),
    "ce-partial-sum": _classes(functools.partial(F.cross_entropy, reduction="sum"), "labels", mean=False),
    "bce": _entries(nn.BCEWithLogitsLoss(), "bits", logistic),
    "bce-sum": _entries(nn.BCEWithLogitsLoss(reduction="sum"), "bits", logistic, mean=False),
    "bce-function": _entries(F.binary_cross_entropy_with_logits, "bits", logistic),
    "mse": _entries(nn.MSELoss(), "values", squares),
    "mse-sum": _entries(nn.MSELoss(reduction="sum"), "values", squares, mean=False),
    "mse-partial": _entries(functools.partial(F.mse_loss, reduction="mean"), "values", squares),
    "bce-weight-sum": _entries(
        functools.partial(F.binary_cross_entropy_with_logits, weight=torch.full((CLASSES,), 2.0), reduction="sum"),
        "bits",
        lambda o, t: 2 * logistic(o, t),
        mean=False,
    ),
    "own": Task(own_loss, "labels", lambda o, t: torch.cosh(o).sum() * (1 + t), lambda t: float(len(t))),
    "own-denominator": Task(
        own_tokens,
        "labels",
        lambda o, t: nll(o, int(t)) if t > 0 else 0.0 * o.sum(),
        lambda t: float((t > 0).sum()),
        own_count,
    ),
}
POSITION_TASKS: dict[str, Task] = {
    "positions": _classes(nn.CrossEntropyLoss(), "positions"),
    "positions-all": _classes(nn.CrossEntropyLoss(W, ignore_index=2, label_smoothing=0.1), "positions", W, 2, 0.1),
    "positions-sum": _classes(nn.CrossEntropyLoss(reduction="sum"), "positions", mean=False),
}


def make_targets(kind: str, random: torch.Generator) -> Tensor:
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 2])
    if kind == "ignored":
        labels[[1, 5]] = -100
    if kind == "positions":
        labels = torch.randint(0, CLASSES, (EXAMPLES, LENGTH), generator=random)
        labels[3, 1:] = labels[0, 2] = -100
        labels = torch.where(labels == -100, 2, labels)
    if kind in ("labels", "ignored", "positions"):
        return labels
    values = torch.randn(EXAMPLES, CLASSES, generator=random, dtype=torch.float64)
    return {"probabilities": values.softmax(1), "bits": (values > 0).double(), "values": values}[kind]


# -- models


class Tied(nn.Module):
    """The same matrix twice: x -> W^T tanh(W x), and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, FEATURES, bias=False)
        self.second = nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Unused(nn.Module):
    """A layer that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 2)
        self.used = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Attention(nn.Module):
    """One block of a transformer: LayerNorm, scaled dot products, a residual, the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(FEATURES)
        self.mixer = nn.Linear(FEATURES, 3 * FEATURES)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mixer(self.norm(x)).view(*x.shape[:2], 2, 3 * FEATURES // 2).transpose(1, 2).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return self.head((x + self.drop(mixed)).mean(1))


class Two(nn.Module):
    """Two inputs, by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(FEATURES, 4), nn.Linear(2, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, left: Tensor, right: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(torch.tanh(self.a(left) + self.b(right)))


@dataclass(frozen=True)
class Case:
    """A model and its inputs in the form in which a batch holds them: a tensor, a tuple or a dict."""

    model: nn.Module
    inputs: Any


def make_case(name: str, seed: int = 0) -> Case:
    """One of ``CASES``; the global generator is left as found."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(EXAMPLES, *shape, generator=random, dtype=torch.float64)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "conv":
            model: nn.Module = nn.Sequential(
                nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES)
            )
            model[1].running_mean.normal_()
            model[1].running_var.uniform_(0.5, 2)
            inputs: Any = draw(1, 4, 4)
        elif name == "attention":
            model, inputs = Attention(), draw(LENGTH, FEATURES)
        elif name in ("tuple", "dict"):
            model, pair = Two(), (draw(FEATURES), draw(2))
            inputs = pair if name == "tuple" else {"left": pair[0], "right": pair[1]}
        elif name == "positions":
            model, inputs = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Tanh(), nn.Conv1d(4, CLASSES, 1)), draw(2, LENGTH)
        else:
            mlp = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES))
            model = {"mlp": mlp, "frozen": mlp, "tied": Tied(), "unused": Unused()}[name]
            inputs = draw(FEATURES)
            if name == "frozen":
                mlp[0].weight.requires_grad_(False)
    return Case(model.double().train(), inputs)


CASES = ("mlp", "conv", "attention", "tied", "frozen", "unused", "tuple", "dict")


# -- the whole data at once


def rows(value: Any, index: Any) -> Any:
    """Some examples of inputs of any form."""
    if isinstance(value, dict):
        return {name: item[index] for name, item in value.items()}
    return tuple(item[index] for item in value) if isinstance(value, tuple) else value[index]


@dataclass(frozen=True)
class Dense:
    """L as a function of one flat vector, by a loop over examples; its derivatives as dense tensors."""

    case: Case
    task: Task
    targets: Tensor

    @property
    def trainable(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.case.model.named_parameters() if p.requires_grad}

    @property
    def point(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.trainable.values()])

    def outputs(self, flat: Tensor) -> Tensor:
        split = torch.split(flat, [p.numel() for p in self.trainable.values()])
        named = {name: x.view(p.shape) for (name, p), x in zip(self.trainable.items(), split, strict=True)}
        inputs = self.case.inputs
        args = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
        modes = [(module, module.training) for module in self.case.model.modules()]
        self.case.model.eval()
        try:
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                kwargs = inputs if isinstance(inputs, dict) else {}
                return torch.func.functional_call(self.case.model, named, args, kwargs)
        finally:
            for module, training in modes:
                module.training = training

    def numerators(self, flat: Tensor) -> Tensor:
        outputs = self.outputs(flat)
        return torch.stack([self.task.each(o, t) for o, t in zip(outputs, self.targets, strict=True)])

    def loss(self, flat: Tensor) -> Tensor:
        return self.numerators(flat).sum() / self.task.total(self.targets)

    def gradient(self, flat: Tensor) -> Tensor:
        leaf = flat.detach().requires_grad_()
        return torch.autograd.grad(self.loss(leaf), leaf)[0]

    def hessian(self, flat: Tensor) -> Tensor:
        leaf = flat.detach().requires_grad_()
        return torch.autograd.functional.hessian(self.loss, leaf)

    def product(self, flat: Tensor, vector: Tensor) -> Tensor:
        """H v by double backward."""
        leaf = flat.detach().requires_grad_()
        slope = torch.autograd.grad(self.loss(leaf), leaf, create_graph=True)[0] @ vector
        return torch.autograd.grad(slope, leaf)[0]

    def ggn(self, flat: Tensor) -> Tensor:
        """(n, n): the sum over examples of J^T M J, M the Hessian of the example's numerator in its output."""
        outputs = self.outputs(flat)
        jacobian = torch.autograd.functional.jacobian(self.outputs, flat).reshape(len(self.targets), -1, len(flat))
        total = torch.zeros(len(flat), len(flat), dtype=flat.dtype)
        for output, target, rows_of in zip(outputs.detach(), self.targets, jacobian, strict=True):
            middle = torch.autograd.functional.hessian(lambda o, t=target: self.task.each(o, t) + 0 * o.sum(), output)
            total += rows_of.T @ middle.reshape(len(rows_of), len(rows_of)) @ rows_of
        return total / self.task.total(self.targets)

    def empirical_fisher(self, flat: Tensor) -> Tensor:
        """(n, n): the sum of the squares of the examples' gradients over the denominator of the loss."""
        jacobian = torch.autograd.functional.jacobian(self.numerators, flat)
        return jacobian.T @ jacobian / self.task.total(self.targets)

    def forward_product(self, flat: Tensor, vector: Tensor) -> Tensor:
        """H v by forward-over-reverse: another way than double backward."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, at the first forward-mode derivative
            return torch.func.jvp(torch.func.grad(self.loss), (flat,), (vector,))[1]

    def fisher(self, flat: Tensor, examples: list[int] | None = None) -> Tensor:
        chosen = range(len(self.targets)) if examples is None else examples
        jacobian = torch.autograd.functional.jacobian(self.numerators, flat)
        return sum((jacobian[i] ** 2 for i in chosen), torch.zeros_like(flat)) / len(chosen)
