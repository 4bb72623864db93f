"""Files that a stranger made: one per trick, each refused by name, and no other file opened."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sharpscope.store import StoreError, guard, load
from sharpscope.store._parts import read_part, write_part

Trick = Callable[[h5py.File], Any]


def bit_field(file: h5py.File) -> None:
    h5py.h5d.create(file.id, b"bad", h5py.h5t.STD_B8LE, h5py.h5s.create_simple((3,)))


def array_type(file: h5py.File) -> None:
    h5py.h5d.create(file.id, b"bad", h5py.h5t.array_create(h5py.h5t.STD_I32LE, (2,)), h5py.h5s.create_simple((3,)))


def committed(file: h5py.File) -> None:
    file["bad"] = np.dtype("f8")


def dataset_of_committed(file: h5py.File) -> None:
    file["a_type"] = np.dtype("f8")
    file.create_dataset("bad", data=np.zeros(2), dtype=file["a_type"])
    del file["a_type"]


def attribute_of_committed(file: h5py.File) -> None:
    file["a_type"] = np.dtype("f8")
    file.attrs.create("bad", 1.0, dtype=file["a_type"])
    del file["a_type"]


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("victim.h5", "w", (3,))
    file.create_virtual_dataset("bad", layout)


def external_storage(file: h5py.File) -> None:
    file.create_dataset("bad", (3,), "f8", external=[("victim.bin", 0, 24)])


def soft(file: h5py.File) -> None:
    file["bad"] = h5py.SoftLink("/w")


def dangling(file: h5py.File) -> None:
    file["bad"] = h5py.SoftLink("/nowhere")


def external_link(file: h5py.File) -> None:
    file["bad"] = h5py.ExternalLink("victim.h5", "/w")


def deep_external_link(file: h5py.File) -> None:
    file["inner/more/bad"] = h5py.ExternalLink("victim.h5", "/w")


def cycle(file: h5py.File) -> None:
    file.create_group("inner")["bad"] = file["/"]


def twice(file: h5py.File) -> None:
    file["zbad"] = file["w"]


def levels(file: h5py.File) -> None:
    file.create_group("/".join(["x"] * 200))


def never_written(file: h5py.File) -> None:
    file.create_dataset("bad", (1 << 30,), "f8")


def bomb(file: h5py.File) -> None:
    file.create_dataset("bad", (1 << 31,), "f8", chunks=(1 << 20,), compression="gzip")


def chunk_bomb(file: h5py.File) -> None:
    file.create_dataset("bad", (10,), "f8", maxshape=(None,), chunks=(1 << 28,), compression="gzip")


def beyond_limit(file: h5py.File) -> None:
    file.create_dataset("bad", (1 << 34,), "f8")


def double_gzip(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4 << 20,))
    plist.set_deflate(9)
    plist.set_deflate(9)
    space = h5py.h5s.create_simple((64 << 20,))
    dataset = h5py.Dataset(h5py.h5d.create(file.id, b"bad", h5py.h5t.STD_U8LE, space, plist))
    dataset[...] = np.zeros(64 << 20, np.uint8)


def vlen_attribute(file: h5py.File) -> None:
    file.attrs["bad"] = "variable length"


def reference_attribute(file: h5py.File) -> None:
    file.attrs["bad"] = file["w"].ref


def compound_attribute(file: h5py.File) -> None:
    file["w"].attrs["bad"] = np.zeros(1, "f4,i4")


def of(dtype: Any, data: Any = None) -> Trick:
    return lambda file: file.create_dataset("bad", (2,), dtype, data=data)


TRICKS: dict[str, tuple[Trick, str]] = {
    "soft link": (soft, r"got a soft link at '/bad', expected groups and datasets of this file itself"),
    "dangling link": (dangling, r"got a soft link at '/bad'"),
    "external link": (external_link, r"got an external link at '/bad'"),
    "deep external link": (deep_external_link, r"got an external link at '/inner/more/bad'"),
    "external storage": (external_storage, r"got external storage, which reads another file at '/bad'"),
    "virtual dataset": (
        virtual,
        r"got a virtual dataset, which reads other files at '/bad', expected data in this file",
    ),
    "unknown filter": (
        lambda file: file.create_dataset("bad", data=np.zeros(100), chunks=(10,), compression="lzf"),
        r"got the filter number 32000 at '/bad', expected none but gzip, shuffle, fletcher32",
    ),
    "scale-offset": (
        lambda file: file.create_dataset("bad", data=np.zeros(9, int), scaleoffset=0),
        r"the filter number 6 ",
    ),
    "object reference": (of(h5py.ref_dtype), r"got an object or region reference at '/bad'"),
    "region reference": (of(h5py.regionref_dtype), r"got an object or region reference at '/bad'"),
    "variable length": (of(h5py.vlen_dtype(np.int32)), r"got a variable-length type at '/bad'"),
    "variable text": (of(h5py.string_dtype()), r"got a variable-length text at '/bad'"),
    "compound": (
        of(np.dtype("f4,i4")),
        r"got a compound type at '/bad', expected plain numbers and fixed-length texts",
    ),
    "complex": (of(np.complex64), r"got a compound type at '/bad'|got a type of HDF5 class 11 at '/bad'"),
    "opaque": (of(np.dtype("V8")), r"got an opaque type at '/bad'"),
    "enumeration": (of(h5py.enum_dtype({"a": 1})), r"got an enumeration at '/bad'"),
    "bool": (of(bool), r"got an enumeration at '/bad'"),
    "array type": (array_type, r"got an array type at '/bad'"),
    "bit field": (bit_field, r"got a bit field at '/bad'"),
    "long double": (of(np.longdouble), r"got a number of 16 bytes at '/bad'"),
    "committed datatype": (committed, r"got a committed datatype at '/bad', expected groups and datasets"),
    "dataset of committed": (
        dataset_of_committed,
        r"got a committed datatype at '/bad', expected plain numbers and texts",
    ),
    "attribute of committed": (attribute_of_committed, r"got a committed datatype at '/ \(attribute bad\)'"),
    "variable attribute": (vlen_attribute, r"got a variable-length text at '/ \(attribute bad\)'"),
    "reference attribute": (reference_attribute, r"got an object or region reference at '/ \(attribute bad\)'"),
    "compound attribute": (compound_attribute, r"got a compound type at '/w \(attribute bad\)'"),
    "cycle": (cycle, r"got a second hard link to the same object at '/inner/bad', expected every object once"),
    "second hard link": (twice, r"got a second hard link to the same object at '/zbad'"),
    "levels": (levels, r"got more than 100 levels of groups"),
    "never written": (never_written, r"got 8589934592 declared but 0 stored bytes at '/bad'"),
    "beyond the limit": (beyond_limit, r"got 137438953\d\d\d declared bytes at '/bad', expected at most 68719476736"),
    "bomb": (bomb, r"got 17179869184 bytes compressed to 0 at '/bad', expected at most 2000 to 1"),
    "chunk bomb": (chunk_bomb, r"got 2147483648 bytes compressed to 0 at '/bad'"),
    "gzip in gzip": (double_gzip, r"got 67108864 bytes compressed to \d+ at '/bad', expected at most 2000 to 1"),
}


def hostile(folder: Path, trick: Trick) -> Path:
    path = write_part(folder / "hostile.h5", "checkpoint", {"w": np.zeros(3)})
    with h5py.File(path, "r+") as file:
        trick(file)
    return path


@pytest.mark.parametrize("name", TRICKS)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    trick, text = TRICKS[name]
    path = hostile(tmp_path, trick)
    with pytest.raises(StoreError, match=text) as caught:
        read_part(path)
    assert str(caught.value).startswith(f"{path}: got ")
    assert "do not open this file with other programs unless you trust its maker" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_limit_is_for_all_datasets_together(tmp_path: Path) -> None:
    path = write_part(tmp_path / "p.h5", "checkpoint", {"a": np.zeros(1000), "b": np.zeros(1000)})
    with h5py.File(path) as file:
        guard.read_branch(file, "p.h5", limit=17000)
        with pytest.raises(
            StoreError, match=r"p\.h5: got 160\d\d declared bytes at '/b', expected at most 12000 in one part"
        ):
            guard.read_branch(file, "p.h5", limit=12000)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "p.h5").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(StoreError, match="got a file that is not HDF5"):
        load(tmp_path / "p.h5")


READER = """
import sys
from sharpscope.store import StoreError
from sharpscope.store._parts import read_part
for path in sys.argv[1:]:
    try:
        read_part(path)
    except StoreError:
        continue
    sys.exit(f"{path} was not refused")
"""


def test_no_other_file_is_opened(tmp_path: Path) -> None:
    """Traced: the victims that the hostile files name are never opened, nor any library looked up for a filter."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "true"], capture_output=True).returncode:
        pytest.skip("strace cannot run here")
    victims = [tmp_path / "victim.h5", tmp_path / "victim.bin"]
    write_part(victims[0], "checkpoint", {"w": np.ones(3)})
    victims[1].write_bytes(bytes(range(24)))
    paths = []
    for name, (trick, _) in TRICKS.items():
        paths.append(hostile(tmp_path, trick).rename(tmp_path / f"{name.replace(' ', '_')}.h5"))
    log = tmp_path / "trace"
    command = [strace, "-f", "-e", "trace=file", "-o", str(log), sys.executable, "-c", READER, *map(str, paths)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    touched = [line for line in log.read_text().splitlines() if "execve" not in line]
    assert sum("external_link.h5" in line for line in touched) > 0
    assert not [line for line in touched if "victim" in line or "hdf5/plugin" in line]
