"""From the gradients of a batch to the direction that the base optimizer descends along.

A rule is ``rule(probe, memory) -> Vec``: it asks the probe for gradients and keeps what must outlive the step in its
memory, a nested dict of tensors and numbers with one sub-dict per wrapped piece.  Rules hold no state, so wrappers
multiply freely. Every rule is homogeneous: a loss scaled by c scales its direction by c, so a GradScaler needs no
unscaling before the climb.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpscope.ascent.perturbations import Perturbation
from sharpscope.ascent.probe import Probe
from sharpscope.core.expressions import Piece, check_count, check_piece, check_range, off
from sharpscope.core.schedules import Number
from sharpscope.core.vectors import Vec, add, norm, reject, scale

__all__ = ["Ascend", "Blend", "Plain", "Reuse", "Rule", "Sharpest", "Sometimes", "Surrogate"]

Memory = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Rule(Piece):
    """Base of all rules: from the gradients of a batch to the direction of a step.

    Derive a frozen dataclass from it; its fields are numbers, texts and other pieces, its ``repr`` is its text.  A rule
    whose direction does not scale with the loss, or that keeps gradients, reads ``probe.scale``; one that moves weights
    after the base's step calls ``probe.afterwards``.

    Example:
        >>> @dataclass(frozen=True)
        ... class Doubled(Rule):
        ...     rule: Rule
        ...     def __call__(self, probe, memory):
        ...         return scale(self.rule(probe, memory.setdefault("rule", {})), 2.0)
        >>> Doubled(Plain())
        Doubled(Plain())
    """

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        """The descent direction of this step, shaped like the parameters.

        ``memory`` is a dict of tensors, numbers, lists and dicts of them that outlives the step, one sub-dict for each
        piece inside; what is in it is replaced and never changed in place.
        """
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Plain(Rule):
    """The gradient at w: the base optimizer as it is."""

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        return probe.gradient()


@dataclass(frozen=True, repr=False)
class Sharpest(Piece):
    """Select the ``fraction`` of the batch whose loss rises most from w to w + eps.

    Source: ESAM, Du et al. 2022, section 3.2.
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        check_range("Sharpest", "fraction", self.fraction, 0, 1, open_low=True)

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        """Indices of the selected rows, in ascending order; at least one."""
        count = max(1, round(self.fraction * len(before)))
        order = torch.argsort(after - before, descending=True, stable=True)
        return order[:count].sort().values


@dataclass(frozen=True, repr=False)
class Ascend(Rule):
    """The gradient at w + eps(g): climb first, then look (SAM and everything that perturbs).

    ``rows < 1`` climbs on that share of the batch, its first examples, and descends on all of it: the climb costs less,
    and eps is that of a smaller batch, noisier and less aligned with the descent (m-sharpness with m = rows times the
    batch); the loss that ``step`` returns, and the BatchNorm statistics, are then of those rows.  Needs
    ``sharpscope.Batch``.
    """

    perturbation: Perturbation
    select: Sharpest | None = None
    rows: float = off(1.0)

    def __post_init__(self) -> None:
        check_range("Ascend", "rows", self.rows, 0, 1, open_low=True)
        check_piece("Ascend", "perturbation", self.perturbation, Perturbation)
        if self.select is not None:
            check_piece("Ascend", "select", self.select, Sharpest)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        kept = memory.setdefault("perturbation", {})
        g = probe.gradient(self.rows, self.perturbation.wanted(probe, kept))
        shift = self.perturbation(g, probe, kept)
        if shift is None:
            return probe.gradient()
        del g  # its memory is needed at w + eps
        return probe.gradient_at(shift, self.select if self.select and self.select.fraction < 1.0 else None)


