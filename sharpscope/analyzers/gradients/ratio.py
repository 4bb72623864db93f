"""How much does the SAM gradient differ from the SGD gradient, coordinate by coordinate?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import numpy as np

from sharpscope.analyzers.gradients.gradient_pair import Climb, Source, climbed
from sharpscope.analyzers.gradients.histogram import BASES, quantile, tally
from sharpscope.ascent.perturbations import Ball, Perturbation
from sharpscope.coordinates.packed import MaskLike, as_packed
from sharpscope.core.expressions import check_piece, check_seed, resolve
from sharpscope.core.results import Dims, Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import Vec
from sharpscope.problem.parameter_kinds import sums_over

__all__ = ["LEVELS", "GradientRatio", "RatioSeries", "gradient_ratio"]

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # probabilities of the quantiles


@dataclass(frozen=True, eq=False, repr=False)
class GradientRatio(Result):
    """Distribution of r = log|(g_SAM - g_SGD) / g_SGD| over the coordinates (Sparse SAM, section 3.2, Fig. 1).

    Only counts are kept; every figure is derived from them, so that layers, kinds of parameters and the two sides of a
    mask add up to the whole.  Each coordinate is in exactly one of the places of ``tally``: r = -inf (g_SAM == g_SGD !=
    0), r below the first edge, a bin, r at or over the last edge, or undefined (g_SGD == 0).
    """

    dims: ClassVar[Dims] = {"tally inside": "layers place", "kinds": "layers"}

    tally: np.ndarray  # (L, b + 4) int64, coordinates per layer and place, places in the order above
    inside: np.ndarray | None  # (L, b + 4) int64, those of them inside the mask; None without a mask
    edges: np.ndarray  # (b + 1,) float64, bin edges of r, in units of the logarithm; 0 is one of them
    layers: tuple[str, ...]  # (L,) parameter names
    kinds: tuple[str, ...]  # (L,) what they are: conv, linear, norm, bias, embedding, ...
    perturbation: str  # text of the perturbation
    base: str  # "log10" or "ln"
    problem: str  # loss, examples, mode, dtype in words

    @property
    def counts(self) -> np.ndarray:
        """(L, b) int64: coordinates per bin."""
        return self.tally[:, 2:-2]

    @property
    def below(self) -> np.ndarray:
        """(L,) int64: finite r under the first edge."""
        return self.tally[:, 1]

    @property
    def above(self) -> np.ndarray:
        """(L,) int64: finite r at or over the last edge."""
        return self.tally[:, -2]

    @property
    def negative(self) -> np.ndarray:
        """(L,) int64: finite r < 0."""
        return np.asarray(self.tally[:, 1:-1][:, : 1 + int(np.searchsorted(self.edges, 0.0))].sum(axis=1))

    @property
    def zero_numerators(self) -> np.ndarray:
        """(L,) int64: g_SAM == g_SGD != 0, where r = -inf."""
        return self.tally[:, 0]

    @property
    def zero_denominators(self) -> np.ndarray:
        """(L,) int64: g_SGD == 0, where r is undefined."""
        return self.tally[:, -1]

    @property
    def sizes(self) -> np.ndarray:
        """(L,) int64: coordinates per layer."""
        return np.asarray(self.tally.sum(axis=1))

    @property
    def share_below_zero(self) -> float:
        """Share of r < 0 among the coordinates with g_SGD != 0 (r = -inf included)."""
        return self.share(self.tally.sum(axis=0))

    @property
    def layer_share_below_zero(self) -> np.ndarray:
        """(L,) float64: the same share, layer by layer."""
        return np.array([self.share(row) for row in self.tally])

    @property
    def levels(self) -> np.ndarray:
        """(q,) float64: probabilities of the quantiles."""
        return np.array(LEVELS)

    @property
    def quantiles(self) -> np.ndarray:
        """(q,) float64: quantiles of r over all coordinates with g_SGD != 0, right to within a bin.

        -inf where one falls on r = -inf or below the bins, the last edge above them; nan where no r is defined.
        """
        return self.quantiles_of(self.tally.sum(axis=0))

    def groups(self, by: str = "layer") -> dict[str, np.ndarray]:
        """Tallies (b + 4,) by name: of every "layer", every "kind", or every "side" of the mask.

        They add up to the tally of the whole.  Raises ValueError for another ``by``, and for sides without a mask.
        """
        if by == "layer":
            return dict(zip(self.layers, self.tally, strict=True))
        if by == "kind":
            return sums_over(self.kinds, self.tally)
        if by == "side" and self.inside is not None:
            return {"inside": self.inside.sum(axis=0), "outside": (self.tally - self.inside).sum(axis=0)}
        expected = "'layer', 'kind' or 'side'" if self.inside is not None else "'layer' or 'kind' (there is no mask)"
        raise ValueError(f"the groups of r got by={by!r}, expected {expected}: change by")

    def share(self, counts: np.ndarray) -> float:
        """Share of r < 0 in a tally (b + 4,); nan where no r is defined."""
        defined = int(counts[:-1].sum())
        return float(counts[: 2 + int(np.searchsorted(self.edges, 0.0))].sum()) / defined if defined else float("nan")

    def quantiles_of(self, counts: np.ndarray, levels: Sequence[float] = LEVELS) -> np.ndarray:
        """(q,) quantiles of r in a tally (b + 4,); see ``quantiles``."""
        return np.array([quantile(counts, level, self.edges) for level in levels])

    def tidy(self) -> dict[str, Any]:
        """One row per scope ("all", "layer", "kind", "side"), name and quantity."""
        groups = [("all", "", self.tally.sum(axis=0))]
        for scope in ("kind", "layer", *(["side"] if self.inside is not None else [])):
            groups += [(scope, name, counts) for name, counts in self.groups(scope).items()]
        rows = []
        for scope, name, counts in groups:
            found = {
                "coordinates": counts.sum(),
                "share r < 0": self.share(counts),
                "zero numerators": counts[0],
                "zero denominators": counts[-1],
                **{
                    f"quantile {level:g}": value for level, value in zip(LEVELS, self.quantiles_of(counts), strict=True)
                },
            }
            rows += [(scope, name, quantity, float(value)) for quantity, value in found.items()]
        columns = [list(column) for column in zip(*rows, strict=True)]
        return dict(zip(("scope", "name", "quantity", "value"), columns, strict=True))


@dataclass(frozen=True, eq=False, repr=False)
class RatioSeries(Result):
    """The distribution of r over several radii, or over training: n ``GradientRatio`` on one axis.

    ``series[i]`` is the i-th; ``len(series)`` is n.
    """

    dims: ClassVar[Dims] = {"tallies inside": "places layers place", "perturbations": "places"}

    axis: str  # what ``places`` are: "rho", "step", or "perturbation" where they are only counted
    places: np.ndarray  # (n,) float64
    tallies: np.ndarray  # (n, L, b + 4) int64, as ``GradientRatio.tally``
    inside: np.ndarray | None  # (n, L, b + 4) int64, or None without a mask
    edges: np.ndarray  # (b + 1,) float64
    layers: tuple[str, ...]  # (L,) parameter names
    kinds: tuple[str, ...]  # (L,) what they are
    perturbations: tuple[str, ...]  # (n,) texts
    base: str  # "log10" or "ln"
    problem: str  # loss, examples, mode, dtype in words

    @staticmethod
    def of(axis: str, places: Sequence[float], ratios: Sequence[GradientRatio]) -> RatioSeries:
        """Put ratios of one model side by side.

        Raises ValueError for none, for ratios of different models or logarithms, and where only some have a mask.
        """
        if not ratios or len(places) != len(ratios):
            raise ValueError(
                f"RatioSeries got {len(places)} places and {len(ratios)} ratios, expected as many and at least one: "
                f"give one place per ratio"
            )
        first = ratios[0]
        for one in ratios[1:]:
            if (one.layers, one.base, one.inside is None) != (first.layers, first.base, first.inside is None):
                raise ValueError(
                    "RatioSeries got ratios of different layers, logarithms or masks, expected those of one model: "
                    "compute them with the same arguments"
                )
        return RatioSeries(
            axis=axis,
            places=np.array(places, dtype=np.float64),
            tallies=np.stack([one.tally for one in ratios]),
            inside=None if first.inside is None else np.stack([one.inside for one in ratios if one.inside is not None]),
            edges=first.edges,
            layers=first.layers,
            kinds=first.kinds,
            perturbations=tuple(one.perturbation for one in ratios),
            base=first.base,
            problem=first.problem,
        )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> GradientRatio:
        return GradientRatio(
            tally=self.tallies[index],
            inside=None if self.inside is None else self.inside[index],
            edges=self.edges,
            layers=self.layers,
            kinds=self.kinds,
            perturbation=self.perturbations[index],
            base=self.base,
            problem=self.problem,
        )

    @property
    def share_below_zero(self) -> np.ndarray:
        """(n,) float64: share of r < 0."""
        return np.array([self[index].share_below_zero for index in range(len(self))])

    @property
    def quantiles(self) -> np.ndarray:
        """(n, q) float64: see ``GradientRatio.quantiles``."""
        return np.stack([self[index].quantiles for index in range(len(self))])

    def tidy(self) -> dict[str, Any]:
        """The rows of every ``GradientRatio``, with its place in a first column."""
        parts = [self[index].tidy() for index in range(len(self))]
        place = [value for value, part in zip(self.places, parts, strict=True) for _ in part["value"]]
        return {self.axis: place} | {name: [x for part in parts for x in part[name]] for name in parts[0]}


@overload
@undisturbed
def gradient_ratio(
    problem: Source,
    perturbation: Perturbation | None = None,
    *,
    mask: MaskLike | None = None,
    base: str = "log10",
    seed: int = 0,
) -> GradientRatio: ...


@overload
def gradient_ratio(
    problem: Source,
    perturbation: Sequence[Perturbation],
    *,
    mask: MaskLike | None = None,
    base: str = "log10",
    seed: int = 0,
) -> RatioSeries: ...


def gradient_ratio(
    problem: Source,
    perturbation: Perturbation | Sequence[Perturbation] | None = None,
    *,
    mask: MaskLike | None = None,
    base: str = "log10",
    seed: int = 0,
) -> GradientRatio | RatioSeries:
    """Distribution of r = log|(g_SAM - g_SGD) / g_SGD| over all coordinates, per layer, per kind, inside a mask.

    Sparse SAM (Mi et al. 2022), section 3.2 and Fig. 1; the paper does not state the base of its logarithm: 10 here,
    unless ``base="ln"`` (the sign of r is the same).  Weight decay and momentum have no part.  The two gradients are
    counted into fixed bins a piece at a time, so beside them a large model needs no memory.

    Args:
        problem: a Problem, whose gradients are those of all its data in eval mode; or one ``Batch``, whose gradients
            are taken in the modes that the model is in, with the same BatchNorm statistics and dropout units in both.
            Either way the model is left as it was.
        perturbation: from w to where g_SAM is taken; ``Ball(0.1)`` by default, or ASAM's, or a masked one.  Of several
            the result is a ``RatioSeries``; g_SGD is then computed once.
        mask: tell inside from outside; by default the mask of a masked perturbation.
        base: "log10" or "ln".
        seed: of whatever is random in the perturbation.

    Raises TypeError for a perturbation that is none; ValueError for another base, a perturbation of radius 0, a mask of
    another model or of entries that are not boolean, and gradients that are not finite.

    Example:
        >>> import torch
        >>> from sharpscope.problem.problem import Problem
        >>> model = torch.nn.Linear(2, 1)
        >>> problem = Problem(model, torch.nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1)))
        >>> ratio = gradient_ratio(problem)
        >>> bool(ratio.sizes.sum() == 3)
        True
        >>> gradient_ratio(problem, [Ball(0.05), Ball(0.1)]).places
        array([0.05, 0.1 ])
    """
    check_seed("gradient_ratio", seed)
    single = perturbation is None or not isinstance(perturbation, (list, tuple))
    wanted: list[Any] = [Ball(0.1) if perturbation is None else perturbation] if single else list(perturbation)  # type: ignore[arg-type]
    if not wanted:
        raise ValueError("gradient_ratio got no perturbation, expected at least one: give Ball(0.1)")
    for one in wanted:
        check_piece("gradient_ratio", "perturbation", one, Perturbation)
    if base not in BASES:
        raise ValueError(f"gradient_ratio got base={base!r}, expected 'log10' or 'ln': change base")
    ratios = []
    with climbed(problem, seed) as climb:
        given = _given_mask(mask, climb.names, climb.plain)
        for one in (resolve(one, epoch=1, total=1) for one in wanted):
            ascended, own = climb(one)
            inside = own if given is None else given
            tallies = [
                tally(a, b, base, None if inside is None else inside[index].reshape(-1))
                for index, (a, b) in enumerate(zip(ascended, climb.plain, strict=True))
            ]
            del ascended
            ratios.append(_ratio(tallies, climb, repr(one), base))
    if single:
        return ratios[0]
    radii = [_radius(one) for one in wanted]
    known = all(radius is not None for radius in radii) and len({type(one) for one in wanted}) == 1
    return RatioSeries.of(
        "rho" if known else "perturbation", [float(r or 0) for r in radii] if known else range(len(ratios)), ratios
    )


def _given_mask(mask: MaskLike | None, names: tuple[str, ...], like: Vec) -> Vec | None:
    if mask is None:
        return None
    shapes = tuple(tuple(x.shape) for x in like)
    packed = as_packed(mask, "mask").arranged(names, shapes, "the mask got other parameters than the model")
    unpacked = packed.unpack()
    return [unpacked[name].to(like[0].device) for name in names]


def _ratio(tallies: list[np.ndarray], climb: Climb, perturbation: str, base: str) -> GradientRatio:
    whole = np.stack([part.sum(axis=0) for part in tallies])
    inside = np.stack([part[1] for part in tallies]) if len(tallies[0]) == 2 else None
    return GradientRatio(whole, inside, BASES[base].edges, climb.names, climb.kinds, perturbation, base, climb.text)


def _radius(perturbation: Any) -> float | None:
    """rho of a perturbation, or of the one inside a mask; None for a schedule."""
    while not hasattr(perturbation, "rho"):
        inner = [getattr(perturbation, field.name) for field in dataclasses.fields(perturbation)]
        perturbation = next((piece for piece in inner if isinstance(piece, Perturbation)), None)
        if perturbation is None:
            return None
    return float(perturbation.rho) if isinstance(perturbation.rho, (int, float)) else None
