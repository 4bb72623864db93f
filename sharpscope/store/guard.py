"""Reading HDF5 that a stranger may have made: look at everything before touching any of it.

HDF5 files can name other files (external links, external storage, virtual datasets), load native code (filters that are
plugins), point in circles, and declare terabytes in a kilobyte.  None of that is ever needed for plain arrays, so the
walk refuses it by name.  Links are inspected without being followed; an object is opened only through a hard link that
was not met before; data are read only when layout, type, filters and size are known to be plain.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import h5py
import numpy as np

from sharpscope.store._nodes import ATTRIBUTES, Attribute, Branch, Leaf, Node, Sums, sum_of
from sharpscope.store.errors import StoreError

__all__ = ["LIMIT", "checked_child", "read_attributes", "read_branch", "reading"]

LIMIT = 64 << 30  # bytes that one part may declare
ATTRIBUTE_LIMIT = 1 << 20  # bytes of one attribute
BOMB_FROM, BOMB_RATIO = 16 << 20, 2000  # gzip cannot compress more than 1032 to 1
DEPTH = 100
REMEDY = "do not open this file with other programs unless you trust its maker"
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32"}
LINK_NAMES = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "an external link"}
TYPES = {
    h5py.h5t.BITFIELD: "a bit field",
    h5py.h5t.OPAQUE: "an opaque type",
    h5py.h5t.COMPOUND: "a compound type",
    h5py.h5t.REFERENCE: "an object or region reference",
    h5py.h5t.ENUM: "an enumeration",
    h5py.h5t.VLEN: "a variable-length type",
    h5py.h5t.ARRAY: "an array type",
}
USUAL = [
    (h5py.h5t.py_create(np.dtype(name)), np.dtype(name))
    for name in ("<f4", "<f8", "<i8", "<f2", "<u2", "<u1", "<i4", "<i2", "<i1", "<u4", "<u8")
]
Object: TypeAlias = h5py.h5g.GroupID | h5py.h5d.DatasetID


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn whatever HDF5 raises on a damaged file into a StoreError that names the file."""
    try:
        yield
    except StoreError:
        raise
    except MemoryError as error:
        raise StoreError(
            f"{where}: got more data than fits into memory, expected less: open it where there is more memory"
        ) from error
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError, TypeError, UnicodeError and more
        said = str(error).split("\n")[0] or type(error).__name__
        raise StoreError(
            f"{where}: got a damaged or truncated file ({said}), expected an intact one: use another copy"
        ) from error


def read_branch(
    group: h5py.Group, where: str, limit: int = LIMIT, takes: Callable[[str], bool] = lambda name: True
) -> Branch:
    """Every node under a group, checked, in memory and summed as its checksum needs it.

    What stands in the group itself under a name that it does not take is not opened.  Datasets of usual types are read
    from the file straight into their arrays, large ones on other threads.

    Raises StoreError at the first thing that is not plain.
    """
    attributes = read_attributes(group.id, where)
    with Sums(sum_of(attributes)) as sums:
        walk = _Walk(where, group.file, limit, sums)
        walk.meet(h5py.h5o.get_info(group.id).addr, "")
        branch = walk.branch(group.id, "", 0, attributes, takes)
    if walk.said:
        raise StoreError(
            f"{where}: got attributes of {min(walk.said)!r}, expected those of what is there: use another copy"
        )
    return branch


def checked_child(group: h5py.Group, name: str, where: str) -> h5py.Group | h5py.Dataset | None:
    """The object behind a hard link, or None where there is no such name; any other link is refused."""
    raw = name.encode()
    if not group.id.links.exists(raw):
        return None
    link = group.id.links.get_info(raw)
    found = _Walk(where, group.file, 0, None).open(group.id, name, link.type, link.u, name)
    return h5py.Group(found) if isinstance(found, h5py.h5g.GroupID) else h5py.Dataset(found)


def read_attributes(target: Object, where: str, path: str = "") -> dict[str, Attribute]:
    """The attributes of one object: texts, bools, integers, floats and short rows of integers; all else is refused."""
    found: dict[str, Attribute] = {}
    for index in range(h5py.h5a.get_num_attrs(target)):  # h5py's own mapping is five times slower
        attribute = h5py.h5a.open(target, index=index)
        name = attribute.name if isinstance(attribute.name, str) else attribute.name.decode()
        place = f"{path or '/'} (attribute {name})"
        kind, shape = attribute.get_type(), attribute.shape
        if shape is None:
            raise _refusal(where, place, "an empty attribute", "a text, a number or a row of integers")
        size = kind.get_size() * math.prod(shape)
        if kind.committed():
            raise _refusal(where, place, "a committed datatype", "plain numbers and texts")
        if size > ATTRIBUTE_LIMIT:
            raise _refusal(where, place, f"{size} bytes", f"at most {ATTRIBUTE_LIMIT}")
        _check_type(kind, where, place, enum=True)
        array = np.empty(shape, kind.dtype)
        attribute.read(array)
        value: Any = array[()]
        if isinstance(value, bytes):
            found[name] = bytes(value).decode()
        elif isinstance(value, np.bool_ | np.integer | np.floating):
            found[name] = value.item()
        elif isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu":
            found[name] = tuple(value.tolist())
        else:
            raise _refusal(where, place, f"a {type(value).__name__}", "a text, a number or a row of integers")
    return found


