"""``make torture``: the promises of the store under kill -9, failing system calls, live readers and changed files.

Each campaign works on a real disk, in processes of its own, and ends the program where a promise does not hold.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import write
from tests.store.campaigns import run_campaigns, strace
from tests.store.test_store_hostile import TRICKS

KILLS = {"training": 40, "surface": 40, "spectrum": 40, "pack": 40, "prune": 40}
HOSTILE = "tests/store/test_store_hostile.py"


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, count in KILLS.items():
            found = run_campaigns(Path(folder), **{name: count})[name]
            rows.append(_row(f"kill -9: {name}", "0 unreadable, nothing committed lost, same result", found))
        found = run_campaigns(Path(folder), readers=200)["readers"]
        rows.append(_row("reader opened while a writer works", "no exception, no torn value", found))
        found = run_campaigns(Path(folder), mutations=2000)["mutations"]
        rows.append(_row("changed files", "no wrong value, each a named error", found))
        if strace() is None:
            rows.append(_row("system calls failing in turn", "no half part", {"not run": "strace cannot trace here"}))
        else:
            found = run_campaigns(Path(folder), faults=1)["faults"]
            rows.append(_row("system calls failing in turn", "no half part, a clear error", found))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", HOSTILE], cwd=Path(__file__).parents[1])
    assert done.returncode == 0
    rows.append(_row("hostile files, file opens traced", "all refused, by name", {"tricks refused": len(TRICKS)}))
    write("torture", rows, ("h5py", "numpy"))


def _row(campaign: str, reach: str, found: dict[str, object]) -> dict[str, str]:
    seen = "; ".join(f"{name}: {value}" for name, value in found.items())
    print(f"{campaign}: {seen}", flush=True)
    return {"campaign": campaign, "reach": reach, "seen": seen}


if __name__ == "__main__":
    main()
