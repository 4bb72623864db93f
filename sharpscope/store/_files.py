"""Files that are there as a whole or not at all.

A file is written under a temporary name in the folder where it will live, flushed to the disk, and given its name in
one step of the operating system; then the folder is flushed.  A process killed at any moment leaves the old file, the
new file, or a temporary file that every reader ignores.

HDF5 writes through ``_Sink``, a Python file object, because HDF5 cannot close a file whose writing failed.  The sink
keeps the first error and lets HDF5 finish; the error is raised when HDF5 is done.  A Ctrl-C waits for the file to be
finished, because an exception that is raised inside a callback of HDF5 is lost.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from sharpscope.store.errors import StoreError

__all__ = [
    "TEMPORARY",
    "fsync_folder",
    "known_path",
    "require_file",
    "require_free",
    "sweep",
    "temporary_name",
    "write_bytes",
    "write_file",
]

TEMPORARY = ".tmp-"
SPARE = 1 << 20  # bytes of headroom beside the data
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


def known_path(path: str | os.PathLike[str]) -> Path:
    """A path, there or not, that the system can look up; raises StoreError for names too long, with NUL and the like.

    >>> known_path("missing").name
    'missing'
    """
    path = Path(path)
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        shown = str(path).replace("\0", "\\0")
        shown = shown if len(shown) <= 200 else f"{shown[:100]}...{shown[-90:]}"
        raise StoreError(f"{shown}: got {said!r}, expected a path that can be looked up: choose another") from error
    return path


def require_file(path: Path, what: str) -> None:
    """Raise StoreError unless there is a file, which a reader does not wait for; ``what`` was expected."""
    if path.is_dir():
        raise StoreError(f"{path}: got a folder, expected one HDF5 file: use open_run for a run")
    if not path.exists():
        raise StoreError(f"{path}: got no such file, expected {what}: check the path")
    if not path.is_file():
        raise StoreError(f"{path}: got a device or pipe, expected a file: check the path")


def write_file(path: Path, fill: Callable[[h5py.File], None], replace: bool) -> None:
    """Let ``fill`` write a new HDF5 file and give it the name ``path``, flushed to the disk.

    Raises StoreError if ``path`` exists and ``replace`` is false, if its folder is missing, or if the system refuses to
    write; then nothing has changed under ``path``.
    """
    _write_whole(path, lambda temporary: _fill(temporary, fill), replace)


def write_bytes(path: Path, data: bytes, replace: bool) -> None:
    """Write a file of any kind; raises StoreError as ``write_file`` does."""

    def fill(temporary: Path) -> None:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    _write_whole(path, fill, replace)


def _write_whole(path: Path, fill: Callable[[Path], None], replace: bool) -> None:
    known_path(path)
    if not path.parent.is_dir():
        raise StoreError(f"{path}: got no folder {str(path.parent)!r}, expected one to write into: create it first")
    if path.is_dir() or (not replace and os.path.lexists(path)):
        raise _exists(path)
    temporary = temporary_name(path.parent)
    try:
        with _interrupts_held():
            try:
                fill(temporary)
                _publish(temporary, path, replace)
            finally:
                temporary.unlink(missing_ok=True)
            fsync_folder(path.parent)
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error)
        raise StoreError(
            f"{path}: got {said!r} while writing, expected a folder that can be written: nothing was changed under "
            f"this name; free space or choose another folder"
        ) from error


def require_free(path: Path, size: int) -> None:
    """Raise StoreError where the disk lacks room for ``size`` more bytes."""
    if not known_path(path).parent.is_dir():
        return  # write_file says so
    free = shutil.disk_usage(path.parent).free
    if free < size + SPARE:
        raise StoreError(
            f"{path}: got {free} free bytes on the disk, expected at least {size + SPARE}: free space or prune old "
            f"checkpoints"
        )


def temporary_name(folder: Path) -> Path:
    """A new name in a folder that every reader ignores and that tells who writes."""
    return folder / f"{TEMPORARY}{os.getpid()}-{_host()}-{secrets.token_hex(4)}"


def fsync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    if os.name == "nt":  # cannot open folders, and needs no flush
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, where: str = "**/") -> list[Path]:
    """Remove what dead processes of this host left under temporary names in ``folder`` and, by default, below it."""
    removed = []
    for path in folder.glob(f"{where}{TEMPORARY}*"):
        match = re.fullmatch(rf"{re.escape(TEMPORARY)}(\d+)-(.*)-[0-9a-f]{{8}}", path.name)
        if match and match[2] == _host() and not _alive(int(match[1])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Inside, a Ctrl-C waits; it is delivered at the end.  Other threads than the main one never see any."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    waiting: list[tuple[Any, ...]] = []
    signal.signal(signal.SIGINT, lambda *seen: waiting.append(seen))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            handler(*waiting[-1])


def _fill(temporary: Path, fill: Callable[[h5py.File], None]) -> None:
    sink = _Sink(temporary)
    try:
        try:
            with h5py.File(sink, "w") as file:
                fill(file)
        finally:
            if sink.error is not None:
                raise sink.error
        os.fsync(sink.descriptor)
    finally:
        os.close(sink.descriptor)


def _publish(temporary: Path, path: Path, replace: bool) -> None:
    if replace:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # fails where the name exists, in one step
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(
            path
        ):  # a file system without hard links: two writers at this very moment are not told apart
            raise _exists(path) from None
        os.rename(temporary, path)


def _exists(path: Path) -> StoreError:
    if path.is_dir():
        return StoreError(f"{path}: got a folder, expected the name of a file: choose a name inside it")
    return StoreError(
        f"{path}: got a file that exists, expected a new name: choose another, or replace it (replace=True, --replace)"
    )


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class _Sink:
    """A file that HDF5 can always write: the first error is kept, and nothing is written after it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        self.error: BaseException | None = None
        self.position = self.size = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def write(self, data: memoryview) -> int:
        view, offset = memoryview(data).cast("B"), self.position
        self.position += len(view)
        self.size = max(self.size, self.position)
        try:
            while view and self.error is None:
                written = os.pwrite(self.descriptor, view, offset)
                view, offset = view[written:], offset + written
        except BaseException as error:
            self.error = error
        return len(memoryview(data).cast("B"))

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        self.readinto(memoryview(data))
        return bytes(data)

    def readinto(self, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        try:
            data = os.pread(self.descriptor, len(view), self.position) if self.error is None else b""
            view[: len(data)] = data
        except BaseException as error:
            self.error = error
        self.position += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        self.size = size
        try:
            if self.error is None:
                os.ftruncate(self.descriptor, size)
        except BaseException as error:
            self.error = error
        return size

    def flush(self) -> None:
        pass
