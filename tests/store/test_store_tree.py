"""Trees come back exactly as they were, from plain datasets."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sharpscope.store import StoreError
from sharpscope.store._parts import read_part, write_part
from sharpscope.store._tree import _BITS, read_tree, write_tree


def same(a: Any, b: Any) -> bool:
    """Equal in type, order, dtype, byte order, shape and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return [(type(k), k) for k in a] == [(type(k), k) for k in b] and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        flat = [x.contiguous().reshape(-1).view(torch.uint8) if x.numel() else x for x in (a, b)]
        return torch.equal(*flat) if a.numel() else True
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return bool(a == b)


def back(tmp_path: Path, tree: dict[Any, Any]) -> Any:
    return read_part(write_part(tmp_path / "part.h5", "checkpoint", tree, replace=True))[0]


SCALARS = [None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, -(10**400), 0.0, -0.0, 1e-320, math.inf, -math.inf]
TEXTS = [
    "",
    "a",
    "Grüße, 世界 \U0001f30d",
    "a\nb\t",
    " ends in space ",
    "nul\0inside",
    "nul\0",
    "\ud800 alone",
    "x" * 100_000,
]
LISTS = [
    [],
    (),
    [1],
    (1,),
    [1, 2**70],
    [1, True],
    [1, 1.0],
    (0.9, 0.999),
    ["a", "bb", ""],
    ("a", "\0"),
    [[1], [2.0, ()]],
    [None],
]
LISTS += [["a", "b" * 1_000_000], list(range(1000)), ({"a": [({},)]},), [math.nan, 1.0]]


@pytest.mark.parametrize(
    "leaf", [*SCALARS, *TEXTS, *LISTS], ids=lambda leaf: repr(leaf)[:20].encode("unicode_escape").decode()
)
def test_plain_leaves(tmp_path: Path, leaf: Any) -> None:
    tree = {"leaf": leaf, "deep": {"er": [leaf, {"x": leaf}]}}
    assert same(back(tmp_path, tree), tree)


def test_nan_keeps_its_bits(tmp_path: Path) -> None:
    (odd,) = struct.unpack("d", struct.pack("Q", 0xFFF8_0000_DEAD_BEEF))
    tree = {"a": odd, "b": np.array([odd, math.nan]), "c": torch.tensor([odd, 1.0]), "d": [odd]}
    assert same(back(tmp_path, tree), tree)


DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]
SHAPES = [(), (1,), (7,), (0,), (0, 3), (2, 3, 4), (1,) * 33]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, "complex64", "complex128"])
def test_numpy_arrays(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    array = np.asarray(rng.integers(0, 2, shape) if dtype == "bool" else rng.uniform(0, 100, shape)).astype(dtype)
    tree = {"a": array, "big": array.astype(array.dtype.newbyteorder(">")), "f": np.array(array, order="F")}
    read = back(tmp_path, tree)
    assert same(read["a"], array)
    assert same(read["big"], tree["big"])
    assert np.array_equal(read["f"], array)
    if not shape:
        assert same(back(tmp_path, {"s": array[()]}), {"s": array[()]})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, "complex32", "complex64", "complex128", *_BITS])
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_torch_tensors(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    kind = getattr(torch, dtype)
    size = torch.empty((), dtype=kind).element_size()
    bits = torch.randint(0, 2 if dtype == "bool" else 256, (math.prod(shape) * size,), dtype=torch.uint8)
    tensor = bits.view(kind).reshape(shape) if bits.numel() else torch.empty(shape, dtype=kind)
    assert same(back(tmp_path, {"t": tensor}), {"t": tensor})


def test_views_and_parameters(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(base.clone())
    read = back(
        tmp_path,
        {"t": base.T, "every": base[:, ::2], "p": parameter, "c": (base + 1j).conj(), "e": base[:1].expand(5, 4)},
    )
    assert same(read["t"], base.T.contiguous())
    assert same(read["every"], base[:, ::2].contiguous())
    assert same(read["p"], base)
    assert same(read["c"], (base - 1j))
    assert same(read["e"], base[:1].expand(5, 4).contiguous())


def test_loaded_data_can_be_changed(tmp_path: Path) -> None:
    read = back(tmp_path, {"t": torch.ones(3), "b": torch.ones(3, dtype=torch.bool), "a": np.ones(3)})
    read["t"] += 1
    read["b"][0] = False
    read["a"] += 1


KEYS = [
    "",
    ".",
    "..",
    "a.b",
    "/",
    "a/b",
    "/a",
    "%",
    "%2F",
    "%i1",
    "1",
    1,
    -3,
    2**70,
    "ü",
    "a b",
    " ",
    "\0",
    "./x",
    "x" * 1000,
    "type",
    "index",
]


def test_keys_and_their_order(tmp_path: Path) -> None:
    for keys in (KEYS, KEYS[::-1]):
        tree = {key: i for i, key in enumerate(keys)}
        assert same(back(tmp_path, {"inside": tree, **tree}), {"inside": tree, **tree})


def test_more_children_than_one_b_tree_node(tmp_path: Path) -> None:
    tree = {f"name{i * 7919 % 2000}": i for i in range(2000)}
    assert same(back(tmp_path, tree), tree)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS])
