"""The published equations, written out once more: one flat vector of weights and plain loops, no code of the library.

The draws that no paper fixes (coins, random scores, Fisher samples) are those that the library documents: SHA-256 of
what they depend on.  Departures from the papers are the documented ones: a mask's first version counts, ESAM does not
divide by its share, LookSAM projects tensor by tensor.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.problems import Case

Direction = Callable[["Walk"], Tensor]


def number(*salt: int | str) -> int:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in salt)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def draws(seed: int, step: int, what: str) -> torch.Generator:
    return torch.Generator().manual_seed(number("probe", seed, step, what))


def coin(seed: int, step: int) -> float:
    return (number("coin", seed, step) // 2**10) / 2**53


class Walk:
    """One training by SGD with momentum: v <- mu v + (d + lambda w), w <- w - lr v, along a direction d."""

    def __init__(self, case: Case, *, seed: int = 0, lr: float = 0.1, momentum: float = 0.9, decay: float = 1e-3):
        self.case, self.seed, self.lr, self.momentum, self.decay = case, seed, lr, momentum, decay
        self.model = case.model()
        self.names = [name for name, _ in self.model.named_parameters()]
        self.shapes = [p.shape for p in self.model.parameters()]
        self.w = torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])
        self.v = torch.zeros_like(self.w)
        self.step = 0
        self.m: Tensor | None = None  # mask
        self.kept: Tensor | None = None  # LookSAM's v
        self.calls = 0
        self.born = 0

    def pieces(self, flat: Tensor) -> list[Tensor]:
        return list(flat.split([math.prod(shape) for shape in self.shapes]))

    def put(self, flat: Tensor) -> None:
        with torch.no_grad():
            for p, piece in zip(self.model.parameters(), self.pieces(flat), strict=True):
                p.copy_(piece.view(p.shape))

    def at(self, eps: Tensor | None, rows: Tensor | None, ask: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Ask at w + eps with the random numbers of the step; only its first pass moves buffers and random state."""
        after = torch.get_rng_state()
        torch.set_rng_state(self.random)
        kept = [b.clone() for b in self.model.buffers()]
        self.put(self.w if eps is None else self.w + eps)
        x, y = self.case.batch(self.step)
        if rows is not None:
            x, y = x[rows], y[rows]
        found = ask(self.model(x), y)
        if self.seen:
            for b, k in zip(self.model.buffers(), kept, strict=True):
                b.copy_(k)
            torch.set_rng_state(after)
        self.put(self.w)
        self.seen = True
        return found

    def g(self, eps: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        def slope(scores: Tensor, y: Tensor) -> Tensor:
            found = torch.autograd.grad(F.cross_entropy(scores, y), list(self.model.parameters()))
            return torch.cat([x.reshape(-1) for x in found])

        return self.at(eps, rows, slope)

    def losses(self, eps: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            return self.at(eps, None, lambda scores, y: -torch.log_softmax(scores, 1)[torch.arange(len(y)), y])

    def train(self, direction: Direction, steps: int) -> Tensor:
        for _ in range(steps):
            self.random, self.seen = torch.get_rng_state(), False
            d = direction(self)
            self.v = self.momentum * self.v + (d + self.decay * self.w)
            self.w = self.w - self.lr * self.v
            self.put(self.w)
            self.step += 1
        return self.w


def sgd(walk: Walk) -> Tensor:
    return walk.g()


def sam(rho: float) -> Direction:
    """Foret et al. 2021, eq. 2 and 3."""

    def direction(walk: Walk) -> Tensor:
        g = walk.g()
        return walk.g(rho * g / g.norm())

    return direction


def asam(rho: float, eta: float) -> Direction:
    """Kwon et al. 2021, eq. 7 with T = |w| + eta for weights, 1 for biases."""

    def direction(walk: Walk) -> Tensor:
        g = walk.g()
        scales = [
            piece.abs() + eta if "weight" in name else torch.ones_like(piece)
            for name, piece in zip(walk.names, walk.pieces(walk.w), strict=True)
        ]
        t = torch.cat(scales)
        return walk.g(rho * t * t * g / (t * g).norm())

    return direction


def argtop(values: Tensor, count: int) -> Tensor:
    """The ``count`` indices of the largest values, the lower index first among equals."""
    found = values.tolist()
    return torch.tensor(sorted(range(len(found)), key=lambda i: (-found[i], i))[:count], dtype=torch.long)


def ones(count: Tensor, size: int) -> Tensor:
    m = torch.zeros(size)
    m[count] = 1.0
    return m


def fisher(walk: Walk, samples: int) -> Tensor:
    """Sparse SAM, eq. 5: examples one by one, true labels, eval mode."""
    x, y = walk.case.data
    chosen = torch.randperm(len(y), generator=draws(walk.seed, walk.step, "fisher"))[:samples]
    walk.model.eval()
    total = torch.zeros_like(walk.w)
    for i in chosen.tolist():
        loss = -torch.log_softmax(walk.model(x[i : i + 1]), 1)[0, y[i]]
        total += torch.cat([d.reshape(-1) for d in torch.autograd.grad(loss, list(walk.model.parameters()))]) ** 2
    walk.model.train()
    return total / len(chosen)


def random_scores(walk: Walk) -> Tensor:
    rng = draws(walk.seed, walk.step, "random score")
    return torch.cat([torch.rand(shape, generator=rng, dtype=torch.float32).reshape(-1) for shape in walk.shapes])


def ssam_f(rho: float, s: float, samples: int, every: int) -> Direction:
    """Sparse SAM, Algorithm 1 with Option I; k = (1 - s) |w| of eq. 6."""

    def direction(walk: Walk) -> Tensor:
        g, size = walk.g(), len(walk.w)
        if walk.m is None or walk.step - walk.born >= every:
            walk.m, walk.born = ones(argtop(fisher(walk, samples), round((1 - s) * size)), size), walk.step
        return walk.g(rho * g / g.norm() * walk.m)

    return direction


def ssam_d(rho: float, s: float, drop: float, every: int, total: int) -> Direction:
    """Sparse SAM, Algorithm 1 with Option II, eq. 7 to 9; a dropped entry does not grow in the same update."""

    def direction(walk: Walk) -> Tensor:
        g, size = walk.g(), len(walk.w)
        if walk.m is None:
            walk.m, walk.born = ones(argtop(random_scores(walk), round((1 - s) * size)), size), walk.step
        elif walk.step - walk.born >= every:
            rate = drop / 2 * (1 + math.cos(walk.step * math.pi / total))
            inside, outside = torch.nonzero(walk.m == 1).view(-1), torch.nonzero(walk.m == 0).view(-1)
            moves = min(math.floor(rate * (1 - s) * size), len(outside), len(inside))
            kept = inside[argtop(g[inside].abs(), len(inside) - moves)]
            grown = outside[argtop(random_scores(walk)[outside], moves)]
            walk.m, walk.born = ones(torch.cat([kept, grown]), size), walk.step
        return walk.g(rho * g / g.norm() * walk.m)

    return direction


def gsam(rho: float, alpha: float) -> Direction:
    """Zhuang et al. 2022, Algorithm 1: g_s - alpha (g - cos |g| g_s / |g_s|)."""

    def direction(walk: Walk) -> Tensor:
        g = walk.g()
        sharp = walk.g(rho * g / g.norm())
        cos = (g @ sharp) / (g.norm() * sharp.norm())
        return sharp - alpha * (g - cos * g.norm() * sharp / sharp.norm())

    return direction


def looksam(rho: float, every: int, alpha: float, per_tensor: bool = True) -> Direction:
    """Liu et al. 2022, Algorithm 1: g_v = g_s - |g_s| cos g / |g|, then g + alpha |g| / |g_v| g_v."""

    def cut(walk: Walk, flat: Tensor) -> list[Tensor]:
        return walk.pieces(flat) if per_tensor else [flat]

    def direction(walk: Walk) -> Tensor:
        g = walk.g()
        walk.calls += 1
        if (walk.calls - 1) % every == 0:
            sharp = walk.g(rho * g / g.norm())
            parts = [
                b - b.norm() * (a @ b / (a.norm() * b.norm())) * a / a.norm()
                for a, b in zip(cut(walk, g), cut(walk, sharp), strict=True)
            ]
            walk.kept = torch.cat(parts)
            return sharp
        assert walk.kept is not None
        return torch.cat(
            [a + alpha * a.norm() / b.norm() * b for a, b in zip(cut(walk, g), cut(walk, walk.kept), strict=True)]
        )

    return direction


def esam(rho: float, keep: float, fraction: float) -> Direction:
    """Du et al. 2022, Algorithm 1: climb along some tensors, descend on the examples whose loss rose most."""

    def direction(walk: Walk) -> Tensor:
        g = walk.g()
        taken = (
            torch.rand(len(walk.shapes), generator=draws(walk.seed, walk.step, "tensors"), dtype=torch.float32) < keep
        )
        m = torch.cat([torch.full_like(x, float(t)) for x, t in zip(walk.pieces(g), taken, strict=True)])
        eps = rho * g / g.norm() * m
        rise = walk.losses(eps) - walk.losses()
        return walk.g(eps, argtop(rise, round(fraction * len(rise))).sort().values)

    return direction


def gnr(rho: float, weight: float) -> Direction:
    """Zhao et al. 2022, eq. 9: (1 - gamma / rho) g + gamma / rho g(w + eps)."""
    return blend(sam(rho), weight)


def blend(inner: Direction, weight: float) -> Direction:
    def direction(walk: Walk) -> Tensor:
        g = walk.g()
        return (1 - weight) * g + weight * inner(walk)

    return direction


def rst(inner: Direction, p: float) -> Direction:
    """Zhao et al. 2023, Algorithm 1: X = 1 with probability p."""

    def direction(walk: Walk) -> Tensor:
        return inner(walk) if coin(walk.seed, walk.step) < p else walk.g()

    return direction


def grst(inner: Direction, p: float, weight: float) -> Direction:
    """Zhao et al. 2023, section 5: (1 - X) g + X g_gnr."""
    return rst(blend(inner, weight), p)


def masks(walk: Walk) -> dict[str, Tensor]:
    """The mask in force, by name."""
    assert walk.m is not None
    parts = zip(walk.names, walk.shapes, walk.pieces(walk.m), strict=True)
    return {name: piece.view(shape).bool() for name, shape, piece in parts}


METHODS: dict[str, Direction] = {
    "sgd": sgd,
    "sam": sam(0.1),
    "asam": asam(0.5, 0.01),
    "ssam_f": ssam_f(0.2, 0.5, 8, 4),
    "ssam_d": ssam_d(0.2, 0.6, 0.5, 3, 50),
    "gsam": gsam(0.1, 0.4),
    "looksam": looksam(0.1, 3, 0.7),
    "esam": esam(0.1, 0.6, 0.5),
    "gnr": gnr(0.1, 0.8),
    "rst": rst(sam(0.1), 0.5),
    "grst": grst(sam(0.1), 0.5, 2.0),
}
INNER = ["asam", "gsam", "looksam", "esam", "ssam_f", "ssam_d", "gnr"]
RULES = METHODS | {f"rst-{name}": rst(METHODS[name], 0.6) for name in INNER}
RULES |= {f"grst-{name}": grst(METHODS[name], 0.6, 1.5) for name in INNER}


__all__ = ["METHODS", "RULES", "Walk", "argtop", "coin", "draws", "fisher", "masks"]
