"""Training and analysis on disk: nothing lost, nothing done twice, nothing overwritten."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries
from sharpscope.analyzers.masks.overlap import MaskOverlap
from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.analyzers.spectra.spectrum import Spectrum
from sharpscope.analyzers.surfaces.surface import Surface
from sharpscope.runs.analyze import Analysis, analyze_run, problem_of
from sharpscope.runs.train import Experiment, train_run
from sharpscope.store import Run, StoreError, create_run, leaves, open_run
from sharpscope.training.loop import Settings

QUICK = Experiment(Settings("ssam_d(0.1)", epochs=3, batch_size=64), train=128, test=64)
LIGHT = Analysis(examples=64, k=2, tol=0.05, resolution=3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(QUICK, tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_holds_everything(finished: Run) -> None:
    opened = open_run(finished.path)
    assert Experiment.of(opened.config) == QUICK
    assert opened.history is not None and len(opened.history.train_loss) == 3  # type: ignore[attr-defined]
    assert opened.mask_steps() == [2, 4, 6]
    assert opened.checkpoints() == [6]
    weights = opened.checkpoint()["model"]
    assert set(weights) == set(QUICK.network(QUICK.images()).state_dict())
    ones = [sum(int(layer.sum()) for layer in opened.masks(step).values()) for step in opened.mask_steps()]
    assert ones == [round(0.5 * 24058)] * 3


def test_cut_off_and_resumed_is_unbroken(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = Run.set_history

    def cut(run: Run, history: object) -> None:
        added(run, history)  # type: ignore[arg-type]
        if len(history.train_loss) == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "set_history", cut)
    with pytest.raises(KeyboardInterrupt):
        train_run(QUICK, tmp_path / "cut")
    monkeypatch.undo()
    assert open_run(tmp_path / "cut").status == "stopped after 2 of 3 epochs"
    resumed = train_run(QUICK, tmp_path / "cut", resume=True)
    assert resumed.status == "finished 3 of 3 epochs"
    for name, value in finished.checkpoint()["model"].items():
        assert torch.equal(resumed.checkpoint()["model"][name], value), name
    for step in finished.mask_steps():
        for name, value in finished.masks(step).items():
            assert torch.equal(torch.as_tensor(resumed.masks(step)[name]), torch.as_tensor(value))


def test_resuming_a_finished_run_changes_nothing(finished: Run) -> None:
    before = sorted((part, size) for part, _, size in finished.tree())
    train_run(QUICK, finished.path, resume=True)
    assert sorted((part, size) for part, _, size in open_run(finished.path).tree()) == before


def test_an_existing_path_is_refused(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not empty, expected a new one"):
        train_run(QUICK, finished.path)
    other = replace(QUICK, settings=replace(QUICK.settings, rule="sam(0.1)"))
    with pytest.raises(StoreError) as caught:
        train_run(other, finished.path, resume=True)
    assert "settings.rule='ssam_d(0.1)', expected 'sam(0.1)'" in str(caught.value)


def test_analyses_are_kept_and_equal(finished: Run) -> None:
    first = analyze_run(finished, how=LIGHT)
    kinds = {"spectrum": Spectrum, "surface": Surface, "ratio": GradientRatio, "masks": MaskOverlap}
    kinds["mask_profile"] = MaskProfile
    assert {name: type(result) for name, result in first.items()} == kinds
    assert analyze_run(finished, how=LIGHT) == first
    for change, text in (
        ({"k": 1}, "'spectrum' with k=2, expected 1"),
        ({"tol": 0.01}, "'spectrum' with tol=0.05, expected 0.01"),
        ({"resolution": 4}, "'surface' with resolution=3, expected 4"),
        ({"precision": "bfloat16"}, "'surface' with precision='float32', expected 'bfloat16'"),
        ({"tolerance": 0.1}, "'surface' with tolerance=None, expected 0.1"),
        ({"directions": "layer"}, "'surface' with directions='filter', expected 'layer'"),
        ({"rho": 0.2}, "'ratio' with perturbation='Ball(0.1)', expected 'Ball(0.2)'"),
        ({"examples": 32}, "'spectrum' with problem='ConvNet, CrossEntropyLoss(mean), 64 examples"),
    ):
        with pytest.raises(StoreError, match=re.escape(text)):
            analyze_run(finished, how=replace(LIGHT, **change))  # type: ignore[arg-type]
    anew = analyze_run(finished, how=LIGHT, replace=True)
    assert anew == first  # the same seed, the same numbers, bit for bit
    problem = problem_of(finished, 64)
    assert first["surface"].center == pytest.approx(problem.loss(), rel=1e-6)  # type: ignore[attr-defined]
    assert first["surface"].loss[1, 1] == first["surface"].center  # type: ignore[attr-defined]
    overlap = first["masks"]
    assert isinstance(overlap, MaskOverlap)
    assert overlap.labels == ("step 2", "step 4", "step 6")
    assert np.array_equal(overlap.selected.sum(axis=0), [12029] * 3)


def test_children_are_analysed_each(tmp_path: Path) -> None:
    parent = create_run(tmp_path / "many", {"what": "two methods"})
    for rule in ("sgd()", "sam(0.1)"):
        experiment = replace(QUICK, settings=replace(QUICK.settings, rule=rule, epochs=1))
        name = rule.partition("(")[0]
        train_run(experiment, tmp_path, run=parent.create_child(name, experiment.config()))
    assert analyze_run(parent, ["ratio"], LIGHT) == {}
    assert [parent.child(name).result_names() for name in parent.children()] == [["ratio"]] * 2


def test_bad_requests(tmp_path: Path, finished: Run) -> None:
    with pytest.raises(
        ValueError, match="got the analysis 'spectra', expected some of spectrum, surface, ratio, ratio_course, masks"
    ):
        analyze_run(finished, ["spectra"])
    bare = create_run(tmp_path / "bare", QUICK.config())
    with pytest.raises(StoreError, match="has no checkpoint, expected one: train it"):
        analyze_run(bare, ["ratio"])
    with pytest.raises(StoreError, match="does not describe a training"):
        problem_of(create_run(tmp_path / "odd", {"x": 1}))


def test_a_run_that_fails_at_once_is_not_in_the_way(tmp_path: Path) -> None:
    broken = replace(QUICK, settings=replace(QUICK.settings, rule="sgd()", lr=1e12, batch_size=8))
    with pytest.raises(ArithmeticError, match="the training loss is"):
        train_run(broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_of_the_wrong_shape_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "def wide(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(65, classes))\n"
        "def short(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes - 1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("wide", "got RuntimeError: mat1 and mat2 shapes"), ("short", "got outputs (2, 9), expected")):
        with pytest.raises(ValueError, match=re.escape(text)):
            train_run(replace(QUICK, model=f"mynets:{name}"), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_every_named_method_trains_from_its_text(tmp_path: Path) -> None:
    for rule in ("esam(0.1, keep=0.5, fraction=0.5)", "Ascend(Ball(0.1), rows=0.5)"):
        experiment = replace(QUICK, settings=replace(QUICK.settings, rule=rule, epochs=1))
        assert train_run(experiment, tmp_path / str(len(rule))).status == "finished 1 of 1 epochs"


def test_leaves() -> None:
    assert leaves({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_r_over_the_checkpoints_and_inside_the_last_mask(tmp_path: Path) -> None:
    run = train_run(QUICK, tmp_path / "run", keep_checkpoints=3)
    found = analyze_run(run, ["ratio", "ratio_course"], LIGHT)
    ratio, course = found["ratio"], found["ratio_course"]
    assert isinstance(ratio, GradientRatio) and isinstance(course, RatioSeries)
    assert course.axis == "step" and course.places.tolist() == [2, 4, 6]
    assert np.array_equal(course[-1].tally, ratio.tally)  # the last weights
    assert ratio.inside is not None and ratio.inside.sum() == 12029
    with pytest.raises(
        StoreError, match=re.escape("'ratio_course' with perturbation='Ball(0.1)', expected 'Ball(0.2)'")
    ):
        analyze_run(run, ["ratio_course"], replace(LIGHT, rho=0.2))
    early = problem_of(run, 64, step=2)
    assert early.loss() != problem_of(run, 64).loss()


def test_kept_results_need_no_data(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = analyze_run(finished, how=LIGHT)
    monkeypatch.setattr(Experiment, "images", lambda self: pytest.fail("the data was read"))
    assert analyze_run(finished, how=LIGHT) == first


def test_the_best_checkpoint_stays_beside_the_last(tmp_path: Path) -> None:
    """Training with a learning rate that ends far too high: the last epoch is not the best one."""
    settings = Settings("sgd()", epochs=5, batch_size=64, lr=0.02, schedule="step", drop_every=3, drop=200.0)
    run = train_run(Experiment(settings, train=128, test=256, keep_best=True), tmp_path / "run")
    history = run.history
    assert history is not None and history.best < 4 and history.test_error[history.best] == history.test_error.min()
    assert run.checkpoints() == [2 * (history.best + 1), 10]
    assert float(run.checkpoint(run.checkpoints()[0])["curves"]["test_error"][-1]) == history.test_error.min()
    assert run.config["keep_best"] is True
    again = train_run(Experiment.of(run.config), run.path, resume=True)
    assert again.checkpoints() == run.checkpoints()
    with pytest.raises(StoreError, match="made with keep_best=True, expected False"):
        train_run(replace(Experiment.of(run.config), keep_best=False), run.path, resume=True)


def test_a_run_goes_on_where_its_data_has_moved_to_but_not_on_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, label in (("here", b"\x04"), ("other", b"\x03")):
        (tmp_path / place).mkdir()
        for name in ("data_batch_1.bin", "test_batch.bin"):
            (tmp_path / place / name).write_bytes(b"".join(label + bytes([i % 251]) * 3072 for i in range(16)))
    settings = Settings("sgd()", epochs=2, batch_size=8)
    experiment = Experiment(settings, "cifar10", str(tmp_path / "here"), "convnet(width=2)")
    added = Run.set_history
    monkeypatch.setattr(Run, "set_history", lambda run, history: [added(run, history), 1 / 0])
    with pytest.raises(ZeroDivisionError):
        train_run(experiment, tmp_path / "run")
    monkeypatch.undo()
    run = open_run(tmp_path / "run")
    assert run.status == "stopped after 1 of 2 epochs"
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(StoreError, match=r"was trained on the data sha256:.*its files with --root"):
        train_run(replace(experiment, root=str(tmp_path / "other")), run.path, resume=True)
    train_run(replace(experiment, root=str(tmp_path / "there")), run.path, resume=True)
    assert run.status == "finished 2 of 2 epochs"
    light = replace(LIGHT, examples=8, k=1)
    with pytest.raises(StoreError, match="was trained on the data"):
        analyze_run(run, ["spectrum"], light, root=tmp_path / "other")
    assert "spectrum" in analyze_run(run, ["spectrum"], light, root=tmp_path / "there")


def test_every_setting_is_stored_and_read(tmp_path: Path) -> None:
    settings = Settings(
        "sam(0.05)", epochs=9, batch_size=8, optimizer="adamw", lr=0.001, schedule="step", warmup=1, steps=2
    )
    settings = replace(settings, label_smoothing=0.1, mixup=0.2, cutout=4, precision="bfloat16", drop_every=2)
    experiment = Experiment(settings, "synthetic:cifar10", None, "vit-ti(width=12, depth=1)", 16, 8, 16)
    run = train_run(experiment, tmp_path / "run")
    assert Experiment.of(run.config) == experiment
    assert run.checkpoints() == [2] and run.history is not None and run.history.epochs == 1
    assert experiment.images().shape == (3, 16, 16)
