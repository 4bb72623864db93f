"""Measuring in turn, describing the machine, and writing a section of RESULTS.md."""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = "# Measured speed\n\nRatios to what was measured beside it, in turn, in the same run; medians.\n"


def medians(timed: dict[str, Callable[[], float]], runs: int, warm: int = 3) -> dict[str, float]:
    """Median seconds of every function, called in turn so that a drift of the machine meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(warm + runs):
        for name, call in timed.items():
            found[name].append(call())
    return {name: statistics.median(seconds[warm:]) for name, seconds in found.items()}


def machine(packages: Sequence[str]) -> str:
    """One line: processor, cores, threads, system, versions."""
    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if os.name == "posix" else []
    processor = names[0] if names else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {gpu}, "
        f"Python {platform.python_version()}, {versions}"
    )


def write(section: str, rows: Sequence[dict[str, str]], packages: Sequence[str] = ()) -> None:
    """Print the rows and put them into RESULTS.md, in place of the section's former ones."""
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    text = f"## {section}\n\n{date.today().isoformat()}. {machine(packages)}.\n\n{table}\n"
    print(text)
    old = RESULTS.read_text() if RESULTS.exists() else HEAD
    parts = [part for part in re.split(r"(?m)^(?=## )", old) if part.split("\n")[0] != f"## {section}"]
    RESULTS.write_text("\n".join(part.strip() + "\n" for part in sorted([*parts, text])))


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def seconds(call: Callable[[], Any]) -> float:
    """Processor seconds of a call, which other programs disturb least."""
    began = time.process_time()
    call()
    return time.process_time() - began


def wall(call: Callable[[], Any]) -> float:
    """Wall seconds of a call, which count what other threads and the disk take."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
