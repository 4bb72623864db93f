"""Files and runs that lie: parts of another run, contents against their attributes, names that no system takes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import sharpscope as ss
from sharpscope.cli import main
from sharpscope.core.history import Steps
from sharpscope.store import StoreError, create_run, load_weights, open_run, pack_run, unpack_run, verify_run
from sharpscope.store._files import write_file
from sharpscope.store._nodes import Branch, digest, leaves, write_branch
from sharpscope.store._parts import CHECKSUM, make_branch, read_part, write_part
from sharpscope.store.pack import INDEX, KIND
from sharpscope.store.run import Run

WEIGHTS = {"model": {"w": torch.ones(2)}}
STEPS = Steps(np.arange(3), np.ones(3), np.ones(3), np.ones(3))


def two_runs(folder: Path) -> tuple[Run, Run]:
    runs = create_run(folder / "a", {"x": 1}), create_run(folder / "b", {"x": 2})
    for run in runs:
        for step in (1, 2):
            run.add_checkpoint(step, WEIGHTS)
    return runs


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock")


# ------------------------------------------------------------------------------------------------- other runs


def test_a_foreign_configuration_moves_nothing(tmp_path: Path) -> None:
    run, other = two_runs(tmp_path)
    shutil.copy(other.path / "run.h5", run.path / "run.h5")
    before = files(run.path)
    damaged = verify_run(run.path, quarantine=True)
    assert [(damage.part, damage.moved) for damage in damaged] == [("run", None)] and files(run.path) == before
    assert "run.h5 comes from another run, put the right one back" in damaged[0].error
    with pytest.raises(StoreError, match=r"run\.h5 comes from another run"):
        _ = open_run(run.path).config
    with pytest.raises(StoreError, match=r"run\.h5 comes from another run"):
        pack_run(open_run(run.path), tmp_path / "a.h5")


def test_a_foreign_configuration_of_a_child_moves_nothing_of_it(tmp_path: Path) -> None:
    run, other = two_runs(tmp_path)
    child = run.create_child("kid", {})
    child.add_checkpoint(1, WEIGHTS)
    shutil.copy(other.path / "run.h5", child.path / "run.h5")
    shutil.copy(other.path / "checkpoints/000000002.h5", run.path / "checkpoints/000000002.h5")
    damaged = verify_run(run.path, quarantine=True)
    assert [(damage.part, damage.moved is None) for damage in damaged] == [
        ("checkpoints/000000002", False),
        ("kid/run", True),
    ]
    assert (child.path / "checkpoints/000000001.h5").is_file() and run.checkpoints() == [1]


def test_most_parts_of_another_run_are_theirs_to_go(tmp_path: Path) -> None:
    run, other = two_runs(tmp_path)
    run.add_checkpoint(9, WEIGHTS)
    for step in (1, 2):
        shutil.copy(other.path / f"checkpoints/00000000{step}.h5", run.path / f"checkpoints/00000000{step}.h5")
    assert [damage.part for damage in verify_run(run.path)] == ["checkpoints/000000001", "checkpoints/000000002"]
    assert open_run(run.path).config == {"x": 1}


def test_a_foreign_part_is_not_packed(tmp_path: Path) -> None:
    run, other = two_runs(tmp_path)
    sound = pack_run(run, tmp_path / "sound.h5")
    shutil.copy(other.path / "checkpoints/000000002.h5", run.path / "checkpoints/000000002.h5")
    with pytest.raises(StoreError, match="the file was renamed or comes from another run, put it back"):
        pack_run(run, tmp_path / "a.h5")
    with pytest.raises(StoreError, match="comes from another run"):
        unpack_run(run, tmp_path / "copy")
    assert not (tmp_path / "a.h5").exists() and not (tmp_path / "copy").exists()
    assert unpack_run(run, tmp_path / "copy", skip_damaged=True).checkpoints() == [1]
    assert verify_run(tmp_path / "copy") == [] and verify_run(sound) == []


def test_a_child_without_its_run_part_is_left_out(tmp_path: Path) -> None:
    run, _ = two_runs(tmp_path)
    run.create_child("kid", {"y": 1}).add_checkpoint(1, WEIGHTS)
    packed = pack_run(run, tmp_path / "a.h5")
    with h5py.File(packed, "r+") as file:
        file["kid/run/y"][()] = 7
    left = unpack_run(open_run(packed), tmp_path / "copy", skip_damaged=True)
    assert left.children() == [] and left.checkpoints() == [1, 2] and not (left.path / "kid").exists()
    damaged = verify_run(packed, quarantine=True)
    assert [damage.part for damage in damaged] == ["kid/run", "kid/checkpoints/000000001"]
    assert verify_run(packed) == [] and open_run(packed).children() == []


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("gone", r"kid/run\.h5: got parts of a run without run\.h5, expected the one that they belong to"),
        ("folder", r"kid/run\.h5: got a folder, expected the file of a part"),
        ("link", r"kid: got a symbolic link inside a run, expected a file: copy the file here"),
    ],
)
def test_a_child_does_not_vanish(tmp_path: Path, how: str, text: str) -> None:
    run, _ = two_runs(tmp_path)
    child = run.create_child("kid", {})
    child.add_checkpoint(1, WEIGHTS)
    if how == "link":
        child.path.rename(tmp_path / "elsewhere")
        child.path.symlink_to(tmp_path / "elsewhere")
    else:
        (child.path / "run.h5").unlink()
        if how == "folder":
            (child.path / "run.h5").mkdir()
    for quarantine in (False, True):
        damaged = verify_run(run.path, quarantine)
        assert damaged[0].part == "kid/run" and damaged[0].moved is None
        with pytest.raises(StoreError, match=text):
            raise StoreError(damaged[0].error)
    refused: list[Callable[[], Any]] = [run.tree, lambda: pack_run(run, tmp_path / "a.h5"), lambda: run.child("kid")]
    for call in refused:
        with pytest.raises(StoreError, match=text):
            call()
    assert run.children() == ["kid"] and run.checkpoint()["model"]["w"].tolist() == [1.0, 1.0]


def test_a_result_may_be_named_run(tmp_path: Path) -> None:
    run = create_run(tmp_path / "a", {})
    for name in ("run", "history"):
        run.add_result(name, STEPS)
    assert run.children() == [] and verify_run(run.path) == []
    packed = open_run(pack_run(run, tmp_path / "a.h5"))
    assert packed.children() == [] and packed.results["run"] == STEPS and verify_run(packed.path) == []


def test_show_lists_what_is_left(tmp_path: Path) -> None:
    run, _ = two_runs(tmp_path)
    for name in ("first", "second"):
        run.add_result(name, STEPS)
    run.create_child("kid", {"depth": 5}).add_checkpoint(1, WEIGHTS)
    with h5py.File(run.path / "results/first.h5", "r+") as file:
        file["loss"][0] = 7.0
    os.mkfifo(run.path / "results/pipe.h5")
    shown = CliRunner().invoke(main, ["show", str(run.path)])
    assert shown.exit_code == 1 and "second = Steps(" in shown.output and "depth: 5" in shown.output
    assert shown.output.count("damaged: ") == 2 and shown.output.count("results/first.h5: got data with xxh128") == 1
    assert "results/pipe.h5: got a device or pipe, expected the file of a part" in shown.output


# ------------------------------------------------------------------------------------------------- what is stored


def test_arrays_that_are_more_than_their_entries(tmp_path: Path) -> None:
    masked = np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])
    for odd, name in (
        (masked, "MaskedArray"),
        (np.ma.masked, "MaskedConstant"),
        (np.ones((1, 1)).view(np.matrix), "matrix"),
    ):
        with pytest.raises(StoreError, match=f"{name} at '/v', expected a plain numpy array: convert it"):
            write_part(tmp_path / "p.h5", "checkpoint", {"v": odd})
    with pytest.raises(StoreError, match=r"got MaskedArray in the field Steps\.loss, expected ndarray"):
        ss.save(Steps(np.arange(3), masked, np.ones(3), np.ones(3)), tmp_path / "p.h5")
    mapped = np.memmap(tmp_path / "raw", np.float32, "w+", shape=(3,))
    assert read_part(write_part(tmp_path / "p.h5", "checkpoint", {"v": mapped}))[0]["v"].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.ones((1,) * 64, np.complex64), "got an array of 64 dimensions of complex64 at '/v', expected at most 63"),
        (torch.ones((1,) * 64, dtype=torch.complex64), "got an array of 64 dimensions of complex64 at '/v'"),
        (torch.ones((1,) * 65), "got an array of 65 dimensions of float32 at '/v', expected at most 64: reshape it"),
        ({10**4400: 1}, "got an integer of 14617 bits as a key in '/v', expected at most 4096: make it a str"),
    ],
)
def test_more_than_fits(tmp_path: Path, value: Any, text: str) -> None:
    with pytest.raises(StoreError, match=text):
        write_part(tmp_path / "p.h5", "checkpoint", {"v": value})
    for fits in (np.ones((1,) * 63, np.complex64), torch.ones((1,) * 64), {10**1233: 1, -(10**1233): 2}):
        path = write_part(tmp_path / "fits.h5", "checkpoint", {"v": fits}, replace=True)
        got = read_part(path)[0]["v"]
        assert got == fits if isinstance(fits, dict) else got.shape == fits.shape


BITS = {"a": torch.ones(9, dtype=torch.bool)}
CONTRADICTIONS: dict[str, tuple[dict[Any, Any], dict[str, Any], str]] = {
    "key": ({"a": 1.5}, {"key": "int"}, "got a key that is no integer at '/a'"),
    "dtype": ({"a": torch.ones(3)}, {"dtype": "float64"}, "dtype 'float64' of float32"),
    "dtype of bits": ({"a": torch.ones(3)}, {"dtype": "bfloat16"}, "dtype 'bfloat16' of float32"),
    "no dtype": ({"a": torch.ones(3)}, {"dtype": "zzz"}, "dtype 'zzz' of float32"),
    "complex": ({"a": torch.ones(3)}, {"dtype": "complex64"}, r"dtype 'complex64' of shape \(3,\)"),
    "huge": (BITS, {"shape": (1 << 40,)}, r"shape \(1099511627776,\) of 2 entries"),
    "negative": (BITS, {"shape": (-3, -3)}, r"shape \(-3, -3\)"),
    "long": (BITS, {"shape": (17,)}, r"shape \(17,\) of 2 entries"),
    "short": (BITS, {"shape": (3,)}, r"shape \(3,\) of 2 entries"),
    "text": (BITS, {"shape": "abc"}, "shape 'abc'"),
    "guess": ({"a": torch.ones(3)}, {"shape": (-1, 3)}, r"shape \(-1, 3\)"),
    "int of float": ({"a": 1.5}, {"type": "int"}, "float64 of 0 dimensions"),
    "int of array": ({"a": np.ones(1)}, {"type": "int"}, "float64 of 1 dimensions"),
    "bool of 7": ({"a": np.uint8(7)}, {"type": "bool"}, "the number 7"),
    "scalar": ({"a": np.ones(1)}, {"type": "scalar"}, r"a scalar of shape \(1,\)"),
    "none": ({"a": 1}, {"type": "none"}, r"'none' with contents that do not fit at '/a' \(data\)"),
    "column": ({"a": [1.5]}, {"of": "str"}, "float64 of 1 dimensions"),
    "matrix": ({"a": np.ones((2, 2))}, {"type": "list", "of": "float"}, "float64 of 2 dimensions"),
    "list": ({"a": {"x": 1}}, {"type": "list"}, "got children whose order is lost at '/a'"),
}


def sealed(path: Path, branch: Branch) -> Path:
    for leaf in leaves(branch):
        leaf.sum = None
    branch.attributes["checksum"] = digest(branch, CHECKSUM, "xxh128")
    write_file(path, lambda file: write_branch(file, branch), True)
    return path


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contents_against_their_attributes(tmp_path: Path, name: str) -> None:
    tree, attributes, text = CONTRADICTIONS[name]
    branch = make_branch("checkpoint", tree, {}, "p.h5")
    branch.children["a"].attributes |= attributes
    with pytest.raises(StoreError, match=text):
        read_part(sealed(tmp_path / "p.h5", branch))


def test_two_children_of_one_key(tmp_path: Path) -> None:
    branch = make_branch("checkpoint", {1: 1.5, 2: 2.5}, {}, "p.h5")
    branch.children["%i1"] = branch.children.pop("2")
    with pytest.raises(StoreError, match="got another child of the same key at '/%i1'"):
        read_part(sealed(tmp_path / "p.h5", branch))


def test_many_small_bombs(tmp_path: Path) -> None:
    path = write_part(tmp_path / "p.h5", "checkpoint", {"w": np.zeros(1 << 17)})
    with h5py.File(path, "r+") as file:
        for number in range(150):
            file.create_dataset(f"z{number}", (16 << 20,), "u1", chunks=(1 << 20,))
    with pytest.raises(StoreError, match="got 33554432 bytes compressed to 0 at '/z1', expected at most 2000 to 1"):
        read_part(path)


def attributes_of(file: h5py.File) -> bytes:
    return bytes(file["%attributes"][()])


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("own", "got attributes of its own at '/%attributes', expected none"),
        ("gzip", "got something else at '/%attributes', expected one plain text"),
        ("numbers", "got something else at '/%attributes', expected one plain text"),
        ("nothing", "got something else at '/%attributes', expected one plain text"),
        ("twice", "a name stands twice"),
        ("malformed", "got a text that is no JSON"),
        ("empty attribute", r"got an empty attribute at '/ \(attribute x\)', expected a text, a number"),
    ],
)
def test_what_is_said_of_all(tmp_path: Path, how: str, text: str) -> None:
    path = write_part(tmp_path / "p.h5", "checkpoint", {"w": np.arange(3), "n": 1})
    with h5py.File(path, "r+") as file:
        said = attributes_of(file)
        if how == "own":
            file["%attributes"].attrs["x"] = 1
        elif how == "empty attribute":
            file.attrs["x"] = h5py.Empty("f4")
        else:
            del file["%attributes"]
            again = said[:-1] + b',"n":' + json.dumps({"type": "int", "index": 1}).encode() + b"}"
            new = {"twice": np.bytes_(again), "malformed": np.bytes_(said[:-3]), "numbers": np.arange(5)}
            if how == "gzip":
                file.create_dataset("%attributes", data=np.array([said]), chunks=(1,), compression="gzip")
            else:
                file["%attributes"] = new.get(how, h5py.Empty("u1"))
    with pytest.raises(StoreError, match=text) as caught:
        read_part(path)
    assert "HDF5 says" not in str(caught.value) and "NoneType" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- lists of parts


@pytest.mark.parametrize(
    "change",
    [
        {"names": None}, {"names": [1, 2]}, {"names": "run"}, {"names": ["run", "run"]}, {"names": []},
        {"checksums": ["x"]}, {"checksums": [1, 2]}, {"bytes": [-5, 5]}, {"bytes": ["a", "b"]}, {"bytes": None},
        {"names": ["checkpoints/000000001", "run"]}, {"names": ["run", "../x"]}, {"names": ["run", "kid/history"]},
        5,
    ],
)  # fmt: skip
def test_a_list_of_parts_that_is_none(tmp_path: Path, change: Any) -> None:
    index = {"names": ["run", "checkpoints/000000001"], "checksums": ["x", "y"], "bytes": [5, 5]}
    content = index | change if isinstance(change, dict) else change
    path = sealed(tmp_path / "p.h5", make_branch(KIND, {INDEX: content}, {}, "p.h5"))
    with pytest.raises(StoreError, match=r"^\S+/p\.h5: got (an _index that|no _index|the part name|'\S+' and no run)"):
        open_run(path)


# ------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_system_takes(tmp_path: Path, name: str) -> None:
    run, path = create_run(tmp_path / "run", {}), f"{tmp_path}/{name}"
    calls: list[Callable[[], Any]] = [
        lambda: open_run(path),
        lambda: ss.load(path),
        lambda: ss.save(STEPS, path),
        lambda: load_weights(path),
        lambda: verify_run(path),
        lambda: create_run(path, {}),
        lambda: pack_run(run, path),
        lambda: unpack_run(run, path),
        lambda: run.add_result(name, STEPS),
    ]
    for call in calls:
        with pytest.raises(
            StoreError, match=r"expected (a path that can be looked up|at most 200|letters, digits)"
        ) as got:
            call()
        assert "\0" not in str(got.value) and len(str(got.value)) < 500
    assert files(tmp_path) == ["run", "run/run.h5"]


def test_weights_of_a_pipe_and_of_a_point(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="pipe: got a device or pipe, expected a file: check the path"):
        load_weights(tmp_path / "pipe")
    run = create_run(tmp_path / "run", {})
    run.add_weights(2, WEIGHTS["model"], every=1)
    assert load_weights(run.path / "trajectory/000000002.h5")["w"].tolist() == [1.0, 1.0]
