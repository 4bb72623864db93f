"""The bar is silent where output is not a terminal, and says the text when it is told to show."""

from __future__ import annotations

import pytest

from sharpscope.core.progress import bar


@pytest.mark.parametrize("show", [None, False])
def test_silent_without_a_terminal(show: bool | None, capfd: pytest.CaptureFixture[str]) -> None:
    with bar(3, "counting", show) as shown:
        shown.delay = 0.0
        for _ in range(3):
            shown.update(1)
    assert shown.disable
    assert capfd.readouterr() == ("", "")


def test_shown_on_request(capfd: pytest.CaptureFixture[str]) -> None:
    with bar(3, "counting", True) as shown:
        assert not shown.disable
        assert capfd.readouterr().err == ""  # nothing within the first second
        shown.refresh()
        text = capfd.readouterr().err
    assert "counting" in text
    assert "0/3" in text
