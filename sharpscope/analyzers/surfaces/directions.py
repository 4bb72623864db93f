"""Directions in weight space, for lines and planes through the weights: what they are, and how random ones are scaled.

Directions that mean something (eigenvectors, the gradient, other weights) are made in ``named_directions``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpscope.coordinates.packed import PackedMask
from sharpscope.core.expressions import check_count
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import Vec, content, generator, length, slices
from sharpscope.problem.problem import Problem, check_problem

__all__ = ["SCALINGS", "Directions", "filter_normalised", "gaussian", "random_directions", "scaled", "unit_of"]

SCALINGS = ("filter", "layer", "weight", "none")
AXES = ("x", "y")  # the salt of the first direction and of the second
_AT_ONCE = 1 << 18  # random numbers that are in float64 at once


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Directions:
    """One or more directions over the parameters of a model, and how they were made.

    One object serves every checkpoint and every model with parameters of these names and shapes.

    Args:
        names: of the parameters, in the order of the problem's coordinates.
        vectors: for every direction one tensor per parameter, of its shape.
        text: how they were made; stands beside every picture.
        seed: of random directions.
        explained: of a trajectory's principal directions: the share of its variance along each.

    Raises ValueError for names and vectors that do not match each other, and for entries that are not finite.

    Example:
        >>> plane = Directions(("w",), ([torch.tensor([3.0, 4.0])], [torch.tensor([4.0, 3.0])]), "by hand")
        >>> plane.norms.tolist(), round(plane.cosine, 2), plane.orthogonalised().norms.round(6).tolist()
        ([5.0, 5.0], 0.96, [5.0, 5.0])
    """

    names: tuple[str, ...]
    vectors: tuple[Vec, ...]
    text: str
    seed: int | None = None
    explained: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        shapes = [[tuple(x.shape) for x in vector] for vector in self.vectors]
        if not shapes or any(len(vector) != len(self.names) or vector != shapes[0] for vector in shapes):
            raise ValueError(
                f"Directions got {[len(vector) for vector in shapes]} tensors for {len(self.names)} names, expected "
                f"one tensor per name in every direction, of one shape: check how they were made"
            )
        for vector in self.vectors:
            for name, x in zip(self.names, vector, strict=True):
                if not all(bool(torch.isfinite(part).all()) for part in slices(x)):
                    raise ValueError(
                        f"Directions got entries of {name} that are not finite, expected numbers: check how they "
                        f"were made ({self.text})"
                    )

    @property
    def norms(self) -> np.ndarray:
        """(directions,) float64, Euclidean lengths."""
        return np.array([math.hypot(*map(length, vector)) for vector in self.vectors])

    @property
    def cosine(self) -> float:
        """Of the angle between the first two; nan for a single direction or one of length 0."""
        if len(self.vectors) < 2 or not self.norms[:2].all():
            return float("nan")
        lengths = self.norms[:2]
        usual = [1e-140 < found < 1e140 for found in lengths]  # squares stay in float64's range
        first, second = (
            vector if plain else [x / found for x in vector]
            for vector, found, plain in zip(self.vectors[:2], lengths, usual, strict=True)
        )
        return self._dot(first, second) / float(lengths[usual].prod())

    def radii(self, coordinates: Sequence[np.ndarray], of: float) -> np.ndarray:
        """Lengths |a d1 + b d2 + ...| over the grid of ``coordinates`` (the first axis fastest), in units of ``of``."""
        square: Any = 0.0
        for place, axis in enumerate(coordinates):
            moved = (axis * self.norms[place]).reshape(-1, *[1] * place)
            square = square + moved**2
        if len(coordinates) > 1:
            first, second = coordinates[0] * self.norms[0], (coordinates[1] * self.norms[1])[:, None]
            square = square + 2.0 * self.cosine * first * second
        return np.asarray(np.sqrt(np.maximum(square, 0.0)) / of)

    @property
    def digest(self) -> str:
        """``sha256:...`` over names, shapes, dtypes and values; the same on any device and in any memory layout."""
        state = hashlib.sha256()
        for vector in self.vectors:
            for name, x in zip(self.names, vector, strict=True):
                state.update(f"{name} {tuple(x.shape)} {x.dtype}\0".encode())
                state.update(content(x))
        return "sha256:" + state.hexdigest()

    def orthogonalised(self) -> Directions:
        """The same span: every direction without its part along those before it, stretched to its former length.

        Filters keep their norms only nearly, because Gaussian directions are nearly orthogonal to begin with.  Raises
        ValueError where a direction lies in the span of those before it.
        """
        found: list[Vec] = []
        for place, (vector, norm) in enumerate(zip(self.vectors, self.norms, strict=True)):
            left = [x.double() for x in vector]
            for earlier in found * 2:  # twice is enough to be orthogonal to rounding
                share = self._dot(left, earlier) / self._dot(earlier, earlier)
                left = [a - share * b.double() for a, b in zip(left, earlier, strict=True)]
            rest = self._dot(left, left) ** 0.5
            if not rest > 1e-6 * norm:
                raise ValueError(
                    f"orthogonalised got direction {place + 1} in the span of those before it, expected another: "
                    f"leave it out or draw with another seed"
                )
            found.append([torch.empty_like(x).copy_(a * (norm / rest)) for x, a in zip(vector, left, strict=True)])
        return self._with(tuple(found), "orthogonalised")

    def on(self, mask: Mapping[str, Tensor] | PackedMask, inside: bool = True) -> Directions:
        """The directions on a mask's subspace: entries where it is 0 do not move (``inside=False``: where it is 1).

        ``mask`` is ``{parameter name: boolean tensor}`` or a PackedMask; a parameter that it leaves out is masked 0.
        Raises ValueError for names and shapes of another model, and for masks that are not boolean.
        """
        given = mask.unpack() if isinstance(mask, PackedMask) else dict(mask)
        shapes = {name: tuple(x.shape) for name, x in zip(self.names, self.vectors[0], strict=True)}
        for name, part in given.items():
            if name not in shapes or tuple(part.shape) != shapes[name] or part.dtype != torch.bool:
                got = f"{name} of shape {tuple(part.shape)} and {part.dtype}"
                raise ValueError(
                    f"a mask got {got}, expected boolean tensors for {', '.join(shapes)[:200]} of their shapes: take "
                    f"the mask of this model"
                )
        vectors = tuple(
            [_where(x, given.get(name), inside) for name, x in zip(self.names, vector, strict=True)]
            for vector in self.vectors
        )
        return self._with(vectors, "inside a mask" if inside else "outside a mask")

    def beside(self, other: Directions) -> Directions:
        """These directions and then those of ``other``: a plane of, say, the gradient and an eigenvector."""
        if other.names != self.names:
            raise ValueError(
                f"beside got directions of {_few(other.names)}, expected those of {_few(self.names)}: make both for "
                f"one model"
            )
        seed = self.seed if other.seed is None or other.seed == self.seed else None
        return Directions(self.names, self.vectors + other.vectors, f"{self.text}; {other.text}", seed)

    def check(self, problem: Problem, owner: str = "the directions") -> None:
        """Raise ValueError unless these are directions of the problem's parameters."""
        wanted = {name: tuple(w.shape) for name, w in zip(problem.names, problem.weights, strict=True)}
        if self.names != tuple(wanted):
            missing = [name for name in wanted if name not in self.names]
            more = [name for name in self.names if name not in wanted]
            what = f"without {_few(missing)}" if missing else f"with {_few(more)}" if more else "in another order"
            raise ValueError(
                f"{owner} got directions {what}, expected those of the {len(wanted)} parameters of "
                f"{type(problem.model).__name__}: make them for this architecture"
            )
        for name, x in zip(self.names, self.vectors[0], strict=True):
            if tuple(x.shape) != wanted[name]:
                raise ValueError(
                    f"{owner} got directions of shape {tuple(x.shape)} for {name}, expected {wanted[name]}: make them "
                    f"for this architecture"
                )

    def check_lengths(self, count: int, owner: str = "the directions") -> None:
        """Raise ValueError where one of the first ``count`` has length 0."""
        if not self.norms[:count].all():
            raise ValueError(
                f"{owner} got a direction of length 0 ({self.text}), expected one that moves a parameter: check the "
                f"mask or the weights it was made with"
            )

    def __repr__(self) -> str:
        return f"Directions({len(self.vectors)} over {len(self.names)} parameters, {self.text}, seed={self.seed})"

    def _with(self, vectors: tuple[Vec, ...], word: str) -> Directions:
        return dataclasses.replace(self, vectors=vectors, text=f"{self.text}, {word}", explained=None)

    @staticmethod
    def _dot(a: Vec, b: Vec) -> float:
        pairs = [zip(slices(x), slices(y), strict=True) for x, y in zip(a, b, strict=True)]
        parts = [torch.dot(x.double().flatten(), y.double().flatten()) for pair in pairs for x, y in pair]
        return float(torch.stack(parts).sum()) if parts else 0.0


