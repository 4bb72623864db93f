"""The idx files of MNIST: exact values, both spellings, compressed or not; missing, truncated and corrupt ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from sharpscope.data import DataError, Images, fashion_mnist, load, mnist


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five training and three test images of 28 x 28, half of the files compressed."""
    rng = np.random.default_rng(1)
    place = tmp_path / "MNIST" / "raw"
    place.mkdir(parents=True)
    for stem, count in (("train", 5), ("t10k", 3)):
        pixels, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8)
        (place / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (place / f"{stem}-labels.idx1-ubyte").write_bytes(idx(labels))
    return place


def test_exact_values(folder: Path) -> None:
    images = mnist(folder.parents[1])
    assert images.sizes == (5, 3) and images.shape == (1, 28, 28) and not images.augment
    assert images.train_targets.tolist() == [0, 1, 2, 3, 4]
    raw = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    expected = (raw.reshape(5, 1, 28, 28) / 255 - 0.1307) / 0.3081
    assert np.allclose(images.train_inputs.numpy(), expected, atol=1e-6)
    assert images.digest() == mnist(folder).digest() != fashion_mnist(folder).digest()
    loaded = load("mnist", folder, test=2)
    assert isinstance(loaded, Images) and loaded.sizes == (5, 2)
    assert fashion_mnist(folder).classes[9] == "ankle boot"


def test_missing_truncated_and_corrupt_files_are_told(folder: Path) -> None:
    path = folder / "t10k-labels.idx1-ubyte"
    whole = path.read_bytes()
    for content, said in [
        (whole[:-1], r"got 2 bytes after the head of .*expected 3 for the sizes \(3,\)"),
        (whole + b"a", "got more than 3 bytes after the head"),
        (whole[:6], "got the beginning '00000801' of .*expected '00000801' and 1 sizes, so the file is truncated"),
        (b"PK\x03\x04" + whole, "got the beginning '504b0304'"),
        (idx(np.zeros(4, np.uint8)), "got 3 images and 4 labels of 't10k'"),
        (idx(np.full(3, 10, np.uint8)), "got test targets from 10 to 10, expected 0 to 9"),
        (bytes([0, 0, 8, 1, 0xFF, 0xFF, 0xFF, 0xFF, 1]), "got 1 bytes after the head"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"^mnist: {said}"):
            mnist(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"^mnist: got no t10k-labels-idx1-ubyte in .*with or without .gz, so correct"):
        mnist(folder)
    images = folder / "t10k-images-idx3-ubyte.gz"
    for content in (images.read_bytes()[:-30], b"no gzip", images.read_bytes()[:40] + bytes(20)):
        images.write_bytes(content)
        with pytest.raises(DataError, match=r"^mnist: got .* on reading .*expected a whole file, so download it again"):
            mnist(folder)
