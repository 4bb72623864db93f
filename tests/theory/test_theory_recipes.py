"""Theorems on the command line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from sharpscope.cli import main
from sharpscope.theory import suites


@pytest.fixture
def short(monkeypatch):
    """Three cases of twelve steps."""
    monkeypatch.setitem(suites.SCALES, "small", (12, 12, 2))
    monkeypatch.setitem(suites.SUITES, "ssam-theorem", lambda steps, seeds: suites._ssam(steps, seeds)[:3])


def run(*words):
    done = CliRunner().invoke(main, ["reproduce", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def missing(listed: str) -> int:
    """The sum of the column of missing cases."""
    rows = [[cell.strip() for cell in line.split("|")] for line in listed.splitlines() if "Theorem" in line]
    place = [cell.strip() for cell in listed.splitlines()[0].split("|")].index("missing")
    return sum(int(row[place]) for row in rows)


def test_in_parts_and_once(short, tmp_path) -> None:
    where = ["--out", tmp_path / "runs", "--figures", tmp_path / "figures"]
    listed = run("ssam-theorem", "--list", *where)
    assert missing(listed.output) == 3
    first = run("ssam-theorem", "--shard", "1/2", *where)
    assert "ssam-theorem: 1 of 3 cases are missing, no table yet" in first.output
    second = run("ssam-theorem", "--shard", "2/2", *where)
    assert second.output.count(": under the bound") == 3
    assert str(tmp_path / "figures" / "small" / "ssam-theorem" / "ssam-theorem.pdf") in second.output
    assert missing(run("ssam-theorem", "--list", *where).output) == 0


def test_tried_out_and_refused(short, tmp_path) -> None:
    tried = run("ssam-theorem", "--steps", 2, "--scale", "paper", "--out", tmp_path)
    assert tried.output.count("after 2 steps") == 3
    assert not list(tmp_path.iterdir())
    refused = run("ssam-theorem", "--set", "epochs=3")
    assert refused.exit_code != 0
    assert "got --set for ssam-theorem, expected none" in refused.output
    assert "expected I/N with 1 <= I <= N" in run("ssam-theorem", "--shard", "3/2").output
