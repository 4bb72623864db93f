"""The layers, proved from the source: who imports whom, without importing anything.

``ROWS`` is the whole architecture, bottom to top.  A module imports from rows below its own (lower numbers), and from
its own package; siblings on one row do not import each other.  Imports inside functions and under ``TYPE_CHECKING``
count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "sharpscope"
ROOT = Path(__file__).parent.parent / PACKAGE

ROWS: list[set[str]] = [
    # the ground: its modules may import each other, as long as there is no cycle
    {"vectors", "schedules", "results", "frames", "distributed", "progress"}
    | {
        "bits",
        "packed",
        "pieces",
        "losses",
        "examples",
        "calls",
        "tape",
        "compiled",
        "bounds",
        "convergence",
        "masking",
    },
    {"history"},
    {"problem"},
    {"products"},
    {"sums"},
    {"preflight"},
    {"operators", "ascent"},
    {"optimizers", "analyzers"},
    {"data", "models"},
    {"store", "plots", "settings"},
    {"training", "figures", "resume", "points", "exchange", "theory"},
    {"runs"},
    {"analyses"},
    {"demo", "recipes"},
    {"cli"},
    {"__main__"},
]
GROUND = ROWS[0]

# Narrower than the rows: these parts import nothing of the package but what is named here.
ONLY: dict[str, set[str]] = {
    "history": {"results"},
    "data": GROUND,
    "models": GROUND,
    "store": GROUND | {"history"},
    "plots": GROUND | {"history", "analyzers"},
}

# Libraries that have one home.
HOMES: dict[str, str] = {
    "h5py": "store",
    "matplotlib": "plots",
    "mpl_toolkits": "plots",
    "click": "cli",
    "sklearn": "data",
    "torchvision": "data",
    "PIL": "data",
    "pandas": "frames",
    "xarray": "frames",
    "safetensors": "store",
    "pyevtk": "exchange",
    "plotly": "plots",
}


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


def row(name: str) -> int | None:
    return next((number for number, names in enumerate(ROWS) if name in names), None)


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
    here, there = row(source), row(target)
    if here is None or there is None:
        return None  # named once by the test of the table
    if source == target:
        is_its_own = imported == f"{PACKAGE}.{source}" and importer != imported and path.name != "__init__.py"
        return "import from the module that defines the name, not from its own package" if is_its_own else None
    if source in ONLY:
        allowed = ", ".join(sorted(ONLY[source]))
        return None if target in ONLY[source] else f"{source} may import only {allowed}"
    if here == there and here > 0:
        return f"{source} and {target} are siblings"
    return f"{target} is above {source}" if there > here else None


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
    return sorted({part(name) for name in modules(root)} - {""} - set().union(*ROWS))


def test_every_module_has_its_place() -> None:
    missing = unplaced(ROOT)
    assert not missing, f"{', '.join(missing)}: not in ROWS of {Path(__file__).name}; place it on the row it belongs to"


def test_no_name_stands_on_two_rows() -> None:
    assert sum(len(names) for names in ROWS) == len(set().union(*ROWS))


def test_imports_go_down() -> None:
    listed = violations(ROOT)
    assert not listed, "\n" + "\n".join(listed)


def test_no_cycle() -> None:
    found = cycle(graph(ROOT))
    assert not found, " imports ".join(found)


# The proof is only as good as its tool: each of these small packages breaks one rule and must be refused.
BROKEN = [
    ("vectors.py", "from sharpscope.problem import Problem", "problem is above vectors"),
    ("vectors.py", "def f():\n    import sharpscope.problem", "problem is above vectors"),
    ("vectors.py", "from . import problem", "problem is above vectors"),
    ("ascent/masks.py", "from ..optimizers.rules import Rule", "optimizers is above ascent"),
    ("ascent/masks.py", "from sharpscope import operators", "operators and ascent are siblings"),
    ("optimizers/rules.py", "from sharpscope.analyzers import ratio", "optimizers and analyzers are siblings"),
    ("models/resnet.py", "from sharpscope.problem import Problem", "models may import only"),
    ("store/run.py", "from sharpscope.analyzers.ratio import GradientRatio", "store may import only"),
    ("plots/ratio.py", "from sharpscope.problem import Problem", "plots may import only"),
    ("history.py", "from sharpscope.vectors import Vec", "history may import only results"),
    ("problem.py", "import h5py", "only store may import h5py"),
    ("analyzers/ratio.py", "def f():\n    from matplotlib import pyplot", "only plots may import matplotlib"),
    ("training.py", "import click", "only cli may import click"),
    ("models/net.py", "import sklearn.datasets", "only data may import sklearn"),
    ("problem.py", "from sharpscope import hessian", "import from the module that defines the name"),
    ("ascent/masks.py", "from sharpscope.ascent import Top", "not from its own package"),
    ("problem.py", "import importlib\nimportlib.import_module('sharpscope.store')", "store is above problem"),
    ("__init__.py", "from sharpscope.cli import main", "the command line is no part of the library"),
]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("name", "text", "reason"), BROKEN)
def test_a_broken_rule_is_seen(tmp_path: Path, name: str, text: str, reason: str) -> None:
    empty = dict.fromkeys(["__init__.py", "problem.py", "operators.py", "analyzers/ratio.py", "ascent/__init__.py"], "")
    listed = violations(write(tmp_path / PACKAGE, {**empty, name: text}))
    words = reason.split(" and ") if "siblings" in reason else [reason]
    assert len(listed) == 1
    assert all(word.removesuffix(" are siblings") in listed[0] for word in words)


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from sharpscope.problem import Problem\nfrom sharpscope.plots import plot",
        "results.py": "from sharpscope import bits",
        "bits.py": "import numpy",
        "problem.py": "from . import results\nfrom .bits import pack",
        "ascent/__init__.py": "from sharpscope.ascent.masks import Mask",
        "ascent/masks.py": "from sharpscope.ascent import probe",
        "ascent/probe.py": "from ..problem import Problem",
        "plots/__init__.py": "import matplotlib\nfrom sharpscope.history import History",
        "history.py": "from sharpscope.results import Result",
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