@undisturbed
def random_directions(
    problem: Problem, scaling: str = "filter", seed: int = 0, *, count: int = 2, include_1d: bool = False
) -> Directions:
    """Gaussian directions, scaled to the weights.

    Li et al. 2018, "Visualizing the loss landscape of neural nets", section 4.  The numbers depend on (seed, place of
    the direction, parameter name) alone; the scaling depends on the weights.

    Args:
        problem: whose parameters and weights.
        scaling: "filter": every slice along dim 0 gets the norm of the same slice of the weights; "layer": every tensor
            the norm of its weights; "weight": every entry is multiplied by its weight; "none": as drawn.
        seed: a whole number.
        count: of directions.
        include_1d: tensors with less than two dims (biases, norm layers) do not move unless this is true, or there are
            no others; then each counts as one filter.  (The authors' code, where it includes them, takes a copy of the
            weights, which all directions then share; here they are random like the rest.)

    Raises ValueError for another scaling, a seed that is no whole number, a count below 1, and weights of which nothing
    can move.

    Example:
        >>> from torch import nn
        >>> problem = Problem(nn.Linear(2, 3), nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 3)))
        >>> random_directions(problem, "layer", seed=1)
        Directions(2 over 2 parameters, layer, seed=1)
    """
    check_problem("random_directions", problem)
    if scaling not in SCALINGS:
        raise ValueError(f"random_directions got scaling={scaling!r}, expected one of {', '.join(SCALINGS)}: change it")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise ValueError(f"random_directions got seed={seed!r}, expected a whole number: 0 is usual")
    check_count("random_directions", "count", count)
    axes = [*AXES, *(f"axis {place}" for place in range(2, count))][:count]
    weights = problem.weights
    include_1d = include_1d or all(w.dim() < 2 for w in weights)
    vectors = tuple(
        [
            _scaled(_gaussian(w, generator("direction", int(seed), axis, name)), w, scaling, include_1d)
            for name, w in zip(problem.names, weights, strict=True)
        ]
        for axis in axes
    )
    found = Directions(problem.names, vectors, scaling + (", 1-d parameters too" if include_1d else ""), int(seed))
    if not found.norms.all():
        raise ValueError(
            "random_directions got no filter that can move, expected nonzero weights in a tensor with two or more "
            "dims: initialise the model or reshape its parameters"
        )
    return found


