"""Pieces of a user on the command line: training, going on, analysing and drawing with a rule of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sharpscope import open_run
from sharpscope.cli import main

CODE = """
import dataclasses

import sharpscope as ss

NUMBER = 3


@dataclasses.dataclass(frozen=True)
class Sign(ss.Perturbation):
    rho: float = 0.01

    def __call__(self, g, probe, memory):
        return ss.Shift([x.sign() for x in g], self.rho)


@dataclasses.dataclass(frozen=True)
class Even(ss.Mask):
    every: int = 0

    def refresh(self, g, probe, memory):
        return [p > 0 for p in probe.params]
"""
RULE = "Ascend(Masked(Sign(0.02), Even()))"
PIECES = ["--pieces", "flat_rules:Sign", "--pieces", "flat_rules:Even"]
USUAL = ["--data", "digits", "--train", "96", "--test", "40", "--batch-size", "32", "--rule", RULE]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "flat_rules.py").write_text(CODE)
    (tmp_path / "broken_rules.py").write_text("raise RuntimeError('no luck')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the folder where the user stands
    monkeypatch.delitem(sys.modules, "flat_rules", raising=False)
    return tmp_path


def called(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_a_rule_of_one_s_own_trains_goes_on_and_is_analysed(own: Path) -> None:
    done = called("train", *USUAL, *PIECES, "--epochs", "2", "--steps", "3", "--out", "short")
    assert done.exit_code == 0, done.output
    whole = called("train", *USUAL, *PIECES, "--epochs", "2", "--out", "run")
    assert whole.exit_code == 0, whole.output
    again = called("train", *USUAL, *PIECES, "--epochs", "2", "--out", "run", "--resume")
    assert again.exit_code == 0, again.output
    run = open_run("run")
    assert run.config["settings"]["rule"] == RULE
    assert "pieces" not in run.config["settings"]
    assert run.history is not None
    assert run.history.rule == "Ascend(Masked(Sign(0.02), mask=Even(0)))"
    assert run.mask_steps() == [3, 6]
    # what a stored rule says is read by training alone: a stranger's run is analysed without the stranger's code
    for verb in (["analyze", "run", "--ratio", "--examples", "40"], ["show", "run"], ["figures", "run", "--out", "f"]):
        found = called(*verb)
        assert found.exit_code == 0, found.output


def test_without_the_pieces_it_is_refused_before_anything_is_written(own: Path) -> None:
    done = called("train", *USUAL, *PIECES[:2], "--epochs", "1", "--out", "run")
    assert done.exit_code == 1
    assert "the rule got the name 'Even' in 'Ascend(Masked(Sign(0.02), Even()))'" in done.output
    assert "or with --pieces module:Even on the command line" in done.output
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Sign", "got --pieces Sign, expected module:Name, such as my_rules:MyMask: write it like that"),
        ("flat_rules:", "got --pieces flat_rules:, expected module:Name"),
        ("flat_rules:Sign()", "got --pieces flat_rules:Sign(), expected module:Name"),
        ("flat_rules:Odd", "expected a class 'Odd' in module 'flat_rules' and found no such name: define it there"),
        ("flat_rules:NUMBER", "expected a class 'NUMBER' in module 'flat_rules' and found a int: define it there"),
        ("no_rules:Odd", "expected a module 'no_rules' that can be imported and got ModuleNotFoundError: No module"),
        ("broken_rules:Odd", "expected a module 'broken_rules' that can be imported and got RuntimeError: no luck"),
        ("builtins:len", "Error: pieces got <built-in function len>, expected classes of yours"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(own: Path, name: str, message: str) -> None:
    done = called("train", *USUAL, "--pieces", name, "--epochs", "1", "--out", "run")
    assert done.exit_code == 1
    assert message in done.output
    assert not Path("run").exists()
