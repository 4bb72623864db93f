"""The layers, proved from the source: who imports whom, without importing anything.

The table of ``ARCHITECTURE.md`` is the whole architecture: floors, rooms, and from which rooms each may import.
Imports inside functions and under ``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "sharpscope"
ROOT = Path(__file__).parent.parent / PACKAGE
TABLE = (ROOT.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")

FLOORS: dict[str, int] = {}
MAY: dict[str, set[str]] = {}
for row in re.findall(r"^\| (\d+) \| `(\w+)/` \|.*\|(.*)\|$", TABLE, flags=re.M):
    FLOORS[row[1]] = int(row[0])
    MAY[row[1]] = {name.strip() for name in row[2].split(",") if name.strip()}

INSIDE = {("analyzers.masks", "analyzers.spectra"), ("analyzers.masks", "analyzers.gradients")} | {
    ("analyzers.surfaces", "analyzers.spectra")
}  # ways between the rooms of the analyzers

# Libraries that have one home.
HOMES: dict[str, str] = {
    "h5py": "store",
    "matplotlib": "plots",
    "mpl_toolkits": "plots",
    "click": "cli",
    "sklearn": "data",
    "torchvision": "data",
    "PIL": "data",
    "pandas": "core",
    "xarray": "core",
    "safetensors": "store",
    "pyevtk": "exchange",
    "plotly": "plots",
    "lightning": "integrations",
    "transformers": "integrations",
    "accelerate": "integrations",
    "skorch": "integrations",
}
LATE = {
    "h5py",
    "matplotlib",
    "sklearn",
    "pandas",
    "click",
    "PIL",
    "lightning",
    "transformers",
    "accelerate",
    "skorch",
}  # what `import sharpscope` must not import


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; a package goes by its own name, not by ``__init__``."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: set[str]) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports, with the line of each; ``from package import module`` names the module."""
    inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = inside.split(".")[: len(inside.split(".")) - node.level + 1]
                base = ".".join([*start, base] if base else start)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield (name if name in known else base), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {
            "import_module",
            "__import__",
        }:
            target = node.args[0] if node.args else None
            if isinstance(target, ast.Constant):
                yield str(target.value), node.lineno


def part(module: str) -> str:
    """What of the table a module belongs to: the first name below the package; the package itself is ''."""
    return module.partition(".")[2].partition(".")[0]


def objection(importer: str, imported: str, path: Path) -> str | None:
    """Why one import is not allowed, or None."""
    source, target = part(importer), part(imported)
    if imported.partition(".")[0] != PACKAGE:
        home = HOMES.get(imported.partition(".")[0])
        return f"only {home} may import {imported}" if home not in {None, source} else None
    if not source:  # the package's own __init__ gathers the public names
        return "the command line is no part of the library" if target in {"cli", "__main__"} else None
    if not target:
        return "import from the module that defines the name, not from the package that gathers them"
    if source != target:
        if imported.rpartition(".")[2].startswith("_"):
            return f"{imported.rpartition('.')[2]} is private to {target}"
        if source == "__main__" or source not in FLOORS or target not in FLOORS:
            return None  # named once by the test of the table
        return (
            None if target in MAY[source] else f"{source} may import only {', '.join(sorted(MAY[source])) or 'nothing'}"
        )
    if imported == f"{PACKAGE}.{source}" and importer != imported and path.name != "__init__.py":
        return "import from the module that defines the name, not from its own package"
    rooms = tuple(".".join(name.split(".")[1:3]) for name in (importer, imported))
    if source == "analyzers" and rooms[0] != rooms[1] and rooms not in INSIDE:
        return f"there is no way from {rooms[0]} to {rooms[1]}"
    return None


def graph(root: Path) -> dict[str, set[str]]:
    found = modules(root)
    return {
        name: {imported for imported, _ in imports(name, path, set(found)) if imported in found and imported != name}
        for name, path in found.items()
    }


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """One cycle of a directed graph as the list of its nodes, first and last the same; empty when there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(edges.get(node, ())):
            if found := visit(following, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(edges) if (found := visit(node, []))), [])


def violations(root: Path) -> list[str]:
    found = modules(root)
    listed = []
    for name, path in found.items():
        for imported, line in imports(name, path, set(found)):
            if reason := objection(name, imported, path):
                listed.append(f"{path.relative_to(root.parent)}:{line}: {name} imports {imported}: {reason}")
    return listed


def unplaced(root: Path) -> list[str]:
    return sorted({part(name) for name in modules(root)} - {"", "__main__"} - set(FLOORS))


def test_every_room_is_in_the_table_and_every_row_is_a_room() -> None:
    assert not unplaced(ROOT), f"{', '.join(unplaced(ROOT))}: not in the table of ARCHITECTURE.md"
    assert set(FLOORS) == {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}


def test_the_table_goes_down_and_says_nothing_that_is_not_so() -> None:
    edges = graph(ROOT)
    for room, may in MAY.items():
        assert all(FLOORS[other] < FLOORS[room] for other in may), room
        used = {part(b) for a, found in edges.items() if part(a) == room for b in found} - {room, ""}
        assert used == may, f"{room} imports {sorted(used)}, ARCHITECTURE.md says {sorted(may)}"
    assert max(FLOORS.values()) <= 9


def test_the_root_is_a_door_and_no_folder_is_crowded() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}
    for folder in {path.parent for path in ROOT.rglob("*.py")}:
        count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        assert count <= 18, f"{folder.relative_to(ROOT)} has {count} modules, expected at most 18"


def test_no_file_is_long_and_no_function_either() -> None:
    long = []
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            long.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                lines = (node.end_lineno or 0) - first.lineno + 1
                if lines > 60:
                    long.append(f"{path.name}: {node.name} has {lines} lines below its docstring")
    assert long == []


PARAGRAPHS = sorted(path for path in ROOT.rglob("__init__.py") if path.parent != ROOT)


@pytest.mark.parametrize("path", PARAGRAPHS, ids=lambda path: path.parent.name)
def test_a_room_says_what_it_is_for(path: Path) -> None:
    """What enters, what leaves, what it never imports; and every name that it calls public is there and exported."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    assert all(word in text for word in ("Enters:", "Leaves:", "Never import", "Public:")), text
    named = text.rpartition("Public: ")[2].rstrip(".")
    if named.startswith(("none", "see")):
        return
    listed = {
        element.value
        for module in path.parent.glob("*.py")
        for node in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for element in ast.walk(node.value)
        if isinstance(element, ast.Constant)
    }
    assert {name.strip() for name in named.split(",")} <= listed


