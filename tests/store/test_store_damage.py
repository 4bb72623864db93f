"""Bit flips, truncations and overwritten pages: the value that was written, or a StoreError; nothing else, ever.

HDF5 reads the damaged files in a child process, so that a crash of the C library would fail a test and not the session.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import sys
import numpy as np, torch
from sharpscope.store import StoreError
from sharpscope.store._parts import read_part, write_part
from sharpscope.store._nodes import digest
from sharpscope.store._tree import encode

folder, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(seed)
tree = {
    "model": {"conv.weight": torch.arange(60, dtype=torch.float32).reshape(3, 4, 5), "bias": torch.ones(7).bfloat16()},
    "optimizer": {"state": {0: {"momentum": torch.arange(60.0), "step": 3}}, "groups": [{"params": [0, 1], "lr": 0.1}]},
    "mask": torch.from_numpy(rng.random(100_000) > 0.9), "text": "text", "names": ("a", "bc"), "none": None,
}
path = folder + "/part.h5"
write_part(path, "checkpoint", tree, {"step": 3})
original = open(path, "rb").read()
expected, attributes = read_part(path)
assert digest(encode(expected)) == digest(encode(tree))
refused = same = 0
for turn in range(count):
    data = bytearray(original)
    kind = turn % 4
    if kind == 0:  # one bit, anywhere
        place = rng.integers(len(data))
        data[place] ^= 1 << rng.integers(8)
    elif kind == 1:  # some bytes of the first pages, where the structure is
        for place in rng.integers(0, min(len(data), 8192), rng.integers(1, 6)):
            data[place] = rng.integers(256)
    elif kind == 2:  # the end is missing
        del data[rng.integers(len(data)):]
    else:  # a stretch of zeros, ones or of another place
        start, length = rng.integers(len(data)), rng.integers(1, 600)
        other = rng.integers(len(data))
        filler = [bytes(length), b"\\xff" * length, bytes(original[other:other + length])][rng.integers(3)]
        data[start:start + length] = filler[:max(0, len(data) - start)]
    with open(folder + "/bad.h5", "wb") as file:
        file.write(data)
    print(turn, file=sys.stderr, flush=True)
    try:
        got, told = read_part(folder + "/bad.h5", "checkpoint")
    except StoreError as error:
        assert "bad.h5: got " in str(error) and "\\n" not in str(error), str(error)
        refused += 1
        continue
    assert digest(encode(got)) == digest(encode(tree)) and told == attributes, turn
    same += 1
print(refused, same)
"""


@pytest.mark.parametrize("seed", [0])
def test_mutated_parts(tmp_path: Path, seed: int) -> None:
    command = [sys.executable, "-W", "error", "-c", CHILD, str(tmp_path), str(seed), "240"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, same = map(int, done.stdout.split())
    assert refused + same == 240
    assert refused > 120