@dataclass(frozen=True, repr=False)
class Blend(Rule):
    """(1 - weight) g + weight d: gradient-norm regularisation (Zhao et al. 2022), weight = gamma / rho."""

    rule: Rule
    weight: Number = 0.8

    def __post_init__(self) -> None:
        check_piece("Blend", "rule", self.rule, Rule)
        check_range("Blend", "weight", self.weight, 0, schedule=True)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        weight = probe.value(self.weight, 0)
        if weight == 0.0:
            return probe.gradient()
        if weight == 1.0:
            return self.rule(probe, memory.setdefault("rule", {}))
        g = probe.gradient()
        d = self.rule(probe, memory.setdefault("rule", {}))
        return g if d is g else add(scale(g, 1.0 - weight), d, alpha=weight)  # (1 - a) g + a g is not g in rounding


@dataclass(frozen=True, repr=False)
class Surrogate(Rule):
    """d - alpha g_orthogonal, g_orthogonal the part of g orthogonal to d (GSAM, Zhuang et al. 2022, Algorithm 1)."""

    rule: Rule
    alpha: Number = 0.4

    def __post_init__(self) -> None:
        check_piece("Surrogate", "rule", self.rule, Rule)
        check_range("Surrogate", "alpha", self.alpha, 0, schedule=True)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        alpha = probe.value(self.alpha, 0)
        g = probe.gradient()
        d = self.rule(probe, memory.setdefault("rule", {}))
        return d if d is g or not alpha else add(d, reject(g, onto=d), alpha=-alpha)


@dataclass(frozen=True, repr=False)
class Reuse(Rule):
    """The rule every so many calls, and in between g + alpha |g| / |v| v with the v it left (LookSAM, Liu et al. 2022).

    v is the part of the rule's direction orthogonal to g.  ``projection`` takes norms and angles per tensor, as the
    public codes do, or over all parameters ("global", the paper's vectors).
    """

    rule: Rule
    every: int = 5
    alpha: Number = 0.7
    projection: str = "tensor"

    def __post_init__(self) -> None:
        check_piece("Reuse", "rule", self.rule, Rule)
        check_count("Reuse", "every", self.every)
        check_range("Reuse", "alpha", self.alpha, 0, schedule=True)
        if self.projection not in ("tensor", "global"):
            raise ValueError(
                f"Reuse got projection={self.projection!r}, expected 'tensor' or 'global': change projection"
            )

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        calls = memory.get("calls", 0)
        memory["calls"] = calls + 1
        if calls % self.every and "kept" in memory:
            g = probe.gradient()
            alpha = probe.value(self.alpha, 0)
            parts = [
                self._follow(a, b, alpha) for a, b in zip(self._split(g), self._split(memory["kept"]), strict=True)
            ]
            return [x for part in parts for x in part]
        if self.every == 1:
            return self.rule(probe, memory.setdefault("rule", {}))
        g = probe.gradient()
        d = self.rule(probe, memory.setdefault("rule", {}))
        if d is g:  # nothing was climbed, so there is nothing to reuse
            memory.pop("kept", None)
            return g
        parts = [reject(a, onto=b) for a, b in zip(self._split(d), self._split(g), strict=True)]
        memory["kept"] = [x for part in parts for x in part]
        return d

    def _split(self, vector: Vec) -> list[Vec]:
        return [[x] for x in vector] if self.projection == "tensor" else [vector]

    def _follow(self, g: Vec, kept: Vec, alpha: float) -> Vec:
        length = norm(kept)
        share = torch.where(length > 0, alpha * norm(g) / length, torch.zeros_like(length))
        return add(g, scale(kept, share))


@dataclass(frozen=True, repr=False)
class Sometimes(Rule):
    """The rule with probability p(t), the plain gradient otherwise (RST, Zhao et al. 2023, Algorithm 1).

    The coin is drawn before the first forward pass, from (seed, step) alone.
    """

    rule: Rule
    p: Number = 0.5

    def __post_init__(self) -> None:
        check_piece("Sometimes", "rule", self.rule, Rule)
        check_range("Sometimes", "p", self.p, 0, 1, schedule=True)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        if probe.coin(probe.value(self.p, 0, 1)):
            return self.rule(probe, memory.setdefault("rule", {}))
        return probe.gradient()
