"""The one error of everything that reads data."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """Data that cannot be read or asked for; the text says what was got, what was expected and the remedy."""
