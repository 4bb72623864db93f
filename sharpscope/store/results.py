"""Results on disk: the fields of a dataclass, written and checked from outside.

A result is a part of kind "result" with the attribute ``result`` (the name of its class) and one entry per field.  A
file is never asked what to build: the name is looked up among the classes that ``sharpscope.core.results.result_kinds``
knows, and every field is checked against its declaration.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from sharpscope.core.results import Result, result_kinds
from sharpscope.store._files import known_path
from sharpscope.store._parts import read_part, write_part
from sharpscope.store._tree import PLAIN
from sharpscope.store.errors import StoreError

__all__ = ["load", "result_tree", "revive", "save"]


def save(result: Result, path: str | os.PathLike[str], replace: bool = False) -> Path:
    """Write a result into one HDF5 file of any name and return the path; ``load(save(result, path)) == result``.

    Raises StoreError if the file exists and ``replace`` is false, if its folder is missing, if ``result`` is no Result,
    if a field holds something that its declaration does not allow, or if the system refuses to write.

    >>> import tempfile
    >>> from sharpscope.core.history import History
    >>> curve = np.array([2.3, 1.1])
    >>> history = History("sgd()", 2, 10, 100, curve, curve, curve, curve, curve, curve)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(history, Path(folder) / "history.h5")
    ...     load(path) == history
    True
    """
    tree = result_tree(result, str(path))
    return write_part(path, "result", tree, {"result": type(result).__name__}, replace)


def load(path: str | os.PathLike[str]) -> Result:
    """The result in a file that ``save`` wrote, or in a part of a run.

    Raises StoreError if the file is missing, damaged, not a result of sharpscope, of a class that is not known here, or
    if its fields are not those of its class.

    >>> load("missing.h5")
    Traceback (most recent call last):
    ...
    sharpscope.store.errors.StoreError: missing.h5: got no such file, expected a part of a run: check the path
    """
    path = known_path(path)
    if path.is_dir() and (path / "run.h5").is_file():
        raise StoreError(
            f"{path}: got the folder of a run, expected the file of one result: use open_run(path).results"
        )
    tree, attributes = read_part(path, "result")
    return revive(tree, attributes, str(path))


def result_tree(result: Result, where: str) -> dict[str, Any]:
    """The fields of a result as a tree, checked against their declarations so that they can be loaded again."""
    if not isinstance(result, Result) or not dataclasses.is_dataclass(result):
        raise StoreError(
            f"{where}: got a {type(result).__name__}, expected a Result: save weights with Run.add_checkpoint"
        )
    name = type(result).__name__
    if result_kinds().get(name) is not type(result):
        raise StoreError(
            f"{where}: got a class {name} that hides or is hidden by another, expected one class of that name"
        )
    tree = result.fields()
    _check_fields(type(result), tree, where)
    return tree


def revive(tree: dict[Any, Any], attributes: Mapping[str, Any], where: str) -> Result:
    """The result that a tree and its attributes describe."""
    name = attributes.get("result")
    kind = result_kinds().get(str(name))
    if kind is None:
        known = ", ".join(sorted(result_kinds())) or "none"
        raise StoreError(
            f"{where}: got a result of class {name!r}, expected one of {known}: import the module that defines it, or "
            f"update sharpscope"
        )
    new = {field.name for field in dataclasses.fields(kind) if _has_default(field)} - set(tree)
    _check_fields(kind, tree, where, new)
    return kind(**tree)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether a field may be missing in a file: one that a later version added, with the value it had until then."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _check_fields(kind: type[Result], tree: dict[Any, Any], where: str, new: Set[str] = frozenset()) -> None:
    declared = [field.name for field in dataclasses.fields(kind) if field.name not in new]
    for name in declared:
        if name not in tree:
            raise StoreError(
                f"{where}: got no field {kind.__name__}.{name}, expected one: the file is of another version"
            )
    for name in tree:
        if name not in declared:
            raise StoreError(
                f"{where}: got a field {kind.__name__}.{name} that is not known, expected {', '.join(declared)}: the "
                f"file is of another version"
            )
    hints = typing.get_type_hints(kind)
    for name in declared:
        if not _fits(tree[name], hints.get(name, Any)):
            raise StoreError(
                f"{where}: got {type(tree[name]).__name__} in the field {kind.__name__}.{name}, expected "
                f"{_words(hints[name])}: make the result anew"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a declaration says; numpy scalars are numbers, and an integer is a float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            _fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items()
        )
    if origin is np.ndarray or hint is np.ndarray:
        return type(value) in PLAIN
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool | np.bool_)
    if hint is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, float | int | np.floating | np.integer) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
