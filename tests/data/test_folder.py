"""Image folders: what is seen, the same for any number of workers, and what is told of missing and damaged files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sharpscope.data import DataError, Folder, imagenet, load
from sharpscope.data.folder import DEVIATION, MEAN

COLOURS = {"n01": (255, 0, 0), "n02": (0, 128, 0), "n03": (0, 0, 64)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of one colour each; five training and two test images in each, of different shapes."""
    for part, count in (("train", 5), ("val", 2)):
        for name, colour in COLOURS.items():
            place = tmp_path / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((20 + 7 * number, 30 - number, 3), colour, dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.{'png' if number else 'JPEG'}", quality=100)
            (place / "note.txt").write_text("no image")
    return tmp_path


def small(root: Path, workers: int = 0) -> Folder:
    return imagenet(root, workers).resize(8)


def normalised(target: int) -> torch.Tensor:
    colour = torch.tensor(list(COLOURS.values())[target], dtype=torch.float64) / 255
    return ((colour - torch.tensor(MEAN)) / torch.tensor(DEVIATION))[:, None, None].expand(3, 8, 8)


def test_every_image_is_seen_once_with_its_class(root: Path) -> None:
    images = small(root)
    assert (images.sizes, images.shape, images.classes) == ((15, 6), (3, 8, 8), ("n01", "n02", "n03"))
    assert repr(images) == "Folder('imagenet', 15 training and 6 test images of shape (3, 8, 8), 3 classes)"
    for parts, count in ((images.feed(4, 0, 0), 15), (images.tests(), 6), (iter([images.reference()]), 15)):
        found = list(parts)
        targets = torch.cat([y for _, y in found])
        assert targets.bincount().tolist() == [count // 3] * 3
        for x, y in zip(torch.cat([x for x, _ in found]), targets, strict=True):
            assert x.dtype == torch.float32 and torch.allclose(x.double(), normalised(int(y)), atol=0.02)
    assert len(set(images.train_targets[:6].tolist())) > 1  # the first so many are not of one class


def gradient(root: Path, shape: tuple[int, int]) -> Folder:
    """One image whose red is the row and whose green is the column."""
    for part in ("train", "val"):
        (root / part / "a").mkdir(parents=True)
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        pixels = np.stack([rows * 255 / (shape[0] - 1), columns * 255 / (shape[1] - 1), 0 * rows], axis=2)
        Image.fromarray(pixels.astype(np.uint8)).save(root / part / "a" / "x.png")
    return imagenet(root, 0)


def test_the_centre_is_resized_to_256_and_cropped_to_224(tmp_path: Path) -> None:
    images = gradient(tmp_path, (256, 512))
    ((x, _),) = images.tests()
    mean, deviation = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (MEAN, DEVIATION))
    seen = (x[0] * deviation + mean) * 255
    assert torch.allclose(seen[0, :, 0].double(), torch.arange(16, 240).double(), atol=1.01)
    assert torch.allclose(seen[1, 0].double(), (torch.arange(144, 368) * 255 / 511).double(), atol=1.01)


def test_random_crops_cover_8_to_100_percent_and_both_directions(tmp_path: Path) -> None:
    images = gradient(tmp_path, (200, 200)).resize(32)
    mean, deviation = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (MEAN, DEVIATION))
    areas, ratios, flips = [], [], 0
    for epoch in range(200):
        ((x, _),) = images.feed(1, 0, epoch)
        seen = (x[0] * deviation + mean) * 32 / 31
        high, wide = float(seen[0, -1, 0] - seen[0, 0, 0]), float(seen[1, 0, -1] - seen[1, 0, 0])
        flips += wide < 0
        areas.append(high * abs(wide))
        ratios.append(abs(wide) / high)
    assert 0.06 < min(areas) < 0.2 and 0.8 < max(areas) < 1.05 and 0.45 < np.mean(areas) < 0.6
    assert 0.7 < min(ratios) < 0.85 and 1.2 < max(ratios) < 1.45
    assert 70 < flips < 130


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_the_same_batches_for_any_number_of_workers(root: Path, rng_guard: Callable[[], None]) -> None:
    one, two = ([*small(root, workers).feed(4, 3, 1)] for workers in (0, 2))
    for (x, y), (other, target) in zip(one, two, strict=True):
        assert torch.equal(x, other) and torch.equal(y, target)
    again, later = (torch.cat([y for _, y in small(root).feed(4, 3, epoch)]) for epoch in (1, 2))
    assert torch.equal(again, torch.cat([y for _, y in one])) and not torch.equal(again, later)


def test_limits_and_digest(root: Path) -> None:
    images = small(root)
    few = images.limit(train=4, test=2)
    assert few.sizes == (4, 2) and few.train_files == images.train_files[:4]
    assert images.reference(3)[0].shape == (3, 3, 8, 8)
    loaded = load("imagenet", root, train=4, test=2, side=8)
    assert isinstance(loaded, Folder) and loaded.digest() == few.digest()
    before = images.digest()
    assert before == small(root, 2).digest() != few.digest()
    (root / "train" / "n01" / "4.png").write_bytes(b"changed")
    assert small(root).digest() != before
    text = "imagenet: got a limit of rest test images, expected 1 to 6, so choose test= in that range or leave it out"
    with pytest.raises(DataError, match=re.escape(text)):
        images.limit(test="rest")


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_are_named(root: Path, workers: int) -> None:
    images = small(root, workers)
    path = root / "train" / "n02" / "0.JPEG"
    for content in (b"", path.read_bytes()[:-200], b"\xff\xd8 no image"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"^imagenet: got .*{path}.* on decoding an image, expected a whole JPEG"):
            list(images.feed(4, 0, 0))
    path.unlink()
    with pytest.raises(DataError, match=r"^imagenet: got .*FileNotFoundError|^imagenet: got RuntimeError"):
        list(replace(images, workers=0).feed(4, 0, 0))


def test_missing_folders_are_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^imagenet: got no folder 'train' in '.*nowhere', expected train/<class>/"):
        imagenet(root / "nowhere")
    (root / "val" / "n04").mkdir()
    with pytest.raises(DataError, match=r"^imagenet: got class 'n04' in only one of train and val"):
        imagenet(root)
    for path in root.glob("train/*/*.*"):
        path.unlink()
    with pytest.raises(DataError, match=r"^imagenet: got no image in .*train', expected <class>/<image>"):
        imagenet(root)
