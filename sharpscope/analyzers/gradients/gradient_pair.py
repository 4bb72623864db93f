"""The gradient at w and gradients at w + eps, of a problem or of one batch, the model left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sharpscope.ascent.batch import Batch
from sharpscope.ascent.perturbations import Perturbation
from sharpscope.ascent.probe import Probe
from sharpscope.ascent.shift import as_shift
from sharpscope.coordinates.bits import unpack
from sharpscope.core.vectors import Vec, add
from sharpscope.problem.parameter_kinds import kinds_of
from sharpscope.problem.problem import Problem

__all__ = ["Climb", "Source", "climbed"]

Source = Problem | Batch


@dataclass(frozen=True)
class Climb:
    """g at w, and the way to g at w + eps."""

    plain: Vec
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    text: str
    gradient_at: Callable[[Perturbation], tuple[Vec, Vec | None]]

    def __call__(self, perturbation: Perturbation) -> tuple[Vec, Vec | None]:
        """The gradient at w + eps, and the mask of the perturbation, if it has one."""
        return self.gradient_at(perturbation)


@contextmanager
def climbed(source: Source, seed: int = 0) -> Iterator[Climb]:
    """The gradient at w and, inside the context, gradients at w + eps; everything is as it was afterwards."""
    if isinstance(source, Problem):
        yield _on_problem(source, seed)
    elif isinstance(source, Batch):
        named = {name: p for name, p in source.model.named_parameters() if p.requires_grad}
        kept = [(p, p.grad) for p in source.model.parameters()]  # a closure clears those of frozen parameters too
        probe = Probe(list(named.values()), tuple(named), closure=source, seed=seed, modules=[source.model])
        try:
            yield _on_batch(source, probe)
        finally:
            probe.undo()
            for p, g in kept:
                p.grad = g
    else:
        raise TypeError(
            f"gradient_ratio got a {type(source).__name__}, expected a Problem or a Batch: Problem(model, loss, data)"
        )


def _on_problem(problem: Problem, seed: int) -> Climb:
    weights = [w.clone() for w in problem.weights]
    plain = problem.gradient(weights)
    known = dict(problem.model.named_parameters())  # a score may look a parameter up in the model
    parameters = [known[name] for name in problem.names]

    def gradient_at(perturbation: Perturbation) -> tuple[Vec, Vec | None]:
        probe, memory = Probe(parameters, problem.names, seed=seed, problem=problem), {}  # type: ignore[var-annotated]
        eps = _some(perturbation, perturbation(plain, probe, memory))
        return problem.gradient(add(weights, as_shift(eps).dense())), _own_mask(memory, plain)

    return Climb(plain, problem.names, kinds_of(problem.model, problem.names), problem.describe(), gradient_at)


def _on_batch(batch: Batch, probe: Probe) -> Climb:
    plain = probe.gradient()

    def gradient_at(perturbation: Perturbation) -> tuple[Vec, Vec | None]:
        memory: dict[str, Any] = {}
        eps = _some(perturbation, perturbation(plain, probe, memory))
        return probe.gradient_at(eps), _own_mask(memory, plain)

    mode = "train mode" if batch.model.training else "eval mode"
    loss = getattr(batch.loss, "__name__", type(batch.loss).__name__)
    kind = str(plain[0].dtype).removeprefix("torch.")
    text = f"{type(batch.model).__name__}, {loss}, one batch of {batch.rows} examples, {mode}, {kind}"
    return Climb(plain, probe.names, kinds_of(batch.model, probe.names), text, gradient_at)


def _some(perturbation: Perturbation, eps: Any) -> Any:
    if eps is None:
        raise ValueError(f"gradient_ratio got {perturbation!r}, whose radius is 0, expected a positive one: raise rho")
    return eps


def _own_mask(memory: dict[str, Any], like: Vec) -> Vec | None:
    kept = memory.get("mask", {})
    return unpack(kept["bits"], like) if "bits" in kept else None
