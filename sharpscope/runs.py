"""Training and analysis as they are kept on disk: a run goes in, a fuller run comes out.

Everything here can be killed and called again: what is on disk already is not computed twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpscope import data, models
from sharpscope.analyzers.curvature import Curvature, curvature
from sharpscope.analyzers.density import Density, density
from sharpscope.analyzers.masks import mask_overlap
from sharpscope.analyzers.ratio import GradientRatio, gradient_ratio
from sharpscope.analyzers.spectrum import Spectrum, spectrum
from sharpscope.analyzers.surface import Surface, surface
from sharpscope.analyzers.track import Track, track
from sharpscope.ascent.perturbations import Ball
from sharpscope.data import Images
from sharpscope.operators import Operator, hessian
from sharpscope.problem import Problem
from sharpscope.results import Result
from sharpscope.resume import resumable
from sharpscope.store import Run, StoreError, create_run, load, open_run, save
from sharpscope.training import Epoch, Settings, train

__all__ = ["ANALYSES", "USUAL", "Analysis", "Experiment", "analyze_run", "leaves", "problem_of", "train_run"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a training run depends on.  ``config()`` is what is stored, ``Experiment.of(config)`` reads it back."""

    settings: Settings = Settings()
    data: str = "digits"
    root: str | None = None  # folder of the data files, for sets that are not built in
    model: str = "convnet"  # a name, or module:function of the user's own code
    train: int | None = None  # first so many training images; None for all
    test: int | None = None

    def config(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        return dataclasses.asdict(self)

    @staticmethod
    def of(config: dict[str, Any]) -> Experiment:
        """Raises StoreError for a configuration that is none."""
        try:
            return Experiment(**{**config, "settings": Settings(**config["settings"])})
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"the run's configuration does not describe a training ({error}), expected what `sharpscope train` "
                f"stores: analyse a run that it made"
            ) from None

    def images(self) -> Images:
        """The data, read anew."""
        return data.load(
            self.data, self.root, self.settings.seed if self.data == "digits" else 0, self.train, self.test
        )

    def network(self, images: Images) -> nn.Module:
        """The network at its first weights."""
        network = models.build(self.model, images.shape, len(images.classes), self.settings.seed)
        network.to(images.train_inputs.dtype)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train_run(
    experiment: Experiment,
    path: str | Path,
    *,
    resume: bool = False,
    keep: int = 1,
    progress: bool | None = None,
    run: Run | None = None,
) -> Run:
    """Train and keep everything in the run at ``path``: configuration, curves and masks of every epoch, checkpoints.

    Args:
        experiment: what to train.
        path: of the run; must not exist unless ``resume``.
        resume: go on where an existing run stopped (bit for bit the unbroken run); start it where there is none.
        keep: how many of the latest checkpoints stay on disk.
        progress: show a progress bar; None shows it on a terminal only.
        run: an open, empty run to use instead of ``path``.

    Raises StoreError for a path that exists, and for a run of another configuration, naming what differs.
    """
    images = experiment.images()
    network = experiment.network(images)
    _check_network(network, experiment.model, images)
    fresh = run is None and not (resume and Path(path).exists())
    if run is None:
        run = create_run(path, experiment.config()) if fresh else open_run(path)
    _check_same(run, experiment)
    with _not_left_empty(run) if fresh else contextlib.nullcontext(), run.lock():
        steps = run.checkpoints()
        start = run.checkpoint() if steps else None

        def on_epoch(epoch: Epoch) -> None:
            if epoch.masks:
                run.add_masks(epoch.step, epoch.masks)
            run.add_checkpoint(epoch.step, epoch.checkpoint())
            run.set_history(epoch.history)
            run.prune(keep=keep)

        train(network, images, experiment.settings, start, on_epoch, progress)
    return run


def problem_of(run: Run, examples: int | None = None, step: int | None = None) -> Problem:
    """The training loss at the weights of a step (the last if None), on the first ``examples`` images, un-augmented."""
    experiment = Experiment.of(run.config)
    images = experiment.images()
    if not run.checkpoints():
        raise StoreError(
            f"the run {run.path} has no checkpoint, expected one: train it with `sharpscope train --resume`"
        )
    network = experiment.network(images)
    network.load_state_dict(run.checkpoint(step)["model"])
    inputs, targets = images.train
    return Problem(network, nn.CrossEntropyLoss(), (inputs[:examples], targets[:examples]))


