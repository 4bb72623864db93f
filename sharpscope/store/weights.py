"""Weights from elsewhere: safetensors files, torch checkpoints, and runs of sharpscope.

Torch checkpoints are pickles.  They are read with ``weights_only=True``, which builds tensors and plain containers and
runs nothing else; there is no way round it here.  Prefer safetensors, which hold nothing but tensors.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sharpscope.store._files import known_path, require_file
from sharpscope.store._parts import SIGNATURE, read_header, read_part
from sharpscope.store.errors import StoreError
from sharpscope.store.pack import open_run

__all__ = ["load_weights"]

USUAL = ("model", "state_dict", "model_state_dict", "net", "weights")  # where training scripts put them


def load_weights(path: str | os.PathLike[str], key: str | None = None) -> dict[str, torch.Tensor]:
    """The weights in a file, on the CPU, as ``model.load_state_dict`` takes them.

    Args:
        path: a safetensors file, a file of ``torch.save``, a run (its last checkpoint) or a part of one; the content
            says which, not the name.
        key: where the weights are in a checkpoint that holds more, such as "state_dict"; found by itself if it is one
            of the usual names.

    Raises StoreError for a file that is missing, damaged or of another kind, that holds anything which
    ``torch.load(weights_only=True)`` refuses, or in which no weights are found; ImportError for a safetensors file
    where safetensors is not installed (``pip install 'sharpscope[safetensors]'``).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "net.pt"
    ...     torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, path)
    ...     load_weights(path)
    {'w': tensor([1., 1.])}
    """
    path = known_path(path)
    if path.is_dir():
        return _weights(open_run(path).checkpoint(), key, path)
    require_file(path, "a file of weights")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise StoreError(f"{path}: got {error.strerror!r}, expected a file that can be read: check who may") from error
    if start.startswith(SIGNATURE):
        return _weights(_of_hdf5(path), key, path)
    if start[8:9] == b"{":
        return _weights(_of_safetensors(path), key, path)
    return _weights(_of_torch(path), key, path)


def _of_hdf5(path: Path) -> Any:
    kind = read_header(path).get("kind")
    if kind == "packed run":
        return open_run(path).checkpoint()
    return read_part(path, kind if kind == "weights" else "checkpoint")[0]


def _of_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"{path}: got a safetensors file and no package safetensors, expected one to read it: pip install "
            f"'sharpscope[safetensors]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError) as error:
        raise StoreError(f"{path}: got a damaged safetensors file ({error}), expected an intact one") from error


def _of_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # of formats that torch is about to refuse
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        said = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "it is no such file")
        raise StoreError(
            f"{path}: got what torch.load(weights_only=True) refuses ({said:.150}), expected tensors in plain "
            f"containers: save model.state_dict() alone, best as safetensors, with a program that you trust"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError and more on damaged files
        raise StoreError(
            f"{path}: got a file that torch cannot read ({type(error).__name__}), expected safetensors, torch.save or "
            f"HDF5: use another copy"
        ) from error


def _weights(tree: Any, key: str | None, path: Path) -> dict[str, torch.Tensor]:
    places = [key] if key is not None else [None, *USUAL]
    for place in places:
        found = tree if place is None else tree.get(place) if isinstance(tree, Mapping) else None
        if isinstance(found, Mapping) and found and all(isinstance(value, torch.Tensor) for value in found.values()):
            return {str(name): value for name, value in found.items()}
    names = ", ".join(map(str, tree))[:200] if isinstance(tree, Mapping) else type(tree).__name__
    wanted = "its own level or one of " + ", ".join(USUAL) if key is None else repr(key)
    raise StoreError(f"{path}: got {names}, expected tensors by name at {wanted}: say where with key=")
