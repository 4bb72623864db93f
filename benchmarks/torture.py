"""``make torture``: the promises of the store under kill -9, failing system calls, live readers and changed files.

    python -m benchmarks.torture [NAME[=COUNT] ...]

runs all campaigns, or the named ones, with as many turns as is said; ``--help`` lists them.  Each works on a real
disk, in processes of its own, and ends the program where a promise does not hold.  Its row in RESULTS.md is written
when it has passed, so that the whole can be had in pieces.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._report import RESULTS, write
from tests.store.campaigns import OPERATIONS, run_campaigns, strace
from tests.store.test_store_hostile import TRICKS

KILLED, DAMAGE = "0 unreadable, nothing committed lost, same result bit for bit", "no wrong value, each a named error"
FAULTS, HOSTILE = "no half part, a clear error", "tests/store/test_store_hostile.py"
CAMPAIGNS = {  # name: turns, what it shows, what it is to reach
    **{name: (40, f"kill -9: {name}", KILLED) for name in ("training", "surface", "spectrum", "pack", "prune")},
    "readers": (200, "reader opened while a writer works", "no exception, no torn value"),
    "mutations": (2000, "changed files, each read in a child", DAMAGE),
    **{f"faults-{name}": (1, f"every system call failing in turn: {name}", FAULTS) for name in OPERATIONS},
    "hostile": (len(TRICKS), "hostile files, file opens traced", "all refused, by name, nothing else read"),
}


def main(asked: list[str]) -> None:
    counts = {name: int(number or CAMPAIGNS[name][0]) for name, _, number in (word.partition("=") for word in asked)}
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (counts or {name: turns for name, (turns, _, _) in CAMPAIGNS.items()}).items():
            report(name, found(name, count, Path(folder)))


def found(name: str, count: int, folder: Path) -> dict[str, object]:
    if name == "hostile":
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", HOSTILE]
        assert subprocess.run(command, cwd=Path(__file__).parents[1]).returncode == 0
        return {"tricks refused": len(TRICKS)}
    if name.startswith("faults") and strace() is None:
        return {"not run": "strace cannot trace here"}
    return run_campaigns(folder, {name: count})[name]


def report(name: str, seen: dict[str, object]) -> None:
    """Put one row into the section, in place of the campaign's former one."""
    row = (*CAMPAIGNS[name][1:], "; ".join(f"{what}: {value}" for what, value in seen.items()))
    text = RESULTS.read_text() if RESULTS.exists() else ""
    section = re.search(r"(?ms)^## torture$(.*?)(?=^## |\Z)", text)
    old = re.findall(r"(?m)^\| (.+?) +\| (.+?) +\| (.+?) +\|$", section[1]) if section else []
    rows = {cells[0]: cells for cells in [*old, row]}
    order = [campaign for _, campaign, _ in CAMPAIGNS.values() if campaign in rows]
    names = ("campaign", "reach", "seen")
    write("torture", [dict(zip(names, rows[campaign], strict=True)) for campaign in order], ("h5py", "numpy", "xxhash"))


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, *(f"{name}={turns}" for name, (turns, _, _) in CAMPAIGNS.items()), sep="\n")
    elif unknown := [word for word in sys.argv[1:] if word.partition("=")[0] not in CAMPAIGNS]:
        sys.exit(f"torture: got {unknown[0]!r}, expected one of {', '.join(CAMPAIGNS)}: see --help")
    else:
        main(sys.argv[1:])
