"""The Python layout of CIFAR: the same images as the binary one; hostile and damaged pickles run nothing."""

from __future__ import annotations

import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpscope.data import DataError, cifar10, cifar100
from sharpscope.data._pickles import read_pickle

RNG = np.random.default_rng(5)


def write(path: Path, content: Any, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def of_python_2(data: np.ndarray, labels: list[int]) -> bytes:
    """Byte for byte what Python 2 and its NumPy wrote: byte strings as strings, keys too."""
    raw = data.tobytes()
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR(K\x01(M"
    array += struct.pack("<H", len(data)) + b"M\x00\x0ctcnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03"
    array += (
        text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return (
        b"\x80\x02}("
        + text(b"data")
        + array
        + text(b"labels")
        + listed
        + text(b"batch_label")
        + text(b"1 of 5")
        + b"u."
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """CIFAR-10 with seven images in both layouts."""
    binary, python = tmp_path / "cifar-10-batches-bin", tmp_path / "py" / "cifar-10-batches-py"
    binary.mkdir()
    python.mkdir(parents=True)
    for number, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        count = number + 2
        pixels, labels = RNG.integers(0, 256, (count, 3072), dtype=np.uint8), RNG.integers(0, 10, count).tolist()
        records = [bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True)]
        (binary / f"{name}.bin").write_bytes(b"".join(records))
        if number == 0:
            (python / name).write_bytes(of_python_2(pixels, labels))
        else:
            write(python / name, {b"data": pixels, b"labels": labels, "filenames": [b"a"] * count}, 1 + number)
    return binary, python


def test_both_layouts_are_the_same_images(folders: tuple[Path, Path]) -> None:
    binary, python = (cifar10(folder) for folder in folders)
    assert binary.digest() == python.digest() == cifar10(folders[1].parent).digest()
    assert binary.sizes == (5, 4)
    write(folders[1] / "batches.meta", {b"label_names": [bytes([97 + i]) for i in range(10)]})
    assert cifar10(folders[1]).classes == tuple("abcdefghij")


@pytest.mark.parametrize("layout", ["binary", "python"])
def test_cifar100_takes_the_fine_labels(tmp_path: Path, layout: str) -> None:
    pixels, fine = RNG.integers(0, 256, (3, 3072), dtype=np.uint8), [99, 0, 41]
    for name in ("train", "test"):
        if layout == "binary":
            records = (bytes([7, label]) + row.tobytes() for label, row in zip(fine, pixels, strict=True))
            (tmp_path / f"{name}.bin").write_bytes(b"".join(records))
        else:
            write(tmp_path / name, {b"data": pixels, b"fine_labels": fine, b"coarse_labels": [7, 7, 7]})
    images = cifar100(tmp_path)
    assert images.train_targets.tolist() == fine and len(images.classes) == 100
    mean, deviation = (np.array(v)[:, None] for v in ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)))
    expected = (pixels[1].reshape(3, 1024) / 255 - mean) / deviation
    assert np.allclose(images.test_inputs[1].flatten(1).numpy(), expected, atol=1e-6)


class Attack:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HOSTILE = {
    "system": (lambda mark: Attack(os.system, f"touch {mark}"), "posix.system"),
    "eval": (lambda mark: Attack(eval, f"open({str(mark)!r}, 'w')"), "eval"),
    "open": (lambda mark: Attack(open, str(mark), "w"), "io.open"),
    "getattr": (lambda mark: Attack(getattr, "a", "upper"), "getattr"),
    "object": (lambda mark: Attack(np.random.default_rng, 1), "numpy.random"),
    "class": (lambda mark: Path(mark), "pathlib"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_hostile_pickles_run_nothing(tmp_path: Path, name: str, protocol: int) -> None:
    make, said = HOSTILE[name]
    mark = tmp_path / "mark"
    write(tmp_path / "bad", {b"data": make(mark)}, protocol)
    with pytest.raises(DataError, match=f"got .*{re.escape(said)}.* in a pickle, expected only arrays, bytes, lists"):
        read_pickle(tmp_path / "bad")
    assert not mark.exists()


RAW = {
    "the reader's own names cannot be altered": b"cnumpy\ndtype\n}X\x0c\x00\x00\x00__setstate__K\x01sb.",
    "an array of objects": pickle.dumps({"data": np.array([1, "a"], dtype=object)}, protocol=2),
    "an array that claims more than it has": pickle.dumps({"data": np.zeros(9, np.uint8)}, 2).replace(
        b"K\t\x85", b"K\x7f\x85"
    ),
    "a memo that fills the memory": b"\x80\x02}r\xff\xff\xff\x7f.",
    "nesting that fills the stack": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "a reference outside": b"\x80\x02}X\x01\x00\x00\x00aQs.",
    "not a dict": pickle.dumps([1, 2], protocol=2),
    "empty": b"",
    "text": b"no pickle at all",
    "truncated": pickle.dumps({"data": np.zeros(1000, np.uint8)}, protocol=2)[:-200],
}


@pytest.mark.parametrize("name", RAW)
def test_damaged_pickles_are_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / "batch"
    path.write_bytes(RAW[name])
    with pytest.raises(DataError, match=r"^got .*expected .*"):
        read_pickle(path)
    write(path, {b"data": np.arange(3, dtype=">i4")})  # and the next file is read as ever
    assert read_pickle(path)["data"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        {b"labels": [1]},
        {b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.int64), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["1"]},
        {b"data": np.zeros((0, 3072), np.uint8), b"labels": []},
    ],
)
def test_other_contents_are_told(folders: tuple[Path, Path], content: dict[bytes, Any]) -> None:
    write(folders[1] / "data_batch_1", content)
    with pytest.raises(DataError, match=r"^cifar10: got other contents in .*expected 'data', an array"):
        cifar10(folders[1])


def test_a_label_out_of_range_and_an_unreadable_file(folders: tuple[Path, Path]) -> None:
    write(folders[1] / "test_batch", {b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, -1]})
    with pytest.raises(DataError, match=r"^cifar10: got label -1 in record 1 of .*expected 0 to 9, so the file"):
        cifar10(folders[1])
    (folders[1] / "data_batch_7").mkdir()
    with pytest.raises(
        DataError, match=r"^cifar10: got 'Is a directory' on reading .*data_batch_7', expected a readable"
    ):
        cifar10(folders[1])
