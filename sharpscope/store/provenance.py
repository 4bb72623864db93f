"""Who made a part: command line, revision of the code, machine, digests of what went in."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch

from sharpscope.store._nodes import digest
from sharpscope.store._tree import encode

__all__ = ["provenance", "weights_digest"]


def provenance(**more: str | int | float | bool) -> dict[str, Any]:
    """Attributes for a part, with ``more`` of the caller's; versions and platform are in every part anyway.

    ``git_revision`` is that of the folder where the command runs, with "+changes" where it has any, and is absent
    outside a repository.

    >>> provenance(seed=3)["seed"]
    3
    """
    line = shlex.join(getattr(sys, "orig_argv", sys.argv))[:4000].replace("\0", "")
    found: dict[str, Any] = {
        "command_line": line.encode(errors="replace").decode(),
        "host": socket.gethostname(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    revision = _git("rev-parse", "HEAD")
    if revision:
        found["git_revision"] = revision + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    return found | more


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """``sha256:...`` over names, dtypes, shapes and values; the same on any device.

    >>> weights_digest({"w": torch.ones(2)}) == weights_digest({"w": torch.ones(2).clone()})
    True
    """
    return digest(encode(dict(weights)))


def _git(*words: str) -> str:
    program = shutil.which("git")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
