"""Every form of data becomes batches of the same examples in the same order."""

from __future__ import annotations

import random
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sharpscope.problem.examples import Examples, ProblemError, as_batches, check_fixed, cut, merge, on_tensors, rows

X, Y = torch.arange(10.0).view(5, 2), torch.arange(5)
DATA = TensorDataset(X, Y)


def batches_of(data: Any, batch_size: int | None) -> list[Examples]:
    return as_batches(data, batch_size)[0]


@pytest.mark.parametrize(
    ("data", "batch_size", "sizes"),
    [
        ((X, Y), 2, [2, 2, 1]),
        ((X, Y), None, [5]),
        ((X, Y), 99, [5]),
        (((X,), Y), 2, [2, 2, 1]),
        (DATA, 3, [3, 2]),
        (DATA, None, [5]),
        (DataLoader(DATA, batch_size=4), None, [4, 1]),
        (DataLoader(DATA, batch_size=4, drop_last=True), None, [4]),
        ([(X[:1], Y[:1]), [X[1:], Y[1:]]], None, [1, 4]),
        ([], None, []),
    ],
)
def test_batches(data: Any, batch_size: int | None, sizes: list[int]) -> None:
    batches = list(batches_of(data, batch_size))
    assert [batch.examples for batch in batches] == sizes
    if sizes:
        count = sum(sizes)
        assert torch.cat([batch.args[0] for batch in batches]).equal(X[:count])
        assert torch.cat([batch.targets for batch in batches]).equal(Y[:count])


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_mappings(kind: Any) -> None:
    whole = kind({"x": X, "y": Y})
    for data in (whole, [whole]):
        batch = next(iter(batches_of(data, None)))
        assert (batch.args, list(batch.kwargs), batch.examples) == ((), ["x", "y"], 5)
        assert batch.targets["y"].equal(Y)
    [first, second] = batches_of((kind({"x": X}), Y), 3)
    assert first.kwargs["x"].equal(X[:3])
    assert second.targets.equal(Y[3:])
    [piece, _] = batches_of(whole, 3)
    assert piece.targets["y"].equal(Y[:3])


def test_large_inputs_make_small_batches() -> None:
    assert [batch.examples for batch in batches_of((torch.zeros(40, 20_000), torch.zeros(40)), None)] == [20, 20]
    assert [batch.examples for batch in batches_of((torch.zeros(40, 90_000), torch.zeros(40)), None)] == [16, 16, 8]


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "many"])
def test_bad_batch_size(size: Any) -> None:
    with pytest.raises(ProblemError, match=r"got batch_size=.*, expected a whole number >= 1: change batch_size"):
        batches_of((X, Y), size)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("data", r"the data got a str, expected \(inputs, targets\), a Dataset, a DataLoader or a list"),
        ((X, Y, Y), r"the data got a tuple, expected \(inputs, targets\)"),
        ([(X, Y, Y)], r"a batch got a tuple, expected \(inputs, targets\) or a dict"),
        ([X], r"a batch got a Tensor, expected \(inputs, targets\) or a dict"),
        ((X, Y[:3]), "a batch got 5 inputs and 3 targets, expected as many"),
        (({"x": X}, Y[:3]), "a batch got 5 inputs and 3 targets, expected as many"),
        ((X.numpy(), Y.numpy()), "the data got a ndarray, expected tensors: convert it with torch.as_tensor"),
        ({"name": "x"}, "the data got a str, expected tensors"),
        ({}, "the data got a NoneType, expected tensors"),
    ],
)
def test_bad_data(data: Any, text: str) -> None:
    with pytest.raises(ProblemError, match=text):
        batches_of(data, None)


def test_cut_and_on_tensors_reach_everything() -> None:
    batch = Examples((X, [X, (X,)]), {"scale": torch.tensor(2.0), "text": "as it is", "x": X}, {"y": Y}, 5)
    piece = cut(batch, torch.tensor([4, 0]))
    assert piece.examples == 2
    assert piece.args[0].equal(X[[4, 0]])
    assert piece.args[1][1][0].equal(X[[4, 0]])
    assert (float(piece.kwargs["scale"]), piece.kwargs["text"]) == (2.0, "as it is")
    assert piece.targets["y"].tolist() == [4, 0]
    doubled = on_tensors(batch, lambda x: x * 2)
    assert doubled.args[1][0].equal(X * 2)
    assert batch.args[1][0].equal(X)


class Augmented(Dataset):
    """Draws from the generator of its kind at every reading."""

    def __init__(self, draw: Any, plain: bool = False) -> None:
        self.draw, self.plain = draw, plain

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        x = self.draw() * torch.ones(2)
        return {"x": x} if self.plain else (x, index)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(2)])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("loader", [False, True])
def test_augmentation_is_seen(draw: Any, plain: bool, loader: bool) -> None:
    data = Augmented(draw, plain)
    states = random.getstate(), str(np.random.get_state())
    text = "gave two different examples for index 0, expected the same: take random augmentation out"
    with pytest.raises(ProblemError, match=text):
        check_fixed(DataLoader(data) if loader else data)
    assert (random.getstate(), str(np.random.get_state())) == states


@pytest.mark.parametrize(
    "data",
    [
        DATA,
        DataLoader(DATA, batch_size=2, shuffle=True),
        DataLoader(DATA, batch_size=5, shuffle=True, drop_last=True),
        DataLoader(DATA, batch_size=2, drop_last=True),
        Augmented(lambda: torch.tensor(float("nan"))),
        (X, Y),
        [(X, Y)],
    ],
)
def test_fixed_data_pass(data: Any) -> None:
    check_fixed(data)


def test_shuffling_that_drops_is_refused() -> None:
    with pytest.raises(ProblemError, match="the DataLoader shuffles and drops 1 examples of every pass, expected the"):
        check_fixed(DataLoader(DATA, batch_size=2, shuffle=True, drop_last=True))


class Kept(dict):  # type: ignore[type-arg]
    """A dict of a class of its own, with an attribute."""

    note = ""


def test_containers_keep_their_kind() -> None:
    pair = namedtuple("pair", "a b")(X, [Y, "text"])
    found = on_tensors(pair, lambda x: x + 1)
    assert (type(found), found.b[1]) == (type(pair), "text")
    assert found.b[0].equal(Y + 1)
    kept = Kept(x=X)
    kept.note = "mine"
    piece = rows(kept, slice(0, 2))
    assert (type(piece), piece.note, piece["x"].shape) == (Kept, "mine", (2, 2))
    assert kept["x"] is X


def test_merge() -> None:
    pieces = list(batches_of((X, Y), 2))
    [one] = merge(pieces)
    assert (one.examples, one.args[0].equal(X), one.targets.equal(Y)) == (5, True, True)
    unequal = [Examples((torch.zeros(1, n),), {}, torch.zeros(1), 1) for n in (2, 3)]
    named = list(batches_of(({"x": X}, Y), 2))
    for kept in (unequal, named, pieces[:1], []):
        assert merge(kept) is kept
