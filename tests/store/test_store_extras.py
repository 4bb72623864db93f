"""Curves of steps, damage put aside, old schemas, weights from elsewhere, and tables over many runs."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import sharpscope as ss
from sharpscope.cli import main
from sharpscope.core.history import History, Steps
from sharpscope.core.results import Result
from sharpscope.runs.train import Experiment, train_run
from sharpscope.store import StoreError, create_run, open_run, pack_run, steps, unpack_run, verify_run
from sharpscope.store._parts import write_part
from sharpscope.store.results import load, save
from sharpscope.training.loop import Settings
from tests.store.campaigns import made_history, synthetic_run

SCHEMA_1, SCHEMA_2 = (Path(__file__).with_name(f"schema{number}.h5") for number in (1, 2))
QUICK = Experiment(Settings("ssam_d(0.1)", epochs=2, batch_size=32), train=96, test=32)


def call(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


# ------------------------------------------------------------------------------------------------- curves of steps


def test_points_are_committed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of our own: no point waits longer than five seconds as long as steps take equally long."""
    now, run = [0.0], create_run(tmp_path / "run", {})
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])
    with run.step_writer() as points:
        for step in range(1, 41):
            now[0] += 0.8
            points.add(step, 1.0 / step, 0.1, 2.0 * step)
            seen = 0 if run.steps is None else int(run.steps.step[-1])
            assert 0.8 * (step - seen) < 5.0
    assert run.steps is not None and np.array_equal(run.steps.step, np.arange(1, 41))
    assert 6 <= sum(kind == "result" for _, kind, _ in run.tree()) <= 8
    with run.step_writer(after=40) as points:
        now[0] += 60.0
        points.add(41, 0.0, 0.1, 82.0)  # a slow step is written at once
        assert run.steps is not None and run.steps.step[-1] == 41
        points.merge()
        assert os.listdir(run.path / "steps") == ["000000001.h5"]


def test_steps_beyond_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    for after, last in ((0, 7), (4, 6), (0, 2)):
        with run.step_writer(after, seconds=0.0) as points:
            assert (run.steps is None) if after == 0 else (run.steps is not None and run.steps.step[-1] == after)
            for step in range(after + 1, last + 1):
                points.add(step, float(after), 0.1, 1.0)
        assert run.steps is not None and np.array_equal(run.steps.step, np.arange(1, last + 1))


def test_a_training_is_seen_while_it_runs(tmp_path: Path) -> None:
    """Live: points of the present epoch are there before its end."""
    run, seen = create_run(tmp_path / "run", {}), []
    stop = threading.Event()

    def write() -> None:
        with run.step_writer(seconds=0.05) as points:
            for step in range(1, 10_000):
                points.add(step, 1.0, 0.1, 1.0)
                time.sleep(0.005)
                if stop.is_set():
                    return

    writer = threading.Thread(target=write)
    writer.start()
    while len(seen) < 3:
        found = open_run(run.path).steps
        if found is not None and len(found.step) not in seen:
            seen.append(len(found.step))
    stop.set()
    writer.join()
    assert seen == sorted(seen)


def test_training_keeps_every_step_and_where_it_came_from(tmp_path: Path) -> None:
    run = train_run(QUICK, tmp_path / "run", keep_checkpoints=2)
    assert run.checkpoints() == [3, 6]
    assert isinstance(run.steps, Steps) and run.steps.step.tolist() == [1, 2, 3, 4, 5, 6]
    assert isinstance(run.history, History)
    assert np.isclose(run.steps.loss[3:].mean(), run.history.train_loss[-1])
    assert run.steps.passes[-1] == run.history.passes[-1]
    said = run.provenance()
    images = QUICK.images()
    assert said["data_digest"] == f"sha256:{images.digest()}" and said["seed"] == 0 and said["rule"] == "ssam_d(0.1)"
    assert said["weights_digest"] == ss.store.weights_digest(QUICK.network(images).state_dict())
    assert said["dtype"] == "float32" and said["device"] == "cpu" and "python" in said["command_line"]
    assert {"host", "threads", "packages", "platform", "python", "sharpscope", "created"} < set(said)
    assert len(said.get("git_revision", "0" * 40).removesuffix("+changes")) == 40
    ss.store.run.Run.prune(run, 1)
    from sharpscope.runs.analyze import Analysis, analyze_run

    analyze_run(run, ["ratio"], Analysis(examples=32))
    about = run.provenance("results/ratio")
    assert about["step"] == 6
    assert about["weights_digest"] == ss.store.weights_digest(run.checkpoint()["model"])


