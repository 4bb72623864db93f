"""CSV, VTK and netCDF: what is written is what was there, read back by other means."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import xarray
from torch import nn

from sharpscope.analyzers.surfaces.surface import Surface, line, surface
from sharpscope.analyzers.surfaces.trajectory import trajectory
from sharpscope.core.results import Result
from sharpscope.exchange.files import export
from sharpscope.exchange.table import read_csv
from sharpscope.problem.problem import Problem
from sharpscope.store import StoreError


@pytest.fixture(scope="module")
def problem() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return Problem(model, nn.CrossEntropyLoss(), (torch.randn(9, 3), torch.randint(2, (9,))))


@pytest.fixture(scope="module")
def plane(problem: Problem) -> Surface:
    found = surface(problem, (5, 4), ((-1.0, 1.0), (-0.5, 2.0)), metrics=["accuracy"])
    loss = found.loss.copy()
    loss[0, 1], loss[2, 3] = np.nan, np.inf
    status = np.full(loss.shape, 1, np.uint8)
    status[0, 1], status[2, 3], status[1, 1] = 2, 2, 0
    return dataclasses.replace(found, loss=loss, status=status)


def results(problem: Problem, plane: Surface) -> list[Result]:
    points = {10 * i: [w + 0.1 * torch.randn_like(w) for w in problem.weights] for i in range(5)}
    return [plane, line(problem, 7), trajectory(problem, points)]


def test_csv_comes_back_bit_for_bit(problem: Problem, plane: Surface, tmp_path: Path) -> None:
    for result in results(problem, plane):
        path = export(result, tmp_path / f"{type(result).__name__}.csv")
        assert read_csv(path) == result


def test_csv_is_a_plain_table(plane: Surface, tmp_path: Path) -> None:
    table = pandas.read_csv(export(plane, tmp_path / "s.csv"), comment="#")
    assert len(table) == 20
    for _, row in table.iterrows():
        i, j = list(plane.beta).index(row.beta), list(plane.alpha).index(row.alpha)
        np.testing.assert_allclose(row.loss, plane.loss[i, j], rtol=1e-15)
        np.testing.assert_allclose(row.stderr, plane.stderr[i, j], rtol=1e-15)


def structured_grid(path: Path) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """The extent and the arrays of a .vts with raw appended data, by its specification."""
    raw = path.read_bytes()
    head, _, rest = raw.partition(b"<AppendedData")
    text, data = head.decode(), rest[rest.index(b"_") + 1 :]
    assert 'type="StructuredGrid"' in text
    little = "LittleEndian" in text
    extent = tuple(map(int, re.search(r'Piece Extent="([^"]*)"', text)[1].split()))  # type: ignore[index]
    wide = "UInt64" in re.search(r"<VTKFile[^>]*>", text)[0]  # type: ignore[index]
    found = {}
    for tag in re.findall(r"<DataArray[^>]*>", text):
        about = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        kinds = {"Float64": "f8", "Float32": "f4", "Int64": "i8", "UInt8": "u1", "Int8": "i1", "Int32": "i4"}
        start = int(about["offset"])
        (size,) = struct.unpack_from(("<" if little else ">") + ("Q" if wide else "I"), data, start)
        begin = start + (8 if wide else 4)
        values = np.frombuffer(data[begin : begin + size], ("<" if little else ">") + kinds[about["type"]])
        found[about["Name"]] = values.reshape(-1, 3) if about["NumberOfComponents"] == "3" else values
    return extent, found


@pytest.mark.parametrize("height", ["log", "linear", "flat"])
def test_vtk_is_the_plane(plane: Surface, tmp_path: Path, height: str) -> None:
    extent, found = structured_grid(export(plane, tmp_path / "s.vts", height=height))
    assert extent == (0, 4, 0, 3, 0, 0)
    points = next(values for values in found.values() if values.ndim == 2)
    z = {"log": np.log10(plane.loss), "linear": plane.loss, "flat": 0 * plane.stderr}[height]
    good = np.isfinite(plane.loss)
    for i in range(4):
        for j in range(5):
            place = j + 5 * i  # VTK: x runs fastest
            assert tuple(points[place, :2]) == (plane.alpha[j], plane.beta[i])
            np.testing.assert_equal(found["loss"][place], plane.loss[i, j])
            np.testing.assert_equal(found["stderr"][place], plane.stderr[i, j])
            assert found["metrics_accuracy"][place] == plane.metrics["accuracy"][i, j]
            assert found["status"][place] == plane.status[i, j]
            assert found["finite"][place] == good[i, j]
            expected = z[i, j] if good[i, j] or height == "flat" else z[good].max()
            assert points[place, 2] == expected


def test_netcdf_is_read_by_xarray(problem: Problem, plane: Surface, tmp_path: Path) -> None:
    for result in results(problem, plane):
        path = export(result, tmp_path / f"{type(result).__name__}.nc")
        with xarray.open_dataset(path, engine="scipy") as found:
            for name, variable in result.to_xarray().variables.items():
                np.testing.assert_array_equal(found[name].values, variable.values)
                assert found[name].dims == variable.dims
                assert found[name].attrs.get("units") == variable.attrs.get("units")
            assert found.attrs["result"] == type(result).__name__


def test_units(problem: Problem, plane: Surface) -> None:
    found = plane.to_xarray()
    assert found.loss.dims == ("beta", "alpha")
    assert found.alpha.attrs["units"] == found.beta.attrs["units"] == "filter norms"
    assert found.radius.attrs["units"] == "norm of the weights"
    assert found.loss.attrs["units"] == "mean loss per example"
    assert line(problem, 3).to_xarray().alpha.attrs["units"] == "filter norms"
    assert float(found.loss.sel(alpha=1.0, beta=2.0)) == plane.loss[3, 4]


def test_what_is_refused(problem: Problem, plane: Surface, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"export got format=None for .*s.txt', expected one of li, csv, vtk"):
        export(plane, tmp_path / "s.txt")
    with pytest.raises(TypeError, match="export got a Line for the format 'vtk', expected a Surface"):
        export(line(problem, 3), tmp_path / "l.vts")
    with pytest.raises(ValueError, match="write_vtk got height='high', expected one of log, linear, flat"):
        export(plane, tmp_path / "s.vts", height="high")
    path = export(plane, tmp_path / "s.csv")
    before = path.read_bytes()
    for ending in ("csv", "vts", "nc"):
        (tmp_path / f"there.{ending}").write_text("mine")
        with pytest.raises(StoreError, match="got a file that exists, expected a new name"):
            export(plane, tmp_path / f"there.{ending}")
        assert (tmp_path / f"there.{ending}").read_text() == "mine"
    assert export(plane, path, replace=True).read_bytes() == before
    with pytest.raises(StoreError, match="got no folder"):
        export(plane, tmp_path / "none" / "s.csv")


def test_broken_tables(plane: Surface, tmp_path: Path) -> None:
    text = export(plane, tmp_path / "s.csv").read_text()
    head, _, rest = text.partition("\n")
    about = json.loads(head.removeprefix("# "))
    cases = {
        text[: len(text) // 2]: "rows of several lengths or an end in the middle|does not fit its first line",
        rest: "a first line that does not describe a result",
        "# [1]\n" + rest: "a first line that does not describe a result",
        "\n".join(text.splitlines()[:-1]) + "\n": "19 rows for",
        f"# {json.dumps(about | {'result': 'Spectrum'})}\n{rest}": "does not fit its first line",
        f"# {json.dumps(about | {'plain': {}})}\n{rest}": "got no field Surface",
        f"# {json.dumps(about | {'dtypes': dict.fromkeys(about['dtypes'], '|O')})}\n{rest}": "does not fit",
        text.replace(rest.splitlines()[1].split(",")[0], "words", 2): "does not fit",
    }
    for broken, message in cases.items():
        (tmp_path / "b.csv").write_text(broken)
        with pytest.raises(StoreError, match=message):
            read_csv(tmp_path / "b.csv")
    (tmp_path / "b.csv").write_bytes(b"\x89HDF\r\n\x1a\n\xff\xfe")
    with pytest.raises(StoreError, match="got a file that is no text"):
        read_csv(tmp_path / "b.csv")
    with pytest.raises(StoreError, match="got no such file, expected a table"):
        read_csv(tmp_path / "none.csv")
