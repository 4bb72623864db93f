"""``make bench-masks``: overlaps of many masks, the histogram of r, and packing, at the size of a ResNet-18."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import torch

import sharpscope as ss
from benchmarks._report import write
from sharpscope import models
from sharpscope.analyzers.gradients.histogram import tally

MASKS = 50


def best_of(call: Callable[[], Any], runs: int = 5) -> float:
    """Median seconds, after one call to warm up."""
    call()
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def parameters() -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in models.build("resnet18", (3, 32, 32), 10).named_parameters()}


def one_mask(shapes: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=rng, dtype=torch.float32) < 0.5 for name, p in shapes.items()}


def overlaps() -> tuple[float, float]:
    """Median seconds of an overlap matrix, and the MB that it allocates at its peak beyond the packed masks."""
    shapes = parameters()
    packed = [ss.PackedMask.of(one_mask(shapes, seed)) for seed in range(MASKS)]
    seconds = best_of(lambda: ss.mask_overlap(packed))
    tracemalloc.start()
    ss.mask_overlap(packed)
    beyond = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return seconds, beyond


def histogram(inside: bool) -> float:
    """Median seconds to count r of all parameters, gradients at hand."""
    shapes = parameters()
    gradients = [[torch.randn_like(p) for p in shapes.values()] for _ in range(2)]
    mask = one_mask(shapes, 0)
    sides = [part.reshape(-1) if inside else None for part in mask.values()]
    return best_of(lambda: [tally(a, b, "log10", side) for a, b, side in zip(*gradients, sides, strict=True)])


def packing() -> tuple[float, float]:
    """Median seconds to pack a mask of all parameters, and to unpack it."""
    mask = one_mask(parameters(), 0)
    packed = ss.PackedMask.of(mask)
    return best_of(lambda: ss.PackedMask.of(mask), 20), best_of(packed.unpack, 20)


def main() -> None:
    size = sum(p.numel() for p in parameters().values())
    seconds, beyond = overlaps()
    packed, unpacked = packing()
    rows = [
        (f"overlaps, survival and union of {MASKS} masks, seconds", "<= 2", f"{seconds:.3f}"),
        ("memory at their peak beyond the packed masks, MB", "<= 200", f"{beyond:.1f}"),
        ("histogram of r beyond the two gradients, seconds", "<= 0.3", f"{histogram(False):.3f}"),
        ("the same, inside and outside a mask", "<= 0.3", f"{histogram(True):.3f}"),
        ("packing one mask, ms", "<= 30", f"{1000 * packed:.1f}"),
        ("unpacking it, ms", "", f"{1000 * unpacked:.1f}"),
    ]
    write("masks", [{"measure": f"{text} ({size / 1e6:.1f} M entries)", "reach": reach, "measured": value}
                    for text, reach, value in rows], ("numpy",))  # fmt: skip


if __name__ == "__main__":
    main()
