"""Trees: nested dictionaries, lists and tuples of numbers, texts, arrays and tensors, exactly as they were.

What a tree becomes in HDF5 (the attributes of all nodes stand in one text beside them, ``nodes.ATTRIBUTES``; those of
a dataset whose dtype or shape is not that of what it means stand at the dataset itself):

- dict: group, ``type="dict"``; children have ``index`` (their place), int keys ``key="int"``
- list, tuple: group, ``type="list"`` or ``"tuple"``, children "0", "1", ...
- list, tuple of int/float/str: one-dimensional dataset, ``of="int"``, ``"float"`` or ``"str"`` (fixed-length UTF-8)
- None: empty dataset, ``type="none"``
- bool, int, float, str: scalar uint8, int64, float64, fixed-length UTF-8
- numpy array, numpy scalar: dataset of that dtype and shape, ``type="array"`` or ``"scalar"``, ``dtype="float32"``
- torch tensor: the same, ``type="tensor"``
- bool array or tensor: uint8 bits (first entry in the highest bit; gzip when long), ``dtype="bool"``, ``shape``
- complex: one more dimension of length 2: real, imaginary part
- bfloat16, float8: the bits as uint16 or uint8

Keys are the names of groups and datasets, dots and all; only what HDF5 cannot hold is written as ``%2F`` (slash),
``%00``, ``%2E`` (a key that is one dot), ``%`` (an empty key) and ``%25`` (the percent sign itself).  Tensors come back
on the CPU without gradients; an OrderedDict comes back as a dict.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from typing import Any

import h5py
import numpy as np
import torch

from sharpscope.store._nodes import Branch, Leaf, Node, write_branch
from sharpscope.store.errors import StoreError
from sharpscope.store.guard import read_branch, reading

__all__ = ["PLAIN", "decode", "encode", "read_tree", "write_tree"]

PLAIN = (np.ndarray, np.memmap)  # arrays that are their entries; others, such as masked ones, mean more
DEPTH = 64  # levels of nesting; a list that holds itself would go on for ever
AXES = 64  # of an array in numpy
GZIP_FROM = 4096  # bytes of packed bits; shorter ones stay plain
INT64 = range(-(2**63), 2**63)
KEYS = 1 << 4096  # integers below are keys; Python prints no much longer ones
ESCAPES = {"%": "%25", "/": "%2F", "\0": "%00"}

# dtypes of tensors that HDF5 or numpy lack, and the integers that hold their bits
_BITS = {
    name: getattr(torch, bits)
    for name, bits in {
        "bfloat16": "int16",
        "float8_e4m3fn": "uint8",
        "float8_e5m2": "uint8",
        "float8_e4m3fnuz": "uint8",
        "float8_e5m2fnuz": "uint8",
        "float8_e8m0fnu": "uint8",
    }.items()
    if hasattr(torch, name)
}
_REAL = ["float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
_COMPLEX = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
# what data in the file are of, by what they mean
STORED = {name: name for name in _REAL} | _COMPLEX | dict.fromkeys(_BITS, "uint8") | {"bool": "uint8"}
STORED |= {"bfloat16": "uint16"}
COLUMNS = {"int": ("int64",), "float": ("float64",), "str": ("bytes",)}
NUMBERS = {"bool": "uint8", "int": "int64", "float": "float64"}


def write_tree(group: h5py.Group, tree: Any) -> None:
    """Write a dict, list or tuple into an open, empty HDF5 group; see the table above.

    Raises StoreError, naming the place in the tree, for a leaf or key of another kind.

    >>> with h5py.File("example", "w", driver="core", backing_store=False) as file:
    ...     write_tree(file, {"conv.weight": np.zeros((2, 3), np.float32), "steps": (1, 2)})
    ...     read_tree(file)["steps"]
    (1, 2)
    """
    node = encode(tree)
    if isinstance(node, Leaf):
        raise StoreError(f"a tree got {_kind(tree)} at its root, expected a dict: wrap it as {{'value': ...}}")
    write_branch(group, node)


def read_tree(group: h5py.Group) -> Any:
    """The inverse of ``write_tree``.

    Raises StoreError for a group that ``write_tree`` did not write, and for everything that ``guard`` refuses.
    """
    where = str(group.file.filename)
    with reading(where):
        group.file.flush()
        return decode(read_branch(group, where), where)


def encode(tree: Any, path: str = "") -> Node:
    """The nodes of a tree.  Tensors on the CPU and arrays are not copied."""
    if path.count("/") > DEPTH:
        raise StoreError(f"a tree got more than {DEPTH} levels at {path[:80]!r}, expected fewer: flatten it")
    if tree is None:
        return Leaf(None, {"type": "none"})
    if type(tree) in (dict, OrderedDict):
        return _encode_dict(tree, path)
    if type(tree) in (list, tuple):
        kind = type(tree).__name__
        column = _column(tree)
        if column is not None:
            return Leaf(column, {"type": kind, "of": type(tree[0]).__name__})
        return Branch({str(i): encode(item, f"{path}/{i}") for i, item in enumerate(tree)}, {"type": kind})
    if isinstance(tree, torch.Tensor):
        return _encode_tensor(tree, path)
    if isinstance(tree, np.ndarray | np.generic):
        return _encode_array(tree, path)
    if type(tree) is bool:
        return Leaf(np.array(tree, np.uint8), {"type": "bool"})
    if type(tree) is int:
        return Leaf(np.array(tree, np.int64) if tree in INT64 else _characters(hex(tree)), {"type": "int"})
    if type(tree) is float:
        return Leaf(np.array(tree, np.float64), {"type": "float"})
    if type(tree) is str:
        return Leaf(_characters(tree), {"type": "str"})
    raise StoreError(
        f"a tree got {_kind(tree)} at {path or '/'!r}, expected a dict, list, tuple, None, bool, int, float, str, "
        f"numpy array or torch tensor: convert it first"
    )


def decode(node: Node, where: str, path: str = "") -> Any:
    """The tree of nodes; ``where`` names the file in errors."""
    kind = node.attributes.get("type")
    if isinstance(node, Branch):
        if kind == "dict":
            return _decode_dict(node, where, path)
        if kind in ("list", "tuple"):
            items = [decode(child, where, f"{path}/{name}") for name, child in node.children.items()]
            return items if kind == "list" else tuple(items)
    else:
        try:
            return _decode_leaf(node, str(kind))
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise StoreError(
                f"{where}: got {kind!r} with contents that do not fit at {path!r} ({error}), expected what sharpscope "
                f"wrote: use another copy of the file"
            ) from error
    raise StoreError(
        f"{where}: got no known type at {path or '/'!r} ({kind!r}), expected a tree that sharpscope wrote: read it "
        f"with h5py"
    )


def _decode_dict(branch: Branch, where: str, path: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, child in branch.children.items():
        key = _key(name, child)
        if key is None or key in found:
            got = "another child of the same key" if key is not None else "a key that is no integer"
            raise StoreError(
                f"{where}: got {got} at {f'{path}/{name}'[:80]!r}, expected what sharpscope wrote: use another copy of "
                f"the file"
            )
        found[key] = decode(child, where, f"{path}/{name}")
    return found


def _encode_dict(tree: dict[Any, Any], path: str) -> Branch:
    children: dict[str, Node] = {}
    for index, (key, value) in enumerate(tree.items()):
        if type(key) not in (int, str):
            raise StoreError(f"a tree got the key {key!r} in {path or '/'!r}, expected a str or int: convert it first")
        if type(key) is int and abs(key) >= KEYS:
            raise StoreError(
                f"a tree got an integer of {key.bit_length()} bits as a key in {path or '/'!r}, expected at most 4096: "
                f"make it a str"
            )
        name = _escape(key) if isinstance(key, str) else str(key)
        if type(key) is int and name in tree:  # beside the same text as a key
            name = "%i" + name
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise StoreError(
                f"a tree got the key {key!r} in {path or '/'!r}, expected valid Unicode: rename it"
            ) from error
        child = encode(value, f"{path}/{name}")
        child.attributes["index"] = index
        if type(key) is int:
            child.attributes["key"] = "int"
        children[name] = child
    return Branch(children, {"type": "dict"})


def _encode_tensor(tensor: torch.Tensor, path: str) -> Leaf:
    name = str(tensor.dtype).removeprefix("torch.")
    known = name in _REAL or name in _COMPLEX or name in _BITS or name == "bool"
    if not known or tensor.layout is not torch.strided or tensor.is_meta:
        raise StoreError(
            f"a tree got a tensor of dtype {name}, layout {tensor.layout} on {tensor.device} at {path!r}, expected a "
            f"dense tensor of numbers: convert it with .to_dense() or .to(dtype)"
        )
    _check_axes(tensor.ndim, name, path)
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if name in _BITS:
        plain = plain.view(_BITS[name])
    elif name in _COMPLEX:
        plain = torch.view_as_real(plain)
    array = plain.numpy()
    return _leaf(array.view(np.uint16) if name == "bfloat16" else array, "tensor", name, tuple(tensor.shape))


def _encode_array(array: np.ndarray | np.generic, path: str) -> Leaf:
    kind = "array" if isinstance(array, np.ndarray) else "scalar"
    if kind == "array" and type(array) not in PLAIN:
        raise StoreError(
            f"a tree got {_kind(array)} at {path!r}, expected a plain numpy array: convert it with np.asarray(), or a "
            f"masked one with .filled(), or store its .data and its .mask"
        )
    values = np.asarray(array)
    name = values.dtype.name
    if name not in (*_REAL, "complex64", "complex128", "bool"):
        raise StoreError(
            f"a tree got a numpy {kind} of dtype {name} at {path!r}, expected numbers of up to 64 bits or bool: "
            f"convert it with .astype(), or texts with .tolist()"
        )
    _check_axes(values.ndim, name, path)
    if name in _COMPLEX:
        values = np.ascontiguousarray(values).reshape(-1).view(values.real.dtype).reshape(*array.shape, 2)
    return _leaf(values, kind, name, array.shape)


def _check_axes(axes: int, dtype: str, path: str) -> None:
    most = AXES - (dtype in _COMPLEX)  # real and imaginary part are one more
    if axes > most:
        raise StoreError(
            f"a tree got an array of {axes} dimensions of {dtype} at {path!r}, expected at most {most}: reshape it"
        )


def _leaf(array: np.ndarray, kind: str, dtype: str, shape: tuple[int, ...]) -> Leaf:
    if dtype == "bool":
        bits = np.packbits(array.reshape(-1))
        return Leaf(bits, {"type": kind, "dtype": dtype, "shape": shape}, compressed=bits.nbytes >= GZIP_FROM)
    if array.ndim > 32:  # HDF5 ends there
        return Leaf(array.reshape(-1), {"type": kind, "dtype": dtype, "shape": array.shape})
    return Leaf(array, {"type": kind, "dtype": dtype})


def _decode_leaf(leaf: Leaf, kind: str) -> Any:
    array = leaf.array
    if kind == "none" and array is None:
        return None
    if array is None:
        raise ValueError("no data")
    if kind in ("array", "scalar", "tensor"):
        return _decode_array(array, kind, leaf.attributes)
    if kind in ("list", "tuple"):
        of = leaf.attributes.get("of")
        _require(array, COLUMNS.get(str(of), ()), 1)
        items = [_text(raw) for raw in array] if of == "str" else array.tolist()
        return items if kind == "list" else tuple(items)
    if kind == "str" or (kind == "int" and array.dtype.kind == "S"):
        _require(array, ("bytes", "uint8"), 0 if array.dtype.kind == "S" else 1)
        return _text(array) if kind == "str" else int(_text(array), 16)
    if kind not in NUMBERS:
        raise ValueError("an unknown type" if kind != "none" else "data")
    _require(array, (NUMBERS[kind],), 0)
    value = array.item()
    if kind == "bool" and value not in (0, 1):
        raise ValueError(f"the number {value}")
    return bool(value) if kind == "bool" else value


def _require(array: np.ndarray, dtypes: tuple[str, ...], axes: int) -> None:
    """Raise ValueError unless data are of one of these dtypes and have so many axes."""
    name = "bytes" if array.dtype.kind == "S" else array.dtype.name
    if name not in dtypes or array.ndim != axes:
        raise ValueError(f"{name} of {array.ndim} dimensions")


def _decode_array(array: np.ndarray, kind: str, attributes: dict[str, Any]) -> Any:
    name, shape = attributes.get("dtype"), attributes.get("shape")
    stored = STORED.get(str(name))
    if name is None or array.dtype.name != stored:
        raise ValueError(f"dtype {name!r} of {array.dtype.name}")
    if shape is not None or name == "bool":
        if not isinstance(shape, tuple) or min(shape, default=0) < 0 or len(shape) > AXES:
            raise ValueError(f"shape {shape!r:.80}")
        size = math.prod(shape)
        if (size + 7) // 8 != array.size if name == "bool" else size != array.size:
            raise ValueError(f"shape {shape!r:.80} of {array.size} entries")
        array = (np.unpackbits(array, count=size).view(np.bool_) if name == "bool" else array).reshape(shape)
    if name in _COMPLEX and array.shape[-1:] != (2,):
        raise ValueError(f"dtype {name!r} of shape {array.shape}")
    if kind == "tensor":
        if name in _BITS:
            bits = array.view(np.int16) if name == "bfloat16" else array
            return torch.from_numpy(bits).view(getattr(torch, name))
        tensor = torch.from_numpy(array)
        if name in _COMPLEX and not tensor.numel():  # which view_as_complex refuses
            return torch.empty(tensor.shape[:-1], dtype=getattr(torch, name))
        return torch.view_as_complex(tensor) if name in _COMPLEX else tensor
    if name in _COMPLEX:
        order = array.dtype.byteorder
        array = np.ascontiguousarray(array).view(np.dtype(name).newbyteorder(order)).reshape(array.shape[:-1])
    if kind == "scalar" and array.ndim:
        raise ValueError(f"a scalar of shape {array.shape}")
    return array if kind == "array" else array[()]


def _column(items: list[Any] | tuple[Any, ...]) -> np.ndarray | None:
    """One array for items that are all int, all float or all short texts, else None."""
    kinds = {type(item) for item in items}
    if kinds == {int} and all(item in INT64 for item in items):
        return np.array(items, np.int64)
    if kinds == {float}:
        return np.array(items, np.float64)
    if kinds == {str}:
        raws = [_characters(item) for item in items]
        width, total = max(raw.itemsize for raw in raws), sum(raw.nbytes for raw in raws)
        if all(raw.dtype.kind == "S" for raw in raws) and width * len(raws) <= 4 * total + 65536:
            return np.array(raws, dtype=f"S{width}")
    return None


def _characters(text: str) -> np.ndarray:
    """Fixed-length UTF-8, or plain bytes where HDF5 would cut or refuse the text: NUL, lone surrogates."""
    raw = text.encode("utf-8", "surrogatepass")
    if b"\0" in raw or any("\ud800" <= character <= "\udfff" for character in text):
        return np.frombuffer(raw, np.uint8)
    return np.array(raw, dtype=f"S{max(1, len(raw))}")


def _text(value: Any) -> str:
    raw = value.tobytes() if value.dtype.kind == "u" else bytes(value[()] if isinstance(value, np.ndarray) else value)
    return raw.decode("utf-8", "surrogatepass")


def _escape(key: str) -> str:
    if key in ("", "."):
        return "%" if key == "" else "%2E"
    return re.sub("[%/\0]", lambda match: ESCAPES[match[0]], key)


def _key(name: str, child: Node) -> str | int | None:
    """The key that a name stands for; None where it should be an integer and is none."""
    if child.attributes.get("key") == "int":
        text = name.removeprefix("%i")
        return int(text) if re.fullmatch("-?[0-9]{1,1234}", text) else None
    if name == "%":
        return ""
    return re.sub("%(25|2F|00|2E)", lambda match: chr(int(match[1], 16)), name)


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"
