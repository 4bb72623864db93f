"""build: names, seeds, a user's own function, and the text of every error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpscope import models
from sharpscope.models import ConvNet, ModelError, ResNet, build

NAMES = (
    *("convnet", "pyramidnet-164", "resnet101", "resnet18", "resnet20", "resnet50", "vgg11-bn", "vgg16-bn"),
    *("vit-b", "vit-s", "vit-ti", "wrn-28-10"),
)

OWN = """
import torch
from torch import nn

torch.rand(1)
number = 3

def net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

def text(shape, classes):
    return "network"

def wide(shape, classes, width=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.Linear(width, classes))

def broken(shape, classes):
    raise RuntimeError("first line\\nsecond line")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module with functions of the user's own."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_networks", "own_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_networks"


def test_names() -> None:
    assert models.names() == NAMES


def test_known_networks() -> None:
    assert isinstance(build("convnet", (1, 8, 8), 10), ConvNet)
    resnet20, resnet18 = build("resnet20", (1, 8, 8), 7), build("resnet18", (3, 32, 32), 10)
    assert isinstance(resnet20, ResNet)
    assert isinstance(resnet18, ResNet)
    assert (resnet20.stem.in_channels, resnet20.head.out_features) == (1, 7)
    assert sum(p.numel() for p in resnet18.parameters()) == 11_173_962


@pytest.mark.parametrize("name", ["convnet", "resnet20", "own_networks:net"])
def test_seed_fixes_the_weights_and_the_global_rng_is_untouched(name: str, own: str) -> None:
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = build(name, (1, 8, 8), 10, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, other = (build(name, (1, 8, 8), 10, seed=seed).state_dict() for seed in (4, 5))
    assert list(first) == list(again)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_own_function(own: str) -> None:
    assert build(f"{own}:net", (2, 3, 4), 5)(torch.zeros(6, 2, 3, 4)).shape == (6, 5)
    assert build(f"{own}:wide(width=7)", (2, 3, 4), 5)[1].out_features == 7  # type: ignore[index]


def test_options_are_those_of_the_function() -> None:
    assert models.options("resnet18") == ("width", "depth", "stem")
    assert models.options("vit-ti") == ("patch", "width", "depth", "heads", "dropout")
    few = build("resnet18(width=4, depth=1)", (1, 8, 8), 3).state_dict()
    direct = models.resnet18(3, 1, width=4, depth=1).state_dict()
    assert {name: value.shape for name, value in few.items()} == {name: value.shape for name, value in direct.items()}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"name": "vgg"},
            f"got model 'vgg', expected one of {', '.join(NAMES)} or module:function, "
            "so choose one of these names or point to your own function.",
        ),
        (
            {"name": "resnet18(breadth=3)"},
            "got option 'breadth' of model 'resnet18', expected one of width, depth, stem, so correct the name.",
        ),
        ({"name": "resnet18(width=0)"}, "got width=0 of model 'resnet18', expected at least 1, so raise it."),
        (
            {"name": "resnet18(stem='vgg')"},
            "got model 'resnet18' with {'stem': 'vgg'} for images (1, 8, 8), expected sizes that fit: "
            "ValueError: the ResNet got stem='vgg', expected 'cifar' or 'imagenet': change stem",
        ),
        (
            {"name": "vit-ti(patch=3)"},
            "got model 'vit-ti' with {'patch': 3} for images (1, 8, 8), expected sizes that fit: ValueError: the "
            "vision transformer got images of 8 x 8 for patch=3 and width=192 for heads=3, expected multiples: change "
            "patch or heads",
        ),
        *(
            (
                {"name": text},
                f"got model {text!r}, expected a name and options that are numbers or texts, such as "
                f"resnet18(width=16), so write it like that.",
            )
            for text in (
                *("resnet18(width=__import__('os').getpid())", "resnet18(width=[1])", "resnet18(16)"),
                *("resnet18(width=3", "resnet18(width=True)", "resnet18(**{})", "resnet18(width=3)(depth=1)"),
            )
        ),
        (
            {"name": "no_such_module:net"},
            "got model 'no_such_module:net', expected an importable module 'no_such_module' but importing it raised "
            "ModuleNotFoundError: No module named 'no_such_module', so correct it or put its folder on PYTHONPATH.",
        ),
        (
            {"name": "own_broken:net"},
            "got model 'own_broken:net', expected an importable module 'own_broken' but importing it raised "
            "ModuleNotFoundError: No module named 'a_package_that_is_not_there', "
            "so correct it or put its folder on PYTHONPATH.",
        ),
        (
            {"name": ":net"},
            "got model ':net', expected an importable module '' but importing it raised "
            "ValueError: Empty module name, so correct it or put its folder on PYTHONPATH.",
        ),
        (
            {"name": "own_networks:nett"},
            "got model 'own_networks:nett', expected a function 'nett' in module 'own_networks' but found no such "
            "name, so define it there or correct the name after the colon.",
        ),
        (
            {"name": "own_networks:"},
            "got model 'own_networks:', expected a function '' in module 'own_networks' but found no such name, "
            "so define it there or correct the name after the colon.",
        ),
        (
            {"name": "own_networks:number"},
            "got model 'own_networks:number', expected a function 'number' in module 'own_networks' but found int, "
            "so define it there or correct the name after the colon.",
        ),
        (
            {"name": "own_networks:broken"},
            "got model 'own_networks:broken', expected a network from broken(shape=(1, 8, 8), classes=10) but it "
            "raised RuntimeError: first line, so correct the function.",
        ),
        (
            {"name": "own_networks:text"},
            "got a str from model 'own_networks:text', expected a torch.nn.Module, so return the network itself.",
        ),
        (
            {"name": "convnet", "classes": 0},
            "got shape (1, 8, 8) and 0 classes, expected three positive numbers (channels, height, width) and at "
            "least one class, so pass those of the data.",
        ),
        (
            {"name": "convnet", "shape": (8, 8)},
            "got shape (8, 8) and 10 classes, expected three positive numbers (channels, height, width) and at "
            "least one class, so pass those of the data.",
        ),
    ],
)
def test_errors(own: str, options: dict[str, Any], text: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(ModelError, match=f"^{re.escape(text)}$") as caught:
        build(**{"shape": (1, 8, 8), "classes": 10, **options})
    assert isinstance(caught.value, ValueError)
    assert torch.equal(torch.get_rng_state(), state)
