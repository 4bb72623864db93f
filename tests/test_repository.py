"""What holds for the repository as a whole: one version, public names that exist and are documented, no local paths."""

from __future__ import annotations

import importlib.metadata
import inspect
import itertools
import random
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import sharpscope
from tests.conftest import SEED, random_states, touched_since

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# What other people's programs rely on.
PROMISED = [
    *["Problem", "SharpnessAware", "sgd", "sam", "ssam_f", "ssam_d", "rst", "parse"],
    *["hessian", "spectrum", "surface", "gradient_ratio", "mask_overlap"],
    *["save", "load", "open_run", "plot"],
]

# Folders of one machine, spelled so that this file does not contain them.
LOCAL = re.compile(rb"(?<![\w.~$}-])/(?:" + b"|".join([b"work", b"root", b"home", b"tmp"]) + rb")/\w")


def public_names() -> list[str]:
    return [name for name in sharpscope.__all__ if not name.startswith("__")]


def test_this_checkout_is_what_is_tested() -> None:
    assert Path(sharpscope.__file__).parent == ROOT / "sharpscope"


def test_one_version() -> None:
    assert sharpscope.__version__ == PYPROJECT["project"]["version"] == importlib.metadata.version("sharpscope")


def test_promised_names_exist() -> None:
    assert sorted(set(PROMISED) - set(public_names())) == []


def test_names_are_listed_once() -> None:
    assert len(sharpscope.__all__) == len(set(sharpscope.__all__))


@pytest.mark.parametrize("name", public_names())
def test_a_public_name_is_documented(name: str) -> None:
    value = getattr(sharpscope, name)
    assert inspect.getdoc(value), f"sharpscope.{name} has no docstring"
    if inspect.isclass(value):
        for member, function in inspect.getmembers(value, inspect.isfunction):
            if not member.startswith("_") and function.__module__.startswith("sharpscope"):
                assert inspect.getdoc(getattr(value, member)), f"sharpscope.{name}.{member} has no docstring"


def test_every_requirement_has_a_pin() -> None:
    """A tested set that forgets a package lets it move."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0] for line in lines if line and not line.startswith("#")}
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[<>=!~ \[]", text)[0].lower().replace("_", "-") for text in wanted}
    assert sorted(names - pins) == []


def tracked_files() -> list[Path]:
    """Files of the repository, those that wait to be added too."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    listing = [git, "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def local_paths(content: bytes) -> list[int]:
    """Numbers of the lines that name a folder of one machine."""
    return [number for number, line in enumerate(content.splitlines(), 1) if LOCAL.search(line)]


def test_no_file_names_a_folder_of_one_machine() -> None:
    found = [f"{path.relative_to(ROOT)}:{line}" for path in tracked_files() for line in local_paths(path.read_bytes())]
    assert not found, f"a path of one machine stands in {', '.join(found)}"


def test_local_paths_are_seen() -> None:
    slash = b"/"
    bad = slash + b"tm" + b"p" + slash + b"run"
    assert local_paths(b"fine\n--out " + bad + b"\n'" + bad + b"'") == [2, 3]
    assert local_paths(b"../wo" + b"rk/x  https://host/ho" + b"me/x  $HERE" + bad) == []


def test_the_session_is_strict() -> None:
    assert torch.get_default_dtype() == torch.float64
    assert torch.initial_seed() == SEED


@pytest.mark.parametrize(
    ("name", "draw"),
    [("random", random.random), ("numpy.random", np.random.rand), ("torch", lambda: torch.rand(()))],
    ids=["random", "numpy.random", "torch"],
)
def test_the_guard_sees_every_generator(name: str, draw: Callable[[], object]) -> None:
    before = random_states()
    assert touched_since(before) == []
    draw()
    assert touched_since(before) == [name]
