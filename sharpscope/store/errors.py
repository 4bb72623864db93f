"""The one error of the store."""

from __future__ import annotations

__all__ = ["MissingPart", "StoreError"]


class StoreError(ValueError):
    """What the store refuses, in one sentence: which file, what was got, what was expected, what to do."""


class MissingPart(StoreError, KeyError):
    """A name that a run does not hold; a ``KeyError`` too, as for every mapping."""

    def __str__(self) -> str:
        return str(self.args[0])
