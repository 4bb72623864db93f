"""One writer per run: real processes, killed and forked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sharpscope.store import StoreError, create_run, open_run

ROOT = Path(__file__).parents[2]
HOLDER = """
import os, sys, time
from sharpscope.store import open_run
with open_run(sys.argv[1]).lock():
    if len(sys.argv) > 2 and not os.fork():  # a worker, which outlives its parent
        os.closerange(0, 3)
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(path: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *more], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    host = socket.gethostname()
    with holder(run.path) as process:
        text = rf"run: got a run that process {process.pid} on {host} since [-\d]+ [:\d]+ is writing, expected no other"
        for _ in range(2):  # the first refusal must not spoil the second
            with pytest.raises(StoreError, match=text), run.lock():
                pass
        assert open_run(run.path).config == {}  # readers need no lock
        (run.path / f".tmp-{process.pid}-{host}-01234567").touch()
        process.kill()
        process.wait()
        with run.lock():  # the kernel has released it
            assert not list(run.path.glob(".tmp-*"))
    with run.lock():
        pass


def test_a_worker_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    with holder(run.path, "fork"):
        pass
    time.sleep(0.05)
    with run.lock():
        pass


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    with run.lock():
        with pytest.raises(StoreError, match=f"process {os.getpid()} on "), open_run(run.path).lock():
            pass
        child = run.create_child("sam", {})
        with child.lock():  # a child has its own
            pass
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass


def test_temporary_files_of_the_living_stay(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    host = socket.gethostname()
    names = [f".tmp-{os.getpid()}-{host}-01234567", ".tmp-1-another.host-01234567", ".tmp-strange"]
    for name in names:
        (run.path / name).touch()
    with run.lock():
        assert sorted(path.name for path in run.path.glob(".tmp-*")) == sorted(names)


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    (run.path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"for its lock, expected a folder that can be written"), run.lock():
        pass
    assert not (tmp_path / "elsewhere").exists()
