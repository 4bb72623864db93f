"""One progress bar for everything that takes longer than a second; silent where output is not a terminal."""

from __future__ import annotations

import warnings
from typing import Any

with warnings.catch_warnings():  # in a notebook without ipywidgets tqdm would warn; its plain bar serves there
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

__all__ = ["bar"]


def bar(total: int | None, text: str, show: bool | None = None) -> tqdm[Any]:
    """A tqdm bar that appears after one second with the time left.

    ``show=None`` shows it on a terminal only, ``True`` always (a widget in a notebook), ``False`` never.
    """
    return tqdm(total=total, desc=text, delay=1.0, leave=False, disable=None if show is None else not show)
