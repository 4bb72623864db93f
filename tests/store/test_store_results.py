"""Results come back bit for bit, and only classes that are known are built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sharpscope
from sharpscope.core.results import Result, result_kinds
from sharpscope.store import StoreError, create_run, load, save
from sharpscope.store._parts import write_part


@dataclass(frozen=True, eq=False, repr=False)
class StoredInTests(Result):
    """Every kind of field that a result may have."""

    array: np.ndarray
    mask: np.ndarray
    number: float
    count: int
    flag: bool
    text: str
    labels: tuple[str, ...]
    pair: tuple[int, float]
    table: dict[str, float]
    arrays: dict[str, np.ndarray]
    maybe: np.ndarray | None = None
    note: str | None = None


def example(**changes: Any) -> StoredInTests:
    result = StoredInTests(
        array=np.array([[1.0, np.nan, -0.0], [np.inf, 1e-320, 3.0]]),
        mask=np.array([True, False, True]),
        number=float("nan"),
        count=3,
        flag=True,
        text="Grüße\0",
        labels=("a", "layer.0.weight", ""),
        pair=(1, 2.0),
        table={"z": 1.0, "a": -2.5},
        arrays={"x": np.zeros((0, 2), np.float32), "y": np.arange(3)},
    )
    return dataclasses.replace(result, **changes)


@pytest.mark.parametrize(
    "changes", [{}, {"maybe": np.array(3.0), "note": "x"}, {"labels": ()}, {"number": 3}, {"count": np.int64(3)}]
)
def test_round_trip(tmp_path: Path, changes: dict[str, Any]) -> None:
    result = example(**changes)
    path = save(result, tmp_path / "any name")
    assert path == tmp_path / "any name"
    assert load(path) == result
    assert type(load(str(path))) is StoredInTests
    assert list(load(path).fields()["table"]) == ["z", "a"]


def invented(kind: type[Result]) -> Result:
    """A result with a plausible value in every field, made from the declarations."""
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint = str(field.type)
        values[field.name] = (
            {"a": rng.normal(size=3) if "ndarray" in hint else 0.5}
            if hint.startswith("dict")
            else rng.normal(size=(3, 4))
            if "ndarray" in hint
            else ("a", "b")
            if "tuple" in hint
            else {"float": 0.5, "int": 7, "bool": True}.get(hint.removesuffix(" | None"), "text")
        )
    return kind(**values)


OURS = sorted(name for name, kind in result_kinds().items() if kind.__module__.startswith("sharpscope."))


@pytest.mark.parametrize("name", OURS)
def test_every_result_of_the_package(tmp_path: Path, name: str) -> None:
    result = invented(result_kinds()[name])
    assert load(save(result, tmp_path / "r.h5")) == result


def test_public_names() -> None:
    assert sharpscope.save is save and sharpscope.load is load
    assert {"Spectrum", "Surface", "Line", "GradientRatio", "MaskOverlap", "History"} <= set(OURS)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"array": [1.0]}, r"got list in the field StoredInTests\.array, expected ndarray: make the result anew"),
        ({"text": 3}, r"got int in the field StoredInTests\.text, expected str"),
        ({"count": True}, r"got bool in the field StoredInTests\.count, expected int"),
        ({"count": 1.0}, r"got float in the field StoredInTests\.count"),
        ({"flag": 1}, r"got int in the field StoredInTests\.flag, expected bool"),
        ({"number": None}, r"got NoneType in the field StoredInTests\.number, expected float"),
        ({"labels": ["a"]}, r"got list in the field StoredInTests\.labels, expected tuple\[str, \.\.\.\]"),
        ({"labels": ("a", 1)}, r"got tuple in the field StoredInTests\.labels"),
        ({"pair": (1,)}, r"got tuple in the field StoredInTests\.pair"),
        ({"table": {"a": "b"}}, r"got dict in the field StoredInTests\.table, expected dict\[str, float\]"),
        ({"maybe": 1}, r"got int in the field StoredInTests\.maybe, expected .*ndarray \| None"),
    ],
)
def test_fields_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    """Refused when saved, and when a file holds them all the same."""
    with pytest.raises(StoreError, match=r"r\.h5: " + text):
        save(example(**changes), tmp_path / "r.h5")
    tree = example().fields() | changes
    path = write_part(tmp_path / "r.h5", "result", tree, {"result": "StoredInTests"})
    with pytest.raises(StoreError, match=r"r\.h5: " + text):
        load(path)


def test_missing_and_unknown_fields(tmp_path: Path) -> None:
    tree = example().fields()
    path = write_part(tmp_path / "more.h5", "result", tree | {"extra": 1}, {"result": "StoredInTests"})
    with pytest.raises(
        StoreError, match=r"more\.h5: got a field StoredInTests\.extra that is not known, expected array, mask"
    ):
        load(path)
    del tree["number"]
    path = write_part(tmp_path / "less.h5", "result", tree, {"result": "StoredInTests"})
    with pytest.raises(
        StoreError, match=r"less\.h5: got no field StoredInTests\.number, expected one: the file is of another"
    ):
        load(path)


@pytest.mark.parametrize("name", ["Result", "Path", "os.system", "Nothing"])
def test_only_known_classes_are_built(tmp_path: Path, name: str) -> None:
    path = write_part(tmp_path / "r.h5", "result", {}, {"result": name})
    with pytest.raises(
        StoreError, match=rf"got a result of class '{name}', expected one of .*Spectrum.*: import the module"
    ):
        load(path)


def test_what_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"got a dict, expected a Result: save weights with Run\.add_checkpoint"):
        save({"a": 1}, tmp_path / "r.h5")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"got a part of kind 'checkpoint', expected 'result': check the path"):
        load(write_part(tmp_path / "c.h5", "checkpoint", {}))
    run = create_run(tmp_path / "run", {})
    with pytest.raises(
        StoreError, match=r"run: got the folder of a run, expected the file of one result: use open_run\(path\)"
    ):
        load(run.path)
    with pytest.raises(StoreError, match=r"got no folder '.*none', expected one to write into: create it first"):
        save(example(), tmp_path / "none" / "r.h5")
    save(example(), tmp_path / "r.h5")
    with pytest.raises(StoreError, match=r"got a file that exists"):
        save(example(), tmp_path / "r.h5")
    assert load(save(example(count=9), tmp_path / "r.h5", replace=True)) == example(count=9)
