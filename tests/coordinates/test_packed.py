"""Masks at one bit per entry: exact round trips, whatever the sizes, in memory and on disk."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpscope.coordinates.packed import PackedMask, ones_of
from sharpscope.store import create_run, open_run

SHAPES = {"a": (1,), "b": (), "c": (7,), "d": (3, 7, 3), "e": (64,), "f": (65,), "none": (0, 3), "g": (2, 2, 2, 31)}


def random_mask(seed: int, density: float = 0.5) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=rng) < density for name, shape in SHAPES.items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_round_trip(density: float) -> None:
    mask = random_mask(0, density)
    packed = PackedMask.of(mask)
    assert equal(packed.unpack(), mask)
    assert equal(PackedMask.of({name: part.numpy() for name, part in mask.items()}).unpack(), mask)
    assert packed.sizes.tolist() == [math.prod(shape) for shape in SHAPES.values()]
    assert packed.selected.tolist() == [int(part.sum()) for part in mask.values()]
    assert packed.words.nbytes <= sum(packed.sizes) / 8 + 8 * len(SHAPES)
    assert packed.density == sum(packed.selected) / sum(packed.sizes)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 1001])
def test_every_single_entry(size: int) -> None:
    for place in range(0, size, max(1, size // 13)):
        part = torch.zeros(size, dtype=torch.bool)
        part[place] = True
        packed = PackedMask.of({"w": part})
        assert equal(packed.unpack(), {"w": part}) and ones_of(packed.words) == 1
        assert ones_of((~packed).words) == size - 1


def test_views_and_devices(device: torch.device) -> None:
    wide = torch.rand(6, 5, device=device) < 0.5
    image = (torch.rand(2, 3, 5, 5, device=device) < 0.5).to(memory_format=torch.channels_last)
    back = PackedMask.of({"w": wide.T, "x": image, "y": wide[:, ::2]}).unpack()
    assert equal(back, {"w": wide.T.cpu(), "x": image.cpu(), "y": wide[:, ::2].cpu()})


def test_combinations() -> None:
    one, two = random_mask(1), random_mask(2)
    a, b = PackedMask.of(one), PackedMask.of(two)
    assert equal((~a).unpack(), {name: ~part for name, part in one.items()})
    assert equal((a | b).unpack(), {name: one[name] | two[name] for name in one})
    assert equal((a & ~b).unpack(), {name: one[name] & ~two[name] for name in one})
    assert a == PackedMask.of(one) and a != b and ~~a == a
    turned = PackedMask.of({name: two[name] for name in reversed(list(two))})
    assert a | turned == a | b
    assert repr(a).startswith("PackedMask(8 parameters, ")


def test_saved_packed_and_loaded_are_the_same_bits(tmp_path: Path) -> None:
    mask = random_mask(3)
    run = create_run(tmp_path / "run", {})
    run.add_masks(5, PackedMask.of(mask).unpack())
    loaded = open_run(tmp_path / "run").masks(5)
    assert equal(loaded, mask)
    assert np.array_equal(PackedMask.of(loaded).words, PackedMask.of(mask).words)


A = torch.tensor([True])


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (A, "mask 'm' got a Tensor, expected {parameter name: boolean tensor}"),
        ({}, "mask 'm' got no parameter, expected at least one"),
        (
            {"w": torch.ones(3, dtype=torch.float64)},
            "mask 'm' got float64 for w, expected booleans: convert with mask.bool()",
        ),
        ({"w": np.array([0.0, math.nan])}, "mask 'm' got float64 for w, expected booleans"),
        ({"w": [0, 1]}, "mask 'm' got int64 for w, expected booleans"),
    ],
)
def test_error_texts(mask: Any, text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        PackedMask.of(mask, "m")


def test_masks_of_different_models_do_not_combine() -> None:
    with pytest.raises(
        ValueError, match=r"^a mask got other parameters than the first mask \(w, v in one of them only\)"
    ):
        PackedMask.of({"w": A}) | PackedMask.of({"v": A})
    with pytest.raises(
        ValueError, match=r"^a mask got shape \(1, 1\) for w, expected \(1,\): compare masks of one model"
    ):
        PackedMask.of({"w": A}) & PackedMask.of({"w": A[None]})
