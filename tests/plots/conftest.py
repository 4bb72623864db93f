"""Made-up results that look like real ones, for the tests of the drawings."""

import types

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries
from sharpscope.analyzers.masks.overlap import MaskOverlap
from sharpscope.analyzers.masks.profile_result import MaskProfile
from sharpscope.analyzers.spectra.spectrum import Spectrum
from sharpscope.analyzers.spectra.trace import Trace
from sharpscope.analyzers.surfaces.surface import Line, Surface
from sharpscope.core.history import History

METHODS = ("SGD", "SAM", "SSAM-F", "SSAM-D", "RST")
SHARPNESS = dict(zip(METHODS, (4.0, 1.0, 1.2, 1.3, 1.6), strict=True))
PROBLEM = "cross entropy, 1000 examples, BatchNorm eval, float32"


def resnet_layers():
    """The 62 parameter names of an 18-layer residual net."""
    names = ["conv1.weight", "bn1.weight", "bn1.bias"]
    for stage in range(1, 5):
        for block in range(2):
            for index in (1, 2):
                head = f"layer{stage}.{block}"
                names += [f"{head}.conv{index}.weight", f"{head}.bn{index}.weight", f"{head}.bn{index}.bias"]
            if stage > 1 and block == 0:
                names += [f"layer{stage}.0.downsample.{part}" for part in ("0.weight", "1.weight", "1.bias")]
    return (*names, "fc.weight", "fc.bias")


def make_spectrum(method="SGD", k=5, eigenvalues=None, residuals=None):
    if eigenvalues is None:
        decay = -(SHARPNESS[method] ** 0.4)
        eigenvalues = 30.0 * SHARPNESS[method] ** 1.3 * (1 + 0.35 * np.arange(k) ** 1.1) ** decay
    eigenvalues = np.asarray(eigenvalues, dtype=np.float64)
    residuals = 0.02 * np.abs(eigenvalues) if residuals is None else np.asarray(residuals, dtype=np.float64)
    return Spectrum(
        eigenvalues, residuals, guard=1.0, guard_residual=0.1, noise=1e-6, products=80, restarts=2, size=1000,
        tol=1e-3, seed=0, operator="hessian, " + PROBLEM,
    )  # fmt: skip


def make_trace(method="SGD"):
    samples = 13.0 * SHARPNESS[method] + 19.0 * np.cos(2.4 * np.arange(40))
    stderr = float(samples.std(ddof=1) / 40**0.5)
    return Trace(
        float(samples.mean()), stderr, 20.0, 1.0, "hutchinson", 40, 1000, 0, "hessian, " + PROBLEM, samples=samples,
    )  # fmt: skip


