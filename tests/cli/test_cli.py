"""The command line: what it prints, what it refuses, and that a refusal is one sentence and loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from click.testing import CliRunner, Result

from sharpscope.cli import main
from sharpscope.store import open_run

QUICK = ["--train", "96", "--test", "32", "--batch-size", "32", "--epochs", "1"]


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def refusal(*words: str | Path) -> str:
    """The error text of a call that must fail as users should see it fail."""
    done = call(*words)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)  # not a traceback
    lines = done.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), done.output
    return lines[0].removeprefix("Error: ")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    done = call("train", "--rule", "ssam_d(rho=0.1, sparsity=0.5)", *QUICK, "--out", path)
    assert done.exit_code == 0, done.output
    return path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_train_analyze_figures_show(run: Path, tmp_path: Path) -> None:
    light = ["--examples", "64", "--k", "2", "--tol", "0.05", "--resolution", "3"]
    analysed = call("analyze", run, "--spectrum", "--masks", *light)
    assert analysed.exit_code == 0, analysed.output
    assert open_run(run).result_names() == ["mask_profile", "masks", "spectrum"]
    assert "selects the sharp parameters?" in analysed.output
    assert "lambda_1/lambda_2" in analysed.output
    assert call("analyze", run, *light).exit_code == 0
    assert sorted(open_run(run).result_names()) == ["mask_profile", "masks", "ratio", "spectrum", "surface"]
    drawn = call("figures", run, "--out", tmp_path / "figures", "--format", "png")
    assert drawn.exit_code == 0, drawn.output
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "mask_profiles.png", "masks.png", "r_ratio.png", "spectra.png", "surfaces.png", "training.png",
    ]  # fmt: skip
    shown = call("show", run).output
    for words in (
        "finished 1 of 1 epochs",
        "settings.rule: ssam_d(rho=0.1, sparsity=0.5)",
        "checkpoints/",
        "Spectrum(",
    ):
        assert words in shown


@pytest.mark.parametrize("command", ["", "demo", "train", "analyze", "figures", "show"])
def test_help_shows_an_example(command: str) -> None:
    done = call(*([command] if command else []), "--help")
    assert done.exit_code == 0
    assert f"sharpscope {command}".strip() in done.output


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("smam(rho=0.1)", "the rule got the name 'smam'"),
        ("sam(rho=", "mend its syntax"),
        ("sam(rho=-0.1)", "got rho=-0.1, expected a finite number >= 0: change rho"),
        ("ssam_f(rho=0.1, sparsity=1.0)", "got sparsity=1.0, expected a number in [0, 1): change sparsity"),
        ("ssam_d(rho=0.1, sparsity=-0.5)", "got sparsity=-0.5, expected a number in [0, 1): change sparsity"),
        ("rst(sam(0.1), p=1.5)", "got p=1.5, expected a number in [0, 1]: change p"),
        ("__import__('os').system('true')", "expected a number, a text or a call such as sam(rho=0.05)"),
    ],
)
def test_bad_rules(tmp_path: Path, rule: str, words: str) -> None:
    assert words in refusal("train", "--rule", rule, *QUICK, "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_bad_data(tmp_path: Path) -> None:
    out = tmp_path / "run"
    data = tmp_path / "data"
    data.mkdir()
    assert "add --root DIR" in refusal("train", "--data", "cifar10", "--out", out)
    assert "is not a folder" in refusal("train", "--data", "cifar10", "--root", tmp_path / "none", "--out", out)
    assert "is not a folder" in refusal("demo", "--data", "cifar10", "--root", tmp_path / "none", "--out", out)
    (data / "data_batch_1.bin").write_bytes(bytes(3073 * 2 + 5))
    assert "expected a multiple of 3073" in refusal("train", "--data", "cifar10", "--root", data, "--out", out)
    assert "expected one of cifar10, cifar100" in refusal("train", "--data", "svhn", "--out", out)
    assert "got model 'vgg'" in refusal("train", "--model", "vgg", "--out", out)
    assert not out.exists()


def test_an_existing_folder_is_not_touched(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    assert "expected a new one" in refusal("train", "--rule", "sgd()", *QUICK, "--out", run)
    assert "holds another run" in refusal("demo", "--out", run, "--figures", tmp_path)
    assert "made with settings.rule=" in refusal("train", "--rule", "sgd()", *QUICK, "--out", run, "--resume")
    assert contents(run) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "expected a new one" in refusal("train", "--rule", "sgd()", *QUICK, "--out", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_loss_that_breaks(tmp_path: Path) -> None:
    text = refusal("train", "--rule", "sgd()", "--lr", "1e12", *QUICK, "--out", tmp_path / "run")
    assert text.startswith("the training loss is ") and "lower the learning rate" in text


def test_damaged_and_foreign_files(run: Path, tmp_path: Path) -> None:
    assert "expected a run: check the path" in refusal("show", tmp_path / "none")
    assert "expected the folder of a run" in refusal("show", tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    assert "not HDF5" in refusal("show", tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = [1.0, 2.0]
    assert "sharpscope" in refusal("show", tmp_path / "foreign.h5")
    copy = tmp_path / "copy"
    for path, content in contents(run).items():
        target = copy / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    checkpoint = next((copy / "checkpoints").iterdir())
    damaged = bytearray(checkpoint.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    checkpoint.write_bytes(damaged)
    assert str(checkpoint.name) in refusal("analyze", copy, "--ratio", "--replace")
    checkpoint.write_bytes(damaged[: len(damaged) // 3])
    assert str(checkpoint.name) in refusal("analyze", copy, "--ratio", "--replace")


def test_interrupted_training_leaves_a_run_that_opens(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sharpscope", "train", "--rule", "sam(0.1)", "--epochs", "5000", "--train", "200"]
    place = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--out", str(place)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (place / "history.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert output == "" and "Traceback" not in said, said
    assert "stopped after" in said and "of 5000 epochs" in said and "--resume" in said
    status = open_run(place).status
    assert status is not None and status.startswith("stopped after")


def test_train_takes_every_option(tmp_path: Path) -> None:
    """One step of a small network on noise, every option away from its default, and the refusals of the new ones."""
    place = tmp_path / "run"
    done = call(
        *("train", "--data", "synthetic:cifar10", "--model", "wrn-28-10(width=4, depth=1)", "--rule", "sam(rho=0.05)"),
        *("--epochs", "3", "--batch-size", "4", "--lr", "0.01", "--optimizer", "adam", "--schedule", "step"),
        *("--warmup", "1", "--drop-every", "1", "--drop", "0.5", "--label-smoothing", "0.1", "--mixup", "0.4"),
        *("--cutout", "4", "--precision", "bfloat16", "--steps", "1", "--side", "8", "--train", "8", "--test", "4"),
        *("--keep-best", "--out", place),
    )
    assert done.exit_code == 0, done.output
    settings = open_run(place).config["settings"]
    assert (settings["optimizer"], settings["drop"], settings["steps"]) == ("adam", 0.5, 1)
    assert open_run(place).config["side"] == 8 and open_run(place).checkpoints() == [1]
    other = tmp_path / "other"
    assert refusal("train", "--schedule", "linear", "--out", other) == (
        "training got schedule='linear', expected one of cosine, step, constant: change schedule"
    )
    assert refusal("train", "--test", "most", "--out", other).startswith("got 'most' test images, expected a number")
    assert "expected one of width, so correct the name" in refusal("train", "--model", "convnet(x=1)", "--out", other)
    assert not other.exists()