def test_importing_the_package_imports_no_heavy_library() -> None:
    """The time of ``import sharpscope`` is that of torch, NumPy and SciPy's solvers."""
    code = f"import sys, sharpscope; print(sorted({LATE!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"


def test_imports_go_down() -> None:
    listed = violations(ROOT)
    assert not listed, "\n" + "\n".join(listed)


def test_no_cycle() -> None:
    found = cycle(graph(ROOT))
    assert not found, " imports ".join(found)


# The proof is only as good as its tool: each of these small packages breaks one rule and must be refused.
BROKEN = [
    ("core/vectors.py", "from sharpscope.problem.problem import Problem", "core may import only nothing"),
    ("core/vectors.py", "def f():\n    import sharpscope.problem.problem", "core may import only nothing"),
    ("ascent/masks.py", "from ..optimizers.rules import Rule", "ascent may import only coordinates, core, problem"),
    ("ascent/masks.py", "from sharpscope.curvature import operators", "ascent may import only"),
    ("optimizers/rules.py", "from sharpscope.analyzers.gradients import ratio", "optimizers may import only"),
    ("models/resnet.py", "from sharpscope.problem.problem import Problem", "models may import only nothing"),
    ("store/run.py", "from sharpscope.analyzers.gradients.ratio import GradientRatio", "store may import only core"),
    ("plots/ratio.py", "from sharpscope.problem.problem import Problem", "plots may import only analyzers, core"),
    ("problem/problem.py", "import h5py", "only store may import h5py"),
    ("analyzers/gradients/ratio.py", "def f():\n    from matplotlib import pyplot", "only plots may import matplotlib"),
    ("analyzers/gradients/ratio.py", "from sharpscope.analyzers.spectra import track", "there is no way from"),
    ("training/loop.py", "import click", "only cli may import click"),
    ("models/net.py", "import sklearn.datasets", "only data may import sklearn"),
    ("problem/problem.py", "from sharpscope import hessian", "import from the module that defines the name"),
    ("ascent/masks.py", "from sharpscope.ascent import Top", "not from its own package"),
    (
        "problem/problem.py",
        "import importlib\nimportlib.import_module('sharpscope.store')",
        "problem may import only core",
    ),
    ("ascent/masks.py", "from sharpscope.problem._twin import Twin", "_twin is private to problem"),
    ("__init__.py", "from sharpscope.cli import main", "the command line is no part of the library"),
]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("name", "text", "reason"), BROKEN)
def test_a_broken_rule_is_seen(tmp_path: Path, name: str, text: str, reason: str) -> None:
    there = ["__init__.py", "problem/problem.py", "problem/_twin.py", "curvature/operators.py", "ascent/__init__.py"]
    there += ["analyzers/gradients/ratio.py", "analyzers/spectra/track.py"]
    listed = violations(write(tmp_path / PACKAGE, {**dict.fromkeys(there, ""), name: text}))
    assert len(listed) == 1 and reason in listed[0], listed


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from sharpscope.problem.problem import Problem\nfrom sharpscope.plots import plot",
        "core/results.py": "from sharpscope.core import frames",
        "core/frames.py": "import pandas",
        "problem/problem.py": "from ..core import results\nfrom ._twin import Twin",
        "problem/_twin.py": "import torch",
        "ascent/__init__.py": "from sharpscope.ascent.masks import Mask",
        "ascent/masks.py": "from sharpscope.ascent import probe",
        "ascent/probe.py": "from ..problem.problem import Problem",
        "plots/__init__.py": "import matplotlib\nfrom sharpscope.core.results import Result",
    }
    root = write(tmp_path / PACKAGE, files)
    assert violations(root) == []
    assert cycle(graph(root)) == []
    assert unplaced(root) == []


def test_a_cycle_and_a_newcomer_are_seen(tmp_path: Path) -> None:
    files = {
        "ascent/probe.py": "from sharpscope.ascent import masks",
        "ascent/masks.py": "def f():\n    from .probe import Probe",
        "novelty.py": "",
    }
    root = write(tmp_path / PACKAGE, files)
    assert cycle(graph(root)) == ["sharpscope.ascent.masks", "sharpscope.ascent.probe", "sharpscope.ascent.masks"]
    assert unplaced(root) == ["novelty"]
