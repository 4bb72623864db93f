"""r along training: a callback that computes it every so many steps and keeps only the counts."""

from __future__ import annotations

from collections.abc import Callable

from sharpscope.analyzers.gradients.gradient_pair import Source
from sharpscope.analyzers.gradients.ratio import GradientRatio, RatioSeries, gradient_ratio
from sharpscope.ascent.perturbations import Ball, Perturbation
from sharpscope.coordinates.packed import MaskLike
from sharpscope.core.expressions import check_count
from sharpscope.problem.problem import Problem

__all__ = ["RatioRecorder"]


class RatioRecorder:
    """``record(step)`` after an optimizer step; ``record.series`` is the ``RatioSeries`` so far.

    Args:
        problem: whose gradients, at the model's weights of the moment.
        perturbation: as in ``gradient_ratio``.
        every: steps from one ratio to the next; the other calls return at once.
        masks: called for the mask that tells inside from outside, such as ``optimizer.masks``.  A mask that is empty
            because the rule has none is no mask.
        base: "log10" or "ln".
        seed: of whatever is random in the perturbation.

    Training goes on as if the recorder were not there, bit for bit: weights, buffers, gradients and random states are
    what they were.  Pass ``batch=`` (a ``Batch``) to take the gradients of that batch in the model's modes instead.

    Example:
        >>> import torch
        >>> from sharpscope.problem.problem import Problem
        >>> model = torch.nn.Linear(2, 1)
        >>> record = RatioRecorder(Problem(model, torch.nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1))), every=2)
        >>> for step in range(1, 5):
        ...     record(step)  # after optimizer.step(closure)
        >>> record.series.places
        array([2., 4.])
    """

    def __init__(
        self,
        problem: Source | None = None,
        perturbation: Perturbation | None = None,
        *,
        every: int = 1,
        masks: Callable[[], MaskLike] | None = None,
        base: str = "log10",
        seed: int = 0,
    ) -> None:
        check_count("RatioRecorder", "every", every)
        self.problem, self.perturbation, self.every = (
            problem,
            Ball(0.1) if perturbation is None else perturbation,
            every,
        )
        self.masks, self.base, self.seed = masks, base, seed
        self.steps: list[int] = []
        self.ratios: list[GradientRatio] = []

    def __call__(self, step: int, *, batch: Source | None = None) -> None:
        """Compute r if ``step`` is a multiple of ``every``; raises what ``gradient_ratio`` raises."""
        if step % self.every:
            return
        source = batch if batch is not None else self.problem
        if source is None:
            raise ValueError(
                "RatioRecorder got no problem and no batch, expected one: RatioRecorder(problem) or "
                "record(step, batch=...)"
            )
        if isinstance(source, Problem):
            source.refresh()
        mask = (self.masks() or None) if self.masks is not None else None
        self.ratios.append(gradient_ratio(source, self.perturbation, mask=mask, base=self.base, seed=self.seed))
        self.steps.append(step)

    @property
    def series(self) -> RatioSeries:
        """All ratios so far, over the steps; raises ValueError before the first."""
        if not self.steps:
            raise ValueError("RatioRecorder got no step yet, expected at least one: call it during training")
        return RatioSeries.of("step", self.steps, self.ratios)