class _Walk:
    """One pass over one file: what was met, how many bytes were declared and stored."""

    def __init__(self, where: str, file: h5py.File, limit: int, sums: Sums | None) -> None:
        self.where, self.size, self.limit = where, file.id.get_filesize(), limit
        self.met: set[Any] = set()
        self.declared = self.stored = 0
        self.chunked = [0, 0]  # of both, what is in chunks, where bombs are
        self.said: dict[str, dict[str, Attribute]] = {}
        self.descriptor = file.id.get_vfd_handle() if file.driver == "sec2" and hasattr(os, "preadv") else None
        self.sums = sums

    def refuse(self, path: str, got: str, expected: str) -> StoreError:
        return _refusal(self.where, path, got, expected)

    def open(self, group: h5py.h5g.GroupID, name: str, link: int, address: Any, path: str) -> Object:
        """Open one child through its hard link, which says where the object is."""
        if link != h5py.h5l.TYPE_HARD:
            raise self.refuse(
                path, LINK_NAMES.get(link, "a user-defined link"), "groups and datasets of this file itself"
            )
        self.meet(address, path)
        found = h5py.h5o.open(group, name.encode())
        if not isinstance(found, h5py.h5g.GroupID | h5py.h5d.DatasetID):
            raise self.refuse(path, "a committed datatype", "groups and datasets")
        return found

    def meet(self, address: Any, path: str) -> None:
        if address in self.met:
            raise self.refuse(path, "a second hard link to the same object", "every object once")
        self.met.add(address)

    def branch(
        self,
        group: h5py.h5g.GroupID,
        path: str,
        depth: int,
        attributes: dict[str, Attribute],
        takes: Callable[[str], bool] = lambda name: True,
    ) -> Branch:
        if depth > DEPTH:
            raise self.refuse(path[:80], f"more than {DEPTH} levels of groups", "fewer")
        links: dict[str, tuple[int, Any]] = {}
        group.links.iterate(lambda raw, link: links.update({raw.decode(): (link.type, link.u)}), info=True)
        if depth == 0 and ATTRIBUTES in links:
            self.listen(self.open(group, ATTRIBUTES, *links.pop(ATTRIBUTES), f"/{ATTRIBUTES}"))
        children: dict[str, Node] = {}
        for name in filter(takes, links) if depth == 0 else links:
            place = f"{path}/{name}"
            target = self.open(group, name, *links[name], place)
            own = self.attributes(target, place)
            if isinstance(target, h5py.h5g.GroupID):
                children[name] = self.branch(target, place, depth + 1, own)
            else:
                children[name] = self.leaf(target, place, own)
        ordered = _ordered(children, attributes.get("type"))
        if ordered is None:
            raise self.refuse(path, "children whose order is lost", "those of a dict or list")
        return Branch(ordered, attributes)

    def listen(self, target: Object) -> None:
        """Take the attributes that are written in one text for all groups and datasets of a part."""
        if isinstance(target, h5py.h5g.GroupID):
            raise self.refuse(f"/{ATTRIBUTES}", "a group", "a text")
        place = f"/{ATTRIBUTES}"
        if h5py.h5a.get_num_attrs(target):
            raise self.refuse(place, "attributes of its own", "none")
        leaf = self.leaf(target, place, {})
        if leaf.array is None or leaf.array.dtype.kind != "S" or leaf.array.ndim or leaf.compressed:
            raise self.refuse(place, "something else", "one plain text")
        try:
            said = json.loads(bytes(leaf.array[()]), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise self.refuse(place, f"a text that is no JSON ({error})", "JSON") from error
        if not isinstance(said, dict) or not all(isinstance(attributes, dict) for attributes in said.values()):
            raise self.refuse(place, "JSON of another form", "an object of objects")
        for path, attributes in said.items():
            self.said["/" + path] = {
                name: _plain(value, self.where, f"/{path} (attribute {name})") for name, value in attributes.items()
            }

    def attributes(self, target: Object, path: str) -> dict[str, Attribute]:
        return self.said.pop(path, {}) | read_attributes(target, self.where, path)

    def leaf(self, dataset: h5py.h5d.DatasetID, path: str, attributes: dict[str, Attribute]) -> Leaf:
        how = dataset.get_create_plist()
        layout, kind = how.get_layout(), dataset.get_type()
        if layout == h5py.h5d.VIRTUAL:
            raise self.refuse(path, "a virtual dataset, which reads other files", "data in this file itself")
        if how.get_external_count():
            raise self.refuse(path, "external storage, which reads another file", "data in this file itself")
        for index in range(how.get_nfilters()):
            number = how.get_filter(index)[0]
            if number not in FILTERS:
                raise self.refuse(path, f"the filter number {number}", f"none but {', '.join(FILTERS.values())}")
        if kind.committed():
            raise self.refuse(path, "a committed datatype", "plain numbers and texts")
        usual = next((dtype for known, dtype in USUAL if kind == known), None)  # quickly told
        if usual is None:
            _check_type(kind, self.where, path)
        compressed, shape = layout == h5py.h5d.CHUNKED, dataset.shape
        self.check_size(dataset, path, shape, kind.get_size(), math.prod(how.get_chunk()) if compressed else 0)
        if shape is None:
            return Leaf(None, attributes)
        leaf = Leaf(np.empty(shape, usual or kind.dtype), attributes, compressed and bool(how.get_nfilters()))
        if leaf.array is None or not leaf.array.size:
            return leaf
        place = dataset.get_offset() if usual is not None and self.descriptor is not None else None
        if place is not None and layout == h5py.h5d.CONTIGUOUS and self.sums is not None:
            self.sums.add(leaf, partial(self.fill, place))
        else:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, leaf.array)
        return leaf

    def fill(self, place: int, start: int, block: memoryview) -> None:
        """Read a block of what begins at a place in the file."""
        place += start
        while block:
            count = os.preadv(self.descriptor or 0, [block], place)
            if not count:
                raise EOFError("the file ends within its data")
            block, place = block[count:], place + count

    def check_size(
        self, dataset: h5py.h5d.DatasetID, path: str, shape: tuple[int, ...] | None, item: int, chunk: int
    ) -> None:
        """Refuse what declares more than the limit, than it stores, or than the file holds."""
        declared = item * max(math.prod(shape) if shape is not None else 0, chunk)
        stored = dataset.get_storage_size()
        self.declared, self.stored = self.declared + declared, self.stored + stored
        if self.declared > self.limit:
            raise self.refuse(path, f"{self.declared} declared bytes", f"at most {self.limit} in one part")
        if self.stored > self.size:
            raise self.refuse(
                path, f"{self.stored} stored bytes in a file of {self.size}", "no more than the file holds"
            )
        if not chunk and stored != declared:
            raise self.refuse(path, f"{declared} declared but {stored} stored bytes", "all of the data in the file")
        if chunk:
            self.chunked = [self.chunked[0] + declared, self.chunked[1] + stored]
            for large, small in ((declared, stored), self.chunked):
                if large > max(BOMB_FROM, BOMB_RATIO * small):
                    raise self.refuse(path, f"{large} bytes compressed to {small}", f"at most {BOMB_RATIO} to 1")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _plain(value: Any, where: str, place: str) -> Attribute:
    """A value of JSON as an attribute."""
    if isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    raise _refusal(where, place, f"a {type(value).__name__}", "a text, a number or a row of integers")


