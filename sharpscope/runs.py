"""Training and analysis as they are kept on disk: a run goes in, a fuller run comes out.

Everything here can be killed and called again: what is on disk already is not computed twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpscope import data, models
from sharpscope.analyzers.mask_profile import mask_profile
from sharpscope.analyzers.masks import mask_overlap
from sharpscope.analyzers.profile import MaskProfile
from sharpscope.analyzers.ratio import GradientRatio, RatioSeries, gradient_ratio
from sharpscope.analyzers.spectrum import Spectrum, spectrum
from sharpscope.analyzers.surface import Surface, surface
from sharpscope.ascent.perturbations import Ball
from sharpscope.data import Images
from sharpscope.packed import PackedMask
from sharpscope.problem import Problem
from sharpscope.results import Result
from sharpscope.store import (
    Run,
    StoreError,
    create_run,
    is_run,
    leaves,
    open_run,
    provenance,
    weights_digest,
)
from sharpscope.training import Epoch, Settings, train

__all__ = ["ANALYSES", "Analysis", "Experiment", "analyze_run", "leaves", "problem_of", "train_run"]


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
        try:  # a setting that a later version added has the default that it had until then
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
    keep_checkpoints: int = 1,
    progress: bool | None = None,
    run: Run | None = None,
) -> Run:
    """Train and keep everything in the run at ``path``: configuration, curves and masks of every epoch, checkpoints.

    Args:
        experiment: what to train.
        path: of the run; must not exist unless ``resume``.
        resume: go on where an existing run stopped (bit for bit the unbroken run); start it where there is none.
        keep_checkpoints: how many of the latest checkpoints stay on disk.
        progress: show a progress bar; None shows it on a terminal only.
        run: an open, empty run to use instead of ``path``.

    Raises StoreError for a path that exists, and for a run of another configuration, naming what differs.
    """
    images = experiment.images()
    network = experiment.network(images)
    _check_network(network, experiment.model, images)
    if keep_checkpoints < 1:
        raise StoreError(f"training got keep_checkpoints={keep_checkpoints}, expected at least 1: the last one stays")
    fresh = run is None and not (resume and is_run(path))
    if run is None:
        run = create_run(path, experiment.config(), made_by(experiment, images, network)) if fresh else open_run(path)
    _check_same(run, experiment)
    with _not_left_empty(run) if fresh else contextlib.nullcontext(), run.lock():
        _train(run, experiment, images, network, keep_checkpoints, progress)
    return run


def made_by(experiment: Experiment, images: Images, network: nn.Module) -> dict[str, Any]:
    """Provenance of a training: who runs it, on what, from which weights and data."""
    first = next(network.parameters())
    return provenance(
        seed=experiment.settings.seed,
        rule=experiment.settings.rule,
        data_digest=f"sha256:{images.digest()}",
        weights_digest=weights_digest(network.state_dict()),
        dtype=str(first.dtype).removeprefix("torch."),
        device=str(first.device),
    )


def _train(
    run: Run, experiment: Experiment, images: Images, network: nn.Module, keep: int, progress: bool | None
) -> None:
    """Go on from the last checkpoint, whatever was written after it, and leave what the unbroken training leaves."""
    steps = run.checkpoints()
    start = run.checkpoint() if steps else None
    epoch_steps = -(-len(images.train_targets) // experiment.settings.batch_size)
    with run.step_writer(after=steps[-1] if steps else 0) as points:

        def on_step(step: int, loss: float, lr: float, passes: float) -> None:
            points.add(step, loss, lr, passes)
            if step % epoch_steps == 0:
                points.merge()

        def on_epoch(epoch: Epoch) -> None:
            if epoch.masks:
                run.add_masks(epoch.step, epoch.masks, replace=True)
            run.add_checkpoint(epoch.step, epoch.checkpoint(), replace=True)
            run.set_history(epoch.history)
            run.prune(keep)

        history = train(network, images, experiment.settings, start, on_epoch, progress, on_step)
    if run.history != history:  # it was stopped between its last checkpoint and its last curve
        run.set_history(history)
    run.prune(keep)


def problem_of(run: Run, examples: int | None = None, step: int | None = None) -> Problem:
    """The training loss around weights of a run, on its first ``examples`` training images, un-augmented.

    The weights are the last ones, or those of the checkpoint at ``step``.
    """
    experiment = Experiment.of(run.config)
    _last_step(run)
    images = experiment.images()
    network = experiment.network(images)
    network.load_state_dict(run.checkpoint(step)["model"])
    inputs, targets = images.train
    return Problem(network, nn.CrossEntropyLoss(), (inputs[:examples], targets[:examples]))


def _last_step(run: Run) -> int:
    """Raises StoreError for a run without weights."""
    if not run.checkpoints():
        raise StoreError(
            f"the run {run.path} has no checkpoint, expected one: train it with `sharpscope train --resume`"
        )
    return run.checkpoints()[-1]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """How to analyse a run; the defaults suit a laptop."""

    examples: int | None = 2000  # first so many training images; None for all
    k: int = 5
    tol: float = 1e-3
    resolution: int = 31
    span: float = 1.0
    rho: float = 0.1  # of the perturbation behind r
    probes: int = 16  # products behind the diagonal of the Hessian in a mask's profile
    seed: int = 0
    progress: bool | None = None


class _Loaded:
    """The problem of a run, made when it is first asked for: reading the data takes longer than many an analysis."""

    def __init__(self, run: Run, how: Analysis) -> None:
        self._make = functools.cache(lambda: problem_of(run, how.examples))

    def __call__(self) -> Problem:
        return self._make()


def _ratio(run: Run, problem: _Loaded, how: Analysis) -> Result | None:
    steps = run.mask_steps()
    mask = run.masks(steps[-1]) if steps else None
    return gradient_ratio(problem(), Ball(how.rho), mask=mask, seed=how.seed)


def _ratio_course(run: Run, problem: _Loaded, how: Analysis) -> Result | None:
    steps = run.checkpoints()
    if len(steps) < 2:
        return None
    found = []
    last = problem()
    for step in steps:
        last.model.load_state_dict(run.checkpoint(step)["model"])
        found.append(gradient_ratio(last, Ball(how.rho), seed=how.seed))
    return RatioSeries.of("step", steps, found)


def _mask_overlap(run: Run, problem: _Loaded, how: Analysis) -> Result | None:
    steps = run.mask_steps()
    packed = {f"step {step}": PackedMask.of(run.masks(step)) for step in steps}  # a bit per entry, however many
    return mask_overlap(packed, progress=how.progress) if steps else None


def _mask_profile(run: Run, problem: _Loaded, how: Analysis) -> Result | None:
    steps = run.mask_steps()
    if not steps:
        return None
    return mask_profile(
        run.masks(steps[-1]), problem(), perturbation=Ball(how.rho), probes=how.probes, draws=1, tol=how.tol,
        seed=how.seed, progress=how.progress,
    )  # fmt: skip


ANALYSES: dict[str, Callable[[Run, _Loaded, Analysis], Result | None]] = {
    "spectrum": lambda run, problem, how: spectrum(problem(), how.k, how.tol, how.seed, progress=how.progress),
    "surface": lambda run, problem, how: surface(
        problem(), how.resolution, how.span, seed=how.seed, progress=how.progress
    ),
    "ratio": _ratio,
    "ratio_course": _ratio_course,
    "masks": _mask_overlap,
    "mask_profile": _mask_profile,
}


def analyze_run(
    run: Run, what: Iterable[str] = tuple(ANALYSES), how: Analysis = Analysis(), *, replace: bool = False
) -> dict[str, Result]:
    """Analyse the last weights of a run (of each child, if it has children) and keep the results in it.

    An analysis that the run holds already is kept, unless ``replace``; one of other settings is refused.  Returns the
    results of the run itself by name; "masks" and "mask_profile" are absent for a rule without a mask, "ratio_course"
    where the run keeps fewer than two checkpoints.  The data is read only where something is to be computed.  Raises
    StoreError for a run without weights, ValueError for a name that is not in ``ANALYSES``.
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
    problem = _Loaded(run, how)
    for name in chosen:
        if name not in missing:
            _check_kept(run, name, how, problem)
    if missing:
        step = _last_step(run)
        about = provenance(seed=how.seed, step=step, weights_digest=weights_digest(run.checkpoint(step)["model"]))
        with run.lock():
            for name in missing:
                result = ANALYSES[name](run, problem, how)
                if result is not None:
                    run.add_result(name, result, replace, about)
    return {name: run.results[name] for name in chosen if name in run.result_names()}


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
    if isinstance(result, Surface):
        span = float(result.alpha[-1])
        return {"resolution": len(result.alpha), "span": span, "seed": result.seed, "problem": result.problem}
    if isinstance(result, GradientRatio):
        return {"perturbation": result.perturbation, "problem": result.problem}
    if isinstance(result, RatioSeries):
        return {"perturbation": result.perturbations[0], "problem": result.problem}
    if isinstance(result, MaskProfile):
        kept = {"probes": result.probes, "seed": result.seed}
        return kept | {"perturbation": result.perturbation, "problem": result.problem}
    return {}


def _check_kept(run: Run, name: str, how: Analysis, problem: _Loaded) -> None:
    """Raise StoreError where a stored analysis is not the one that is asked for."""
    asked: dict[str, Any] = {**dataclasses.asdict(how), "perturbation": repr(Ball(how.rho))}
    for setting, value in _settings_of(run.results[name]).items():
        if setting == "problem" and f", {how.examples} examples, " in value:
            continue  # the rest of that text is the run's configuration, which cannot change: no need for the data
        if setting == "problem":
            asked["problem"] = problem().describe()  # there may be fewer images than asked for
        if value != asked[setting]:
            raise StoreError(
                f"the run {run.path} holds the analysis {name!r} with {setting}={value!r}, expected "
                f"{asked[setting]!r}: use --replace to compute it anew, or the same settings"
            )


def _check_same(run: Run, experiment: Experiment) -> None:
    stored, wanted = leaves(Experiment.of(run.config).config()), leaves(experiment.config())
    for name in {**stored, **wanted}:
        if stored.get(name) != wanted.get(name):
            raise StoreError(
                f"the run {run.path} was made with {name}={stored.get(name)!r}, expected {wanted.get(name)!r}: "
                f"use the same settings to resume it, or another --out"
            )
