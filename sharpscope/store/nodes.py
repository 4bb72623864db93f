"""Between Python and HDF5: branches and leaves that hold only names, attributes and plain arrays.

A tree is encoded into nodes, nodes are hashed, and nodes are written; reading goes the same way back.  So the checksum
is one of values and not of bytes in a file: the same part has the same checksum in a folder, in a packed file and after
``h5repack``.

The checksum is a tree of SHA-256 sums.  The sum of an array is taken over the sums of its blocks of 4 MiB, so that
large arrays are hashed by several threads.  Layout of what is hashed (every text as its length in 8 bytes and its
UTF-8):

- array: ``b"array"``, attributes, dtype text such as ``<f4``, number of dimensions and shape in 8 bytes each, data sum
- no array (an empty dataset): ``b"empty"``, attributes
- group: ``b"group"``, attributes, then for each child in order its name and its sum
- attributes: their number, then by name: name, one letter for the type, value
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import h5py
import numpy as np

__all__ = ["Attribute", "Branch", "Leaf", "Node", "digest", "leaves", "write_branch"]

Attribute = str | bool | int | float | tuple[int, ...]

BLOCK = 1 << 22  # bytes hashed at once


@dataclass
class Leaf:
    """A dataset: a numeric or fixed-length text array, or None for an empty dataset."""

    array: np.ndarray | None
    attributes: dict[str, Attribute] = field(default_factory=dict)
    compressed: bool = False


@dataclass
class Branch:
    """A group: children in order."""

    children: dict[str, Node]
    attributes: dict[str, Attribute] = field(default_factory=dict)


Node = Branch | Leaf


def leaves(node: Node) -> Iterator[Leaf]:
    """Every leaf, depth first, in order."""
    if isinstance(node, Leaf):
        yield node
    else:
        for child in node.children.values():
            yield from leaves(child)


def digest(node: Node, without: frozenset[str] = frozenset()) -> str:
    """``sha256:...`` of a node, leaving out the attributes ``without`` of the node itself."""
    arrays = [leaf.array for leaf in leaves(node) if leaf.array is not None]
    blocks = [block for array in arrays for block in _blocks(array)]
    if sum(map(len, blocks)) > 2 * BLOCK:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            sums = iter(list(pool.map(_sha, blocks)))
    else:
        sums = iter([_sha(block) for block in blocks])
    return "sha256:" + _node_sum(node, sums, without).hex()


def write_branch(group: h5py.Group, branch: Branch) -> None:
    """Write a branch into an open, empty HDF5 group: attributes, datasets, groups, nothing else."""
    _write_attributes(group, branch.attributes)
    for name, child in branch.children.items():
        if isinstance(child, Branch):
            write_branch(group.create_group(name), child)
        else:
            _write_attributes(_create(group, name, child), child.attributes)


def _create(group: h5py.Group, name: str, leaf: Leaf) -> h5py.Dataset:
    array = leaf.array
    if array is None:
        return group.create_dataset(name, data=h5py.Empty("u1"))
    if array.dtype.kind == "S":
        text = h5py.string_dtype("utf-8", array.dtype.itemsize)
        return group.create_dataset(name, data=array.astype(text), dtype=text)
    if leaf.compressed:
        chunks = (min(array.size, 1 << 20),)
        return group.create_dataset(name, data=array, chunks=chunks, compression="gzip", compression_opts=4)
    return group.create_dataset(name, data=array)


def _write_attributes(target: h5py.Group | h5py.Dataset, attributes: dict[str, Attribute]) -> None:
    for name, value in attributes.items():
        if isinstance(value, str):
            raw = value.encode()
            array = np.array(raw, dtype=h5py.string_dtype("utf-8", max(1, len(raw))))
        else:
            array = np.asarray(
                value, bool if isinstance(value, bool) else np.float64 if isinstance(value, float) else np.int64
            )
        kind = h5py.h5t.py_create(array.dtype, logical=True)
        space = h5py.h5s.create_simple(array.shape) if array.shape else h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5a.create(target.id, name.encode(), kind, space).write(array)  # h5py's own mapping is slower


def _blocks(array: np.ndarray) -> list[memoryview]:
    if array.size == 0:
        return []
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]


def _sha(data: memoryview | bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _node_sum(node: Node, sums: Iterator[bytes], without: frozenset[str] = frozenset()) -> bytes:
    attributes = _attribute_text({k: v for k, v in node.attributes.items() if k not in without})
    if isinstance(node, Branch):
        parts = [b"group", attributes]
        for name, child in node.children.items():
            parts += [_text(name), _node_sum(child, sums)]
        return _sha(b"".join(parts))
    array = node.array
    if array is None:
        return _sha(b"empty" + attributes)
    data = _sha(b"".join(next(sums) for _ in range(-(-array.nbytes // BLOCK))))
    shape = struct.pack(f"<{array.ndim + 1}Q", array.ndim, *array.shape)
    return _sha(b"array" + attributes + _text(array.dtype.str) + shape + data)


def _attribute_text(attributes: dict[str, Attribute]) -> bytes:
    parts = [struct.pack("<Q", len(attributes))]
    for name in sorted(attributes):
        value = attributes[name]
        parts.append(_text(name))
        if isinstance(value, str):
            parts.append(b"s" + _text(value))
        elif isinstance(value, bool):
            parts.append(b"b" + bytes([value]))
        elif isinstance(value, float):
            parts.append(b"f" + struct.pack("<d", value))
        elif isinstance(value, int):
            parts.append(b"i" + struct.pack("<q", value))
        else:
            parts.append(b"t" + struct.pack(f"<{len(value) + 1}q", len(value), *value))
    return b"".join(parts)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