def test_optimizer_state(tmp_path: Path, optimizer: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    chosen = optimizer(model.parameters(), lr=0.1, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {}))

    def closure() -> torch.Tensor:
        chosen.zero_grad()
        loss = model(torch.ones(5, 3)).square().mean()
        loss.backward()
        return loss

    chosen.step(closure)
    state = chosen.state_dict()
    read = back(tmp_path, {"model": model.state_dict(), "optimizer": state, "rng": torch.get_rng_state()})
    assert same(read["optimizer"], state)
    assert same(read["model"], dict(model.state_dict()))
    chosen.load_state_dict(read["optimizer"])
    model.load_state_dict(read["model"])


def test_plain_datasets_for_everyone(tmp_path: Path) -> None:
    mask = torch.rand(100, 1000) > 0.9
    weight = torch.rand(2, 3)
    path = write_part(
        tmp_path / "p.h5", "checkpoint", {"conv.weight": weight, "mask": mask, "rates": [0.1, 0.2], "on": [("a", 1)]}
    )
    with h5py.File(path) as file:
        assert np.array_equal(file["conv.weight"][:], weight.numpy())
        assert file["conv.weight"].chunks is None and file["conv.weight"].compression is None
        assert file["mask"].compression == "gzip" and file["mask"].dtype == np.uint8
        assert tuple(file["mask"].attrs["shape"]) == (100, 1000)
        assert file["mask"].id.get_storage_size() < mask.numel() / 8
        assert np.array_equal(file["rates"][:], [0.1, 0.2])
        assert file["on/0/0"][()] == b"a"
        assert file.id.get_create_plist().get_version()[0] == 0


def test_write_tree_and_read_tree(tmp_path: Path) -> None:
    tree = {"a": 1, 2: [None, {"x": np.arange(3)}]}
    with h5py.File(tmp_path / "f.h5", "w") as file:
        write_tree(file.create_group("here"), tree)
        assert same(read_tree(file["here"]), tree)
        write_tree(file.create_group("list"), [1, "a"])
        assert read_tree(file["list"]) == [1, "a"]
        file.create_group("other")
        with pytest.raises(
            StoreError, match=r"got no known type at '/' \(None\), expected a tree that sharpscope wrote"
        ):
            read_tree(file["other"])
        with pytest.raises(StoreError, match=r"got a builtins\.float at its root, expected a dict: wrap it as"):
            write_tree(file.create_group("leaf"), 1.0)


Point = namedtuple("Point", "x y")
HERSELF: list[Any] = []
HERSELF.append(HERSELF)
REFUSED = [
    ({"a": {"b": object()}}, r"got a builtins\.object at '/a/b', expected a dict, list, tuple, None, bool"),
    ({"a": Point(1, 2)}, r"Point at '/a', expected a dict"),
    ({"a": {1, 2}}, r"got a builtins\.set at '/a'"),
    ({"a": b"x"}, r"got a builtins\.bytes at '/a'"),
    ({"a": 1j}, r"got a builtins\.complex at '/a'"),
    ({"a": {True: 1}}, r"got the key True in '/a', expected a str or int: convert it first"),
    ({"a": {(1,): 1}}, r"got the key \(1,\) in '/a'"),
    ({"\ud800": 1}, r"expected valid Unicode: rename it"),
    ({"a": np.array(["x"])}, r"got a numpy array of dtype str32 at '/a', .*texts with \.tolist\(\)"),
    ({"a": np.array([object()])}, r"got a numpy array of dtype object at '/a'"),
    ({"a": np.zeros(2, "f4,i4")}, r"got a numpy array of dtype void64 at '/a'"),
    ({"a": np.zeros(2, "datetime64[s]")}, r"got a numpy array of dtype datetime64"),
    ({"a": torch.ones(2, 2).to_sparse()}, r"got a tensor of dtype float32, layout torch\.sparse_coo .* \.to_dense\(\)"),
    ({"a": torch.ones(2, device="meta")}, r"on meta at '/a', expected a dense tensor"),
    ({"a": HERSELF}, r"got more than 64 levels at .*, expected fewer: flatten it"),
]


@pytest.mark.parametrize(("tree", "text"), REFUSED, ids=[text[:25] for _, text in REFUSED])
def test_what_a_tree_cannot_hold(tmp_path: Path, tree: Any, text: str) -> None:
    with pytest.raises(StoreError, match=text):
        write_part(tmp_path / "part.h5", "checkpoint", tree)
    assert list(tmp_path.iterdir()) == []


def test_ordered_dict_becomes_dict(tmp_path: Path) -> None:
    assert type(back(tmp_path, {"a": OrderedDict(b=1)})["a"]) is dict
