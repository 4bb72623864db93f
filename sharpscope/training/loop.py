"""The training loop, readable top to bottom.  It knows no file format: who wants to keep something passes ``on_epoch``.

Everything random is a function of the seed and of where training is: batches of (seed, epoch), augmentation of (seed,
step), the rule of (seed, step), dropout of (seed, epoch).  A run that was cut off at the end of an epoch and goes on is
therefore the run that was not cut off, bit for bit.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sharpscope.ascent.batch import Batch
from sharpscope.core.expressions import parts
from sharpscope.core.history import History
from sharpscope.core.progress import bar
from sharpscope.core.vectors import generator, mix
from sharpscope.data import Folder, Images, cutout, mixup
from sharpscope.optimizers.parse import parse
from sharpscope.optimizers.sharpness_aware import SharpnessAware
from sharpscope.problem.problem import Problem
from sharpscope.training.settings import Settings

__all__ = ["Epoch", "Settings", "evaluate", "train"]


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The state of a training after an epoch, as ``on_epoch`` sees it."""

    step: int  # optimizer steps so far
    history: History
    masks: dict[str, Tensor]  # the mask in force; empty for a rule without one
    checkpoint: Callable[[], dict[str, Any]]  # all that ``train(start=...)`` needs to go on


def train(
    model: nn.Module,
    images: Images | Folder,
    settings: Settings,
    start: dict[str, Any] | None = None,
    on_epoch: Callable[[Epoch], object] = lambda epoch: None,
    progress: bool | None = None,
    on_step: Callable[[int, float, float, float], object] = lambda step, loss, lr, passes: None,
) -> History:
    """Train ``model`` in place on ``images.train``, test it after every epoch, and return the curves.

    Args:
        model: on the device to train on; ``images`` are moved there.
        images: training and test images, in memory or streamed.
        settings: rule, epochs, learning rate, ...
        start: a checkpoint of the same run to go on from.
        on_epoch: called after every epoch.
        progress: show a progress bar; None shows it on a terminal only.
        on_step: called after every step with its number, loss, learning rate and the passes since the start.

    Raises ArithmeticError when the loss is not finite.  The global random state is left as it was.
    """
    images = images.to(next(model.parameters()).device)
    steps = -(-images.sizes[0] // settings.batch_size)
    total = settings.total(steps)
    optimizer, scheduler = _optimizer(model, images, settings, steps)
    empty = [np.zeros(0) for _ in _CURVES]
    top5 = np.zeros(0) if len(images.classes) > _MANY else None
    history = History(repr(optimizer.rule), -(-total // steps), steps, images.sizes[1], *empty)
    history = dataclasses.replace(history, test_top5=top5)
    if start is not None:
        history = _restore(start, model, optimizer, scheduler, history)
    done = len(history.train_loss)
    used = float(history.seconds[-1]) if done else 0.0
    with _private_random(model), bar(total, settings.rule, progress) as shown:
        shown.update(min(done * steps, total))
        for epoch in range(done, history.epochs):
            began = time.perf_counter()
            torch.manual_seed(mix("training", settings.seed, epoch))
            model.train()
            summed, seen, lr = 0.0, 0, 0.0
            for x, y in islice(_batches(images, settings, epoch), total - epoch * steps):
                lr = float(optimizer.param_groups[0]["lr"])
                loss = float(optimizer.step(Batch(model, settings.loss(), x, y, autocast=settings.autocast())))
                if not np.isfinite(loss):
                    raise ArithmeticError(
                        f"the training loss is {loss} at step {optimizer.steps} of epoch {epoch + 1}, expected a "
                        f"finite number: lower the learning rate ({settings.lr:g}) or rho, or look at the data"
                    )
                scheduler.step()
                on_step(optimizer.steps, loss, lr, optimizer.passes)
                summed, seen = summed + loss * len(y), seen + len(y)
                shown.update(1)
            used += time.perf_counter() - began
            tested, deeper = _tested(model, images.tests(), deep=top5 is not None)
            history = _appended(history, (summed / seen, *tested, lr, optimizer.passes, used, *deeper))
            on_epoch(
                Epoch(optimizer.steps, history, optimizer.masks(), _snapshot(model, optimizer, scheduler, history))
            )
    return history


def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and share of wrong answers in eval mode; the model's mode is left as it was."""
    return _tested(model, [(inputs, targets)])[0]


def _tested(
    model: nn.Module, parts: Iterable[tuple[Tensor, Tensor]], deep: bool = False
) -> tuple[tuple[float, float], tuple[float, ...]]:
    """Mean cross-entropy and share of wrong answers of all parts together, each read, asked once and let go.

    ``deep`` adds the share of examples whose class is not among the five largest outputs; ties count for the class.
    """
    loss, wrong, missed, examples = 0.0, 0, 0, 0
    for part in parts:
        problem = Problem(model, nn.CrossEntropyLoss(), part)
        with problem.guard(), torch.no_grad():
            for batch in problem.batches:
                outputs = problem.outputs(batch, problem.weights)
                loss += float(problem.objective.each(outputs, batch.targets).double().sum())
                wrong += int((outputs.argmax(1) != batch.targets).sum())
                if deep:
                    own = outputs.gather(1, batch.targets[:, None])
                    missed += int(((outputs > own).sum(1) >= 5).logical_or_(own[:, 0].isnan()).sum())
        examples += problem.examples
    return (loss / examples, wrong / examples), ((missed / examples,) if deep else ())


def _batches(images: Images | Folder, settings: Settings, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The training batches of an epoch as the optimizer sees them; all its passes of a step see the same."""
    first = epoch * -(-images.sizes[0] // settings.batch_size)
    for step, (x, y) in enumerate(images.feed(settings.batch_size, settings.seed, epoch), first):
        if settings.cutout:
            x = cutout(x, generator("cutout", settings.seed, step), settings.cutout)
        if settings.mixup:
            x, y = mixup(x, y, generator("mixup", settings.seed, step), settings.mixup, len(images.classes))
        yield x, y


def _optimizer(
    model: nn.Module, images: Images | Folder, settings: Settings, steps: int
) -> tuple[SharpnessAware, LRScheduler]:
    base = settings.base(model.parameters())
    rule = parse(settings.rule, settings.pieces or ())
    asks = any(getattr(piece, "needs_problem", False) for piece in parts(rule))
    problem = Problem(model, nn.CrossEntropyLoss(), images.reference()) if asks else None
    total = steps * settings.epochs
    optimizer = SharpnessAware(base, rule, problem, settings.seed, epoch=steps, total=total, model=model)
    return optimizer, settings.scheduler(optimizer, steps)


def _private_random(model: nn.Module) -> Any:
    device = next(model.parameters()).device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


_CURVES = ("train_loss", "test_loss", "test_error", "learning_rate", "passes", "seconds")
_MANY = 100  # classes; where there are more, top-5 errors are told too


def _curves(history: History) -> dict[str, np.ndarray]:
    deeper = {} if history.test_top5 is None else {"test_top5": history.test_top5}
    return {name: getattr(history, name) for name in _CURVES} | deeper


def _appended(history: History, row: tuple[float, ...]) -> History:
    pairs = zip(_curves(history).items(), row, strict=True)
    curves: dict[str, Any] = {name: np.append(curve, value) for (name, curve), value in pairs}
    return dataclasses.replace(history, **curves)


def _snapshot(
    model: nn.Module, optimizer: SharpnessAware, scheduler: LRScheduler, history: History
) -> Callable[[], dict[str, Any]]:
    def snapshot() -> dict[str, Any]:
        return {
            "model": dict(model.state_dict()),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "curves": _curves(history),
        }

    return snapshot


def _restore(
    start: dict[str, Any],
    model: nn.Module,
    optimizer: SharpnessAware,
    scheduler: LRScheduler,
    history: History,
) -> History:
    model.load_state_dict(start["model"])
    optimizer.load_state_dict(start["optimizer"])
    scheduler.load_state_dict(start["scheduler"])
    curves: dict[str, Any] = dict(start["curves"])
    if history.test_top5 is not None:  # a checkpoint from before these were told has none
        curves.setdefault("test_top5", np.full(len(curves["train_loss"]), np.nan))
    return dataclasses.replace(history, **curves)