@dataclasses.dataclass(frozen=True)
class Analysis:
    """How to analyse a run; the defaults suit a laptop."""

    examples: int | None = 2000  # first so many training images; None for all
    k: int = 5
    tol: float = 1e-3
    resolution: int = 31
    span: float = 1.0
    rho: float = 0.1  # of the perturbation behind r
    seed: int = 0
    probes: int = 10  # of the density
    steps: int = 80  # of each probe
    progress: bool | None = None


def _spectrum(run: Run, problem: Problem, how: Analysis, **options: Any) -> Spectrum:
    return spectrum(_kept(run, problem), how.k, how.tol, how.seed, progress=how.progress, **options)


def _density(run: Run, problem: Problem, how: Analysis) -> Density:
    """Probe by probe; the probes so far are kept on disk."""
    part, operator = _scratch(run) / "density.h5", _hessian(problem)
    top = _spectrum(run, problem, how, vectors=True)
    found = load(part) if part.exists() else None
    found = found if isinstance(found, Density) and found.eigenvalues.tolist() == top.eigenvalues.tolist() else None
    for probes in range(len(found.nodes) + 1 if found else 1, how.probes + 1):
        found = density(operator, probes, how.steps, how.seed, top=top, more=found, progress=how.progress)
        save(found, part, replace=True)
    return found  # type: ignore[return-value]


def _curvature(run: Run, problem: Problem, how: Analysis) -> Curvature:
    """Layer by layer."""
    return curvature(_hessian(problem), None, how.k, how.tol, how.seed, progress=how.progress)


def _track(run: Run, problem: Problem, how: Analysis) -> Track:
    """Over all checkpoints that the run kept."""
    problems = ((step, _hessian(problem_of(run, how.examples, step))) for step in run.checkpoints())
    return track(problems, how.k, how.tol, how.seed, progress=how.progress)


def _scratch(run: Run) -> Path:
    return Path(run.path) / ".tmp-products"


def _kept(run: Run, problem: Problem) -> Operator:
    """The Hessian, with its products kept in the run until the analysis is done."""
    return resumable(_hessian(problem), _scratch(run))


def _hessian(problem: Problem) -> Operator:
    """A choice by timing could change the last bits from run to run."""
    return hessian(problem, mode="untimed")


def _mask_overlap(run: Run, problem: Problem, how: Analysis) -> Result | None:
    steps = run.mask_steps()
    return mask_overlap({f"step {step}": run.masks(step) for step in steps}) if steps else None


ANALYSES: dict[str, Callable[[Run, Problem, Analysis], Result | None]] = {
    "spectrum": _spectrum,
    "surface": lambda run, problem, how: surface(
        problem, how.resolution, how.span, seed=how.seed, progress=how.progress
    ),
    "ratio": lambda run, problem, how: gradient_ratio(problem, Ball(how.rho), seed=how.seed),
    "masks": _mask_overlap,
    "density": _density,
    "layers": _curvature,
    "track": _track,
}
USUAL = ("spectrum", "surface", "ratio", "masks")  # the quick ones


def analyze_run(
    run: Run, what: Iterable[str] = USUAL, how: Analysis = Analysis(), *, replace: bool = False
) -> dict[str, Result]:
    """Analyse the last weights of a run (of each child, if it has children) and keep the results in it.

    An analysis that the run holds already is kept, unless ``replace``; one of other settings is refused.  Returns the
    results of the run itself by name; "masks" is absent for a rule without a mask.  Raises StoreError for a run without
    weights, ValueError for a name that is not in ``ANALYSES``.
    """
    chosen = list(what)
    unknown = [name for name in chosen if name not in ANALYSES]
    if unknown:
        raise ValueError(f"got the analysis {unknown[0]!r}, expected some of {', '.join(ANALYSES)}: change the name")
    for child in run.children():
        analyze_run(run.child(child), chosen, how, replace=replace)
    if run.children():
        return {}
    missing = [name for name in chosen if replace or name not in run.result_names()]
    problem = problem_of(run, how.examples)
    for name in chosen:
        if name not in missing:
            _check_kept(run, name, how, problem)
    if missing:
        with run.lock():
            for name in missing:
                _same_work(run, f"{name} {how} {problem.describe()} {run.checkpoints()[-1]}")
                result = ANALYSES[name](run, problem, how)
                if result is not None:
                    run.add_result(name, result, replace=replace)
                shutil.rmtree(_scratch(run), ignore_errors=True)
    return {name: run.results[name] for name in chosen if name in run.result_names()}


