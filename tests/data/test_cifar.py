"""The CIFAR-10 reader: exact values from small files, every error, and the real files where they are present."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpscope.data import DataError, Images, cifar10
from sharpscope.data.cifar import DEVIATION, MEAN

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def record(label: int, shift: int = 0) -> bytes:
    """One image whose byte at (channel, row, column) is (70 channel + 7 row + column + shift) mod 256."""
    channel, row, column = np.ogrid[:3, :32, :32]
    pixels = (70 * channel + 7 * row + column + shift) % 256
    return bytes([label, *pixels.ravel().tolist()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training files with three images and a test file with one."""
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    (place / "data_batch_1.bin").write_bytes(record(3) + record(9, 11))
    (place / "data_batch_2.bin").write_bytes(record(0, 22))
    (place / "test_batch.bin").write_bytes(record(7, 33))
    return place


def test_exact_values(folder: Path) -> None:
    images = cifar10(folder)
    assert images.train_inputs.shape == (3, 3, 32, 32)
    assert images.test_inputs.shape == (1, 3, 32, 32)
    assert images.train_inputs.dtype == torch.float32
    assert images.train_inputs.is_contiguous()
    assert images.train_targets.tolist() == [3, 9, 0]
    assert images.test_targets.tolist() == [7]
    assert (images.name, images.classes, images.augment, images.pad) == ("cifar10", NAMES, True, 4)
    for i, shift in enumerate((0, 11, 22)):
        for channel, row, column in ((0, 0, 0), (0, 0, 31), (1, 31, 0), (2, 17, 5), (2, 31, 31)):
            byte = (70 * channel + 7 * row + column + shift) % 256
            expected = (byte / 255 - MEAN[channel]) / DEVIATION[channel]
            assert images.train_inputs[i, channel, row, column].item() == pytest.approx(expected, abs=1e-6)


def test_parent_text_and_folder_are_the_same(folder: Path) -> None:
    digests = {cifar10(root).digest() for root in (folder, folder.parent, str(folder.parent))}
    assert len(digests) == 1


def test_files_in_numerical_order(folder: Path) -> None:
    (folder / "data_batch_10.bin").write_bytes(record(5))
    assert cifar10(folder).train_targets.tolist() == [3, 9, 0, 5]


def test_class_names_from_file(folder: Path) -> None:
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert cifar10(folder).classes == tuple("abcdefghij")


def raises(root: Path, text: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(text)}$"):
        cifar10(root)


def test_missing_root(tmp_path: Path) -> None:
    raises(
        tmp_path / "nowhere",
        f"cifar10: got root '{tmp_path}/nowhere', which is not a folder, expected 'cifar-10-batches-bin', "
        f"'cifar-10-batches-py' or their parent, so correct the path or unpack the archive there.",
    )


@pytest.mark.parametrize("stem", ["data_batch", "test_batch"])
def test_missing_files(folder: Path, stem: str) -> None:
    for path in folder.glob(f"{stem}*"):
        path.unlink()
    raises(
        folder,
        f"cifar10: got no {stem}* file in '{folder}', expected at least one {stem}*.bin of the binary layout or one "
        f"{stem}* of the Python layout, so give the folder that has them.",
    )


def test_truncated_file(folder: Path) -> None:
    path = folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes() + record(1)[:1000])
    raises(
        folder,
        f"cifar10: got 4073 bytes in '{path}', expected a multiple of 3073 but 1000 are left over, "
        f"so the file is truncated or not in the binary layout: unpack the archive again.",
    )


def test_empty_file(folder: Path) -> None:
    (folder / "test_batch.bin").write_bytes(b"")
    raises(
        folder,
        f"cifar10: got an empty file '{folder}/test_batch.bin', expected records of 3073 bytes, "
        f"so unpack the archive again.",
    )


def test_label_out_of_range(folder: Path) -> None:
    (folder / "data_batch_2.bin").write_bytes(record(9) + record(10) + record(255))
    raises(
        folder,
        f"cifar10: got label 10 in record 1 of '{folder}/data_batch_2.bin', expected 0 to 9, "
        f"so the file is damaged or of another data set: unpack the archive again.",
    )


def test_unreadable_file(folder: Path) -> None:
    (folder / "data_batch_3.bin").mkdir()
    raises(
        folder,
        f"cifar10: got 'Is a directory' on reading '{folder}/data_batch_3.bin', expected a readable file, "
        f"so check its kind and its permissions.",
    )


def test_wrong_number_of_class_names(folder: Path) -> None:
    (folder / "batches.meta.txt").write_text("cat\ndog\n")
    raises(
        folder,
        f"cifar10: got 2 class names in '{folder}/batches.meta.txt', expected 10, one per line, "
        f"so restore the file or remove it to use the official names.",
    )


@pytest.fixture(scope="module")
def real() -> Images:
    """The files named by SHARPSCOPE_CIFAR10, or those beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "../shared/data/cifar-10-batches-bin"
    place = Path(os.environ.get("SHARPSCOPE_CIFAR10", beside))
    if not place.is_dir():
        pytest.skip("no CIFAR-10 files: set SHARPSCOPE_CIFAR10 to their folder")
    return cifar10(place)


def test_real_files(real: Images) -> None:
    assert real.classes == NAMES
    assert real.shape == (3, 32, 32)
    train, test = (targets.bincount(minlength=10).tolist() for targets in (real.train_targets, real.test_targets))
    sizes = sum(train), sum(test)
    if sizes == (10000, 2000):  # the subset, drawn at random
        assert train == [1004, 989, 984, 1034, 957, 1055, 1003, 1025, 976, 973]
        assert test == [189, 190, 209, 204, 200, 215, 219, 186, 191, 197]
    else:
        assert sizes == (50000, 10000)
        assert set(train) == {5000}
        assert set(test) == {1000}
    assert real.train_inputs.shape == (sizes[0], 3, 32, 32)
    assert real.test_inputs.shape == (sizes[1], 3, 32, 32)
    assert real.train_inputs.mean(dim=(0, 2, 3)).abs().max() < 0.01
    assert (real.train_inputs.std(dim=(0, 2, 3)) - 1).abs().max() < 0.01
