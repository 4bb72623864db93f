"""One progress bar for everything that takes longer than a second; silent where output is not a terminal."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

__all__ = ["bar"]


def bar(total: int | None, text: str, show: bool | None = None) -> tqdm[Any]:
    """A tqdm bar that appears after one second with the time left.

    ``show=None`` shows it on a terminal or in a notebook only, ``True`` always, ``False`` never.
    """
    return tqdm(total=total, desc=text, delay=1.0, leave=False, disable=None if show is None else not show)