def _ordered(children: dict[str, Node], kind: Attribute | None) -> dict[str, Node] | None:
    """Children in the order of the tree: by ``index`` in a dict, by number in a list; None where it is lost."""
    if kind == "dict":
        places = [child.attributes.get("index") for child in children.values()]
        if sorted(place for place in places if isinstance(place, int)) != list(range(len(children))):
            return None
        names = sorted(children, key=lambda name: children[name].attributes["index"])
        return {name: children[name] for name in names}
    if kind in ("list", "tuple"):
        numbers = [str(place) for place in range(len(children))]
        return {number: children[number] for number in numbers} if set(numbers) == set(children) else None
    return children


def _check_type(kind: Any, where: str, path: str, enum: bool = False) -> None:
    number = kind.get_class()
    if number == h5py.h5t.STRING and not kind.is_variable_str():
        return
    if number in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and kind.get_size() <= 8:
        return
    if enum and number == h5py.h5t.ENUM and kind.dtype == np.bool_:
        return
    if number == h5py.h5t.STRING:
        got = "a variable-length text"
    elif number in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        got = f"a number of {kind.get_size()} bytes"
    else:
        got = TYPES.get(number, f"a type of HDF5 class {number}")
    raise _refusal(where, path, got, "plain numbers and fixed-length texts")


def _refusal(where: str, path: str, got: str, expected: str) -> StoreError:
    return StoreError(f"{where}: got {got} at {path or '/'!r}, expected {expected}: {REMEDY}")
