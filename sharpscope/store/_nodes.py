"""Between Python and HDF5: branches and leaves that hold only names, attributes and plain arrays.

A tree is encoded into nodes, nodes are hashed, and nodes are written; reading goes the same way back.  So the checksum
is one of values and not of bytes in a file: the same part has the same checksum in a folder, in a packed file and after
``h5repack``.

A checksum is a tree of sums.  The sum of an array is taken over the sums of its blocks of 4 MiB, so that large arrays
are summed by several threads, and while they are read.  Parts have XXH3 sums of 128 bits ("xxh128"), which find damage
and mistaken parts at the speed of memory; digests that are compared between runs, and parts of schemas 1 and 2, have
SHA-256.  Neither keeps a forger away, who would write a new sum into the file.  Layout of what is summed (every text as
its length in 8 bytes and its UTF-8):

- array: ``b"array"``, attributes, dtype text such as ``<f4``, number of dimensions and shape in 8 bytes each, data sum
- no array (an empty dataset): ``b"empty"``, attributes
- group: ``b"group"``, attributes, then for each child in order its name and its sum
- attributes: their number, then by name: name, one letter for the type, value
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import h5py
import numpy as np
import xxhash

__all__ = [
    "ATTRIBUTES",
    "SUMS",
    "Attribute",
    "Branch",
    "Leaf",
    "Node",
    "Sums",
    "digest",
    "leaves",
    "sum_of",
    "write_branch",
]

Attribute = str | bool | int | float | tuple[int, ...]

BLOCK = 1 << 22  # bytes summed at once
ALONE = 1 << 19  # bytes from which an array is worth a thread
SUMS: dict[str, Callable[..., bytes]] = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "xxh128": xxhash.xxh3_128_digest,
}
LINKS = h5py.h5p.create(h5py.h5p.LINK_CREATE)
LINKS.set_char_encoding(h5py.h5t.CSET_UTF8)
ATTRIBUTES = "%attributes"  # a dataset beside the tree that no key can be named after, see ``tree``


@dataclass
class Leaf:
    """A dataset: a numeric or fixed-length text array, or None for an empty dataset."""

    array: np.ndarray | None
    attributes: dict[str, Attribute] = field(default_factory=dict)
    compressed: bool = False
    sum: tuple[str, bytes] | None = None  # of the data: which one of SUMS, its value


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


def digest(node: Node, without: frozenset[str] = frozenset(), kind: str = "sha256") -> str:
    """Such as ``sha256:...`` of a node, leaving out the attributes ``without`` of the node itself."""
    with Sums(kind) as sums:
        for leaf in leaves(node):
            if leaf.sum is None or leaf.sum[0] != kind:
                sums.add(leaf)
    return f"{kind}:{_node_sum(node, SUMS[kind], without).hex()}"


def sum_of(attributes: dict[str, Attribute]) -> str:
    """Which one of SUMS the checksum of a part is; the usual one where it says nothing that is known."""
    kind = str(attributes.get("checksum")).partition(":")[0]
    return kind if kind in SUMS else "xxh128"


class Sums:
    """A context that sums the data of leaves, those of large ones on other threads; at its end every leaf has its sum.

    Reading is its other half: ``fill`` puts data into a block, being told where the block begins, before it is summed,
    while the processor has it near.
    """

    def __init__(self, kind: str) -> None:
        self.function, self.kind = SUMS[kind], kind
        self.pool: ThreadPoolExecutor | None = None
        self.waiting: list[tuple[Leaf, list[Future[bytes]]]] = []

    def __enter__(self) -> Sums:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if error is None:
                for leaf, blocks in self.waiting:
                    leaf.sum = self.kind, self.function(b"".join(block.result() for block in blocks))
        finally:
            if self.pool is not None:
                self.pool.shutdown(cancel_futures=True)

    def add(self, leaf: Leaf, fill: Callable[[int, memoryview], None] | None = None) -> None:
        if leaf.array is None or leaf.array.nbytes < ALONE:
            sums = [self._block(start, block, fill) for start, block in _blocks(leaf.array)]
            leaf.sum = self.kind, self.function(b"".join(sums))
            return
        if self.pool is None:
            self.pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        blocks = [self.pool.submit(self._block, start, block, fill) for start, block in _blocks(leaf.array)]
        self.waiting.append((leaf, blocks))

    def _block(self, start: int, block: memoryview, fill: Callable[[int, memoryview], None] | None) -> bytes:
        if fill is not None:
            fill(start, block)
        return self.function(block)


def write_branch(group: h5py.Group, branch: Branch) -> None:
    """Write a branch into an open, empty HDF5 group: its attributes, datasets, groups, and what is said of these."""
    _write_attributes(group.id, branch.attributes)
    said: dict[str, dict[str, Attribute]] = {}
    _write_children(group.id, branch, "", said)
    if said:
        raw = json.dumps(said, separators=(",", ":")).encode()
        _create(group.id, ATTRIBUTES, Leaf(np.array(raw)))


def _write_children(group: h5py.h5g.GroupID, branch: Branch, path: str, said: dict[str, dict[str, Attribute]]) -> None:
    for name, child in branch.children.items():
        place = path + name
        if isinstance(child, Branch):
            _write_children(h5py.h5g.create(group, name.encode(), lcpl=LINKS), child, place + "/", said)
            said[place] = child.attributes
            continue
        dataset = _create(group, name, child)
        if _speaks_for_itself(child):
            said[place] = child.attributes
        else:
            _write_attributes(dataset, child.attributes)


def _speaks_for_itself(leaf: Leaf) -> bool:
    """Whether a dataset has the dtype and the shape of what it means."""
    stored = "" if leaf.array is None else leaf.array.dtype.name
    return leaf.attributes.get("dtype", stored) == stored and "shape" not in leaf.attributes


def _create(group: h5py.h5g.GroupID, name: str, leaf: Leaf) -> h5py.h5d.DatasetID:
    array, how = leaf.array, h5py.h5p.create(h5py.h5p.DATASET_CREATE)  # h5py's own create_dataset is slower
    how.set_obj_track_times(False)
    if array is None:
        return h5py.h5d.create(group, name.encode(), h5py.h5t.STD_U8LE, h5py.h5s.create(h5py.h5s.NULL), how, LINKS)
    if array.dtype.kind == "S":
        array = array.astype(h5py.string_dtype("utf-8", array.dtype.itemsize))
    if leaf.compressed:
        how.set_chunk((min(array.size, 1 << 20),))
        how.set_deflate(4)
    kind = h5py.h5t.py_create(array.dtype, logical=True)
    dataset = h5py.h5d.create(group, name.encode(), kind, _space(array), how, LINKS)
    if array.size:
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array), kind)
    return dataset


def _space(array: np.ndarray) -> h5py.h5s.SpaceID:
    return h5py.h5s.create_simple(array.shape) if array.ndim else h5py.h5s.create(h5py.h5s.SCALAR)


def _write_attributes(target: h5py.h5g.GroupID | h5py.h5d.DatasetID, attributes: dict[str, Attribute]) -> None:
    for name, value in attributes.items():
        if isinstance(value, str):
            raw = value.encode()
            array = np.array(raw, dtype=h5py.string_dtype("utf-8", max(1, len(raw))))
        else:
            array = np.asarray(
                value, bool if isinstance(value, bool) else np.float64 if isinstance(value, float) else np.int64
            )
        kind = h5py.h5t.py_create(array.dtype, logical=True)
        h5py.h5a.create(target, name.encode(), kind, _space(array)).write(array)  # h5py's own mapping is slower


def _blocks(array: np.ndarray | None) -> Iterator[tuple[int, memoryview]]:
    if array is not None and array.size:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for start in range(0, len(data), BLOCK):
            yield start, data[start : start + BLOCK]


def _node_sum(node: Node, function: Callable[..., bytes], without: frozenset[str] = frozenset()) -> bytes:
    attributes = _attribute_text({k: v for k, v in node.attributes.items() if k not in without})
    if isinstance(node, Branch):
        parts = [b"group", attributes]
        for name, child in node.children.items():
            parts += [_text(name), _node_sum(child, function)]
        return function(b"".join(parts))
    array = node.array
    if array is None or node.sum is None:
        return function(b"empty" + attributes)
    shape = struct.pack(f"<{array.ndim + 1}Q", array.ndim, *array.shape)
    return function(b"array" + attributes + _text(array.dtype.str) + shape + node.sum[1])


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
