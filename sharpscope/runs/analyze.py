"""Analysing a run: the problem at its weights, the analyses by name, results kept and compared."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries, gradient_ratio
from sharpscope.analyzers.masks.overlap import mask_overlap
from sharpscope.analyzers.masks.profile import mask_profile
from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.analyzers.measures.sharpness import Sharpness, sharpness
from sharpscope.analyzers.spectra.curvature import Curvature, curvature
from sharpscope.analyzers.spectra.density import Density, density
from sharpscope.analyzers.spectra.spectrum import Spectrum, spectrum
from sharpscope.analyzers.spectra.track import Track, track
from sharpscope.analyzers.surfaces.curvature_map import curvature_map
from sharpscope.analyzers.surfaces.directions import Directions, random_directions
from sharpscope.analyzers.surfaces.surface import Surface, surface
from sharpscope.analyzers.surfaces.trajectory import trajectory
from sharpscope.ascent.perturbations import Ball
from sharpscope.coordinates.packed import PackedMask
from sharpscope.core.results import Result
from sharpscope.curvature.operators import Operator, hessian
from sharpscope.problem.problem import Problem
from sharpscope.runs.resume import resumable
from sharpscope.runs.train import Experiment, check_data
from sharpscope.store import Run, StoreError, load, provenance, save, weights_digest

__all__ = ["ANALYSES", "USUAL", "Analysis", "analyze_run", "check_kept", "directions_of", "problem_of"]


def problem_of(
    run: Run, examples: int | None = None, step: int | None = None, root: str | Path | None = None
) -> Problem:
    """The training loss around weights of a run, on its first ``examples`` training images, un-augmented.

    The weights are the last ones, or those of the checkpoint at ``step``.  ``root`` is the folder of the data where it
    has moved since the training; data other than those of the training are refused with StoreError.
    """
    experiment = Experiment.of(run.config)
    experiment = experiment if root is None else dataclasses.replace(experiment, root=str(root))
    _last_step(run)
    images = experiment.images()
    check_data(run, images)
    network = experiment.network(images)
    network.load_state_dict(run.checkpoint(step)["model"])
    return Problem(network, nn.CrossEntropyLoss(), images.reference(examples))


def directions_of(run: Run, name: str = "surface") -> tuple[Directions, Problem]:
    """The random directions of a stored surface, made again, and the problem that they belong to.

    Raises StoreError where they were not drawn at random, or cannot be made again bit for bit.
    """
    found = run.results[name]
    problem = problem_of(run)
    if not isinstance(found, Surface) or found.seed is None:
        raise StoreError(
            f"the run {run.path} got the result {name!r} ({type(found).__name__}) without random directions, expected "
            f"a surface over them: export directions from Python, where they were made"
        )
    made = random_directions(problem, found.directions, found.seed)
    if found.digest not in ("", made.digest):
        raise StoreError(
            f"the run {run.path} got other directions than those of {name!r}, expected the same from seed "
            f"{found.seed}: its last weights have changed since; analyse it with --replace"
        )
    return made, problem


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
    directions: str = "filter"  # of the surface
    precision: str = "float32"
    tolerance: float | None = None  # of an adaptive surface; None evaluates every point
    rho: float = 0.1  # of the perturbation behind r, and of the ball of the sharpness
    probes: int = 10  # of the density
    steps: int = 80  # of each of them
    diagonal_probes: int = 16  # products behind the diagonal of the Hessian in a mask's profile
    seed: int = 0
    progress: bool | None = None


class _Loaded:
    """The problem of a run, made when it is first asked for: reading the data takes longer than many an analysis."""

    def __init__(self, run: Run, how: Analysis, root: str | Path | None) -> None:
        self.at: Callable[[int | None], Problem] = lambda step: problem_of(run, how.examples, step, root)
        self._last = functools.cache(lambda: self.at(None))

    def __call__(self) -> Problem:
        return self._last()


def _hessian(problem: Problem) -> Operator:
    """A choice by timing could change the last bits from run to run."""
    return hessian(problem, mode="untimed")


def _scratch(run: Run) -> Path:
    return Path(run.path) / ".tmp-products"


def _kept(run: Run, problem: _Loaded) -> Operator:
    """The Hessian, with its products kept in the run until the analysis is done."""
    return resumable(_hessian(problem()), _scratch(run))


def _spectrum(run: Run, problem: _Loaded, how: Analysis, **options: Any) -> Spectrum:
    return spectrum(_kept(run, problem), how.k, how.tol, how.seed, progress=how.progress, **options)


def _density(run: Run, problem: _Loaded, how: Analysis) -> Density:
    """Probe by probe; the probes so far are kept on disk."""
    part, operator = _scratch(run) / "density.h5", _hessian(problem())
    top = _spectrum(run, problem, how, vectors=True)
    found = load(part) if part.exists() else None
    found = found if isinstance(found, Density) and found.eigenvalues.tolist() == top.eigenvalues.tolist() else None
    for probes in range(len(found.nodes) + 1 if found else 1, how.probes + 1):
        found = density(operator, probes, how.steps, how.seed, top=top, more=found, progress=how.progress)
        save(found, part, replace=True)
    return found  # type: ignore[return-value]


def _curvature(run: Run, problem: _Loaded, how: Analysis) -> Curvature:
    """Layer by layer."""
    return curvature(_hessian(problem()), None, how.k, how.tol, how.seed, progress=how.progress)


def _track(run: Run, problem: _Loaded, how: Analysis) -> Track:
    """Over all checkpoints that the run kept."""
    problems = ((step, _hessian(problem.at(step))) for step in run.checkpoints())
    return track(problems, how.k, how.tol, how.seed, progress=how.progress)


def _surface(run: Run, problem: _Loaded, how: Analysis) -> Surface:
    """Points are kept on disk; a choice by timing could change the last bits from run to run."""
    return surface(
        problem(), how.resolution, how.span, how.directions, how.seed, how.precision, tolerance=how.tolerance,
        how="untimed", resume=_scratch(run) / "surface.h5", progress=how.progress,
    )  # fmt: skip


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


def _trajectory(run: Run, problem: _Loaded, how: Analysis) -> Result | None:
    """In the plane of its first two principal directions."""
    points = run.trajectory()
    if len(points) < 3:
        raise StoreError(
            f"the run {run.path} recorded {len(points)} weights along its training, expected at least 3: train with "
            f"--record-every, in smaller steps"
        )
    return trajectory(problem(), points)


def _mask_overlap(run: Run, problem: _Loaded, how: Analysis) -> Result | None:
    steps = run.mask_steps()
    packed = {f"step {step}": PackedMask.of(run.masks(step)) for step in steps}  # a bit per entry, however many
    return mask_overlap(packed, progress=how.progress) if steps else None


def _mask_profile(run: Run, problem: _Loaded, how: Analysis) -> Result | None:
    steps = run.mask_steps()
    if not steps:
        return None
    return mask_profile(
        run.masks(steps[-1]), problem(), perturbation=Ball(how.rho), probes=how.diagonal_probes, draws=1, tol=how.tol,
        seed=how.seed, progress=how.progress,
    )  # fmt: skip


ANALYSES: dict[str, Callable[[Run, _Loaded, Analysis], Result | None]] = {
    "spectrum": _spectrum,
    "surface": _surface,
    "ratio": _ratio,
    "ratio_course": _ratio_course,
    "masks": _mask_overlap,
    "mask_profile": _mask_profile,
    "sharpness": lambda run, problem, how: sharpness(problem(), how.rho, seed=how.seed, progress=how.progress),
    "density": _density,
    "layers": _curvature,
    "track": _track,
    "trajectory": _trajectory,
    "curvature_map": lambda run, problem, how: curvature_map(
        problem(), min(how.resolution, 7), how.span, seed=how.seed, progress=how.progress
    ),
}
USUAL = ("spectrum", "surface", "ratio", "ratio_course", "masks", "mask_profile")  # the quick ones


def analyze_run(
    run: Run,
    what: Iterable[str] = USUAL,
    how: Analysis = Analysis(),
    *,
    replace: bool = False,
    root: str | Path | None = None,
) -> dict[str, Result]:
    """Analyse the last weights of a run (of each child, if it has children) and keep the results in it.

    An analysis that the run holds already is kept, unless ``replace``; one of other settings is refused.  Returns the
    results of the run itself by name; "masks" and "mask_profile" are absent for a rule without a mask, "ratio_course"
    where the run keeps fewer than two checkpoints.  The data is read only where something is to be computed, from
    ``root`` where it has moved since the training.  Raises StoreError for a run without weights and for other data,
    ValueError for a name that is not in ``ANALYSES``.
    """
    chosen = list(what)
    unknown = [name for name in chosen if name not in ANALYSES]
    if unknown:
        raise ValueError(f"got the analysis {unknown[0]!r}, expected some of {', '.join(ANALYSES)}: change the name")
    for child in run.children():
        analyze_run(run.child(child), chosen, how, replace=replace, root=root)
    if run.children():
        return {}
    missing = [name for name in chosen if replace or name not in run.result_names()]
    problem = _Loaded(run, how, root)
    for name in chosen:
        if name not in missing:
            _check_kept(run, name, how, problem)
    if missing:
        step = _last_step(run)
        about = provenance(seed=how.seed, step=step, weights_digest=weights_digest(run.checkpoint(step)["model"]))
        with run.lock():
            for name in missing:
                _same_work(run, f"{name} {how} {run.config} {step}")
                result = ANALYSES[name](run, problem, how)
                if result is not None:
                    run.add_result(name, result, replace, about)
                shutil.rmtree(_scratch(run), ignore_errors=True)
    return {name: run.results[name] for name in chosen if name in run.result_names()}


def _same_work(run: Run, text: str) -> None:
    """Keep what a killed analysis left behind where this is the same one; throw it away where not."""
    note = _scratch(run) / "what"
    if not note.is_file() or note.read_text() != text:
        shutil.rmtree(_scratch(run), ignore_errors=True)
        _scratch(run).mkdir()
        note.write_text(text)


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
        asked = {"directions": result.directions, "precision": result.precision, "tolerance": result.tolerance}
        return {"resolution": len(result.alpha), "span": span, "seed": result.seed, "problem": result.problem} | asked
    if isinstance(result, Sharpness):
        return {"rho": result.rho, "seed": result.seed, "problem": result.problem}
    if isinstance(result, GradientRatio):
        return {"perturbation": result.perturbation, "problem": result.problem}
    if isinstance(result, RatioSeries):
        return {"perturbation": result.perturbations[0], "problem": result.problem}
    if isinstance(result, MaskProfile):
        kept = {"diagonal_probes": result.probes, "seed": result.seed}
        return kept | {"perturbation": result.perturbation, "problem": result.problem}
    return {}


def check_kept(run: Run, names: Iterable[str], how: Analysis, root: str | Path | None = None) -> None:
    """Raise StoreError where one of the analyses that a run holds was asked for with other settings than ``how``."""
    problem, there = _Loaded(run, how, root), run.result_names()
    for name in names:
        if name in there:
            _check_kept(run, name, how, problem)


def _check_kept(run: Run, name: str, how: Analysis, problem: _Loaded) -> None:
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