def gaussian(problem: Problem, seed: int, axis: str) -> Vec:
    """Gaussian numbers for every parameter, a function of (seed, axis, parameter name, shape) alone.

    Drawn in float64 on the CPU and rounded to the model's dtype, so checkpoints, dtypes and devices share their
    directions.
    """
    return [
        _gaussian(w, generator("direction", seed, axis, name))
        for name, w in zip(problem.names, problem.weights, strict=True)
    ]


def _gaussian(like: Tensor, random: torch.Generator) -> Tensor:
    """What one ``torch.randn`` of the whole shape draws in float64, without holding it in float64.

    Its numbers come in blocks of 16, the last of which may overlap the one before, and singly for a handful.
    """
    found = torch.empty(like.numel(), dtype=like.dtype, device="cpu")
    end = 0
    while end < len(found):
        begin, end = end, end + _AT_ONCE if len(found) - end >= _AT_ONCE + 16 else len(found)
        found[begin:end] = torch.randn(end - begin, generator=random, dtype=torch.float64, device="cpu")
    return found.view(like.shape).to(like.device)


def filter_normalised(directions: Sequence[Tensor], weights: Sequence[Tensor]) -> Vec:
    """Every filter of a direction scaled to the norm of the same filter of the weights (Li et al. 2018, section 4).

    A filter is a slice along dim 0 of a tensor with two or more dims: an output channel of a convolution (1-d, 2-d,
    3-d, grouped), a row of a linear layer or an embedding; of a transposed convolution, whose dim 0 is the input, an
    input channel, as in the authors' code.  Tensors with fewer dims (biases, norm layers) get a zero direction, and so
    does a filter of zero weights.
    """
    return scaled(directions, weights, "filter")


