"""Parts are there as a whole or not at all, and say what is wrong with them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sharpscope.store import StoreError
from sharpscope.store import _files as files
from sharpscope.store import _nodes as nodes
from sharpscope.store._parts import SCHEMA, read_header, read_part, verify, write_part

TREE = {"w": np.arange(5.0), "name": "x"}


def test_attributes_come_back(tmp_path: Path) -> None:
    given = {
        "rule": "sam(rho=0.05)",
        "seed": 3,
        "rate": 0.1,
        "amp": True,
        "none": "",
        "np": np.float32(0.5),
        "torch_": torch.__version__,
    }
    path = write_part(tmp_path / "a.part", "masks", TREE, given)
    tree, attributes = read_part(path, "masks")
    assert list(tree) == ["w", "name"]
    assert {name: attributes[name] for name in given} == given | {"torch_": str(torch.__version__)}
    assert attributes["amp"] is True
    assert (attributes["format"], attributes["schema"], attributes["kind"]) == ("sharpscope", SCHEMA, "masks")
    for text in (
        f"torch {torch.__version__}",
        f"numpy {np.__version__}",
        f"h5py {h5py.__version__}",
        "scipy ",
        "hdf5 ",
    ):
        assert text in attributes["packages"]
    assert attributes["checksum"].startswith("xxh128:") and "T" in attributes["created"]
    assert {"sharpscope", "python", "platform"} < set(attributes)
    assert read_header(path) == attributes
    assert os.listdir(tmp_path) == ["a.part"]
    verify(path)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kind", "x", r"got the attribute name 'kind', expected one that is free and a plain word: rename it"),
        ("a b", "x", r"got the attribute name 'a b'"),
        (
            "x",
            None,
            r"got the attribute x = None, expected a text, bool, float or integer of 64 bits: put it into the tree",
        ),
        ("x", 2**63, r"got the attribute x = 9223372036854775808"),
        ("x", "y" * 70000, r"got the attribute x of 70000 characters, expected at most 60000 bytes"),
        ("x", "\0", r"valid text without NUL"),
        ("x", "\ud800", r"valid text without NUL"),
    ],
)
def test_attributes_refused(tmp_path: Path, name: str, value: Any, text: str) -> None:
    with pytest.raises(StoreError, match=text):
        write_part(tmp_path / "p.h5", "masks", TREE, {name: value})
    assert os.listdir(tmp_path) == []


def test_an_existing_part_stays(tmp_path: Path) -> None:
    path = write_part(tmp_path / "p.h5", "masks", TREE)
    before = path.read_bytes()
    with pytest.raises(
        StoreError,
        match=r"p\.h5: got a file that exists, expected a new name: choose another, or replace it \(replace=True, "
        r"--replace\)",
    ):
        write_part(path, "masks", {})
    assert path.read_bytes() == before
    write_part(path, "masks", {"new": 1}, replace=True)
    assert read_part(path)[0] == {"new": 1}
    assert os.listdir(tmp_path) == ["p.h5"]


def test_two_writers_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writer comes between the first look and the last step."""
    path, publish = tmp_path / "p.h5", files._publish

    def late(temporary: Path, path: Path, replace: bool) -> None:
        path.write_bytes(b"theirs")
        publish(temporary, path, replace)

    monkeypatch.setattr(files, "_publish", late)
    with pytest.raises(StoreError, match="got a file that exists"):
        write_part(path, "masks", TREE)
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["p.h5"]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = write_part(tmp_path / "p.h5", "masks", TREE)
    assert read_part(path)[0]["name"] == "x"
    with pytest.raises(StoreError, match="got a file that exists"):
        write_part(path, "masks", TREE)


def test_no_folder_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"got no folder '.*none', expected one to write into: create it first"):
        write_part(tmp_path / "none" / "p.h5", "masks", TREE)
    (tmp_path / "d").mkdir()
    for replace in (False, True):
        with pytest.raises(StoreError, match=r"got a folder, expected the name of a file: choose a name inside it"):
            write_part(tmp_path / "d", "masks", TREE, replace=replace)
    with pytest.raises(StoreError, match=r"got a list as a tree, expected a dict"):
        write_part(tmp_path / "p.h5", "masks", [1])  # type: ignore[arg-type]


