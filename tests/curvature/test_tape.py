"""A tape repeats a linear function bit for bit, computes anew only what it must, and refuses what it cannot repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sharpscope.curvature._tape import Tape, TapeError
from sharpscope.curvature.products import kernels

FIXED = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    with kernels(torch.device("cpu")):
        yield


def product(vector: list[Tensor]) -> list[Tensor]:
    """Something with constants, views, writing in place, several outputs and what nobody needs."""
    matrix = torch.tanh(FIXED @ FIXED)
    x = matrix @ vector[0]
    x += vector[1]
    x.view(5)[1:3].mul_(2.0)
    idle = x * 7.0
    values, _ = torch.sort(matrix, 0)
    pair = torch.split(values @ x, [2, 3])
    return [pair[0] * 2.0, torch.zeros(2), matrix[0] + 0 * idle, pair[1]]


def draw(seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(5, generator=rng) for _ in range(2)]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_it_repeats_the_function() -> None:
    found, tape = Tape.record(product, draw(1))
    assert same(found, product(draw(1)))
    for seed in (1, 2, 3):
        assert same(tape(draw(seed)), product(draw(seed)))
    assert tape.nbytes > 0


def test_only_what_depends_on_the_vector_is_computed_anew() -> None:
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    tape = Tape.record(lambda v: [torch.tanh(FIXED) @ v[0] + FIXED.exp().sum()], [torch.randn(5)])[1]
    vector = [torch.randn(5)]
    with Watch():
        tape(vector)
    assert seen == ["aten.mv.default", "aten.add.Tensor"]


def test_memory_counts_constants_once_and_without_what_lives_anyway() -> None:
    big = torch.randn(1000)

    def function(vector: list[Tensor]) -> list[Tensor]:
        made = big * 2
        return [made * vector[0], made[:10].sum() * vector[0], big * vector[0]]

    assert Tape.record(function, [torch.randn(())])[1].nbytes == 2 * 8000 + 8
    assert Tape.record(function, [torch.randn(())], [big])[1].nbytes == 8000 + 8


@pytest.mark.parametrize(
    "convolution",
    [
        lambda x, w: F.conv2d(x, w, torch.ones(4), 2, 1),
        lambda x, w: F.conv2d(x[:, :2], w[:, :1], None, groups=2),
        lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1), None, 2),
        lambda x, w: F.conv1d(x[:, :, 0], w[:, :, 0]),
        lambda x, w: F.batch_norm(F.conv2d(x, w), torch.ones(4), torch.full((4,), 2.0), w[:, 0, 0, 0], w[:, 0, 0, 1]),
        lambda x, w: F.batch_norm(F.conv2d(x, w), None, None, w[:, 0, 0, 0], w[:, 0, 0, 1], training=True),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_derivatives_of_convolutions_and_norms_are_told_apart(
    convolution: Callable[[Tensor, Tensor], Tensor], layout: Any
) -> None:
    x = torch.randn(3, 3, 6, 6).contiguous(memory_format=layout)
    w, targets = torch.randn(4, 3, 3, 3).contiguous(memory_format=layout), torch.tensor([0, 1, 1])

    def function(vector: list[Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]

        def loss(x: Tensor, w: Tensor) -> Tensor:
            return F.cross_entropy(convolution(x, w).flatten(2).logsumexp(2), targets)

        tangent = torch.func.jvp(loss, tuple(leaves), tuple(vector))[1]
        return list(torch.autograd.grad(tangent, leaves))

    def pair(seed: int) -> list[Tensor]:
        rng = torch.Generator().manual_seed(seed)
        return [torch.randn(t.shape, generator=rng) for t in (x, w)]

    tape = Tape.record(function, pair(1))[1]
    assert same(tape(pair(2)), function(pair(2)))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda v: [v[0] * float(v[0].sum())], "gives a number that depends on the vector"),
        (lambda v: [v[0] if v[0].sum() > 0 else -v[0]], "gives a number that depends on the vector"),
        (lambda v: [torch.zeros(5).add_(v[0])], "writes into a tensor that the tape holds"),
        (lambda v: [v[0] * (c := torch.ones(5)), v[0] + c.mul_(2)], "writes into a tensor that the tape holds"),
    ],
)
def test_what_cannot_be_repeated_is_refused(function: Any, text: str) -> None:
    with pytest.raises(TapeError, match=text):
        Tape.record(function, [torch.ones(5)])


def test_decisions_on_constants_are_no_decisions() -> None:
    tape = Tape.record(lambda v: [v[0] * (2 if FIXED.sum() > -1e9 else 3)], [torch.ones(5)])[1]
    assert tape([torch.ones(5)])[0].equal(2 * torch.ones(5))
