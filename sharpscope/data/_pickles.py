"""Reading the pickles of the CIFAR archives without running anything of theirs.

A pickle is a program.  This one may make dicts, lists, numbers, texts, bytes and arrays of numbers; everything else
that it names is refused before it is called.  Arrays are not made by NumPy's own unpickling but from their bytes.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sharpscope.data.errors import DataError

__all__ = ["read_pickle"]

_MOST = 10_000_000  # memo places; a larger one would only fill the memory
_NESTED = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "BUILD"}  # of which a data file has a handful


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict in a pickle of an archive; its arrays as NumPy arrays, its keys as texts.

    Raises:
        DataError: the file cannot be read, is truncated, holds anything but a dict, or names anything but arrays.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"got {error.strerror!r} on reading {str(path)!r}, expected a readable file, "
            f"so check its kind and its permissions."
        ) from error
    try:
        _look(content)
        found = _Reader(content).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).split("\n")[0]
        raise DataError(
            f"got {type(error).__name__} ({reason}) on reading {str(path)!r}, expected a pickle of arrays and lists, "
            f"so the file is truncated, damaged or of another kind: unpack the archive again."
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            f"got a {type(found).__name__} in {str(path)!r}, expected a dict, so give the files of the archive."
        )
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): getattr(value, "array", value)
        for key, value in found.items()
    }


def _look(content: bytes) -> None:
    """Refuse what could exhaust the memory or the stack, which no exception tells."""
    nested = 0
    for operation, argument, _ in pickletools.genops(content):
        nested += operation.name in _NESTED
        if nested > 1000 or ("PUT" in operation.name and isinstance(argument, int) and argument > _MOST):
            raise ValueError("it is not built as a data file is")


class _Reader(pickle.Unpickler):
    """Knows the names with which arrays and bytes are written, made anew for every file, which may alter them."""

    def __init__(self, content: bytes) -> None:
        super().__init__(BytesIO(content), encoding="bytes")
        self._known = _names()

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) not in self._known:
            raise DataError(
                f"got {module}.{name} in a pickle, expected only arrays, bytes, lists, dicts and numbers: the file may "
                f"be an attack, so take the archive from its source and do not open this one elsewhere."
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise DataError(f"got a reference {pid!r} to another file in a pickle, expected none: take another archive.")


def _names() -> dict[tuple[str, str], str | Callable[..., Any]]:
    class Type:
        """The element type of an array, kept as its text."""

        def __init__(self, text: str | bytes, *_: Any) -> None:
            self.text, self.order = text.decode() if isinstance(text, bytes) else str(text), "|"

        def __setstate__(self, state: Any) -> None:
            self.order = state[1].decode() if isinstance(state[1], bytes) else str(state[1])

    class Array:
        """An array, once its bytes are known."""

        array: np.ndarray

        def __setstate__(self, state: Any) -> None:
            _, shape, kind, fortran, raw = state
            if not re.fullmatch("[biuf][1248]", kind.text) or fortran or not isinstance(raw, bytes):
                raise ValueError(f"an array of {kind.text!r}")
            self.array = np.frombuffer(raw, np.dtype(kind.text).newbyteorder(kind.order)).reshape(shape)

    def encode(text: str, encoding: str) -> bytes:  # how Python 3 writes bytes for Python 2
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(f"the encoding {encoding!r}")
        return text.encode("latin1")

    return {
        ("numpy", "ndarray"): "the type of an array",
        ("numpy", "dtype"): Type,
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: Array(),
        ("_codecs", "encode"): encode,
        ("__builtin__", "bytes"): lambda: b"",  # and how it writes none
    }