def _same_work(run: Run, text: str) -> None:
    """Keep what a killed analysis left behind where this is the same one; throw it away where not."""
    note = _scratch(run) / "what"
    if not note.is_file() or note.read_text() != text:
        shutil.rmtree(_scratch(run), ignore_errors=True)
        _scratch(run).mkdir()
        note.write_text(text)


@contextlib.contextmanager
def _not_left_empty(run: Run) -> Iterator[None]:
    """Remove a run that fails before its first checkpoint: it holds nothing, and would only be in the way."""
    try:
        yield
    except Exception:
        if not run.checkpoints() and not run.result_names() and run.history is None:
            shutil.rmtree(run.path)
        raise


def _check_network(network: nn.Module, name: str, images: Images) -> None:
    """Raise ModelError for a network that does not turn images into one number per class."""
    problem = f"expected outputs of shape (images, {len(images.classes)}) for inputs {images.shape}: mend the network"
    training = network.training
    try:
        with torch.no_grad():
            outputs = network.eval()(images.train_inputs[:2])
    except Exception as error:  # the user's code, which may raise anything
        said = " ".join(str(error).split())
        raise models.ModelError(f"the model {name!r} got {type(error).__name__}: {said}; {problem}") from error
    finally:
        network.train(training)
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if shape != (min(2, len(images.train_targets)), len(images.classes)):
        raise models.ModelError(f"the model {name!r} got outputs {shape}, {problem}")


def _settings_of(result: Result) -> dict[str, Any]:
    """What a stored analysis was asked for."""
    if isinstance(result, Spectrum):
        about = result.operator.removeprefix("Hessian of ")
        return {"k": len(result.eigenvalues), "tol": result.tol, "seed": result.seed, "problem": about}
    if isinstance(result, Density):
        about, (probes, steps) = result.operator.removeprefix("Hessian of "), result.nodes.shape
        return {"k": len(result.eigenvalues), "probes": probes, "steps": steps, "seed": result.seed, "problem": about}
    if isinstance(result, Curvature):
        about = result.operator.removeprefix("Hessian of ")
        return {"k": len(result.top), "seed": result.seed, "problem": about}
    if isinstance(result, Track):
        about = result.operator.removeprefix("Hessian of ")
        return {"k": result.eigenvalues.shape[1], "tol": result.tol, "seed": result.seed, "problem": about}
    if isinstance(result, Surface):
        span = float(result.alpha[-1])
        return {"resolution": len(result.alpha), "span": span, "seed": result.seed, "problem": result.problem}
    if isinstance(result, GradientRatio):
        return {"perturbation": result.perturbation, "problem": result.problem}
    return {}


def _check_kept(run: Run, name: str, how: Analysis, problem: Problem) -> None:
    """Raise StoreError where a stored analysis is not the one that is asked for."""
    asked = {
        **dataclasses.asdict(how), "perturbation": repr(Ball(how.rho)), "problem": problem.describe(),
    }  # fmt: skip
    for setting, value in _settings_of(run.results[name]).items():
        if value != asked[setting]:
            raise StoreError(
                f"the run {run.path} holds the analysis {name!r} with {setting}={value!r}, expected "
                f"{asked[setting]!r}: use --replace to compute it anew, or the same settings"
            )


def _check_same(run: Run, experiment: Experiment) -> None:
    stored, wanted = leaves(run.config), leaves(experiment.config())
    for name in {**stored, **wanted}:
        if stored.get(name) != wanted.get(name):
            raise StoreError(
                f"the run {run.path} was made with {name}={stored.get(name)!r}, expected {wanted.get(name)!r}: "
                f"use the same settings to resume it, or another --out"
            )


def leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one level: ``{"settings.lr": 0.1, ...}``."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found.update(leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return found