def make_surface(method="SGD", n=41, loss=None):
    alpha, beta = np.linspace(-1, 1, n), np.linspace(-1, 1, n - 4)
    if loss is None:
        sharp = SHARPNESS[method]
        x, y = np.meshgrid(alpha, beta)
        bowl = sharp * (x**2 + 0.6 * y**2 + 0.3 * x * y + 0.25 * np.sin(3 * x) ** 2 * y**2)
        loss = 0.002 * sharp + 2.2 * bowl**1.5 + 0.4 * bowl
    loss = np.asarray(loss, dtype=np.float64)
    alpha, beta = np.linspace(-1, 1, loss.shape[1]), np.linspace(-1, 1, loss.shape[0])
    center = float(loss[loss.shape[0] // 2, loss.shape[1] // 2])
    return Surface(
        alpha, beta, loss, np.full_like(loss, 0.01), np.hypot(*np.meshgrid(alpha, beta)), center, np.array([9.1, 9.2]),
        0.01, "random normal, filter-normalised", 0, "float32", 1000, PROBLEM,
    )  # fmt: skip


def make_line(method="SGD", n=41, loss=None):
    alpha = np.linspace(-1, 1, n)
    loss = 0.01 + SHARPNESS[method] * alpha**2 * (1 + 0.3 * alpha) if loss is None else np.asarray(loss)
    stderr = 0.08 * np.abs(alpha) * np.where(np.isfinite(loss), loss, 0.0) + 0.005 * np.abs(alpha)
    return Line(
        alpha, loss, stderr, np.abs(alpha), float(loss[n // 2]), 9.0, "random normal, filter-normalised", 0,
        "float32", 1000, PROBLEM,
    )  # fmt: skip


def make_ratio(method="SGD", zeros=True, base="log10", edges=None, layers=62, mask=False):
    rng = np.random.default_rng(METHODS.index(method))
    edges = np.arange(-6 * 32, 4 * 32 + 1) / 32 if edges is None else np.asarray(edges)
    center = {"SGD": 0.1, "SAM": -0.55, "SSAM-F": -0.5, "SSAM-D": -0.4, "RST": -0.2}[method]
    names = resnet_layers()[:layers]
    tally = np.zeros((layers, len(edges) + 3), dtype=np.int64)
    for index in range(layers):
        r = center + 0.1 * rng.standard_normal() + rng.logistic(scale=0.45, size=5000)
        tally[index] = np.bincount(1 + np.searchsorted(edges, r, side="right"), minlength=len(edges) + 3)
    some = rng.integers(0, 90, layers) * zeros
    tally[:, 0], tally[:, -1] = some, some // 2
    kinds = tuple("norm" if "bn" in n or "downsample.1" in n else "linear" if "fc" in n else "conv" for n in names)
    inside = rng.binomial(tally, 0.4) if mask else None
    return GradientRatio(tally, inside, edges, names, kinds, "Ball(rho=0.1)", base, PROBLEM)


def make_series(method="SGD", axis="rho", n=4):
    ratios = [make_ratio(other, layers=5) for other in METHODS[:n]]
    places = [0.01 * 10**i for i in range(n)] if axis == "rho" else [100 * i for i in range(n)]
    return RatioSeries.of(axis, places, ratios)


def make_overlap(method="SSAM-F", masks=13, layers=62, labels=None):
    rng = np.random.default_rng(METHODS.index(method))
    names = resnet_layers()[:layers]
    sizes = np.array([20 if "bias" in name or "bn" in name else 400 for name in names], dtype=np.int64)
    chance = {"SGD": 1.0, "SAM": 0.0, "SSAM-F": 0.12, "SSAM-D": 0.03, "RST": 0.4}[method]
    score = rng.standard_normal(sizes.sum()) + np.repeat(rng.normal(0, 0.4, len(names)), sizes)
    kept = []
    for index in range(masks):
        change = chance if index else 0.0
        score = np.sqrt(1 - change) * score + np.sqrt(change) * rng.standard_normal(len(score))
        kept.append(score >= np.median(score))
    bits = np.stack(kept).astype(np.int64)
    parts = np.split(bits, np.cumsum(sizes)[:-1], axis=1)
    labels = tuple(f"step {390 * index}" for index in range(masks)) if labels is None else labels
    selected = np.stack([part.sum(axis=1) for part in parts])
    shared = np.stack([part @ part.T for part in parts])
    stayed = np.zeros_like(shared)
    for i in range(masks):
        new = bits[i] * (1 - bits[i - 1]) if i else bits[0]
        for j in range(i, masks):
            new = new * bits[j]
            stayed[:, i, j] = [part.sum() for part in np.split(new, np.cumsum(sizes)[:-1])]
    ever = np.stack([np.maximum.accumulate(part, axis=0).sum(axis=1) for part in parts])
    return MaskOverlap(labels, names, sizes, selected, shared, stayed, ever)


def make_profile(method="SSAM-F", layers=20, density=0.5, curvature=True):
    rng = np.random.default_rng(METHODS.index(method))
    names = resnet_layers()[:layers]
    channels = np.array([20 if "bias" in name or "bn" in name else 40 for name in names], dtype=np.int64)
    width = np.array([1 if "bias" in name or "bn" in name else 30 for name in names])
    levels = np.clip(density + 0.2 * rng.standard_normal(layers), 0, 1) if 0 < density < 1 else np.full(layers, density)
    per_channel = rng.binomial(np.repeat(width, channels), np.repeat(levels, channels))
    selected = np.array([part.sum() for part in np.split(per_channel, np.cumsum(channels)[:-1])])
    scores = ("|w|", "|g|", "r", "Fisher", *(("Hessian diagonal", "top eigenvector") if curvature else ()))
    s, nan = len(scores), float("nan")
    auc = np.linspace(0.55, 0.85, s)
    held = np.linspace(1.1, 1.7, s) * density
    held[2] = nan
    number = (lambda value: value) if curvature else (lambda value: nan)
    kinds = tuple("norm" if "bn" in name else "conv" for name in names)
    return MaskProfile(
        names, kinds, np.arange(layers) // 3, channels * width, selected, channels, per_channel, scores,
        np.full(s, 1000), auc - 0.5, auc, np.full(s, 0.01), np.full((s, layers), 0.6),
        np.linspace(0, 1, 101) ** (1 / auc[:, None] - 1), held, np.full(s, density), np.full(s, 0.01),
        np.minimum(1.0, 1.2 * held), number(50.0), number(1.0), number(held[-1]), number(0.02), number(9.0),
        number(1e-3), number(8.0), number(1e-3), np.array([4.0, 4.4] if curvature else []), 16, "Ball(0.1)", 0, PROBLEM,
    )  # fmt: skip


def make_history(method="SGD", epochs=60, seed=0, train_loss=None):
    rng = np.random.default_rng([METHODS.index(method), seed])
    time = np.arange(1, epochs + 1) / 60
    cost = {"SGD": 1.0, "RST": 1.5}.get(method, 2.0)
    floor = {"SGD": 0.004, "SAM": 0.02, "SSAM-F": 0.018, "SSAM-D": 0.017, "RST": 0.01}[method]
    noise = np.exp(0.08 * rng.standard_normal(epochs) * (1.1 - np.minimum(time, 1)))
    loss = (2.0 * np.exp(-6 * time**0.8) + floor) * noise if train_loss is None else np.asarray(train_loss)
    error = (0.045 + 0.003 * SHARPNESS[method] + 0.5 * np.exp(-5 * time)) * noise
    return History(
        method, epochs, 390, 10_000, loss, 1.4 * loss, error, 0.1 * np.ones(epochs),
        390.0 * cost * np.arange(1, epochs + 1), 20.0 * np.arange(1, epochs + 1),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make():
    return types.SimpleNamespace(
        spectrum=make_spectrum, surface=make_surface, line=make_line, ratio=make_ratio, overlap=make_overlap,
        history=make_history, series=make_series, profile=make_profile, trace=make_trace, methods=METHODS,
    )  # fmt: skip