def scaled(directions: Sequence[Tensor], weights: Sequence[Tensor], scaling: str, include_1d: bool = False) -> Vec:
    """Directions scaled to the weights; see ``random_directions``."""
    return [_scaled(d, w, scaling, include_1d) for d, w in zip(directions, weights, strict=True)]


def _scaled(direction: Tensor, weight: Tensor, scaling: str, include_1d: bool) -> Tensor:
    if weight.dim() < 2 and not include_1d:
        return torch.zeros_like(weight)
    found = torch.empty_like(weight)  # in the weight's own memory layout
    if scaling == "none" or not weight.numel():
        return found.copy_(direction)
    parts = zip(slices(found), slices(direction), slices(weight), strict=True)
    if scaling == "weight":
        for to, d, w in parts:
            to.copy_(d.double() * w.double())
    elif scaling == "filter" and weight.dim() >= 2:
        for to, d, w in parts:
            mine, theirs = (_norms(x.double().flatten(1)) for x in (d, w))
            factors = torch.where(mine > 0, theirs / mine, torch.zeros_like(mine))
            to.copy_(d.double() * factors.view(-1, *[1] * (d.dim() - 1)))
    else:
        drawn = length(direction)
        factor = length(weight) / drawn if drawn else 0.0
        for to, d, _ in parts:
            to.copy_(d.double() * factor)
    return found


def _norms(rows: Tensor) -> Tensor:
    """Euclidean norms of the rows of a (rows, n) float64 tensor, also where squares leave its range."""
    found: Tensor = torch.linalg.vector_norm(rows, dim=1)
    if bool(((found > 1e-140) & (found < 1e140)).all()):
        return found
    largest = rows.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    found = torch.linalg.vector_norm(rows / scale, dim=1)
    return found.mul_(scale[:, 0])


def _where(x: Tensor, mask: Tensor | None, inside: bool) -> Tensor:
    if mask is None:
        return torch.zeros_like(x) if inside else x.clone()
    kept = mask.to(x.device)
    return torch.where(kept if inside else ~kept, x, torch.zeros_like(x))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def unit_of(text: str) -> str:
    """The unit of a coordinate along directions that were made as ``text`` says."""
    if "filter" in text:
        return "filter norms"
    return {"layer": "layer norms", "weight": "weights"}.get(text.split(",")[0], "units of the direction")
