"""Measuring a mask against the parameters' scores and the Hessian's blocks: ``mask_profile``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpscope.analyzers.gradients.gradient_pair import climbed
from sharpscope.analyzers.gradients.histogram import log_ratio
from sharpscope.analyzers.masks._hessian_blocks import Diagonal, diagonal, top_of_block
from sharpscope.analyzers.masks._ranking import captured, rank_mask
from sharpscope.analyzers.masks.profile_result import HESSIAN, MaskProfile
from sharpscope.analyzers.spectra.spectrum import Spectrum, spectrum
from sharpscope.ascent.perturbations import Ball, Perturbation
from sharpscope.coordinates.packed import MaskLike, as_packed
from sharpscope.core.expressions import check_count, check_piece, resolve
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import flatten, generator
from sharpscope.curvature.operators import hessian
from sharpscope.problem.parameter_kinds import depths_of, kinds_of
from sharpscope.problem.problem import Problem

__all__ = ["mask_profile"]

NAN = float("nan")
WEIGHT, GRADIENT, FISHER, CHANGE, RATIO = "|w|", "|g|", "Fisher", "|g_SAM - g_SGD|", "r"
EIGENVECTOR = "top eigenvector"


@undisturbed
def mask_profile(
    mask: MaskLike,
    problem: Problem,
    *,
    perturbation: Perturbation | None = None,
    samples: int = 128,
    curvature: bool = True,
    probes: int = 32,
    draws: int = 2,
    tol: float = 1e-3,
    seed: int = 0,
    progress: bool | None = None,
) -> MaskProfile:
    """Where a mask lives, and whether it selects the sharp parameters: against seven scores and the Hessian's blocks.

    The scores are |w|, |g|, the diagonal of the empirical Fisher, |g_SAM - g_SGD| and r of ``gradient_ratio``, the
    diagonal of the Hessian, and the squared entries of its top eigenvector; gradients and curvature are those of the
    problem's data in eval mode.  Each is ranked against the mask (rank correlation, area under the ROC curve, globally
    and within layers), and its total is split between inside and outside.  The trace of the masked block of the Hessian
    is that of its diagonal, its lambda_1 that of products restricted to the mask.

    Args:
        mask: ``{parameter name: boolean tensor}`` over the problem's trainable parameters, or a ``PackedMask``.
        problem: the function.
        perturbation: behind g_SAM; ``Ball(0.1)`` by default.
        samples: examples behind the Fisher diagonal.
        curvature: without it the Hessian is not touched, and what is of it is nan or left out.
        probes: products behind diagonal and trace; as many as there are parameters make both exact.  Trace and shares
            carry their error; the noise of single entries draws the diagonal's area under the curve towards 0.5.
        draws: random masks whose lambda_1 is computed beside the mask's own; 0 for none.
        tol: relative residual of the eigenvalues.
        seed: of the Fisher's examples, probes, random masks and starting vectors.
        progress: show progress bars; None shows them on a terminal only.

    Raises ValueError for a mask of another model, entries that are not boolean, gradients that are not finite, and
    counts out of range; ArithmeticError for curvature that is not finite.  An empty or a full mask is profiled too;
    what it cannot have, such as a ROC curve, is nan.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> problem = Problem(model, torch.nn.MSELoss(), (torch.tensor([[3.0, 0.1]]), torch.zeros(1, 1)))
        >>> mask = {"weight": torch.tensor([[True, False]]), "bias": torch.tensor([False])}
        >>> profile = mask_profile(mask, problem)
        >>> round(profile.trace_share, 3), round(profile.top_share, 3)  # the diagonal is 2 (9, 0.01, 1)
        (0.899, 0.899)
    """
    perturbation = Ball(0.1) if perturbation is None else perturbation
    check_piece("mask_profile", "perturbation", perturbation, Perturbation)
    check_count("mask_profile", "samples", samples)
    check_count("mask_profile", "probes", probes)
    if draws != 0 or isinstance(draws, bool):
        check_count("mask_profile", "draws", draws)
    if not isinstance(problem, Problem):
        raise TypeError(
            f"mask_profile got a {type(problem).__name__} as problem, expected a Problem: Problem(model, loss, data)"
        )
    shapes = tuple(tuple(w.shape) for w in problem.weights)
    packed = as_packed(mask, "mask").arranged(problem.names, shapes, "the mask got other parameters than the model")
    unpacked = packed.unpack()
    parts = [unpacked[name].numpy() for name in problem.names]
    flat = np.concatenate([part.reshape(-1) for part in parts])
    known = _curvature(problem, flat, probes, draws, tol, seed, progress) if curvature else _NOTHING
    cuts = np.cumsum(packed.sizes)[:-1]
    rows: dict[str, list[Any]] = {}
    for name, score in _scores(problem, resolve(perturbation, epoch=1, total=1), samples, seed, known):
        for field, value in _against(name, flat, score, cuts).items():
            rows.setdefault(field, []).append(value)
    channels = [part.sum(axis=tuple(range(1, part.ndim))) if part.ndim else part.reshape(1) for part in parts]
    measured: dict[str, Any] = {field: np.array(values) for field, values in rows.items() if field != "scores"}
    return MaskProfile(
        layers=problem.names,
        kinds=kinds_of(problem.model, problem.names),
        depths=depths_of(problem.model, problem.names),
        sizes=packed.sizes,
        selected=packed.selected,
        channels=np.array([len(one) for one in channels], dtype=np.int64),
        channel_selected=np.concatenate(channels).astype(np.int64),
        scores=tuple(rows["scores"]),
        **measured,
        **known.figures(),
        probes=probes,
        perturbation=repr(perturbation),
        seed=seed,
        problem=problem.describe(),
    )


def _scores(
    problem: Problem, perturbation: Perturbation, samples: int, seed: int, known: _Curvature
) -> Iterator[tuple[str, np.ndarray]]:
    """Every score by name, (n,) float64, one at a time; nan where it is not defined."""
    yield WEIGHT, _flat(flatten(problem.weights).abs())
    with climbed(problem, seed) as climb:
        ascended, _ = climb(perturbation)
        plain, ascended_flat = flatten(climb.plain), flatten(ascended)
        yield GRADIENT, _flat(plain.abs())
        yield CHANGE, _flat((ascended_flat.double() - plain.double()).abs())
        yield RATIO, _flat(log_ratio(ascended_flat, plain))
        del ascended, ascended_flat, plain
    yield FISHER, _flat(flatten(problem.squared_gradients(samples, generator("profile", seed))))
    if known.diagonal is not None and known.vector is not None:
        yield HESSIAN, known.diagonal.mean
        yield EIGENVECTOR, known.vector**2


def _against(name: str, mask: np.ndarray, score: np.ndarray, cuts: np.ndarray) -> dict[str, Any]:
    """What one score says of the mask, by field of ``MaskProfile``."""
    good = ~np.isnan(score)
    everywhere = bool(good.all())
    ranking = rank_mask(mask, score) if everywhere else rank_mask(mask[good], score[good])
    within = []
    for part, values, valid in zip(*(np.split(x, cuts) for x in (mask, score, good)), strict=True):
        within.append(rank_mask(part[valid], values[valid]).auc)
    held = captured(mask, score if name != RATIO else np.zeros(len(score)))
    return {
        "scores": name,
        "defined": int(good.sum()),
        "correlation": ranking.correlation,
        "auc": ranking.auc,
        "auc_deviation": ranking.deviation,
        "layer_auc": within,
        "curves": ranking.curve,
        "captured": held.share,
        "captured_chance": held.chance,
        "captured_deviation": held.deviation,
        "captured_best": held.best,
    }


@dataclass(frozen=True)
class _Curvature:
    """What is known of the Hessian; None and nan without curvature."""

    diagonal: Diagonal | None = None
    whole: Spectrum | None = None
    block: tuple[float, float] = (NAN, NAN)
    random: tuple[float, ...] = ()

    @property
    def vector(self) -> np.ndarray | None:
        """(n,) float64, the top eigenvector."""
        found = None if self.whole is None else self.whole.vectors
        return None if found is None else found[0].astype(np.float64)

    def figures(self) -> dict[str, Any]:
        """By field of ``MaskProfile``."""
        known, whole = self.diagonal, self.whole
        return {
            "trace": known.trace if known else NAN,
            "trace_error": known.trace_error if known else NAN,
            "trace_share": known.share if known else NAN,
            "trace_share_error": known.share_error if known else NAN,
            "top": float(whole.eigenvalues[0]) if whole else NAN,
            "top_error": float(whole.residuals[0]) if whole else NAN,
            "block_top": self.block[0],
            "block_top_error": self.block[1],
            "random_tops": np.array(self.random, dtype=np.float64),
        }


_NOTHING = _Curvature()


def _curvature(
    problem: Problem, mask: np.ndarray, probes: int, draws: int, tol: float, seed: int, progress: bool | None
) -> _Curvature:
    operator = hessian(problem, mode="untimed")
    chosen = torch.from_numpy(mask).to(operator.device)
    of_block: Callable[[Tensor, int], tuple[float, float]] = lambda which, salt: top_of_block(  # noqa: E731
        operator, which, tol, salt, progress
    )
    found = diagonal(operator, chosen, probes, seed, progress)
    whole = spectrum(operator, 1, tol, seed, vectors=True, progress=progress)
    random = []
    for draw in range(draws):
        order = torch.randperm(len(mask), generator=generator("random mask", seed, draw), device="cpu")
        other = torch.zeros(len(mask), dtype=torch.bool, device="cpu")
        other[order[: int(mask.sum())]] = True
        random.append(of_block(other, seed)[0])
    return _Curvature(found, whole, of_block(chosen, seed), tuple(random))


def _flat(score: Tensor) -> np.ndarray:
    return np.asarray(score.detach().double().cpu().numpy())
