"""Tables: every number with its error, nothing said where nothing is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharpscope.analyzers.spectra.spectrum import Spectrum
from sharpscope.core.history import History
from sharpscope.runs.figures import members, table
from sharpscope.store import create_run


def history(errors: list[float]) -> History:
    curve = np.array(errors)
    steps = 10.0 * np.arange(1, len(errors) + 1)
    return History("sgd()", len(errors), 10, 100, curve, curve, curve, curve, 2 * steps, steps)


def spectrum(top: float) -> Spectrum:
    values = top * np.array([1.0, 0.5])
    return Spectrum(values, 1e-4 * values, 0.1, 1e-5, 0.0, 20, 0, 50, 1e-3, 0, "matrix")


def test_one_run_shows_what_it_has(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", {})
    run.set_history(history([0.5, 0.2]))
    assert list(members(run)) == ["one"]
    head, _, row = table(run).splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "method", "test error (%)", "passes per step", "seconds",
    ]  # fmt: skip
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["one", "20.00 +- 4.00", "2.00", "20.0"]


def test_methods_are_compared_with_the_first(tmp_path: Path) -> None:
    run = create_run(tmp_path / "two", {})
    for name, top in (("A", 4.0), ("B", 1.0)):
        run.create_child(name, {}).add_result("spectrum", spectrum(top))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table(run).splitlines()]
    assert rows[0] == ["method", "lambda_1", "lambda_1 / first row's", "lambda_1/lambda_2"]
    assert rows[2] == ["A", "4.00 +- 4e-04", "1.00", "2.00 +- 4e-04"]
    assert rows[3][2] == "0.25"
