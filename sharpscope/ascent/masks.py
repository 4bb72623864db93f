"""Which parameters a perturbation may move: a 0/1 mask per parameter, kept as packed bits between refreshes.

``sparsity`` is the share of entries that are NOT perturbed; exactly ``round((1 - sparsity) d)`` are, over all trainable
parameters at once.  A mask is refreshed when it is missing or ``every`` steps old, and a refreshed mask is used at
once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor

from sharpscope.ascent._selection import check_choice, choose, perturbed_count
from sharpscope.ascent.probe import Probe
from sharpscope.ascent.scores import Fisher, Gradient, Random, Score
from sharpscope.coordinates.bits import pack, top, unpack
from sharpscope.core.expressions import Piece, check_count, check_piece, check_range, off
from sharpscope.core.schedules import Number
from sharpscope.core.vectors import Vec, flatten, unflatten

__all__ = [
    "Evolving",
    "Mask",
    "Named",
    "RandomMask",
    "RandomTensors",
    "Top",
    "check_pattern",
    "matches",
    "perturbed_count",
]


@dataclass(frozen=True, repr=False)
class Mask(Piece):
    """Base: which entries a perturbation may move; ``mask(g, probe, memory)`` is a boolean tensor per parameter.

    Derive a frozen dataclass from it with a ``refresh``; a field ``every`` says after how many steps it is asked again
    (0: never; None: an epoch), and ``needs_gradient = True`` that it looks at ``g``.

    Example:
        >>> @dataclass(frozen=True)
        ... class Negative(Mask):
        ...     every: int = 10
        ...     def refresh(self, g, probe, memory):
        ...         return [p.detach() < 0 for p in probe.params]
        >>> Negative()
        Negative(10)
    """

    needs_gradient: ClassVar[bool] = False  # whether a refresh looks at the batch's gradient

    def __call__(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Vec:
        """The mask in force at this step; refreshes it first if it is due."""
        return unpack(self.bits(g, probe, memory), probe.params)

    def bits(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Tensor:
        """The same as packed bits, which is how it is kept."""
        if self._due(probe, memory):
            fresh = self.refresh(g, probe, memory)
            memory["bits"], memory["born"] = pack(fresh), probe.step
            memory["size"] = sum(part.numel() for part in fresh)
            memory["ones"] = sum(int(torch.count_nonzero(part)) for part in fresh)
        bits: Tensor = memory["bits"]
        return bits

    def ready(self, probe: Probe, memory: dict[str, Any]) -> bool:
        """Whether the mask can be had without the batch's gradient."""
        return not (self.needs_gradient and self._due(probe, memory))

    def refresh(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Vec:
        """A new mask; ``memory["bits"]`` holds the old one, if there is one."""
        raise NotImplementedError

    def _due(self, probe: Probe, memory: dict[str, Any]) -> bool:
        if "bits" not in memory:
            return True
        every = getattr(self, "every", 0)
        return bool(every) and probe.step - memory["born"] >= every


@dataclass(frozen=True, repr=False)
class Top(Mask):
    """Ones at the largest scores (Sparse SAM, eq. 6); ties go to the lower index.

    ``every`` is in optimizer steps; None means one epoch of the data at hand, 0 a mask that stays as it is first made.

    ``scope`` is "global", one choice over all parameters, or "layer", the same share of each.  ``pattern`` is
    "entries"; or "tensors", whole tensors by their mean score until round((1 - s) d) entries are reached or passed (Mi
    et al. 2023, the structured masks of the follow-up code); or "n:m", the n largest of every m neighbours along the
    input dimension (dim 1), of convolutions too, with tensors of one dim perturbed whole and ``sparsity`` = 1 - n / m;
    the last group of a width that m does not divide is smaller and may be kept whole.
    """

    score: Score = Fisher()
    sparsity: float = 0.5
    every: int | None = None
    scope: str = off("global")
    pattern: str = off("entries")

    def __post_init__(self) -> None:
        check_piece("Top", "score", self.score, Score)
        check_range("Top", "sparsity", self.sparsity, 0, 1, open_high=True)
        _check_every("Top", self.every)
        check_choice("Top", self.scope, self.pattern, self.sparsity)

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        return self.score.needs_gradient

    def refresh(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Vec:
        scores = [_sortable(x) for x in probe.average(self.score(g, probe))]
        return choose(scores, self.sparsity, self.scope, self.pattern)


@dataclass(frozen=True, repr=False)
class Evolving(Mask):
    """Drop the flattest ones, grow random zeros: the dynamic mask of SSAM-D (Sparse SAM, Algorithm 2, Option II).

    The first mask is random.  At each refresh N = min(floor(drop (1 - s) d), number of zeros) ones with the smallest
    ``drop_by`` score are dropped (|g| at w: the flattest) and N zeros with the largest ``grow_by`` score grow,
    just-dropped entries excepted, so the number of ones never changes.  (The authors' code clamps the growth but not
    the drop, which lets the density fall; the paper's Algorithm 2 would let a dropped entry grow again at once.)

    The ablations of the paper's Table 7: ``drop_largest=True`` drops the sharpest, ``drop_by=Random()`` drops at
    random, ``drop_by=Weight()`` by magnitude, ``grow_by=Gradient()`` grows the largest |g|; ``RandomMask`` the random
    mask.
    """

    sparsity: float = 0.5
    drop: Number = 0.5
    every: int | None = None
    drop_by: Score = Gradient()
    grow_by: Score = Random()
    drop_largest: bool = False  # Table 7 of the paper: dropping the sharpest instead, which hurts
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_piece("Evolving", "drop_by", self.drop_by, Score)
        check_piece("Evolving", "grow_by", self.grow_by, Score)
        check_range("Evolving", "sparsity", self.sparsity, 0, 1, open_high=True)
        check_range("Evolving", "drop", self.drop, 0, 1, schedule=True)
        _check_every("Evolving", self.every)
        if not isinstance(self.drop_largest, bool):
            raise TypeError(
                f"Evolving got drop_largest={self.drop_largest!r}, expected True or False: change drop_largest"
            )

    def refresh(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Vec:
        size = sum(p.numel() for p in probe.params)
        count = perturbed_count(self.sparsity, size)
        if "bits" not in memory:
            return choose(Random()(g, probe), self.sparsity, "global", "entries")
        old = flatten(unpack(memory["bits"], probe.params))
        moves = math.floor(probe.value(self.drop, 0, 1) * (1.0 - self.sparsity) * size + 1e-9)  # 0.1 * 100 is 9.999...
        moves = min(moves, size - count, count)
        worth = _flat_copy(probe.average(self.drop_by(g, probe)))
        free = ~old
        kept = _top_among(old, free, worth.neg_() if self.drop_largest else worth, count - moves)
        grown = _top_among(free, old, _flat_copy(probe.average(self.grow_by(g, probe))), moves)
        return unflatten(kept | grown, probe.params)


@dataclass(frozen=True, repr=False)
class RandomMask(Mask):
    """Ones anywhere, fixed for the whole training (``every=0``) or redrawn every so many steps (Table 7)."""

    sparsity: float = 0.5
    every: int = 0

    def __post_init__(self) -> None:
        check_range("RandomMask", "sparsity", self.sparsity, 0, 1, open_high=True)
        _check_every("RandomMask", self.every)

    def refresh(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Vec:
        return choose(Random()(g, probe), self.sparsity, "global", "entries")


@dataclass(frozen=True, repr=False)
class RandomTensors(Mask):
    """Whole tensors, each kept with probability ``keep``, drawn anew every step (ESAM, Du et al. 2022, section 3.1)."""

    keep: float = 0.5
    every: int = 1

    def __post_init__(self) -> None:
        check_range("RandomTensors", "keep", self.keep, 0, 1)
        check_count("RandomTensors", "every", self.every)

    def refresh(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Vec:
        draws = torch.rand(len(probe.params), generator=probe.generator("tensors"), dtype=torch.float32).tolist()
        return [
            torch.full(p.shape, draw < self.keep, dtype=torch.bool, device=p.device)
            for p, draw in zip(probe.params, draws, strict=True)
        ]


@dataclass(frozen=True, repr=False)
class Named(Mask):
    """All entries of the parameters whose name matches a pattern, e.g. ``Named("*norm*")``.

    Source: SAM-ON, Mueller et al. 2023, which perturbs the norm layers alone.
    """

    pattern: str

    def __post_init__(self) -> None:
        check_pattern("Named", "pattern", self.pattern)

    def refresh(self, g: Vec, probe: Probe, memory: dict[str, Any]) -> Vec:
        chosen = matches("Named", self.pattern, probe)
        return [
            torch.full(p.shape, take, dtype=torch.bool, device=p.device)
            for p, take in zip(probe.params, chosen, strict=True)
        ]


def check_pattern(owner: str, name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is a text to match names of parameters with."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{owner} got {name}={value!r}, expected a pattern such as '*weight*': change {name}")


def matches(owner: str, pattern: str, probe: Probe) -> list[bool]:
    """Which parameters have a name that the pattern matches; raises ValueError if none has."""
    chosen = [fnmatchcase(name, pattern) for name in probe.names]
    if not any(chosen):
        raise ValueError(
            f"{owner} got the pattern {pattern!r} that matches no parameter, expected a match among "
            f"{', '.join(probe.names[:5])}{', ...' if len(probe.names) > 5 else ''}: change the pattern, or let the "
            f"optimizer know the names: SharpnessAware(base, rule, model=model)"
        )
    return chosen


def _check_every(owner: str, value: Any) -> None:
    if value != 0 or isinstance(value, bool):
        check_count(owner, "every", value, optional=True)


def _sortable(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _flat_copy(scores: Vec) -> Tensor:
    return flatten([_sortable(x) for x in scores])


def _top_among(allowed: Tensor, barred: Tensor, scores: Tensor, count: int) -> Tensor:
    """Exactly ``count`` ones at the largest scores among the allowed entries, not the barred; ties to the lower index.

    Uses ``scores`` up: at 11 M entries a fresh tensor costs more than the choice.
    """
    return top(scores.masked_fill_(barred, -math.inf), count).logical_and_(allowed)
