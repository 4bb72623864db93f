"""Runs: folders of parts, read as they grow, packed into one file and back."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sharpscope.core.history import History
from sharpscope.store import Run, StoreError, create_run, open_run, pack_run, save, unpack_run
from sharpscope.store._parts import write_part

CONFIG = {"rule": "sam(rho=0.05)", "epochs": 15, "schedule": {"lr": [0.1, 0.01]}, "augment": None}


def history(done: int, epochs: int = 15) -> History:
    """Curves of a run that finished ``done`` epochs."""
    fields: dict[str, Any] = {"rule": "sam(rho=0.05)", "epochs": epochs, "steps_per_epoch": 10, "test_examples": 100}
    curves = [field.name for field in dataclasses.fields(History) if field.name not in fields]
    return History(**fields, **{name: np.linspace(2, 1, done) for name in curves})


def masks(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(shape, generator=generator) > 0.5 for name, shape in {"a.weight": (3, 5), "b": (9,)}.items()
    }


def full_run(path: Path) -> Run:
    run = create_run(path, CONFIG, {"seed": 3, "rule_text": "sam(rho=0.05)"})
    run.set_history(history(7))
    for step in (0, 20, 10):
        run.add_checkpoint(step, {"model": {"w": torch.full((3,), float(step))}, "step": step})
        run.add_masks(step, masks(step))
    run.add_result("curve", history(3))
    child = run.create_child("sam", {"rule": "sam"})
    child.add_result("curve", history(4))
    child.create_child("seed0", {"seed": 0}).add_checkpoint(5, {"w": 1})
    run.create_child("a10", {"rule": "sgd"})
    run.create_child("a9", {})
    return run


def folder(path: Path) -> Run:
    return open_run(full_run(path / "run").path)


def packed(path: Path) -> Run:
    return open_run(pack_run(full_run(path / "run"), path / "packed.h5"))


def unpacked(path: Path) -> Run:
    return unpack_run(packed(path), path / "copy")


EVERY = pytest.mark.parametrize("make", [folder, packed, unpacked])
Make = Callable[[Path], Run]


@EVERY
def test_everything_comes_back(tmp_path: Path, make: Make) -> None:
    run = make(tmp_path)
    assert run.config == CONFIG and list(run.config) == list(CONFIG)
    assert (run.attributes["seed"], run.attributes["rule_text"], run.attributes["kind"]) == (3, "sam(rho=0.05)", "run")
    assert run.history == history(7)
    assert run.status == "stopped after 7 of 15 epochs"
    assert run.checkpoints() == [0, 10, 20] and run.mask_steps() == [0, 10, 20]
    assert run.checkpoint()["step"] == 20 and torch.equal(run.checkpoint(10)["model"]["w"], torch.full((3,), 10.0))
    assert all(torch.equal(mask, masks(20)[name]) for name, mask in run.masks().items())
    assert list(run.masks(0)) == ["a.weight", "b"] and torch.equal(run.masks(0)["b"], masks(0)["b"])
    assert run.result_names() == ["curve"] == list(run.results) and len(run.results) == 1
    assert run.results["curve"] == history(3) and dict(run.results) == {"curve": history(3)}
    assert "curve" in run.results and "none" not in run.results and run.results.get("none") is None
    assert run.children() == ["sam", "a10", "a9"]
    assert run.child("sam").results["curve"] == history(4)
    assert run.child("sam").children() == ["seed0"]
    assert run.child("sam").child("seed0").checkpoint() == {"w": 1}
    assert run.child("a9").status is None and run.child("a9").history is None


@EVERY
def test_tree_and_digest(tmp_path: Path, make: Make) -> None:
    run = make(tmp_path)
    kinds = {name: kind for name, kind, size in run.tree() if size > 500}
    assert list(kinds)[:4] == ["run", "history", "checkpoints/000000000", "checkpoints/000000010"]
    assert list(kinds)[-4:] == ["sam/run", "sam/results/curve", "sam/seed0/run", "sam/seed0/checkpoints/000000005"]
    assert kinds["masks/000000020"] == "masks" and kinds["sam/results/curve"] == "result" and kinds["sam/run"] == "run"
    assert len(kinds) == 15
    assert run.digest == open_run(tmp_path / "run").digest
    assert run.child("sam").digest != run.digest


@EVERY
def test_what_is_not_there(tmp_path: Path, make: Make) -> None:
    run = make(tmp_path)
    for read, text in [
        (lambda: run.results["none"], r"got no result 'none', expected one of curve: check the name"),
        (lambda: run.child("none"), r"got no child 'none', expected one of sam, a10, a9: check the name"),
        (
            lambda: run.checkpoint(7),
            r"got no checkpoint at step 7, expected one of the steps 0, 10, 20: check the step",
        ),
        (lambda: run.masks(7), r"got no set of masks at step 7, expected one of the steps 0, 10, 20"),
        (lambda: run.child("a9").checkpoint(), r"got no checkpoint, expected one of the steps none"),
        (lambda: run.child("../run"), r"got '\.\./run' as the name of a child, expected letters, digits"),
    ]:
        with pytest.raises(StoreError, match=text):
            read()  # type: ignore[no-untyped-call]
    with pytest.raises(KeyError):
        run.results["none"]


def test_create_refuses_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert create_run(tmp_path / "empty", {"a": 1}).config == {"a": 1}
    assert create_run(tmp_path / "x" / "y", {}).config == {}
    with pytest.raises(
        StoreError, match=r"empty: got a folder that is not empty, expected a new one: choose another, or go on with"
    ):
        create_run(tmp_path / "empty", {})
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".x").touch()
    with pytest.raises(StoreError, match="got a folder that is not empty"):
        create_run(tmp_path / "hidden", {})
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file: got a file that exists, expected a new folder: choose another"):
        create_run(tmp_path / "file", {})
    with pytest.raises(StoreError, match=r"got 'Not a directory', expected a folder that can be made: choose another"):
        create_run(tmp_path / "file" / "run", {})
    with pytest.raises(StoreError, match=r"got the attribute name 'run_id', expected one that is free: rename it"):
        create_run(tmp_path / "new", {}, {"run_id": "x"})
    with pytest.raises(StoreError, match=r"got the attribute argv = \['a'\], expected a text"):
        create_run(tmp_path / "new", {}, {"argv": ["a"]})
    assert create_run(tmp_path / "new", {}).children() == []  # a refused configuration leaves an empty folder at most


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none: got no such folder or file, expected a run: check the path"):
        open_run(tmp_path / "none")
    with pytest.raises(StoreError, match=r"got a folder without run\.h5, expected the folder of a run: check the path"):
        open_run(tmp_path)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StoreError, match=r"text: got a file that is not HDF5"):
        open_run(tmp_path / "text")
    save(history(2), tmp_path / "r.h5")
    with pytest.raises(StoreError, match=r"r\.h5: got a part of kind 'result', expected 'packed run': check the path"):
        open_run(tmp_path / "r.h5")
    shutil.copy(tmp_path / "r.h5", tmp_path / "run.h5")
    with pytest.raises(StoreError, match=r"run\.h5: got a part of kind 'result', expected 'run'"):
        open_run(tmp_path)


@pytest.mark.parametrize("name", ["", ".x", "a/b", "..", "a b", "-x", "ü", "x" + chr(0)])
def test_names(tmp_path: Path, name: str) -> None:
    run = create_run(tmp_path / "run", {})
    with pytest.raises(
        StoreError, match=r"as the name of a result, expected letters, digits and \. _ \+ - with a letter or digit"
    ):
        run.add_result(name, history(1))
    with pytest.raises(StoreError, match=r"as the name of a child"):
        run.create_child(name, {})
    assert os.listdir(run.path) == ["run.h5"]


@pytest.mark.parametrize("name", ["results", "checkpoints", "masks", "run", "history", "run.h5", "history.h5"])
def test_names_that_the_run_uses(tmp_path: Path, name: str) -> None:
    run = create_run(tmp_path / "run", {})
    with pytest.raises(
        StoreError, match=rf"got '{name}' as the name of a child, which the run itself uses, expected another"
    ):
        run.create_child(name, {})
    run.add_result(name, history(1))
    assert run.results[name] == history(1)


def test_existing_parts_stay(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    for write in [
        lambda: run.add_result("curve", history(9)),
        lambda: run.add_checkpoint(10, {}),
        lambda: run.add_masks(10, {}),
    ]:
        with pytest.raises(StoreError, match=r"got a file that exists, expected a new name"):
            write()  # type: ignore[no-untyped-call]
    with pytest.raises(StoreError, match=r"sam: got a folder that is not empty, expected a new one"):
        run.create_child("sam", {})
    run.add_result("curve", history(9), replace=True)
    run.add_checkpoint(10, {"new": 1}, replace=True)
    assert run.results["curve"] == history(9) and run.checkpoint(10) == {"new": 1}


def test_history_is_replaced(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", CONFIG)
    assert run.history is None and run.status is None
    reader = open_run(run.path)
    for done in range(16):
        run.set_history(history(done))
        assert reader.history == history(done)
    assert reader.status == "finished 15 of 15 epochs"


def test_prune(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    assert run.prune() == []
    for step in (5, 1_000_000_000, 50, 500):
        run.add_checkpoint(step, {})
    assert run.checkpoints() == [5, 50, 500, 1_000_000_000]
    assert run.prune(keep=2) == [5, 50] and run.checkpoints() == [500, 1_000_000_000]
    with pytest.raises(StoreError, match=r"got keep=0, expected at least 1: the last checkpoint always stays"):
        run.prune(keep=0)
    assert run.prune() == [500] and run.checkpoints() == [1_000_000_000]


@pytest.mark.parametrize("step", [-1, 1.0, "1", True, None])
def test_steps(tmp_path: Path, step: Any) -> None:
    run = create_run(tmp_path / "run", {})
    with pytest.raises(StoreError, match=rf"got the step {step!r}, expected a non-negative integer"):
        run.add_checkpoint(step, {})


def test_masks_are_bool(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    with pytest.raises(
        StoreError, match=r"got torch\.float64 as the mask 'a', expected a bool tensor: convert with \.bool\(\)"
    ):
        run.add_masks(1, {"a": torch.ones(3, dtype=torch.float64)})


def test_readers_ignore_what_is_not_theirs(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    before = run.tree()
    for name in (
        ".tmp-1-host-00000000",
        "notes.txt",
        "checkpoints/.tmp-2-host-00000000",
        "checkpoints/x.txt",
        "results/.x.h5",
    ):
        (run.path / name).write_bytes(b"junk")
    (run.path / "pictures").mkdir()
    (run.path / "pictures" / "a.h5").write_bytes(b"junk")
    assert run.tree() == before and run.children() == ["sam", "a10", "a9"]


def test_a_damaged_part_does_not_spoil_the_rest(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    (run.path / "checkpoints" / "000000020.h5").write_bytes(b"junk")
    with pytest.raises(StoreError, match=r"000000020\.h5: got a file that is not HDF5"):
        run.checkpoint()
    assert run.checkpoint(10)["step"] == 10 and run.results["curve"] == history(3)
    with pytest.raises(StoreError, match=r"000000020\.h5: got a file that is not HDF5"):
        pack_run(run, tmp_path / "packed.h5")
    assert not (tmp_path / "packed.h5").exists()
    (run.path / "sam" / "run.h5").write_bytes(b"junk")
    assert run.children() == ["a10", "a9", "sam"]


def test_swapped_parts(tmp_path: Path) -> None:
    run, other = full_run(tmp_path / "run"), full_run(tmp_path / "other")
    steps = run.path / "checkpoints"
    shutil.copy(steps / "000000010.h5", steps / "000000020.h5")
    with pytest.raises(
        StoreError, match=r"got the part 'checkpoints/000000010' of the run '\w+', expected 'checkpoints/000000020'"
    ):
        run.checkpoint()
    shutil.copy(other.path / "history.h5", run.path / "history.h5")
    with pytest.raises(
        StoreError, match=r"history: got the part 'history' of the run '\w+', expected 'history' of '\w+': the file"
    ):
        _ = run.history
    run = full_run(tmp_path / "third")
    save(history(2), run.path / "results" / "saved.h5")
    assert run.results["saved"] == history(2)
    shutil.copy(other.path / "run.h5", run.path / "run.h5")
    with pytest.raises(StoreError, match=r"run: got the run '\w+' beside parts of '\w+', expected one run: run\.h5"):
        _ = open_run(run.path).config
    shutil.copy(other.path / "history.h5", run.path / "history.h5")
    assert open_run(run.path).config == CONFIG  # a part agrees, so those that do not are to blame


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    secret = write_part(tmp_path / "secret.h5", "result", {})
    (run.path / "results" / "link.h5").symlink_to(secret)
    with pytest.raises(
        StoreError, match=r"link\.h5: got a symbolic link inside a run, expected a file: copy the file here"
    ):
        run.results["link"]
    shutil.move(run.path / "masks", tmp_path / "masks")
    (run.path / "masks").symlink_to(tmp_path / "masks")
    with pytest.raises(StoreError, match=r"masks: got something else, expected a folder of parts"):
        run.mask_steps()


def test_a_linked_run_can_be_opened(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(run.path)
    assert open_run(tmp_path / "link").history == history(7)


def test_a_packed_run_is_for_reading(tmp_path: Path) -> None:
    run = packed(tmp_path)
    for write in [
        lambda: run.add_result("x", history(1)),
        lambda: run.add_checkpoint(1, {}),
        lambda: run.create_child("x", {}),
        lambda: run.prune(),
        lambda: run.lock(),
    ]:
        with pytest.raises(
            StoreError, match=r"packed\.h5: got a packed run, expected a folder to write into: unpack it first"
        ):
            write()  # type: ignore[no-untyped-call]
    with pytest.raises(StoreError, match="got a file that exists"):
        pack_run(run, tmp_path / "packed.h5")
    with pytest.raises(StoreError, match=r"got something that exists, expected a new folder: choose another"):
        unpack_run(run, tmp_path / "run")


def test_a_packed_run_is_plain_hdf5(tmp_path: Path) -> None:
    packed(tmp_path)
    with h5py.File(tmp_path / "packed.h5") as file:
        assert file["checkpoints/000000020/model/w"][:].tolist() == [20.0] * 3
        assert file["sam/results/curve/train_loss"].shape == (4,)


@pytest.mark.parametrize("edit", ["value", "swap", "drop", "link", "index"])
def test_a_packed_run_that_changed(tmp_path: Path, edit: str) -> None:
    path = packed(tmp_path).path
    one, two = "checkpoints/000000010", "checkpoints/000000020"
    with h5py.File(path, "r+") as file:
        if edit == "value":
            file[two]["model/w"][0] = 1
        elif edit == "swap":
            file.move(two, "x")
            file.move(one, two)
        elif edit == "drop":
            del file[two]
        elif edit == "link":
            del file[two]
            file[two] = h5py.ExternalLink("victim.h5", "/")
        else:
            file["_index/bytes"][0] = 1
    texts = {
        "value": r"packed\.h5:checkpoints/000000020: got data with xxh128:\w+, expected xxh128",
        "swap": r"got another part than the index lists, expected xxh128:\w+: use another copy",
        "drop": r"got no group '000000020', expected the part that the index lists",
        "link": r"got an external link at '000000020', expected groups and datasets of this file itself",
        "index": r"packed\.h5: got an index that is damaged, expected an intact one: use another copy",
    }
    with pytest.raises(StoreError, match=texts[edit]):
        open_run(path).checkpoint(20)


def test_a_thousand_parts_are_listed_at_once(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    run.add_checkpoint(0, {})
    content = (run.path / "checkpoints" / "000000000.h5").read_bytes()
    for step in range(1, 1000):
        (run.path / "checkpoints" / f"{step:09d}.h5").write_bytes(content)
    start = time.perf_counter()
    assert len(open_run(run.path).tree()) == 1001
    assert time.perf_counter() - start < 1.0
