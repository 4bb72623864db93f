"""Results are equal when their fields are, bit for bit; their summary is one line."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any

import numpy as np
import pytest

from sharpscope.core import results
from sharpscope.core.history import History
from sharpscope.core.results import Result, result_kinds


@dataclass(frozen=True, eq=False, repr=False)
class Sample(Result):
    number: float = 0.5
    array: Any = None
    text: str = "a"
    table: Any = None


NAN = float("nan")


assert results._KINDS.pop("Sample") is Sample  # registered by its definition; other tests look at all kinds


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"number": NAN},
        {"number": np.float64(NAN)},
        {"array": np.array([1.0, NAN])},
        {"array": np.array([1, 2])},
        {"array": np.array([True])},
        {"array": np.array(["a", "b"])},
        {"array": np.zeros((0, 3))},
        {"array": ("a", "b")},
        {"table": {"x": np.array([NAN]), "y": 1.0}},
    ],
)
def test_equal(fields: dict[str, Any]) -> None:
    left, right = (
        Sample(**fields),
        Sample(**{k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in fields.items()}),
    )
    assert left == right


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.array([1.0]), np.array([1], dtype=np.int64)),
        (np.array([1.0]), np.array([1.0], dtype=np.float32)),
        (np.array([1.0]), np.array([[1.0]])),
        (np.array([1.0]), np.array([np.nextafter(1.0, 2.0)])),
        (np.array([1.0]), 1.0),
        (np.array([NAN]), np.array([1.0])),
        (1, 1.0),
        (1, True),
        (None, 0),
        (NAN, 1.0),
        ({"x": 1}, {"x": 1, "y": 2}),
        ({"x": np.array([1])}, {"x": np.array([2])}),
        (("a",), ("b",)),
    ],
)
def test_unequal(a: Any, b: Any) -> None:
    assert Sample(array=a) != Sample(array=b)
    assert Sample(array=b) != Sample(array=a)
    assert Sample(array=a) == Sample(array=a)


def test_other_types_are_unequal() -> None:
    @dataclass(frozen=True, eq=False, repr=False)
    class Other(Sample):
        pass

    assert Other() != Sample()
    assert Sample() != "Sample"
    result_kinds().clear()  # a copy
    assert result_kinds()["Other"] is Other
    del results._KINDS["Other"]


def test_frozen_and_unhashable() -> None:
    with pytest.raises(FrozenInstanceError):
        Sample().number = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(Sample())


def test_summary() -> None:
    result = Sample(number=1 / 3, array=np.zeros(3), text="b")
    assert repr(result) == result.summary() == "Sample(number=0.333333, text='b', table=None)"
    assert list(result.fields()) == ["number", "array", "text", "table"]
    assert Sample.kind == "Sample"


def test_history_is_a_result() -> None:
    line = np.arange(2.0)
    plain = {"rule": "sgd()", "epochs": 3, "steps_per_epoch": 5}
    history = History(**{field.name: plain.get(field.name, line) for field in dataclasses.fields(History)})
    assert history == replace(history)
    assert history != replace(history, train_loss=line + 1)
    assert history.summary() == "History(rule='sgd()', epochs=3, steps_per_epoch=5, best=0)"
    assert result_kinds()["History"] is History


def test_a_table_of_plain_fields() -> None:
    pytest.importorskip("pandas")
    table = Sample(number=2.5, array=np.arange(3.0), text="b").to_frame()
    assert table["array"].tolist() == [0.0, 1.0, 2.0]
    assert table.attrs == {"result": "Sample", "number": 2.5, "text": "b", "table": None}
    assert Sample(number=2.5).to_frame()["number"].tolist() == [2.5]


def test_without_pandas_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError) as caught:
        Sample().to_frame()
    assert str(caught.value) == (
        "got no package pandas, expected one for tables of results: pip install 'sharpscope[frames]'"
    )


def test_a_notebook_sees_text_where_there_is_no_drawing() -> None:
    page = Sample(text="<script>")._repr_html_()
    assert "&lt;script&gt;" in page and "<script>" not in page and "<img" not in page
