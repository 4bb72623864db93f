"""One writer per run.

The lock is ``fcntl.flock`` on a file that stays in the folder, not the ``filelock`` library: that one empties the lock
file when it tries to lock, and with it the name of the holder.  The kernel releases the lock when its holder dies,
however it dies, so there is no stale lock to judge and none to break.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharpscope.store._files import sweep
from sharpscope.store.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "locked"]

LOCK = ".lock"
_held: set[int] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; temporary files of dead writers are removed first.

    Raises StoreError, naming the process and host of the holder, where the lock is taken.
    """
    if fcntl is None:
        raise StoreError(f"{folder}: got a system without flock, expected Linux or macOS: train there")
    descriptor = _open(folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _refused(folder, descriptor, error) from None
        _held.add(descriptor)
        holder = f"process {os.getpid()} on {socket.gethostname()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
        with contextlib.suppress(OSError):  # the lock is held, with or without a name on it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
            sweep(folder)
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
    finally:
        _held.discard(descriptor)
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _open(folder: Path) -> int:
    try:
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise StoreError(
            f"{folder}: got {error.strerror!r} for its lock, expected a folder that can be written: check who may write"
        ) from error


def _refused(folder: Path, descriptor: int, error: OSError) -> StoreError:
    if error.errno not in (errno.EAGAIN, errno.EACCES):
        return StoreError(
            f"{folder}: got {error.strerror!r} for its lock, expected a file system with locks: write to a local disk"
        )
    holder = os.pread(descriptor, 500, 0).decode(errors="replace") or "another process"
    return StoreError(f"{folder}: got a run that {holder} is writing, expected no other writer: wait for it or stop it")


def _forget() -> None:
    """In a forked child, such as a worker that loads data: close the copies, which would outlive the holder."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
