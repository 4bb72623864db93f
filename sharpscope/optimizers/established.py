"""Rules of single papers: what they do beside climbing and blending."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sharpscope.ascent.batch import Batch
from sharpscope.ascent.climbs import centralised
from sharpscope.ascent.perturbations import Perturbation
from sharpscope.ascent.probe import Overflow, Probe
from sharpscope.ascent.shift import Shift
from sharpscope.core.expressions import check_count, check_piece, check_range
from sharpscope.core.schedules import Number
from sharpscope.core.vectors import Vec, add, norm, scale, subtract
from sharpscope.optimizers.rules import Memory, Rule

__all__ = ["AlongMomentum", "Bayesian", "CentralisedDescent", "Decoupled", "Functional"]


@dataclass(frozen=True, repr=False)
class Decoupled(Rule):
    """``base`` descends along g; after its step w <- w - lr weight (d - g), with d the rule's direction at the old w.

    Momentum, adaptive scaling and weight decay of ``base`` act on g alone, and neither it nor ``clip`` sees the
    sharpness d - g (WSAM, Yue et al. 2023, Algorithm 1).  ``lr`` is that of each parameter's group.
    """

    rule: Rule
    weight: Number = 9.0

    def __post_init__(self) -> None:
        check_piece("Decoupled", "rule", self.rule, Rule)
        check_range("Decoupled", "weight", self.weight, 0, schedule=True)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        g = probe.gradient()
        d = self.rule(probe, memory.setdefault("rule", {}))
        if d is not g:  # else nothing was climbed
            sharpness = scale(probe.average(subtract(d, g)), probe.value(self.weight, 0) / probe.scale)
            if not bool(torch.isfinite(norm(sharpness))):
                raise Overflow(d)  # the base sees g alone, and would step where a scaler has to skip

            def descend(weights: Vec, rates: list[float]) -> None:
                for w, s, rate in zip(weights, sharpness, rates, strict=True):
                    w.sub_(s, alpha=rate)

            probe.afterwards(descend)
        return g


@dataclass(frozen=True, repr=False)
class AlongMomentum(Rule):
    """The gradient at w - rho v / |v|, v <- decay v + that gradient: one pass a step.

    Source: Momentum-SAM, Becker et al. 2024, Algorithm 1.

    v is the rule's own, whatever ``base`` does; at the first step, where there is none, the gradient is that at w.  The
    loss that ``step`` returns, and BatchNorm's statistics, are those of the one pass.
    """

    rho: Number = 0.3
    decay: float = 0.9

    def __post_init__(self) -> None:
        check_range("AlongMomentum", "rho", self.rho, 0, schedule=True)
        check_range("AlongMomentum", "decay", self.decay, 0, 1, open_high=True)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        v, rho = memory.get("v"), probe.value(self.rho, 0)
        length = 0.0 if v is None else float(norm(v))
        g = probe.gradient_at(Shift(v, -rho / length)) if v is not None and rho and length else probe.gradient()
        seen = scale(probe.average(g), 1.0 / probe.scale)
        memory["v"] = seen if v is None else add(seen, v, alpha=self.decay)
        return g


@dataclass(frozen=True, repr=False)
class Functional(Rule):
    """J(w + eps)^T l'(f(w)): the network's Jacobian climbs, the loss's slope stays (Singh et al. 2025, Functional SAM).

    The closure is ``sharpscope.Batch``, which knows outputs and loss apart.
    """

    perturbation: Perturbation

    def __post_init__(self) -> None:
        check_piece("Functional", "perturbation", self.perturbation, Perturbation)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        batch = probe.closure
        if not isinstance(batch, Batch):
            raise TypeError(
                f"Functional got a {type(batch).__name__} as closure, expected one that knows the network's outputs: "
                f"optimizer.step(sharpscope.Batch(model, loss, x, y))"
            )
        g = probe.gradient()
        shift = self.perturbation(g, probe, memory.setdefault("perturbation", {}))
        if shift is None:
            return g
        with batch.linear():
            return probe.gradient_at(shift)


@dataclass(frozen=True, repr=False)
class CentralisedDescent(Rule):
    """The rule's direction, centralised (Yong et al. 2020); see ``sharpscope.ascent.climbs.centralised``."""

    rule: Rule

    def __post_init__(self) -> None:
        check_piece("CentralisedDescent", "rule", self.rule, Rule)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        return centralised(self.rule(probe, memory.setdefault("rule", {})))


@dataclass(frozen=True, repr=False)
class Bayesian(Rule):
    """m / s of bSAM (Moellenhoff and Khan 2023, Algorithm 1), for ``base`` = SGD without momentum or weight decay.

    With noise n ~ N(0, 1 / (examples s)): g = gradient at w + n; e = gradient at w + rho g / s;
    m <- beta1 m + (1 - beta1) (e + decay w); s <- beta2 s + (1 - beta2) (sqrt(s) |g| + decay + damping).  m begins at
    0, s, the precision of every weight over ``examples``, at 1.  Both passes are away from w; the loss that ``step``
    returns, and BatchNorm's statistics, are those at w + n.
    """

    examples: int
    rho: Number = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    decay: float = 1e-4
    damping: float = 0.1

    def __post_init__(self) -> None:
        check_count("Bayesian", "examples", self.examples)
        check_range("Bayesian", "rho", self.rho, 0, schedule=True)
        for name in ("beta1", "beta2"):
            check_range("Bayesian", name, getattr(self, name), 0, 1)
        check_range("Bayesian", "decay", self.decay, 0)
        check_range("Bayesian", "damping", self.damping, 0)

    def __call__(self, probe: Probe, memory: Memory) -> Vec:
        w, size = [p.detach() for p in probe.params], probe.scale
        s = memory.get("s") or [torch.ones_like(p) for p in w]
        m = memory.get("m") or [torch.zeros_like(p) for p in w]
        g = scale(probe.gradient_at(self._noise(s, probe)), 1.0 / size)
        rho = probe.value(self.rho, 0)
        e = scale(probe.gradient_at([rho * a / b for a, b in zip(g, s, strict=True)]), 1.0 / size)
        e, slopes = probe.average(e), probe.average([x.abs() for x in g])
        towards = add(e, w, alpha=self.decay)
        memory["m"] = m = add(scale(m, self.beta1), towards, alpha=1.0 - self.beta1)
        grown = [b.sqrt() * a + (self.decay + self.damping) for a, b in zip(slopes, s, strict=True)]
        memory["s"] = s = add(scale(s, self.beta2), grown, alpha=1.0 - self.beta2)
        return [size * a / b for a, b in zip(m, s, strict=True)]

    def _noise(self, s: Vec, probe: Probe) -> Vec:
        rng = probe.generator("bayesian")
        draws = [torch.randn(x.shape, generator=rng, dtype=x.dtype).to(x.device) for x in s]
        return [n / (self.examples * x).sqrt() for n, x in zip(draws, s, strict=True)]
