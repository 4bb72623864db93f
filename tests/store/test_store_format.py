"""FORMAT.md says what is in the files: every dataset of a real run has its row, and every row is met."""

from __future__ import annotations

import re
from pathlib import Path

import h5py

import sharpscope
from sharpscope.runs.analyze import Analysis, analyze_run
from sharpscope.runs.train import Experiment, train_run
from sharpscope.store import pack_run
from sharpscope.store._parts import SCHEMA
from sharpscope.training.loop import Settings

TEXT = Path(sharpscope.__file__).with_name("store").joinpath("FORMAT.md").read_text(encoding="utf-8")


def rows(head: str) -> list[list[str]]:
    table = TEXT.split(head)[1].split("\n\n")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines() if row.startswith("| `")]


def pattern(path: str) -> re.Pattern[str]:
    text = re.escape(path).replace(r"\*\*", ".+").replace(r"\*", "[^/]+").replace("/N/", r"/\d{9,}/")
    return re.compile(text)


def dtype_of(dataset: h5py.Dataset) -> str:
    return "text" if dataset.dtype.kind == "S" else str(dataset.dtype)


def test_every_dataset_is_documented(tmp_path: Path) -> None:
    small = Experiment(Settings("ssam_d(0.1)", epochs=1, batch_size=32), train=64, test=32)
    run = train_run(small, tmp_path / "run", record_every=1)
    analyze_run(run, ["ratio", "masks"], Analysis(examples=32))
    described = [
        (pattern(path.strip("`")), dtype, axes) for path, dtype, axes, _ in rows("| path | dtype | axes | meaning |")
    ]
    attributes = {word for cells in rows("| attribute | type | meaning |") for word in re.findall(r"`(\w+)`", cells[0])}
    met, seen = set(), []
    with h5py.File(pack_run(run, tmp_path / "run.h5")) as file:
        file.visititems(lambda name, found: seen.append((name, found)) if isinstance(found, h5py.Dataset) else None)
        for name, dataset in seen:
            if name.split("/")[-1] == "%attributes":  # one in every part
                assert dtype_of(dataset) == "text" and dataset.ndim == 0
                continue
            fitting = [row for row in described if row[0].fullmatch(name)]
            assert len(fitting) == 1, f"{name}: {len(fitting)} rows of FORMAT.md"
            path, dtype, axes = fitting[0]
            assert dtype in ("any", dtype_of(dataset)), f"{name} is {dtype_of(dataset)}, FORMAT.md says {dtype}"
            assert axes == "any" or dataset.ndim == (0 if axes == "scalar" else 1), name
            assert ("type" in dataset.attrs) == (dtype_of(dataset) == "uint8" and "masks/" in name)
            met.add(path.pattern)
        drawers = ("checkpoints", "trajectory", "masks", "steps", "results")
        inside = [file[drawer][name] for drawer in drawers for name in file[drawer]]
        parts = [file, file["run"], file["history"], *inside]
        for part in parts:
            assert set(part.attrs) - {"index"} <= attributes, set(part.attrs) - attributes
            assert {"format", "schema", "kind", "created", "packages", "checksum", "type"} <= set(part.attrs)
    assert {row[0].pattern for row in described} == met
    assert f"schema {SCHEMA}" in TEXT.splitlines()[0]
