"""From a gradient to the perturbation eps at which a rule looks next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sharpscope.ascent.masks import Mask, check_pattern, matches
from sharpscope.ascent.probe import Probe
from sharpscope.ascent.shift import Shift, as_shift
from sharpscope.coordinates.bits import unpack
from sharpscope.core.expressions import Piece, check_piece, check_range, off
from sharpscope.core.schedules import Number
from sharpscope.core.vectors import Vec, multiply, norm

__all__ = ["Ball", "Magnitude", "Masked", "Memory", "Metric", "Perturbation"]

Memory = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Metric(Piece):
    """A positive diagonal T that says how far each weight may move: |T^-1 eps| <= rho.  This one is T = 1 (SAM).

    Derive from it to give another T: a frozen dataclass with a ``diagonal``.

    Example:
        >>> @dataclass(frozen=True)
        ... class Layerwise(Metric):
        ...     def diagonal(self, probe):
        ...         return [torch.full_like(p, p.detach().norm()) for p in probe.params]
        >>> Ball(0.1, Layerwise())
        Ball(0.1, metric=Layerwise())
    """

    def diagonal(self, probe: Probe) -> Vec | None:
        """T for every parameter, or None for 1."""
        return None


@dataclass(frozen=True, repr=False)
class Magnitude(Metric):
    """T = |w| + eta for the parameters whose name matches ``scaled``, T = 1 for the others (ASAM, Kwon et al. 2021).

    The authors' code scales the parameters with "weight" in their name (those of norm layers included) and leaves
    biases at 1; ``scaled="*"`` scales all.  rho is not portable between the two.
    """

    eta: float = 0.01
    scaled: str = "*weight*"

    def __post_init__(self) -> None:
        check_range("Magnitude", "eta", self.eta, 0)
        check_pattern("Magnitude", "scaled", self.scaled)

    def diagonal(self, probe: Probe) -> Vec | None:
        chosen = matches("Magnitude", self.scaled, probe)
        return [
            p.detach().abs() + self.eta if take else torch.ones_like(p)
            for p, take in zip(probe.params, chosen, strict=True)
        ]


@dataclass(frozen=True, repr=False)
class Perturbation(Piece):
    """Base: ``perturbation(g, probe, memory)`` is eps, where a rule looks next.

    Derive a frozen dataclass from it; its fields are numbers, texts and other pieces, its ``repr`` is its text.

    Example:
        >>> @dataclass(frozen=True)
        ... class Sign(Perturbation):
        ...     rho: float = 0.01
        ...     def __call__(self, g, probe, memory):
        ...         return Shift([x.sign() for x in g], self.rho)
        >>> Sign()
        Sign(0.01)
    """

    def __call__(self, g: Vec, probe: Probe, memory: Memory) -> Shift | None:
        """Eps for the gradient ``g`` (a tensor per parameter), or None where the radius is 0 and there is no way to go.

        ``g`` is not to be changed in place.  ``memory`` is a dict of tensors, numbers, lists and dicts of them that
        outlives the step; what is in it is replaced and never changed in place.  A list of tensors for eps will do too.
        """
        raise NotImplementedError

    def wanted(self, probe: Probe, memory: Memory) -> list[bool] | None:
        """Which parameters' gradients the perturbation looks at; None for all."""
        return None


@dataclass(frozen=True, repr=False)
class Ball(Perturbation):
    """eps = rho T^2 g / |T g|, the first-order maximiser of the loss over |T^-1 eps| <= rho (Foret et al. 2021, eq. 2).

    The norm is over all parameters at once.  A zero gradient gives eps = 0; eps does not depend on the scale of the
    loss.
    """

    rho: Number
    metric: Metric = Metric()

    def __post_init__(self) -> None:
        check_range("Ball", "rho", self.rho, 0, schedule=True)
        check_piece("Ball", "metric", self.metric, Metric)

    def __call__(self, g: Vec, probe: Probe, memory: Memory) -> Shift | None:
        rho = probe.value(self.rho, 0)
        if rho == 0:
            return None
        diagonal = self.metric.diagonal(probe)
        scaled = g if diagonal is None else multiply(diagonal, g)
        # rho / 0 would turn the zeros of a zero gradient into NaN
        largest = min(torch.finfo(dtype).max for dtype in {x.dtype for x in scaled})
        factor = (rho / norm(scaled)).clamp_max(largest)
        return Shift(g if diagonal is None else multiply(diagonal, scaled), factor)


@dataclass(frozen=True, repr=False)
class Masked(Perturbation):
    """eps of another perturbation where the mask is 1, zero elsewhere (Sparse SAM, section 4.1).

    ``norm="full"`` takes the norm of the full gradient, before the mask, so |eps| <= rho (paper and its eq. 13).
    ``norm="perturbed"`` takes it over the perturbed entries, so |eps| = rho: a longer step along fewer directions,
    whose rho is comparable to that of SAM-ON and not to the paper's.  Under a mask of whole tensors the climb then
    needs the gradients of those tensors alone; the others' are not computed, and the backward pass ends where none is
    left.
    """

    perturbation: Perturbation
    mask: Mask
    norm: str = off("full")

    def __post_init__(self) -> None:
        check_piece("Masked", "perturbation", self.perturbation, Perturbation)
        check_piece("Masked", "mask", self.mask, Mask)
        if self.norm not in ("full", "perturbed"):
            raise ValueError(f"Masked got norm={self.norm!r}, expected 'full' or 'perturbed': change norm")

    def __call__(self, g: Vec, probe: Probe, memory: Memory) -> Shift | None:
        kept = memory.setdefault("mask", {})
        bits = self.mask.bits(g, probe, kept)
        if not kept["ones"]:
            return None
        if self.norm == "perturbed":
            g = multiply(g, unpack(bits, g))
        shift = self.perturbation(g, probe, memory.setdefault("perturbation", {}))
        shift = None if shift is None else as_shift(shift)
        if shift is not None and kept["ones"] < kept["size"]:
            shift.bits = bits if shift.bits is None else bits & shift.bits
        return shift

    def wanted(self, probe: Probe, memory: Memory) -> list[bool] | None:
        kept = memory.setdefault("mask", {})
        if self.norm == "full" or not self.mask.ready(probe, kept):
            return None
        bits = self.mask.bits([], probe, kept)
        return [bool(part.any()) for part in unpack(bits, probe.params)] if kept["ones"] else None
