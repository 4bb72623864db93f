"""sharpscope: how sharp is the minimum that my optimizer found, and why?

Training optimizers (SGD, SAM, Sparse SAM, randomised SAM and their relatives) beside analyzers of flatness (the
SAM-vs-SGD gradient ratio, filter-normalised loss surfaces, certified Hessian spectra, mask statistics), stored in HDF5.

Everything that users call is here: ``import sharpscope as ss``.  ``ARCHITECTURE.md`` tells what lives in which folder.
What reads files or draws (h5py, matplotlib) is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries, gradient_ratio
from sharpscope.analyzers.gradients.recorder import RatioRecorder
from sharpscope.analyzers.masks.overlap import MaskOverlap, mask_overlap
from sharpscope.analyzers.masks.profile import mask_profile
from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.analyzers.measures.sharpness import Sharpness, sharpness
from sharpscope.analyzers.spectra.cross_check import CrossCheck, cross_check
from sharpscope.analyzers.spectra.curvature import Curvature, curvature
from sharpscope.analyzers.spectra.density import Density, density
from sharpscope.analyzers.spectra.spectrum import Spectrum, spectrum
from sharpscope.analyzers.spectra.trace import Trace, trace
from sharpscope.analyzers.spectra.track import Track, track
from sharpscope.analyzers.surfaces.curvature_map import CurvatureMap, curvature_map
from sharpscope.analyzers.surfaces.directions import Directions, random_directions
from sharpscope.analyzers.surfaces.keeping import keep_with
from sharpscope.analyzers.surfaces.named_directions import (
    gradient_direction,
    hessian_directions,
    pca_directions,
    towards,
)
from sharpscope.analyzers.surfaces.surface import Line, Surface, line, surface
from sharpscope.analyzers.surfaces.trajectory import Trajectory, TrajectoryRecorder, trajectory
from sharpscope.ascent.batch import Batch
from sharpscope.ascent.climbs import Centralised, Residual
from sharpscope.ascent.masks import Evolving, Mask, Named, RandomMask, RandomTensors, Top
from sharpscope.ascent.perturbations import Ball, Magnitude, Masked, Metric, Perturbation
from sharpscope.ascent.probe import Probe
from sharpscope.ascent.scores import Fisher, Gradient, Random, Score, Weight
from sharpscope.ascent.shift import Shift
from sharpscope.coordinates.packed import PackedMask
from sharpscope.core.convergence import Convergence
from sharpscope.core.history import History, Steps
from sharpscope.core.results import Result, draw_with
from sharpscope.core.schedules import (
    Constant,
    Cosine,
    Decay,
    InverseSqrt,
    Linear,
    Piecewise,
    Proportional,
    Schedule,
    Sine,
    Warmup,
    delta_eta,
)
from sharpscope.curvature.operators import Operator, fisher, ggn, hessian
from sharpscope.optimizers.established import AlongMomentum, Bayesian, CentralisedDescent, Decoupled, Functional
from sharpscope.optimizers.methods import (
    asam,
    bsam,
    esam,
    fsam,
    functional_sam,
    gcsam,
    gnr,
    grst,
    gsam,
    looksam,
    msam,
    rst,
    sam,
    sgd,
    ssam_d,
    ssam_f,
    tail,
    wsam,
)
from sharpscope.optimizers.parse import RuleError, parse
from sharpscope.optimizers.rules import Ascend, Blend, Plain, Reuse, Rule, Sharpest, Sometimes, Surrogate
from sharpscope.optimizers.sharpness_aware import SharpnessAware
from sharpscope.problem.function import function
from sharpscope.problem.problem import Problem, ProblemError

if TYPE_CHECKING:
    from sharpscope.exchange.files import export
    from sharpscope.exchange.li import read_li_directions, read_li_surface, read_li_trajectory
    from sharpscope.exchange.table import read_csv
    from sharpscope.plots import interactive, plot
    from sharpscope.runs.points import PointFile
    from sharpscope.runs.resume import resumable
    from sharpscope.store import (
        Damage,
        Run,
        StepWriter,
        StoreError,
        collect,
        create_run,
        load,
        load_weights,
        open_run,
        pack_run,
        save,
        unpack_run,
        verify_run,
    )

_LATER = {  # rooms with heavy libraries, and what is public of them
    "sharpscope.exchange.files": "export",
    "sharpscope.exchange.li": "read_li_directions read_li_surface read_li_trajectory",
    "sharpscope.exchange.table": "read_csv",
    "sharpscope.plots": "interactive plot",
    "sharpscope.runs.points": "PointFile",
    "sharpscope.runs.resume": "resumable",
    "sharpscope.store": "Damage Run StepWriter StoreError collect create_run load load_weights open_run pack_run save "
    "unpack_run verify_run",
}
_HOMES = {name: home for home, names in _LATER.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if f"{__name__}.{name}" in _LATER:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Results know no pictures and planes no files: who draws and who keeps is told to them here.
draw_with(
    lambda result, **options: import_module("sharpscope.plots.plot").plot(result, **options),
    lambda result: import_module("sharpscope.plots.plot").thumbnail(result),
)
keep_with(lambda path: import_module("sharpscope.runs.points").PointFile(path))

__version__ = "0.2.0"

__all__ = [
    # the function that is analysed
    "Operator",
    "Problem",
    "ProblemError",
    "fisher",
    "function",
    "ggn",
    "hessian",
    # analyzers and their results
    "CrossCheck",
    "Convergence",
    "Curvature",
    "CurvatureMap",
    "Density",
    "GradientRatio",
    "History",
    "Line",
    "MaskOverlap",
    "MaskProfile",
    "PackedMask",
    "RatioRecorder",
    "RatioSeries",
    "Result",
    "Sharpness",
    "Spectrum",
    "Steps",
    "Surface",
    "Trace",
    "Track",
    "Trajectory",
    "TrajectoryRecorder",
    "cross_check",
    "curvature",
    "curvature_map",
    "density",
    "gradient_ratio",
    "line",
    "mask_overlap",
    "mask_profile",
    "resumable",
    "sharpness",
    "spectrum",
    "surface",
    "trace",
    "track",
    "trajectory",
    # directions of lines and surfaces
    "Directions",
    "PointFile",
    "gradient_direction",
    "hessian_directions",
    "pca_directions",
    "random_directions",
    "towards",
    # training: the optimizer and the methods by name
    "Batch",
    "SharpnessAware",
    "asam",
    "bsam",
    "esam",
    "fsam",
    "functional_sam",
    "gcsam",
    "gnr",
    "grst",
    "gsam",
    "looksam",
    "msam",
    "rst",
    "sam",
    "sgd",
    "ssam_d",
    "ssam_f",
    "tail",
    "wsam",
    # what users derive from, and what their pieces get and return; Schedule is below
    "Mask",
    "Metric",
    "Perturbation",
    "Probe",
    "Rule",
    "Score",
    "Shift",
    # rules and their text
    "AlongMomentum",
    "Ascend",
    "Bayesian",
    "Blend",
    "CentralisedDescent",
    "Decoupled",
    "Functional",
    "Plain",
    "Reuse",
    "RuleError",
    "Sharpest",
    "Sometimes",
    "Surrogate",
    "parse",
    # perturbations, masks, scores
    "Ball",
    "Centralised",
    "Evolving",
    "Fisher",
    "Gradient",
    "Magnitude",
    "Masked",
    "Named",
    "Random",
    "RandomMask",
    "RandomTensors",
    "Residual",
    "Top",
    "Weight",
    # schedules
    "Constant",
    "Cosine",
    "Decay",
    "InverseSqrt",
    "Linear",
    "Piecewise",
    "Proportional",
    "Schedule",
    "Sine",
    "Warmup",
    "delta_eta",
    # storage and pictures
    "Damage",
    "Run",
    "StepWriter",
    "StoreError",
    "collect",
    "create_run",
    "export",
    "interactive",
    "load",
    "load_weights",
    "open_run",
    "pack_run",
    "plot",
    "read_csv",
    "read_li_directions",
    "read_li_surface",
    "read_li_trajectory",
    "save",
    "unpack_run",
    "verify_run",
]
