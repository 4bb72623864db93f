"""What makes a parameter worth perturbing: a number per entry, larger for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sharpscope.ascent.probe import Probe
from sharpscope.core.expressions import Piece, check_count, off
from sharpscope.core.vectors import Vec

__all__ = ["Fisher", "Gradient", "Random", "Score", "Weight"]


@dataclass(frozen=True, repr=False)
class Score(Piece):
    """Base: ``score(g, probe) -> Vec`` of numbers that can be ordered, shaped like the parameters.

    Derive a frozen dataclass from it, and say with ``needs_gradient = True`` that it looks at ``g``.

    Example:
        >>> @dataclass(frozen=True)
        ... class Saliency(Score):
        ...     needs_gradient = True
        ...     def __call__(self, g, probe):
        ...         return [(x * p.detach()).abs() for x, p in zip(g, probe.params)]
        >>> Saliency()
        Saliency()
    """

    needs_problem: ClassVar[bool] = False  # whether it looks at more than the current batch
    needs_gradient: ClassVar[bool] = False  # whether it looks at the batch's gradient

    def __call__(self, g: Vec, probe: Probe) -> Vec:
        """The scores of this step, given the batch's gradient ``g``."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Fisher(Score):
    """Diagonal of the empirical Fisher on ``samples`` training examples (Sparse SAM, eq. 5): SSAM-F's score.

    Per-example gradients at the true labels, BatchNorm in eval mode, no augmentation, examples drawn anew at each
    refresh from (seed of the optimizer, step, ``seed``).  Needs ``SharpnessAware(..., problem=...)``.
    """

    samples: int = 128
    seed: int = off(0)
    needs_problem: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("Fisher", "samples", self.samples)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"Fisher got seed={self.seed!r}, expected a whole number: change seed")

    def __call__(self, g: Vec, probe: Probe) -> Vec:
        problem = probe.problem
        known = dict(problem.model.named_parameters())
        place = {id(known[name]): index for index, name in enumerate(problem.names)}
        strange = [name for name, p in zip(probe.names, probe.params, strict=True) if id(p) not in place]
        if strange:
            raise ValueError(
                f"Fisher got the parameter {strange[0]!r} that the problem's model does not train, expected the "
                f"optimizer's parameters among the model's: make the Problem from the very model that is trained"
            )
        squares = problem.squared_gradients(
            self.samples, probe.generator("fisher", *([self.seed] if self.seed else []))
        )
        return [squares[place[id(p)]] for p in probe.params]  # groups may hold them in an order of their own


@dataclass(frozen=True, repr=False)
class Gradient(Score):
    """|g|, the size of the batch's gradient."""

    needs_gradient: ClassVar[bool] = True

    def __call__(self, g: Vec, probe: Probe) -> Vec:
        return [x.abs() for x in g]


@dataclass(frozen=True, repr=False)
class Weight(Score):
    """|w|, the size of the weight."""

    def __call__(self, g: Vec, probe: Probe) -> Vec:
        return [p.detach().abs() for p in probe.params]


@dataclass(frozen=True, repr=False)
class Random(Score):
    """Uniform random numbers, a function of (seed, step)."""

    def __call__(self, g: Vec, probe: Probe) -> Vec:
        rng = probe.generator("random score")
        return [torch.rand(p.shape, generator=rng, dtype=torch.float32).to(p.device) for p in probe.params]
