"""Directions that mean something: eigenvectors of the Hessian, the gradient, other weights, a training trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharpscope.analyzers.spectra.spectrum import Spectrum, spectrum
from sharpscope.analyzers.surfaces.directions import Directions
from sharpscope.core.expressions import check_count
from sharpscope.core.surroundings import undisturbed
from sharpscope.core.vectors import Vec, unflatten
from sharpscope.problem.problem import Problem, check_problem

__all__ = ["Weights", "gradient_direction", "hessian_directions", "pca_directions", "towards", "weights_of"]

Weights = Mapping[str, Tensor] | nn.Module | Problem | Sequence[Tensor]


@undisturbed
def hessian_directions(
    problem: Problem, found: Spectrum | None = None, which: Sequence[int] = (0, 1), **options: Any
) -> Directions:
    """Unit eigenvectors of the Hessian, the sharpest two by default.

    Args:
        problem: whose Hessian.
        found: its spectrum, with vectors; computed if None.
        which: places in the spectrum, from 0, the largest eigenvalue.
        options: of ``spectrum``, where it is computed: ``tol``, ``seed``, ``progress``.

    Raises ValueError for a spectrum without vectors, of another size, or without the places asked for.

    Example:
        >>> problem = Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
        >>> hessian_directions(problem).text
        'eigenvectors 1, 2 of the Hessian'
    """
    check_problem("hessian_directions", problem)
    if not which or any(isinstance(place, bool) or not isinstance(place, int) or place < 0 for place in which):
        raise ValueError(f"hessian_directions got which={which!r}, expected places from 0: (0, 1) is usual")
    if found is None:
        found = spectrum(problem, **{"k": max(which) + 1, "vectors": True, **options})
    if found.vectors is None:
        raise ValueError("hessian_directions got a spectrum without vectors, expected them: use vectors=True")
    if found.size != problem.size or max(which) >= len(found.vectors):
        raise ValueError(
            f"hessian_directions got {len(found.vectors)} eigenvectors of {found.size} entries, expected at least "
            f"{max(which) + 1} of {problem.size}: take the spectrum of this problem with a larger k"
        )
    vectors = tuple(_shaped(torch.from_numpy(np.array(found.vectors[place])), problem) for place in which)
    places = ", ".join(str(place + 1) for place in which)
    return Directions(problem.names, vectors, f"eigenvectors {places} of the Hessian")


@undisturbed
def gradient_direction(problem: Problem) -> Directions:
    """The gradient of the loss at the weights, of unit length: one direction (``beside`` another it spans a plane).

    Raises ValueError for a gradient that is zero.
    """
    check_problem("gradient_direction", problem)
    gradient = problem.gradient()
    length = float(Directions(problem.names, (gradient,), "gradient").norms[0])
    if not length:
        raise ValueError("gradient_direction got a gradient of zero, expected another: draw random directions instead")
    return Directions(problem.names, ([x / length for x in gradient],), "gradient, of unit length")


@undisturbed
def towards(problem: Problem, *others: Weights) -> Directions:
    """From the problem's weights to other weights: the loss on the way to one, the plane through them and two others.

    Coordinate 1 is the other weights.  Buffers stay those of the problem's model; take ``batchnorm="recompute"`` where
    it has BatchNorm, whose statistics fit neither the way nor its end.

    Args:
        problem: whose weights are the centre.
        others: state dicts, models, problems, or lists of tensors.

    Raises ValueError for others of another architecture, and for weights that are those of the centre.

    Example:
        >>> problem = Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
        >>> towards(problem, {"weight": torch.zeros(1, 2), "bias": torch.ones(1)}).text
        'towards other weights'
    """
    check_problem("towards", problem)
    if not others:
        raise ValueError("towards got no other weights, expected one or two: give a state dict or a model")
    vectors = tuple(
        [b - a for a, b in zip(problem.weights, weights_of(problem, other), strict=True)] for other in others
    )
    text = "towards other weights" if len(others) == 1 else f"towards {len(others)} other weights"
    found = Directions(problem.names, vectors, text)
    for place in np.flatnonzero(found.norms == 0):
        raise ValueError(f"towards got weights {place + 1} equal to the centre, expected others: leave them out")
    return found


@undisturbed
def pca_directions(problem: Problem, trajectory: Sequence[Weights], count: int = 2) -> Directions:
    """The unit principal directions of a training trajectory, most variance first; ``explained`` has the shares.

    Of the weights along the trajectory minus their mean (Li et al. 2018, section 7, whose code takes the same).

    Args:
        problem: whose parameters; its weights, usually the last of the trajectory, are the centre of a plane.
        trajectory: state dicts, models or lists of tensors, in the order of training.
        count: of directions.

    Raises ValueError for a trajectory that does not span ``count`` directions, or of another architecture.
    """
    check_problem("pca_directions", problem)
    check_count("pca_directions", "count", count)
    origin = problem.weights
    steps = [[(b - a).double() for a, b in zip(origin, weights_of(problem, item), strict=True)] for item in trajectory]
    if len(steps) <= count:
        raise ValueError(
            f"pca_directions got {len(steps)} weights, expected more than {count}: keep more checkpoints in training"
        )
    for column in zip(*steps, strict=True):
        mean = torch.stack(column).mean(0)
        for x in column:
            x.sub_(mean)
    gram = torch.zeros(len(steps), len(steps), dtype=torch.float64, device=problem.device)
    for column in zip(*steps, strict=True):
        flat = torch.stack([x.reshape(-1) for x in column])
        gram += flat @ flat.T
    values, mixes = torch.linalg.eigh(gram)
    values, mixes = values.flip(0), mixes.flip(1)
    if not float(values[count - 1]) > 1e-12 * float(values[0]):
        raise ValueError(
            f"pca_directions got a trajectory along fewer than {count} directions, expected more: keep more "
            f"checkpoints or ask for fewer"
        )
    vectors = []
    for place in range(count):
        mix = mixes[:, place] / values[place].sqrt()
        mix = mix * torch.sign(mix[mix.abs().argmax()])  # the sign of an eigenvector is free: fixed here
        parts = [
            sum((float(share) * x for share, x in zip(mix, column, strict=True)), start=torch.zeros_like(column[0]))
            for column in zip(*steps, strict=True)
        ]
        vectors.append([torch.empty_like(w).copy_(x) for w, x in zip(origin, parts, strict=True)])
    total = float(values.clamp(min=0).sum())
    explained = tuple(float(value) / total for value in values[:count])
    return Directions(
        problem.names, tuple(vectors), f"principal directions of {len(steps)} weights", explained=explained
    )


def weights_of(problem: Problem, given: Weights) -> Vec:
    """Weights of any form in the order of the problem's coordinates, on its device, in its dtype.

    Raises ValueError where a parameter is missing or of another shape.
    """
    if isinstance(given, Problem):
        found: Mapping[str, Any] = dict(zip(given.names, given.weights, strict=True))
    elif isinstance(given, nn.Module):
        found = {name: p.detach() for name, p in given.named_parameters()}
    elif isinstance(given, Mapping):
        found = given
    else:
        listed = list(given)
        if len(listed) != len(problem.names):
            raise ValueError(
                f"other weights got {len(listed)} tensors, expected {len(problem.names)}, one per parameter: take "
                f"those of one architecture"
            )
        found = dict(zip(problem.names, listed, strict=True))
    for name, w in zip(problem.names, problem.weights, strict=True):
        if name not in found or tuple(found[name].shape) != tuple(w.shape):
            got = f"shape {tuple(found[name].shape)}" if name in found else "nothing"
            raise ValueError(
                f"other weights got {got} for {name}, expected shape {tuple(w.shape)}: take those of one architecture"
            )
    return [found[name].detach().to(w) for name, w in zip(problem.names, problem.weights, strict=True)]


def _shaped(flat: Tensor, problem: Problem) -> Vec:
    weights = problem.weights
    parts = unflatten(flat, weights)
    return [torch.empty_like(w).copy_(x) for w, x in zip(weights, parts, strict=True)]