FULL = "got 'No space left on device' while writing, expected a folder that can be written"
CALLS = ["open", "pwrite", "ftruncate", "fsync", "link", "replace", "close"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "interrupt"]
)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("there", [False, True], ids=["new", "replace"])
def test_every_system_call_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException, there: bool
) -> None:
    """Fail the first, second, ... call in turn, until the write needs no more of them."""
    path = tmp_path / "p.h5"
    if there:
        write_part(path, "masks", {"old": 1})
    genuine, wanted = getattr(os, call), {"old": 1}
    for turn in range(200):
        calls = 0

        def failing(*args: Any, turn: int = turn, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == turn + 1:
                if call == "close":
                    genuine(*args)
                raise error
            return genuine(*args, **options)

        monkeypatch.setattr(os, call, failing)
        said = FULL
        try:
            write_part(path, "masks", TREE, replace=there)
        except (StoreError, KeyboardInterrupt) as refusal:
            said = str(refusal)
        finally:
            monkeypatch.undo()
        if calls <= turn:
            break
        assert FULL in said or isinstance(error, KeyboardInterrupt)
        assert not list(tmp_path.glob(".tmp-*"))
        if path.exists():  # the old one or, where only the flush of the folder failed, the new one; whole in any case
            assert list(read_part(path)[0]) in (["w", "name"], list(wanted))
            if not there:
                path.unlink()
    else:
        pytest.fail("the write never ended")


def test_a_fill_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file["half"] = 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        files.write_file(tmp_path / "p.h5", fill, replace=False)
    assert os.listdir(tmp_path) == []


def test_free_space_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SPARE", 1 << 60)
    with pytest.raises(
        StoreError, match=r"got \d+ free bytes on the disk, expected at least \d+: free space or prune old"
    ):
        write_part(tmp_path / "p.h5", "masks", TREE)


def changed(path: Path, name: str, value: Any) -> Path:
    with h5py.File(path, "r+") as file:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = np.bytes_(value) if isinstance(value, str) else value
    return path


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("format", None, r"got an HDF5 file of another program, expected one of sharpscope: read it with h5py"),
        ("format", "other", r"got the format 'other', expected 'sharpscope'"),
        ("schema", None, r"got the schema None, expected 1 to 3: the file is damaged, use another copy"),
        ("schema", 4, r"got the schema 4, expected at most 3: update sharpscope to read this file"),
        ("kind", "result", r"got a part of kind 'result', expected 'masks': check the path"),
        ("checksum", None, r"got data with xxh128:\w+, expected None: the file is damaged"),
        ("created", "2020", r"got data with xxh128:\w+, expected xxh128:\w+: the file is damaged, use another copy"),
        ("step", 4, r".*the file is damaged, use another copy"),
        ("more", 4, r".*the file is damaged, use another copy"),
    ],
)
def test_wrong_headers(tmp_path: Path, name: str, value: Any, text: str) -> None:
    path = changed(write_part(tmp_path / "p.h5", "masks", TREE, {"step": 3}), name, value)
    with pytest.raises(StoreError, match=r"p\.h5: " + text):
        read_part(path, "masks")


def test_data_that_changed(tmp_path: Path) -> None:
    path = write_part(tmp_path / "p.h5", "masks", {"a": {"w": np.arange(3), "v": 1, "m": np.array([True, False])}})
    for edit in ("value", "dtype", "name", "order", "attribute", "own attribute", "more"):
        copy = tmp_path / f"{edit}.h5"
        copy.write_bytes(path.read_bytes())
        with h5py.File(copy, "r+") as file:
            said = json.loads(file["%attributes"][()])
            if edit == "value":
                file["a/w"][0] = 7
            elif edit == "dtype":
                values = file["a/w"][:]
                del file["a/w"]
                file["a"].create_dataset("w", data=values.astype(np.int32))
            elif edit == "name":
                file.move("a/w", "a/x")
                said["a/x"] = said.pop("a/w")
            elif edit == "order":
                said["a/w"]["index"], said["a/v"]["index"] = 1, 0
            elif edit == "attribute":
                said["a/w"]["dtype"] = "float64"
            elif edit == "own attribute":
                file["a/m"].attrs["dtype"] = np.bytes_("float64")
            else:
                said["a/w"]["more"] = [1]
            del file["%attributes"]
            file["%attributes"] = np.bytes_(json.dumps(said))
        with pytest.raises(StoreError, match="the file is damaged, use another copy"):
            read_part(copy)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"[" * 100_000, r"got a text that is no JSON \(.*recursion.*\) at '/%attributes', expected JSON"),
        (b"[1]", r"got JSON of another form at '/%attributes', expected an object of objects"),
        (b'{"w":{"index":0},"w":{"index":0}}', r"got a text that is no JSON \(a name stands twice\)"),
        (
            b'{"w":{"type":{}}}',
            r"got a dict at '/w \(attribute type\)', expected a text, a number or a row of integers",
        ),
        (b'{"w":{"index":NaN}}', r"got a float at '/w \(attribute index\)'"),
        (
            b'{"w":{"type":"array","index":0},"gone":{"index":1}}',
            r"got attributes of '/gone', expected those of what is there",
        ),
    ],
)
def test_attributes_that_a_stranger_wrote(tmp_path: Path, said: bytes, text: str) -> None:
    path = write_part(tmp_path / "p.h5", "masks", {"w": np.arange(3)})
    with h5py.File(path, "r+") as file:
        del file["%attributes"]
        file["%attributes"] = np.bytes_(said)
    with pytest.raises(StoreError, match=text):
        read_part(path)


