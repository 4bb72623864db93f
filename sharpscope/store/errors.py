"""The one error of the store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MissingPart", "StoreError", "answering"]


class StoreError(ValueError):
    """What the store refuses, in one sentence: which file, what was got, what was expected, what to do."""


class MissingPart(StoreError, KeyError):
    """A name that a run does not hold; a ``KeyError`` too, as for every mapping."""

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def answering(path: Path, what: str) -> Iterator[None]:
    """Turn what the system refuses into a StoreError; ``what`` is such as "a folder that can be read: check it"."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error)
        raise StoreError(f"{path}: got {said!r}, expected {what}") from error
