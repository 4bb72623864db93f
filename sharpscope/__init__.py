"""sharpscope: how sharp is the minimum that my optimizer found, and why?

Training optimizers (SGD, SAM, Sparse SAM, randomised SAM and their relatives) beside analyzers of flatness (the
SAM-vs-SGD gradient ratio, filter-normalised loss surfaces, certified Hessian spectra, mask statistics), stored in HDF5.
"""

from sharpscope.analyzers.cross_check import CrossCheck, cross_check
from sharpscope.analyzers.curvature import Curvature, curvature
from sharpscope.analyzers.density import Density, density
from sharpscope.analyzers.mask_profile import mask_profile
from sharpscope.analyzers.masks import MaskOverlap, mask_overlap
from sharpscope.analyzers.profile import MaskProfile
from sharpscope.analyzers.ratio import GradientRatio, RatioSeries, gradient_ratio
from sharpscope.analyzers.record import RatioRecorder
from sharpscope.analyzers.sharpness import Sharpness, sharpness
from sharpscope.analyzers.spectrum import Spectrum, spectrum
from sharpscope.analyzers.surface import Line, Surface, line, surface
from sharpscope.analyzers.trace import Trace, trace
from sharpscope.analyzers.track import Track, track
from sharpscope.ascent.batch import Batch
from sharpscope.ascent.masks import Evolving, Mask, Named, RandomMask, RandomTensors, Top
from sharpscope.ascent.perturbations import Ball, Magnitude, Masked, Perturbation
from sharpscope.ascent.probe import Probe
from sharpscope.ascent.scores import Fisher, Gradient, Random, Weight
from sharpscope.history import History, Steps
from sharpscope.operators import Operator, fisher, ggn, hessian
from sharpscope.optimizers.names import asam, esam, gnr, grst, gsam, looksam, rst, sam, sgd, ssam_d, ssam_f
from sharpscope.optimizers.rules import Ascend, Blend, Plain, Reuse, Rule, Sharpest, Sometimes, Surrogate
from sharpscope.optimizers.shell import SharpnessAware
from sharpscope.optimizers.text import RuleError, parse
from sharpscope.packed import PackedMask
from sharpscope.plots import plot
from sharpscope.problem import Problem, ProblemError
from sharpscope.results import Result
from sharpscope.resume import resumable
from sharpscope.schedules import (
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

__version__ = "0.1.0"

__all__ = [
    # the function that is analysed
    "Operator",
    "Problem",
    "ProblemError",
    "fisher",
    "ggn",
    "hessian",
    # analyzers and their results
    "CrossCheck",
    "Curvature",
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
    "cross_check",
    "curvature",
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
    # training: the optimizer and the methods by name
    "Batch",
    "SharpnessAware",
    "asam",
    "esam",
    "gnr",
    "grst",
    "gsam",
    "looksam",
    "rst",
    "sam",
    "sgd",
    "ssam_d",
    "ssam_f",
    # rules and their text
    "Ascend",
    "Blend",
    "Plain",
    "Reuse",
    "Rule",
    "RuleError",
    "Sharpest",
    "Sometimes",
    "Surrogate",
    "parse",
    # perturbations, masks, scores
    "Ball",
    "Evolving",
    "Fisher",
    "Gradient",
    "Magnitude",
    "Mask",
    "Masked",
    "Named",
    "Perturbation",
    "Probe",
    "Random",
    "RandomMask",
    "RandomTensors",
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
    "load",
    "load_weights",
    "open_run",
    "pack_run",
    "plot",
    "save",
    "unpack_run",
    "verify_run",
]
