"""Updates of papers written out literally, in float64, with nothing of the package but the seeded noise of bSAM."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope.core.vectors import generator
from tests.problems import CONV

LR, STEPS = 0.1, 8


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(STEPS):
        yield CONV.batch(step)


def network() -> nn.Module:
    """Without the statistics of BatchNorm, whose literal update is no subject of these papers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))


def slope(model: nn.Module, x: Tensor, y: Tensor, away: list[Tensor] | None = None) -> list[Tensor]:
    """The gradient at w, or at w + away."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p, e in zip(twin.parameters(), away or [], strict=False):
            p.add_(e)
    return list(torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters())))


def length(vector: list[Tensor]) -> float:
    return math.sqrt(sum(float((x**2).sum()) for x in vector))


def climb(g: list[Tensor], rho: float) -> list[Tensor]:
    return [rho * x / length(g) for x in g]


def descend(model: nn.Module, direction: list[Tensor], rate: float = LR) -> None:
    with torch.no_grad():
        for p, d in zip(model.parameters(), direction, strict=True):
            p.sub_(rate * d)


def fsam(rho: float, sigma: float, decay: float) -> nn.Module:
    model, m = network(), None
    for x, y in batches():
        g = slope(model, x, y)
        d = g if m is None else [a - sigma * b for a, b in zip(g, m, strict=True)]
        m = g if m is None else [decay * b + (1 - decay) * a for a, b in zip(g, m, strict=True)]
        descend(model, slope(model, x, y, climb(d, rho)))
    return model


def fsam_of_the_paper(rho: float, decay: float) -> nn.Module:
    """With this step's gradient in the average, sigma = 1; begun, as the authors' code is, with m = g."""
    model, m = network(), None
    for x, y in batches():
        g = slope(model, x, y)
        if m is None:
            m, d = g, g
        else:
            m = [decay * b + (1 - decay) * a for a, b in zip(g, m, strict=True)]
            d = [a - b for a, b in zip(g, m, strict=True)]
        descend(model, slope(model, x, y, climb(d, rho)))
    return model


def wsam(rho: float, gamma: float, decoupled: bool, momentum: float = 0.0, decay: float = 0.0) -> nn.Module:
    model, buffer = network(), None
    a = gamma / (1 - gamma)
    for x, y in batches():
        w = [p.detach().clone() for p in model.parameters()]
        g = slope(model, x, y)
        s = slope(model, x, y, climb(g, rho))
        seen = g if decoupled else [(1 - a) * p + a * q for p, q in zip(g, s, strict=True)]
        step = [p + decay * q for p, q in zip(seen, w, strict=True)]
        buffer = step if buffer is None else [momentum * b + p for b, p in zip(buffer, step, strict=True)]
        descend(model, buffer)
        if decoupled:
            descend(model, [a * (q - p) for p, q in zip(g, s, strict=True)])
    return model


def bsam(
    examples: int, rho: float, beta1: float, beta2: float, decay: float, damping: float, seed: int
) -> tuple[nn.Module, list[Tensor]]:
    model = network()
    ps = list(model.parameters())
    s, m = [torch.ones_like(p) for p in ps], [torch.zeros_like(p) for p in ps]
    for step, (x, y) in enumerate(batches()):
        rng = generator("probe", seed, step, "bayesian")
        noise = [torch.randn(p.shape, generator=rng) / torch.sqrt(examples * b) for p, b in zip(ps, s, strict=True)]
        g = slope(model, x, y, noise)
        e = slope(model, x, y, [rho * a / b for a, b in zip(g, s, strict=True)])
        m = [beta1 * a + (1 - beta1) * (b + decay * p.detach()) for a, b, p in zip(m, e, ps, strict=True)]
        s = [beta2 * b + (1 - beta2) * (b.sqrt() * a.abs() + decay + damping) for b, a in zip(s, g, strict=True)]
        descend(model, [a / b for a, b in zip(m, s, strict=True)])
    return model, s


def centred(g: list[Tensor]) -> list[Tensor]:
    """Every row of a weight matrix, and every filter, less its mean."""
    found = []
    for x in g:
        if x.dim() < 2:
            found.append(x)
        else:
            found.append(torch.stack([row - row.sum() / row.numel() for row in x]))
    return found


def gcsam(rho: float, descent: bool) -> nn.Module:
    model = network()
    for x, y in batches():
        s = slope(model, x, y, climb(centred(slope(model, x, y)), rho))
        descend(model, centred(s) if descent else s)
    return model


def msam(rho: float, momentum: float) -> nn.Module:
    """Algorithm 1: the stored weights are the perturbed ones, and the perturbation is taken off before every step."""
    model = network()
    v = [torch.zeros_like(p) for p in model.parameters()]
    for x, y in batches():
        g = slope(model, x, y)
        if length(v):
            descend(model, climb(v, rho), -1.0)
        v = [momentum * a + b for a, b in zip(v, g, strict=True)]
        descend(model, v)
        descend(model, climb(v, rho), 1.0)
    descend(model, climb(v, rho), -1.0)
    return model


def tail(rho: float, first: int) -> nn.Module:
    """SGD before step ``first``, SAM from there on."""
    model = network()
    for step, (x, y) in enumerate(batches()):
        g = slope(model, x, y)
        descend(model, g if step < first else slope(model, x, y, climb(g, rho)))
    return model


def functional_sam(rho: float) -> nn.Module:
    """With the Jacobian of all outputs written out, entry by entry."""
    model = network()
    for x, y in batches():
        outputs = model(x).detach().requires_grad_()
        (inner,) = torch.autograd.grad(F.cross_entropy(outputs, y), outputs)
        twin = copy.deepcopy(model)
        descend(twin, climb(slope(model, x, y), rho), -1.0)
        names = [name for name, _ in twin.named_parameters()]

        def f(*weights: Tensor, twin: nn.Module = twin, names: list[str] = names, x: Tensor = x) -> Tensor:
            return torch.func.functional_call(twin, dict(zip(names, weights, strict=True)), (x,))

        jacobian = torch.autograd.functional.jacobian(f, tuple(p.detach() for p in twin.parameters()))
        descend(model, [torch.einsum("nc,nc...->...", inner, j) for j in jacobian])
    return model