def test_wrong_files(tmp_path: Path) -> None:
    good = write_part(tmp_path / "good.h5", "masks", TREE).read_bytes()
    cases = {
        "empty": (b"", "got an empty file, expected a part of a run"),
        "text": (
            b"hello",
            "got a file that is not HDF5, expected a part of a run: check the path, or use another copy",
        ),
        "half": (
            good[: len(good) // 2],
            r"got a damaged or truncated file \(.*truncated.*\), expected an intact one",
        ),
        "head": (good[:8], r"got a damaged or truncated file"),
    }
    for name, (content, text) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StoreError, match=f"{name}: {text}"):
            read_part(tmp_path / name)
    with pytest.raises(StoreError, match=r"got no such file, expected a part of a run: check the path"):
        read_part(tmp_path / "none")
    with pytest.raises(StoreError, match=r"got a folder, expected one HDF5 file: use open_run for a run"):
        read_part(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match=r"got a device or pipe, expected a file: check the path"):
        read_part(tmp_path / "pipe")


def test_reading_needs_no_lock(tmp_path: Path) -> None:
    import fcntl

    path = write_part(tmp_path / "p.h5", "masks", TREE)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert read_part(path)[0]["name"] == "x"


WRITER = """
import sys
import numpy as np
from sharpscope.store._parts import write_part

def write(folder):
    for turn in range(10**9):
        values = np.full(20_000, float(turn))
        write_part(f"{folder}/history.h5", "result", {"turn": turn, "values": values}, replace=True)
        values = np.full(200_000, float(turn))
        write_part(f"{folder}/{turn % 50:09d}.h5", "checkpoint", {"turn": turn, "values": values}, replace=True)
"""
KILLS = """
import os, signal, time
from pathlib import Path
from sharpscope.store._parts import read_part

rng, read = np.random.default_rng(0), 0
for _ in range(10):
    writer = os.fork()
    if not writer:
        write(sys.argv[1])
    while not (Path(sys.argv[1]) / "000000000.h5").exists():
        time.sleep(0.01)
    time.sleep(rng.uniform(0.01, 0.2))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    for path in Path(sys.argv[1]).glob("*.h5"):
        tree, _ = read_part(path)
        assert (tree["values"] == tree["turn"]).all(), path
        read += 1
print(read)
"""
ROOT = Path(__file__).parents[2]


def test_kill_minus_nine(tmp_path: Path) -> None:
    """Whatever the moment, every part under its final name is whole; killed writers leave only temporary files."""
    command = [sys.executable, "-c", WRITER + KILLS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20
    assert {path.name[:5] for path in tmp_path.iterdir() if path.suffix != ".h5"} <= {".tmp-"}
    removed = files.sweep(tmp_path)
    assert all(path.name.startswith(".tmp-") for path in removed)
    assert {path.suffix for path in tmp_path.iterdir()} == {".h5"}


def test_a_reader_while_a_writer_replaces(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER + "write(sys.argv[1])", str(tmp_path)], cwd=ROOT)
    turns = set()
    while not (tmp_path / "history.h5").exists():
        time.sleep(0.01)
    for _ in range(200):
        tree, _ = read_part(tmp_path / "history.h5")
        assert (tree["values"] == tree["turn"]).all()
        turns.add(tree["turn"])
    writer.kill()
    writer.wait()
    assert len(turns) > 3


def test_large_arrays_are_hashed_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With threads or without."""
    tree = {"a": torch.randn(3_000_000), "b": torch.randn(10), "c": np.zeros((0, 2))}
    path = write_part(tmp_path / "p.h5", "masks", tree)
    monkeypatch.setattr(nodes, "ThreadPoolExecutor", None)  # which a serial sum does not need
    monkeypatch.setattr(nodes, "ALONE", 1 << 40)
    assert torch.equal(read_part(path)[0]["a"], tree["a"])