def test_a_run_that_was_killed_at_birth_can_be_started_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-1-host-01234567").touch()
    (tmp_path / "run" / ".lock").touch()
    assert train_run(QUICK, tmp_path / "run", resume=True).status == "finished 2 of 2 epochs"


def test_keep_checkpoints_is_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="got keep_checkpoints=0, expected at least 1"):
        train_run(QUICK, tmp_path / "run", keep_checkpoints=0)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- damage


def test_verify_names_and_puts_aside(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", checkpoints=3, size=10)
    assert verify_run(run.path) == [] and "every part is sound" in call("verify", run.path)
    checkpoint, curve = run.path / "checkpoints" / "000000003.h5", run.path / "child" / "results" / "curve.h5"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    shutil.copy(run.path / "results" / "curve.h5", curve)  # sound in itself, but of another run
    damaged = verify_run(run.path)
    assert [damage.part for damage in damaged] == ["checkpoints/000000003", "child/results/curve"]
    assert "truncated" in damaged[0].error and "comes from another run" in damaged[1].error
    done = CliRunner().invoke(main, ["verify", str(run.path)])
    assert done.exit_code == 1 and "damaged: checkpoints/000000003: " in done.output
    assert "moved to" in call("verify", run.path, "--quarantine")
    assert verify_run(run.path) == [] and open_run(run.path).checkpoint()["step"] == 2
    assert len(list((run.path / "quarantine").iterdir())) == 2
    assert pack_run(run, tmp_path / "run.h5").exists()


def test_verify_of_what_cannot_be_put_aside(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", checkpoints=1, size=10)
    packed = pack_run(run, tmp_path / "run.h5")
    content = bytearray(packed.read_bytes())
    content[content.index(np.full(10, 1.0).tobytes()) + 1] ^= 1
    packed.write_bytes(content)
    assert [damage.part for damage in verify_run(packed)] == ["checkpoints/000000001"]
    assert ": 6 of 7 parts" in call("pack", packed, "--unpack", "--skip-damaged", "-o", tmp_path / "rest")
    assert verify_run(tmp_path / "rest") == [] and open_run(tmp_path / "rest").result_names() == ["curve"]
    (run.path / "run.h5").write_bytes(b"junk")
    damaged = verify_run(run.path, quarantine=True)
    assert [(damage.part, damage.moved) for damage in damaged] == [("run", None)]
    with run.lock(), pytest.raises(StoreError, match="is writing, expected no other writer"):
        verify_run(run.path, quarantine=True)
    with pytest.raises(StoreError, match=r"got a folder without run\.h5"):
        verify_run(run.path / "masks")


@pytest.mark.parametrize("broken", ["part", "index", "both", "run"])
def test_quarantine_of_a_packed_run(tmp_path: Path, broken: str) -> None:
    """A file of the sound parts takes the place of the damaged one, which is kept."""
    run = synthetic_run(tmp_path / "run", checkpoints=2, size=10)
    packed = pack_run(run, tmp_path / "run.h5")
    with h5py.File(packed, "r+") as file:
        if broken in ("part", "both"):
            file["checkpoints/000000001/model/w"][3] = 7.0
        if broken in ("index", "both"):
            file["_index/bytes"][0] = 7
        if broken == "run":
            file["run/rule"][()] = b"sam()"
    content = packed.read_bytes()
    names = {"part": ["checkpoints/000000001"], "index": ["_index"], "run": ["run"]}
    names["both"] = names["index"] + names["part"]
    assert [damage.part for damage in verify_run(packed)] == names[broken] and packed.read_bytes() == content
    damaged = verify_run(packed, quarantine=True)
    assert [damage.part for damage in damaged] == names[broken]
    if broken == "run":
        assert damaged[0].moved is None and packed.read_bytes() == content
        return
    assert damaged[0].moved is not None and damaged[0].moved.read_bytes() == content
    assert verify_run(packed) == [] and "every part is sound" in call("verify", packed)
    rest, lost = open_run(packed), broken != "index"
    assert rest.checkpoints() == ([2] if lost else [1, 2]) and rest.checkpoint()["step"] == 2
    assert rest.child("child").results["curve"] == run.child("child").results["curve"] and rest.history == run.history
    assert [name for name, *_ in rest.tree()] == [name for name, *_ in run.tree() if name not in names[broken]]


# ------------------------------------------------------------------------------------------------- command line


def test_pack_prune_show(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", checkpoints=4, size=10)
    shown = call("show", run.path)
    assert "masks/ (4 of them, 000000001 to 000000004)" in shown and shown.count("masks/") == 1
    assert "removed 3 checkpoints" in call("prune", run.path) and run.checkpoints() == [4]
    assert "parts" in call("pack", run.path, "-o", tmp_path / "run.h5")
    assert call("show", tmp_path / "run.h5").splitlines()[1:] == call("show", run.path).splitlines()[1:]
    call("pack", tmp_path / "run.h5", "--unpack", "-o", tmp_path / "copy")
    assert open_run(tmp_path / "copy").digest == run.digest
    assert "got a file that exists" in CliRunner().invoke(
        main, ["pack", str(run.path), "-o", str(tmp_path / "run.h5")]
    ).output  # fmt: skip
    with run.lock():
        done = CliRunner().invoke(main, ["prune", str(run.path)])
    assert done.exit_code == 1 and "is writing, expected no other writer" in done.output


def test_show_follows_until_the_end(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {})
    run.set_history(_history(1))
    later = threading.Timer(1.5, lambda: run.set_history(_history(2)))
    later.start()
    shown = call("show", run.path, "--follow")
    assert "stopped after 1 of 2 epochs" in shown and "finished 2 of 2 epochs" in shown


def _history(done: int) -> History:
    curve = np.linspace(0.5, 0.25, done)
    return History("sgd()", 2, 10, 100, curve, curve, curve, curve, curve, curve)


# ------------------------------------------------------------------------------------------------- tables


def test_many_runs_in_one_table(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = create_run(tmp_path / f"run{seed}", {"seed": seed, "lr": {"first": 0.1}})
        run.set_history(_history(2))
        run.add_result("line", _line())
    parent = create_run(tmp_path / "many", {})
    parent.create_child("sam", {"seed": 5}).set_history(_history(1))
    frame = ss.collect([tmp_path / "run0", tmp_path / "run1", tmp_path / "many"])
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 3
    assert frame["seed"].tolist() == [0, 1, 5] and frame["run"].iloc[2].endswith("many/sam")
    assert frame["history.test_error"].tolist() == [0.25, 0.25, 0.5]
    assert frame["line.loss[0.5]"].iloc[0] == 3.0 and np.isnan(frame["line.center"].iloc[2])
    assert "line.alpha" not in frame and len(ss.collect(tmp_path / "run0")) == 1
    shown = call("show", "--table", tmp_path / "run0", tmp_path / "run1")
    assert "| seed" in shown and "history.test_error" in shown and "lr.first" not in shown


def _line() -> ss.Line:
    alpha, loss = np.array([-0.5, 0.0, 0.5]), np.array([2.0, 1.0, 3.0])
    return ss.Line(alpha, loss, 0 * alpha, abs(alpha), 1.0, 2.0, "filter", 0, "float32", 5, "toy")


def test_results_as_labelled_arrays(tmp_path: Path) -> None:
    beta, alpha = np.array([0.0, 1.0]), np.array([-1.0, 0.0, 1.0])
    loss = np.arange(6.0).reshape(2, 3)
    surface = ss.Surface(alpha, beta, loss, 0 * loss, loss, 0.5, np.ones(2), 0.0, "filter", 3, "float32", 10, "toy")
    data = surface.to_xarray()
    assert data["loss"].dims == ("beta", "alpha") and float(data["loss"].sel(alpha=1.0, beta=0.0)) == 2.0
    assert data.attrs["seed"] == 3 and data.attrs["result"] == "Surface"
    frame = surface.to_frame()
    assert list(frame.columns) == ["beta", "alpha", "loss", "stderr", "radius"] and len(frame) == 6
    assert frame[(frame.alpha == 1.0) & (frame.beta == 0.0)].loss.item() == 2.0 and frame.attrs["center"] == 0.5
    assert surface.to_frame("norms")["norms"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"Surface\.to_frame got of='losses', expected an array among alpha, beta"):
        surface.to_frame("losses")
    masks = {f"step {i}": {"w": torch.tensor([True, i == 1, False])} for i in range(2)}
    overlap = ss.mask_overlap(masks)
    assert overlap.summary() == "MaskOverlap(first_to_last=0.5)"
    assert overlap.to_xarray()["selected"].sel(layers="w", labels="step 1") == 2
    assert set(overlap.to_frame()["quantity"]) >= {"jaccard", "kappa"} and len(overlap.to_frame("sizes")) == 1
    assert made_history(3).to_frame()["test_loss"].tolist() == [2.0, 4.0, 6.0]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "xarray"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for convert in (_line().to_frame, _line().to_xarray):
        with pytest.raises(ImportError, match=r"got no package \w+, .*: pip install 'sharpscope\[frames\]'"):
            convert()


# ------------------------------------------------------------------------------------------------- old files


def test_schema_1_is_read() -> None:
    run = open_run(SCHEMA_1)
    said = run.provenance()
    assert said["schema"] == 3 and said["packages"].startswith("h5py 3.16.0, hdf5 2.0.0, numpy ")
    assert "torch" not in said and verify_run(SCHEMA_1) == [] and run.steps is None
    assert Experiment.of(run.config).settings == Settings("sam(rho=0.1)", epochs=3, seed=4)
    assert run.status == "finished 3 of 3 epochs" and run.results["curve"] == run.history
    assert torch.equal(run.checkpoint()["model"]["fc.weight"], torch.arange(6.0, dtype=torch.float32).reshape(2, 3))
    assert run.masks()["fc.weight"].tolist() == [[True, False, True], [False, True, True]]


def test_schema_2_is_read(tmp_path: Path) -> None:
    run = open_run(SCHEMA_2)
    assert run.provenance()["schema"] == 3 and run.provenance()["checksum"].startswith("sha256:")
    assert verify_run(SCHEMA_2) == [] and run.child("child").results["curve"] == made_history(2)
    tree = run.checkpoint()
    assert torch.equal(tree["model"]["fc.weight"], torch.arange(6.0, dtype=torch.float32).reshape(2, 3))
    assert tree["model"]["half"].dtype == torch.bfloat16 and tree["model"]["complex"].tolist() == [1 + 2j]
    assert tree["optimizer"]["state"][10] == {"step": 3} and tree["big"] == 2**70 and tree["a/b%"] == "text"
    assert run.masks()["fc.weight"].tolist() == [[True, False, True], [False, True, True]]
    assert run.steps is not None and run.steps.step.tolist() == [1, 2, 3]
    copy = unpack_run(run, tmp_path / "copy")  # written in the new layout, under the old checksums
    assert verify_run(copy.path) == [] and copy.digest == run.digest


def test_fields_of_a_later_version_have_their_defaults(tmp_path: Path) -> None:
    @dataclass(frozen=True, eq=False, repr=False)
    class Grown(Result):
        old: int

    path = save(Grown(1), tmp_path / "grown.h5")

    @dataclass(frozen=True, eq=False, repr=False)
    class Grown(Result):  # type: ignore[no-redef]
        old: int
        new: float = 0.5

    loaded: Any = load(path)
    assert (loaded.old, loaded.new) == (1, 0.5)


# ------------------------------------------------------------------------------------------------- weights


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_weights_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2, dtype=torch.bfloat16)}
    torch.save(weights, "plain.pt")
    torch.save({"epoch": 1, "state_dict": weights}, "usual.pt")
    torch.save({"ema": weights}, "unusual.pt")
    save_file(weights, "named-oddly.bin")
    run = create_run(tmp_path / "run", {})
    run.add_checkpoint(1, {"model": weights, "curves": {}})
    pack_run(run, "run.h5")
    places = ["plain.pt", "usual.pt", "named-oddly.bin", "run", "run.h5", "run/checkpoints/000000001.h5"]
    for found in [*(ss.load_weights(place) for place in places), ss.load_weights("unusual.pt", key="ema")]:
        assert set(found) == set(weights) and all(torch.equal(found[name], weights[name]) for name in weights)
    write_part("other.h5", "result", {})
    Path("evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"w": Evil()}, "evil.zip.pt")
    Path("short.bin").write_bytes(Path("named-oddly.bin").read_bytes()[:-4])
    Path("junk.pt").write_bytes(b"junk")
    for name, text in {
        "evil.pt": r"got what torch\.load\(weights_only=True\) refuses",
        "evil.zip.pt": r"got what torch\.load\(weights_only=True\) refuses \(.*mkdir",
        "short.bin": "got a damaged safetensors file",
        "junk.pt": "junk.pt: got ",
        "unusual.pt": "got ema, expected tensors by name at its own level or one of model, .*: say where with key=",
        "none.pt": "got no such file, expected a file of weights: check the path",
        "other.h5": "got a part of kind 'result', expected 'checkpoint'",
    }.items():
        with pytest.raises(StoreError, match=text):
            ss.load_weights(name)
    assert not Path("sprung").exists()
